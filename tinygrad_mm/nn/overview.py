"""`summary(model)`: what a model consists of, and with an example input what its forward pass costs, as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from tinygrad_mm.cost import Memory, multiply_adds_of
from tinygrad_mm.graph import Vertex, entered, state, topological
from tinygrad_mm.nn.module import Module
from tinygrad_mm.notebook import Shown

__all__ = ["summary"]


def summary(model: Module, *inputs: Any, **options: Any) -> Shown:
    """A table of the layers of a model: path, layer, shapes of its own parameters, number of parameters.

    It is a text that shows itself, in a notebook too.

    With an example input, `model(*inputs, **options)` is called once, and the table gives the shape of each layer's
    output, the multiply-adds of its matrix products and the memory that it keeps for the backward pass. The model
    stays what it was: buffers and random generators too. A layer called several times shows its last shape and all of
    its cost; a parameter or module shared between layers is counted where it comes first.

    Raises TypeError for anything but a Module.

    >>> from tinygrad_mm.nn import Dense, Sequential
    >>> model = Sequential(Dense(784, 128, "relu", rng=0), Dense(128, 10, rng=1))
    >>> print(summary(model))
    layer     type                              shapes                         parameters
    --------  --------------------------------  -----------------------------  ----------
    layers.0  Dense(784, 128, activation=relu)  weight (784, 128), bias (128)     100,480
    layers.1  Dense(128, 10)                    weight (128, 10), bias (10)         1,290
    --------  --------------------------------  -----------------------------  ----------
    total                                       0.4 MB                            101,770
    >>> import numpy as np
    >>> print(summary(model, np.zeros((64, 784), np.float32)))
    layer     type                              output     parameters  multiply-adds   memory
    --------  --------------------------------  ---------  ----------  -------------  -------
    layers.0  Dense(784, 128, activation=relu)  (64, 128)     100,480      6,422,528  0.10 MB
    layers.1  Dense(128, 10)                    (64, 10)        1,290         81,920  0.01 MB
    --------  --------------------------------  ---------  ----------  -------------  -------
    total                                       0.4 MB        101,770      6,504,448  0.10 MB
    """
    if not isinstance(model, Module):
        raise TypeError(f"summary: a Module is needed, not a {type(model).__name__}")
    cost = _measured(model, inputs, options) if inputs or options else None
    counted: set[int] = set()
    rows: list[list[str]] = []
    total = size = 0
    for path, module in model.named_modules():
        own = _own_parameters(module)
        if not own and module.children() and not (cost and cost.spent(module)):
            continue
        new = [p for _, p in own if id(p) not in counted]
        counted.update(id(p) for p in new)
        count = sum(p.size for p in new)
        total, size = total + count, size + sum(p.nbytes for p in new)
        shapes = ", ".join(f"{n} {_shape(p.shape)}{'' if p.requires_grad else ' frozen'}" for n, p in own)
        described = repr(module).split("\n")[0].rstrip("(") if module.children() else repr(module)
        shared = " shared" if len(new) < len(own) else ""
        row = [path or "(model)", described, shapes or "-", f"{count:,}{shared}"]
        rows.append(
            row if cost is None else [*row[:2], cost.shapes.get(module.token, "-"), row[3], *cost.cells(module)]
        )
    footer = ["total", "", f"{size / 1e6:.1f} MB", f"{total:,}"]
    header = ["layer", "type", "shapes", "parameters"]
    if cost is not None:
        header = ["layer", "type", "output", "parameters", "multiply-adds", "memory"]
        footer += [f"{sum(cost.products.values()):,}", _megabytes(sum(cost.kept.values()))]
    return Shown(_table(header, rows, footer))


def _table(header: list[str], rows: list[list[str]], footer: list[str]) -> str:
    """Columns of text, then (from the fourth on) columns of numbers."""
    widths = [max(len(row[i]) for row in (header, *rows, footer)) for i in range(len(header))]
    rule = ["-" * w for w in widths]

    def line(row: list[str]) -> str:
        return "  ".join(c.ljust(w) if i < 3 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))

    return "\n".join(line(row) for row in (header, rule, *rows, rule, footer))


def _own_parameters(module: Module) -> list[tuple[str, Any]]:
    """The parameters that belong to a module itself rather than to a module inside it."""
    inside = {id(p) for child in module.children() for p in child.parameters()}
    return [(name, p) for name, p in module.named_parameters() if id(p) not in inside]


def _shape(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape))})"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.2f} MB"


# ---------------------------------------------------------------------------------------------------------------------
# One forward pass, watched
# ---------------------------------------------------------------------------------------------------------------------


class _Cost:
    """A monitor of the engine: multiply-adds, kept bytes and output shapes, by the token of the module at work."""

    def __init__(self) -> None:
        self.products: Counter[Any] = Counter()
        self.kept: Counter[Any] = Counter()
        self.shapes: dict[Any, str] = {}

    def result(self, tensor: Any, fun: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Called by the engine with each result."""
        self.products[_token(state.scope)] += multiply_adds_of(fun, args, tensor)

    def finished(self, module: Module, args: tuple[Any, ...], output: Any) -> None:
        """A forward hook."""
        shapes = [_shape(t.shape) for t in _tensors(output)]
        self.shapes[module.token] = ", ".join(shapes) or "-"

    def keep(self, outputs: list[Any], known: list[Any]) -> None:
        """Count what the graph holds on to: each array once, where it was made, but not what was there before."""
        memory = Memory()
        for vertex in known:
            memory.new(_value(vertex))
        for vertex in topological(outputs, everything=True):
            if vertex.node is not None:
                for held in (vertex, *(vertex.node.args or ())):
                    if isinstance(held, Vertex) and held is not vertex and held.node is not None:
                        continue  # counted where it was made
                    self.kept[_token(vertex.node.scope)] += memory.new(_value(held))

    def spent(self, module: Module) -> bool:
        """Whether something happened in the module itself, outside the modules in it."""
        return bool(self.products[module.token] or self.kept[module.token])

    def cells(self, module: Module) -> list[str]:
        """What the table shows."""
        return [f"{self.products[module.token]:,}", _megabytes(self.kept[module.token])]


def _measured(model: Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> _Cost:
    """The cost of one call, which leaves the model as it was."""
    cost = _Cost()
    generators = [(g, g.bit_generator.state) for _, g in model.named_generators()]
    with ExitStack() as stack:
        for generator, before in generators:
            stack.callback(setattr, generator.bit_generator, "state", before)
        for _, module in model.named_modules():
            stack.callback(module.register_forward_hook(cost.finished))
        stack.enter_context(entered(monitor=cost, recording=True, replaying=True))  # replaying: buffers stay
        output = model(*inputs, **options)
    known = [*model.parameters(), *(b for _, b in model.named_buffers()), *inputs, *options.values()]
    cost.keep(list(_tensors(output)), known)
    return cost


def _token(scope: Any) -> Any:
    module = None if scope is None else scope.module
    return None if module is None else module.token


def _tensors(value: Any) -> Iterator[Any]:
    """The Tensors in nested tuples, lists and dicts."""
    if isinstance(value, Vertex):
        yield value
    elif isinstance(value, (list, tuple, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part)


def _value(held: Any) -> Any:
    """The array behind a Tensor (for several results a tuple of them); anything else as it is."""
    return held.value if isinstance(held, Vertex) else held
