"""From a program to items in order: loop nests, matrix products, cross entropies, and calls of NumPy for all else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from tinygrad_mm.compiler.loops.accesses import Accesses, contiguous
from tinygrad_mm.compiler.loops.entropy import Entropy, entropy_of
from tinygrad_mm.compiler.loops.nests import Nest, reduction_of
from tinygrad_mm.compiler.loops.products import Product, product_of
from tinygrad_mm.compiler.loops.scalars import scalar_of
from tinygrad_mm.compiler.program import Op, Program, Value

__all__ = ["Call", "Item", "Schedule"]


@dataclass
class Call:
    """A call of NumPy between compiled pieces."""

    op: Op


Item: TypeAlias = "Nest | Product | Entropy | Call"


class Schedule:
    """The items of a program; those from number `middle` on are its backward half.

    An operation joins the first nest that it can join behind everything it needs. So a bias gradient, which comes after
    the matrix products in the program, is summed up while the gradient it sums is being made. Elementwise operations
    wait until their result is asked for, and join the nest of who asks: the mask of a relu is not made on the way
    forward and kept, but made on the way back from what is kept anyway.
    """

    def __init__(self, program: Program, joint: bool, given: dict[int, str]) -> None:
        self.program = program
        self.accesses = Accesses(program)
        self.items: list[Item] = []
        self.made: dict[int, int] = {}  # root -> number of the item that makes it
        self._done: set[int] = set()
        self._uses = program.uses()
        self._waiting: dict[int, Op] = {}
        self.given = self.adopted(given)
        wanted = {id(self._root(v)) for v in program.wanted()} | self.given.keys()
        halves = [self.accesses.ops, []]
        if not joint:
            halves = [[op for op in self.accesses.ops if op.backward is half] for half in (False, True)]
        for ops in halves:
            self._first = len(self.items)
            for op in ops:
                if id(op) in self._done:
                    continue
                if scalar_of(op) is not None and id(op.result) not in wanted:
                    self._waiting[id(op.result)] = op
                else:
                    self._place(op)
            for op in list(self._waiting.values()):  # for the other half
                if self._waiting.pop(id(op.result), None) is not None and id(op.result) in self._uses:
                    self._place(op)
        self.middle = self._first
        self.reads = [[self._root(a) for a in operands_of(item)] for item in self.items]

    def adopted(self, given: dict[int, str]) -> dict[int, str]:
        """`given`, where an array for the copy of a result becomes the array of the result itself.

        A gradient that is a reshaped product is then written to its place at once.
        """
        accesses = self.accesses
        found: dict[int, str] = {}
        handed = {id(self._root(v)) for v in self.program.wanted()}
        copies = {id(op.result): op for op in accesses.ops if op.fun is np.positive and not op.kwargs}
        makers = {id(op.result): op for op in accesses.ops}
        for key, name in given.items():
            op = copies.get(key)
            if op is not None and key not in self._uses and key not in handed:
                root, offset, strides = accesses[op.args[0]]
                maker = makers.get(id(root))
                if (
                    maker is not None
                    and not offset
                    and strides == contiguous(op.result.shape)
                    and (root.size, root.dtype) == (op.result.size, op.result.dtype)
                    and id(root) not in handed | given.keys() | found.keys()
                    and (scalar_of(maker) is not None or product_of(maker, accesses) is not None)
                ):
                    key = id(root)
                    self._done.add(id(op))
            found[key] = name
        return found

    def _root(self, value: Value) -> Value:
        return value if value.shape is None else self.accesses.root(value)

    def _after(self, values: list[Value]) -> int:
        """The number of the last item that makes one of these; that of the half's first item if none is in it."""
        return max([self._first, *(self.made.get(id(self._root(a)), -1) for a in values)])

    def _place(self, op: Op, start: int = 0) -> None:
        roots = [id(self._root(a)) for a in op.operands()]
        if any(root in self._waiting for root in roots):
            joins = scalar_of(op) is not None or reduction_of(op) is not None
            behind = max(start, self._after(list(op.operands()))) if joins else 0
            for root in roots:
                if (maker := self._waiting.pop(root, None)) is not None:
                    self._place(maker, behind)
        entropy = entropy_of(op, self.accesses)
        if entropy is not None:
            self._entropy(op, entropy)
            return
        scalar, reduction = scalar_of(op), reduction_of(op)
        if scalar is not None or reduction is not None:
            start = max(start, self._after(list(op.operands())))
            for number in range(start, len(self.items)):
                item = self.items[number]
                if not isinstance(item, Nest) or not (item.reads(op) or number == len(self.items) - 1):
                    continue
                if item.add(op, scalar, reduction):
                    self.made[id(op.result)] = number
                    return
            nest = Nest(self.accesses, op.result.shape if scalar is not None else op.args[0].shape)
            if nest.add(op, scalar, reduction):
                self._append(nest, [op.result])
                return
        product = product_of(op, self.accesses)
        self._append(product if product is not None else Call(op), [op.result])

    def _append(self, item: Item, results: list[Value]) -> None:
        for value in results:
            self.made[id(value)] = len(self.items)
        self.items.append(item)

    def _entropy(self, op: Op, entropy: Entropy) -> None:
        """A loss and its gradient are computed together, and the gradient is scaled on the way."""
        if entropy.error is not None:
            uses = self._uses.get(id(op.result), [])
            wanted = any(v is op.result for v in self.program.wanted())
            same_half = len(uses) == 1 and uses[0].fun is np.multiply and not wanted and not uses[0].kwargs
            partner = next(
                (
                    (number, item)
                    for number, item in enumerate(self.items)
                    if number >= self._first
                    and isinstance(item, Entropy)
                    and item.error is None
                    and item.logits is entropy.logits
                    and item.labels is entropy.labels
                ),
                None,
            )
            if same_half and uses[0].backward is op.backward:
                factors = [a for a in uses[0].args if a is not op.result]
                factor = factors[0] if len(factors) == 1 else None
                if isinstance(factor, Value) and (maker := self._waiting.pop(id(self._root(factor)), None)):
                    self._place(maker)
                limit = partner[0] if partner else len(self.items)
                if (
                    isinstance(factor, Value)
                    and factor.size == 1
                    and factor.dtype == op.result.dtype
                    and uses[0].result.shape == op.result.shape
                    and self.made.get(id(self._root(factor)), -1) < limit
                    and (id(self._root(factor)) in self.made or factor.kind != "result")
                ):
                    entropy.scale, entropy.error = factor, uses[0].result
                    self._done.add(id(uses[0]))
            if partner is not None:
                number, item = partner
                item.error, item.scale = entropy.error, entropy.scale
                item.ops.append(op)
                assert item.error is not None
                self.made[id(item.error)] = number
                return
        self._append(entropy, entropy.results)


def operands_of(item: Item) -> list[Value]:
    """What an item reads (of nests: also what it has made itself)."""
    if isinstance(item, Nest):
        return [a for op in item.ops for a in op.operands()]
    return list(item.operands() if isinstance(item, Entropy) else item.op.operands())
