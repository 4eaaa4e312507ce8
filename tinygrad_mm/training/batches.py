"""From data of any kind to batches, and what is input and what is target in one."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tinygrad_mm.arrays import is_foreign_array
from tinygrad_mm.data import DataLoader
from tinygrad_mm.data.structures import mapped, plain_array
from tinygrad_mm.pytree import flatten, unflatten
from tinygrad_mm.tensor import Tensor

__all__ = [
    "Stream",
    "arrays_in",
    "as_loader",
    "check_inputs",
    "examples_in",
    "held_back",
    "inputs_in",
    "joined",
    "parted",
    "with_weights",
]

TARGET = "target"


def as_loader(data: Any, batch_size: int, shuffle: bool, rng: Any) -> Any:
    """Data that come in batches already as they are, as a `Stream` at least; anything else in a DataLoader."""
    if isinstance(data, DataLoader) or (hasattr(data, "__iter__") and hasattr(data, "state_dict")):
        return data
    if _are_batches(data):
        return Stream(data)
    return DataLoader(data, batch_size, shuffle, rng)


def _are_batches(data: Any) -> bool:
    """Whether iterating gives batches: a generator, a function that makes one, a loader of somebody else's."""
    gives = callable(data) or (hasattr(data, "__iter__") and not hasattr(data, "__getitem__"))
    return gives and not _are_columns(data)


class Stream:
    """Batches that something else makes: a generator function, an iterator, PyTorch's DataLoader.

    Each way through is an epoch; an iterator goes through once. A batch that is a list becomes a tuple, arrays of other
    libraries NumPy's. A run that is resumed passes over the batches that the interrupted epoch had been given: it goes
    on as if nothing had happened where the same batches come again.

    >>> [x.shape for x, y in Stream(lambda: iter([[np.ones((2, 3)), np.ones(2)]]))]
    [(2, 3)]
    """

    def __init__(self, source: Any) -> None:
        self.source = source
        self.given, self.skipped = 0, 0

    def __iter__(self) -> Iterator[Any]:
        self.given, skipped, self.skipped = 0, self.skipped, 0
        for batch in self.source() if callable(self.source) else self.source:
            self.given += 1
            if self.given > skipped:
                yield mapped(plain_array, _as_tuples(tuple(batch) if isinstance(batch, list) else batch))
        self.given = 0

    def __length_hint__(self) -> int:
        """The number of batches, 0 where nobody knows."""
        return operator.length_hint(self.source, 0)

    def state_dict(self) -> dict[str, Any]:
        """How many batches of the epoch have been given."""
        return {"given": self.given}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Pass over as many batches in the next epoch. Raises ValueError for another kind of state."""
        if not isinstance(state, Mapping) or set(state) != {"given"} or not isinstance(state["given"], int):
            raise ValueError("fit: this is no state of a stream of batches; give the same kind of data as before")
        self.given = self.skipped = state["given"]


def _as_tuples(batch: Any) -> Any:
    """Lists of arrays, which other loaders give, as tuples; lists of numbers stay what they are, an array to be."""
    if isinstance(batch, dict):
        return {name: _as_tuples(part) for name, part in batch.items()}
    holds = isinstance(batch, list) and any(isinstance(part, _PARTS) or is_foreign_array(part) for part in batch)
    return tuple(map(_as_tuples, batch)) if holds or isinstance(batch, tuple) else batch


_PARTS = (np.ndarray, Tensor, tuple, dict)


def held_back(data: Any, share: float) -> tuple[Any, Any]:
    """The data without their last part, and that part; `share` is the fraction of the examples that it has.

    Raises TypeError for data that are no arrays or list, ValueError where a part would be empty.

    >>> held_back((np.arange(5), np.arange(5)), 0.4)
    ((array([0, 1, 2]), array([0, 1, 2])), (array([3, 4]), array([3, 4])))
    """
    if isinstance(data, DataLoader) or not (isinstance(data, list) or _are_columns(data)):
        raise TypeError(
            f"fit: validation={share} takes the last examples of arrays, or of a list; split a {type(data).__name__} "
            "yourself, and give the second part as validation="
        )
    arrays = data if isinstance(data, list) else mapped(plain_array, data)
    n = DataLoader(arrays, 1).examples
    kept = n - round(n * share)
    if not 0 < kept < n:
        raise ValueError(f"fit: validation={share} of {n} examples leaves one part empty")
    if isinstance(arrays, list):
        return arrays[:kept], arrays[kept:]
    return mapped(lambda column: column[:kept], arrays), mapped(lambda column: column[kept:], arrays)


def with_weights(data: Any, weights: Any) -> Any:
    """The data with a weight for each example beside the target.

    Raises TypeError for data that are no arrays, ValueError for weights of another length.
    """
    if not _are_columns(data):
        raise TypeError(
            f"fit: sample_weight goes with arrays, a tuple (input, ..., target) or a dict; not with a "
            f"{type(data).__name__}, whose loss can weigh its examples itself"
        )
    inputs, named, target = parted(mapped(plain_array, data))
    weights = plain_array(weights)
    if weights.shape != (examples_in(target),) or not np.all(weights >= 0):
        raise ValueError(
            f"fit: sample_weight has shape {weights.shape}; it is one number that is not negative for each of "
            f"{examples_in(target)} examples"
        )
    return {**named, TARGET: (target, weights)} if named else (*inputs, (target, weights))


def _are_columns(data: Any) -> bool:
    """Whether data are arrays whose first axis counts the examples."""
    return isinstance(data, (np.ndarray, tuple, dict, Tensor)) or is_foreign_array(data)


def parted(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
    """(positional inputs, named inputs, target) of a batch.

    >>> parted(("x", "y"))
    (('x',), {}, 'y')
    >>> parted({"words": "x", "target": "y"})
    ((), {'words': 'x'}, 'y')
    """
    if isinstance(batch, tuple) and len(batch) > 1:
        return tuple(batch[:-1]), {}, batch[-1]
    if isinstance(batch, dict) and TARGET in batch and len(batch) > 1:
        return (), {name: value for name, value in batch.items() if name != TARGET}, batch[TARGET]
    found = f"a dict of {', '.join(map(repr, batch))}" if isinstance(batch, dict) else f"a {type(batch).__name__}"
    raise TypeError(
        f"fit: a batch is a tuple (input, ..., target) or a dict with {TARGET!r} and the names of forward's arguments; "
        f"this one is {found}. Give the data as (inputs, targets), or wrap the model"
    )


def inputs_in(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """(positional inputs, named inputs) of a batch without a target.

    >>> inputs_in("x"), inputs_in(("x", "z")), inputs_in({"words": "x"})
    ((('x',), {}), (('x', 'z'), {}), ((), {'words': 'x'}))
    """
    if isinstance(batch, dict):
        return (), batch
    return (batch if isinstance(batch, tuple) else (batch,)), {}


def examples_in(target: Any) -> int:
    """The number of examples in a batch, by its target."""
    if isinstance(target, np.ndarray):  # the usual case
        return len(target) if target.ndim else 1
    while isinstance(target, (tuple, list, dict)) and target:
        target = next(iter(target.values() if isinstance(target, dict) else target))
    return len(target) if np.ndim(target) else 1


def check_inputs(what: str, model: Any, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> None:
    """Raise TypeError, saying what a batch is made of, for inputs that the model's `forward` does not take.

    >>> from tinygrad_mm import nn
    >>> check_inputs("fit", nn.Linear(3, 2), (np.zeros(3), np.zeros(3)), {})
    Traceback (most recent call last):
    TypeError: fit: Linear.forward(x) does not take 2 inputs, an ndarray and an ndarray: too many positional \
arguments. The last part of a tuple is the target (zeros, where the loss asks for none); inputs by name and "target" \
are one dict
    """
    try:
        signature = inspect.signature(model.forward)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*inputs, **named)
    except TypeError as error:
        kinds = [_kind(part) for part in inputs] + [f"{name}={_kind(part)}" for name, part in named.items()]
        shown = ", ".join(str(p.replace(annotation=p.empty)) for p in signature.parameters.values())
        raise TypeError(
            f"{what}: {type(model).__name__}.forward({shown}) does not take {len(kinds)} "
            f"input{'s' * (len(kinds) != 1)}, {' and '.join(kinds)}: {error}. The last part of a tuple is the target "
            '(zeros, where the loss asks for none); inputs by name and "target" are one dict'
        ) from None


def _kind(part: Any) -> str:
    if isinstance(part, dict):
        return f"a dict of {', '.join(map(repr, part))}"
    name = type(part).__name__
    return f"{'an' if name[0] in 'aeioun' else 'a'} {name}"


def joined(what: str, parts: list[Any], filling: Any = None) -> Any:
    """Batches of predictions or targets as one, along the first axis.

    Where they have different lengths, they are filled up with `filling`.

    Raises ValueError for different lengths without one.

    >>> joined("predict", [np.array([1, 2]), np.array([3])])
    array([1, 2, 3])
    >>> joined("predict", [np.array([[1, 2]]), np.array([[3]])], filling=-1)
    array([[ 1,  2],
           [ 3, -1]])
    """
    first = parts[0]
    if isinstance(first, dict):
        return {name: joined(what, [part[name] for part in parts], filling) for name in first}
    if isinstance(first, (tuple, list)):
        return tuple(joined(what, list(column), filling) for column in zip(*parts, strict=True))
    arrays = [np.atleast_1d(part) for part in parts]
    shapes = {a.shape[1:] for a in arrays}
    if len(shapes) > 1:
        if filling is None or len({a.ndim for a in arrays}) > 1:
            raise ValueError(
                f"{what}: batches of shapes (n, ...) with {' and '.join(map(str, sorted(shapes)))} behind n cannot be "
                "put together; pad all examples to one length (DataLoader(..., buckets=[longest])), or, for metrics, "
                "give a loss with ignore_index="
            )
        longest = np.max([a.shape[1:] for a in arrays], axis=0)
        widths = ([(0, 0), *((0, m - n) for m, n in zip(longest, a.shape[1:], strict=True))] for a in arrays)
        arrays = [np.pad(a, width, constant_values=filling) for a, width in zip(arrays, widths, strict=True)]
    return np.concatenate(arrays)


def arrays_in(prediction: Any) -> Any:
    """What a model returned, with arrays in place of Tensors."""
    parts = [leaf.value for leaf in flatten(prediction)]
    return unflatten(prediction, iter([part.data if isinstance(part, Tensor) else part for part in parts]))
