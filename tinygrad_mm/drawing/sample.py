"""A model is run on zeros of given shapes, to be drawn without data."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, TypeAlias

import numpy as np

from tinygrad_mm.graph import Vertex, entered
from tinygrad_mm.tensor import Tensor

__all__ = ["Sizes", "outputs_of"]

Sizes: TypeAlias = "Sequence[int] | Sequence[Sequence[int]]"


def outputs_of(model: Callable[..., Any], input_size: Sizes, dtype: Any = np.float32) -> list[Tensor]:
    """What `model` computes from zeros of these shapes: one shape, or a sequence of them.

    Every call is recorded, one that needs no gradient too. The model stays as it was: buffers and generators.

    Raises ValueError for sizes that are no shapes, and for a model that gives no Tensor.

    >>> outputs_of(np.tanh, (2, 3))[0].shape
    (2, 3)
    """
    inputs = [Tensor(np.zeros(shape, dtype)) for shape in _shapes(input_size)]
    code = getattr(getattr(type(model), "forward", model), "__code__", None)
    first = 0 if inspect.isfunction(model) else 1  # after self
    names = () if code is None else code.co_varnames[first : code.co_argcount]
    for i, x in enumerate(inputs):
        x.name = "input" if len(inputs) == 1 else names[i] if i < len(names) else f"input {i + 1}"
    named = getattr(model, "named_generators", None)
    with ExitStack() as stack:
        for _, generator in named() if named is not None else ():
            stack.callback(setattr, generator.bit_generator, "state", generator.bit_generator.state)
        # As in a replay, side effects such as moving averages are left out.
        stack.enter_context(entered(recording=True, complete=True, replaying=True))
        found = list(_tensors(model(*inputs)))
    if not found:
        raise ValueError("draw: the model returned no Tensor")
    return found


def _shapes(input_size: Sizes) -> list[tuple[int, ...]]:
    sizes: list[Any] = list(input_size) if isinstance(input_size, (tuple, list)) else [None]
    shapes = [tuple(size) if isinstance(size, (tuple, list)) else None for size in sizes]
    if not any(shapes):
        shapes = [tuple(sizes)]
    for shape in shapes:
        if shape is None or not all(isinstance(n, (int, np.integer)) and n >= 0 for n in shape):
            raise ValueError(
                f"draw: input_size={input_size!r} is no shape; write input_size=(64, 784), "
                "or of several inputs [(64, 784), (64, 10)]"
            )
    return [shape for shape in shapes if shape is not None]


def _tensors(value: Any) -> Iterator[Tensor]:
    """The Tensors in nested tuples, lists and dicts."""
    if isinstance(value, Vertex):
        yield value  # type: ignore[misc]
    elif isinstance(value, (list, tuple, Mapping)):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(part)
