"""`checkpoint`: forget the intermediate results of a function, and compute them again when the gradient needs them.

A checkpointed call is recorded as two nodes. `checkpoint_inputs` gathers the tensors that the call read from outside,
its arguments and what the function closes over alike; `checkpointed` has no other argument, and its rule repeats the
call to get the gradients of all of them at once. The rule is itself a checkpointed call, so every order exists, and
none keeps more than one repetition in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from tinygrad_mm.boundary import as_leaves, boundary
from tinygrad_mm.gradient import gradients
from tinygrad_mm.graph import Monitor, Vertex, defvjp, defvjp_each, entered, name_of, primitive, state, tick
from tinygrad_mm.pytree import flatten, unflatten
from tinygrad_mm.tensor import Buffer, Tensor, apply

__all__ = ["checkpoint"]


def checkpoint(f: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, which keeps only what it reads and returns, and is called again for the backward pass.

    That saves the memory of all intermediate results for the price of one more forward pass (Griewank and Walther 2000,
    Chen et al. 2016). `f` is any function of Tensors, with any arguments; what it closes over, such as the parameters
    of a layer, gets its gradient too. Wrap the call, not the layer: `x = checkpoint(self.block)(x)` in a `forward`, so
    that the module still finds its layers.

    The second call must compute what the first one did. Random generators are set back for it to where they stood, and
    forward again after it; buffers read as they did at first, and `Buffer.assign` does nothing. For that, whatever
    draws from a generator says so before it draws:

        if state.generators is not None:
            state.generators.setdefault(id(generator), (generator, generator.bit_generator.state))

    Raises RuntimeError where the second call returns other shapes than the first.

    >>> import numpy as np
    >>> x = Tensor([0.0, 1.0], requires_grad=True)
    >>> checkpoint(lambda x: np.sum(np.exp(x) * x))(x).backward()
    >>> x.grad.round(4)
    array([1.    , 5.4366], dtype=float32)
    """

    def checkpointed_function(*args: Any, **kwargs: Any) -> Any:
        if state.tracing or not state.recording:
            return f(*args, **kwargs)
        return _Segment(f, args, kwargs).run()

    checkpointed_function.__name__ = checkpointed_function.__qualname__ = f"checkpoint({name_of(f)})"
    checkpointed_function.__doc__ = f.__doc__
    return checkpointed_function


class _FirstReads(Monitor):
    """A monitor that notes the values with which buffers were first read; the one before it goes on being told."""

    def __init__(self, other: Monitor | None) -> None:
        self.other = other or Monitor()
        self.buffers: dict[int, tuple[Buffer, Any]] = {}

    def result(self, vertex: Vertex, fun: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        for a in args:
            if isinstance(a, Buffer):
                self.buffers.setdefault(id(a), (a, a.value))
        self.other.result(vertex, fun, args, kwargs)

    def visit(self, vertex: Vertex, gradient: Any) -> None:
        self.other.visit(vertex, gradient)

    def contribution(self, vertex: Vertex, i: int, gradient: Any) -> None:
        self.other.contribution(vertex, i, gradient)


class _Segment:
    """A call that can be repeated: the function, its arguments, and the circumstances it was made in."""

    def __init__(self, f: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.f, self.args, self.kwargs = f, args, kwargs
        self.scope, self.transforming = state.scope, state.transforming
        self.reads: list[Any] = []  # the tensors from outside that the results depend on
        self.values: list[Any] = []  # the arrays that the call returned
        self.generators: list[tuple[Any, Any]] = []
        self.buffers: list[tuple[Buffer, Any]] = []

    def __repr__(self) -> str:
        return f"<call of {name_of(self.f)}>"

    def run(self) -> Any:
        """Make the call, and replace its record by two nodes."""
        start = tick()
        watch = _FirstReads(state.monitor)
        drawn: dict[int, tuple[Any, Any]] = {}
        with entered(generators=drawn, monitor=watch):
            returned = self.f(*self.args, **self.kwargs)
        if state.generators is not None:  # a checkpoint around this one will want to set them back, too
            for key, generator_and_state in drawn.items():
                state.generators.setdefault(key, generator_and_state)
        leaves = [leaf.value for leaf in flatten(returned)]
        places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        self.reads = boundary([leaves[i] for i in places], start)
        if not self.reads:
            return returned
        self.values = [leaves[i].value for i in places]
        self.generators, self.buffers = list(drawn.values()), list(watch.buffers.values())
        gathered = apply(_inputs, tuple(self.reads))[0].node.args[0]  # the call itself, of which these are selections
        for i, output in zip(places, apply(_checkpointed, (gathered, self)), strict=True):
            leaves[i] = output
        return unflatten(returned, iter(leaves), keep_modules=True)

    def pull(self, *seeds: Any) -> list[Tensor | None]:
        """The gradients of what the call read, from those of what it returned; the call is made again."""
        recorded = state.recording
        start = tick()
        with _set_back(self.generators, self.buffers):
            now = {"scope": self.scope, "transforming": self.transforming}
            with entered(recording=True, replaying=True, generators=None, **now):
                returned = self.f(*self.args, **self.kwargs)
            outputs = [leaf.value for leaf in flatten(returned) if isinstance(leaf.value, Tensor)]
            self._compare(outputs)
            pairs = [(y, g) for y, g in zip(outputs, seeds, strict=True) if y.requires_grad]
            ys, gs = [y for y, _ in pairs], [g for _, g in pairs]
            with as_leaves([vertex for vertex in boundary(ys, start) if vertex.node is not None]):
                return list(gradients(ys, self.reads, gs, create_graph=recorded, allow_unused=True))

    def _compare(self, outputs: Sequence[Tensor]) -> None:
        before, now = [value.shape for value in self.values], [output.shape for output in outputs]
        if before != now:
            raise RuntimeError(
                f"checkpoint: {name_of(self.f)} returned shapes {now} when it was called again for the backward pass, "
                f"but {before} at first; it must do the same both times, whatever has changed around it"
            )


@contextmanager
def _set_back(generators: Sequence[tuple[Any, Any]], buffers: Sequence[tuple[Buffer, Any]]) -> Iterator[None]:
    """Random generators and buffers as they were, for the length of a `with` block."""
    states = [generator.bit_generator.state for generator, _ in generators]
    values = [buffer.value for buffer, _ in buffers]
    try:
        for generator, then in generators:
            generator.bit_generator.state = then
        for buffer, value in buffers:
            buffer.value = value
        yield
    finally:
        for (generator, _), now in zip(generators, states, strict=True):
            generator.bit_generator.state = now
        for (buffer, _), value in zip(buffers, values, strict=True):
            buffer.value = value


@primitive
def _inputs(*tensors: Any) -> Any:
    """What a checkpointed call reads, as one argument."""
    return tensors


@primitive
def _checkpointed(inputs: Any, segment: _Segment) -> Any:
    """What a checkpointed call returned."""
    return tuple(segment.values)


def _gradients(g: Any, segment: _Segment) -> list[Any]:
    """The gradients of all that a checkpointed call reads: arrays, or in a recorded pass Tensors."""
    found = checkpoint(segment.pull)(*g)
    return found if state.recording else [None if t is None else t.value for t in found]


_inputs.__name__, _checkpointed.__name__ = "checkpoint_inputs", "checkpointed"
defvjp_each(_inputs, lambda i, g, y, *tensors: g[i], signature="(...), ... -> ((...), ...)")
defvjp(_checkpointed, lambda g, y, inputs, segment: _gradients(g, segment), signature="((...), ...) -> ((...), ...)")
