"""A weight that is used several times, as in a recurrent network: one product makes its gradient, not one a use."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_mm.compiler.lowerings import reduced
from tinygrad_mm.compiler.program import Op, Program, Value
from tinygrad_mm.rules.shape import join

__all__ = ["join_products"]

LEAST = 3  # terms: with fewer, putting the factors side by side takes as long as it saves


def join_products(program: Program) -> None:
    """One product for a sum of products: Σ aᵢᵀ gᵢ = [a₁; a₂; …]ᵀ [g₁; g₂; …], and Σ sum(gᵢ) = sum([g₁; g₂; …]).

    Looks for: sums with at least three terms that are products of a transposed matrix with a matrix, or sums over the
    first axis of a matrix.
    Puts there: one product, or sum, of the matrices below each other.
    Precondition: nothing else reads the terms and the sums of some of them; factors have the same dtype, and as many
    columns.
    The same, because a product of matrices is a sum over their inner axis; the order of additions is another one.
    """
    _Joining(program).run()


class _Joining:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.makers, self.uses = program.makers(), program.uses()
        self.wanted = {id(v) for v in program.wanted()}
        self.removed: set[int] = set()
        self.joined: dict[tuple[int, ...], Value] = {}
        self.added: list[Op] = []

    def run(self) -> None:
        inner = {
            id(a) for op in self.program.ops if op.fun is np.add for a in op.operands() if self._is_part(a, op.result)
        }
        roots = [op for op in self.program.ops if op.fun is np.add and id(op.result) not in inner]
        instead = {id(op): made for op in roots if (made := self._rewritten(op)) is not None}
        ops: list[Op] = []
        for op in self.program.ops:
            if id(op) in instead:
                ops.extend(instead[id(op)])
            elif id(op) not in self.removed:
                ops.append(op)
        self.program.ops = ops

    def _is_part(self, value: Value, total: Value) -> bool:
        """Whether a value is a sum that is read by nothing but a larger one."""
        op = self.makers.get(id(value))
        alone = len(self.uses.get(id(value), [])) == 1 and id(value) not in self.wanted
        return op is not None and op.fun is np.add and alone and value.shape == total.shape

    def _rewritten(self, root: Op) -> list[Op] | None:
        """The calls in the place of a sum; None to leave it as it is."""
        terms: list[Value] = []
        sums: list[Op] = []
        todo = [root]
        while todo:
            op = todo.pop()
            sums.append(op)
            for a in reversed(op.args):
                if isinstance(a, Value) and self._is_part(a, op.result):
                    todo.append(self.makers[id(a)])
                else:
                    terms.append(a)
        if not all(isinstance(t, Value) and t.shape == root.result.shape for t in terms):
            return None
        parts = [self._parts(t) for t in terms]
        self.added = []
        rest = [t for t, found in zip(terms, parts, strict=True) if found is None]
        for count in (2, 1):
            group = [t for t, found in zip(terms, parts, strict=True) if found is not None and len(found) == count]
            if len(group) < LEAST:
                rest.extend(group)
                continue
            pairs = [found for found in parts if found is not None and len(found) == count]
            rest.append(self._combined([self._join([pair[i] for pair in pairs], root) for i in range(count)], root))
            self.removed.update(id(self.makers[id(t)]) for t in group)
        if len(rest) == len(terms):
            return None
        self.removed.update(map(id, sums))
        total = rest[0]
        for term in rest[1:]:
            total = self._call(np.add, [total, term], root, root.result.shape)
        self.added[-1].result = root.result
        return self.added

    def _parts(self, term: Value) -> tuple[Value, ...] | None:
        """(a, g) of a term aᵀ g, (g,) of one that is the sum of g over its first axis, where nothing else reads it."""
        op = self.makers.get(id(term))
        if op is None or len(self.uses[id(term)]) != 1 or id(term) in self.wanted:
            return None
        found: list[Any] = []
        if op.fun is np.sum:
            g, axis, keepdims, rest = reduced(op)
            found = [g] if axis in (0, (0,)) and not keepdims and not rest else []
        elif op.fun in (np.matmul, np.dot) and not op.kwargs:
            across = self.makers.get(id(op.args[0]))
            if across is not None and across.fun is np.transpose and not across.kwargs and len(across.args) == 1:
                found = [across.args[0], op.args[1]]
        fits = all(isinstance(v, Value) and v.ndim == 2 and v.dtype == term.dtype for v in found)
        return tuple(found) if found and fits else None

    def _combined(self, joined: list[Value], root: Op) -> Value:
        """The product of two matrices, the first of them transposed, or the sum of one over its first axis."""
        if len(joined) == 1:
            return self._call(np.sum, [*joined, 0], root, root.result.shape)
        turned = self._call(np.transpose, joined[:1], root, joined[0].shape[::-1])
        return self._call(np.matmul, [turned, joined[1]], root, root.result.shape)

    def _join(self, matrices: list[Value], root: Op) -> Value:
        """The matrices below each other, in one order wherever the same ones are meant."""
        key = tuple(map(id, matrices))
        if key not in self.joined:
            shape = (sum(m.shape[0] for m in matrices), *matrices[0].shape[1:])
            self.joined[key] = self._call(join, list(matrices), root, shape, axis=0)
        return self.joined[key]

    def _call(self, fun: Any, args: list[Any], root: Op, shape: tuple[int, ...], **kwargs: Any) -> Value:
        dtype = root.result.dtype
        result = Value(np.broadcast_to(np.ones((), dtype), shape))
        self.added.append(Op(fun, args, kwargs, result, root.scope, root.backward))
        return result
