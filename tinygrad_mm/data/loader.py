"""`DataLoader`: arrays into batches, in an order that can be repeated and resumed."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinygrad_mm.arrays import is_foreign_array
from tinygrad_mm.data.buckets import Bucketed, Buckets
from tinygrad_mm.data.structures import Array, Rng, mapped, plain_array, stacked
from tinygrad_mm.data.workers import ahead
from tinygrad_mm.tensor import Tensor

__all__ = ["DataLoader"]


@dataclass
class _Epoch:
    """One way through the data: the generator's state before it, the order drawn, and how many batches were given.

    The order is one of examples (None: as they are), or, with buckets, of batches. `seed` is what the batches draw
    their random numbers from, each with its own number.
    """

    start: dict[str, Any]
    order: Array | list[Bucketed] | None
    seed: int | None
    given: int = 0


@dataclass
class _Task:
    """All that is needed to make one batch, so that any process can."""

    examples: Any  # a structure of arrays; or a sequence and indices of it
    indices: Sequence[int] | Bucketed | None
    collate: Callable[[list[Any]], Any] | None
    transform: Callable[[Any, np.random.Generator], Any] | None
    seed: tuple[int, int] | None  # of the epoch, of the batch


def _made(task: _Task) -> Any:
    """The batch that a task describes."""
    batch = task.examples
    if isinstance(task.indices, Bucketed):
        batch = task.examples.batch(task.indices)
    elif task.indices is not None:
        batch = (task.collate or stacked)([task.examples[i] for i in task.indices])
    elif task.collate is not None:
        batch = task.collate(_examples_of(batch))
    return batch if task.transform is None else task.transform(batch, np.random.default_rng(task.seed))


def _examples_of(columns: Any) -> list[Any]:
    """The examples of a structure of arrays, one by one."""
    lengths: list[int] = []
    mapped(lambda column: lengths.append(len(column)), columns)
    return [mapped(operator.itemgetter(i), columns) for i in range(lengths[0])]


class DataLoader:
    """Batches of NumPy arrays, in order or shuffled anew in each epoch.

    `data` is an array (of NumPy, pandas, PyTorch, ...: what has `__array__` or `__dlpack__`, taken by position) whose
    first axis counts the examples; or a tuple or dict of such arrays, of equal length, and
    batches are then tuples or dicts too; or any object with `__len__` and `__getitem__` (a list, say), whose examples
    (numbers, arrays, tuples or dicts of them) are stacked. Every `for batch in loader` is one epoch. Shuffling draws
    one permutation an epoch from `rng`, a NumPy generator or a seed (None: one from the operating system); the last
    batch is smaller where `batch_size` does not divide the number of examples, or left out with `drop_last`.
    Unshuffled batches of arrays are views, not copies.

    `buckets`, a number or lengths, is for sequences of different lengths: examples of about one length go together,
    padded to the length of their bucket with `padding` (a number, or one for each part of an example), so that compiled
    steps see few shapes: one for each bucket, and that of a last smaller batch. A number of buckets is spread so that
    the padding is least. The sequences are the first part of an example, and every other part whose length varies or
    always is that of the first. Behind the inputs of a tuple, and as "name_mask" in a dict, come their masks, boolean,
    (batch_size, length), True where an example is; the last part of a tuple, and "target", are the target, and have
    none. Unshuffled, short examples come first. Every example is looked at once, for its length, at the beginning; data
    may also be a tuple or dict of lists.

    `collate(examples)` makes a batch of a list of examples, in place of stacking them. `transform(batch, rng)` is what
    happens to each batch before it is given; its generator is the batch's own, so that random images (`data.augment`)
    are the same whoever makes the batch, and in a resumed run. `sampler(rng)` gives the examples of an epoch, as
    indices, in place of shuffling: one of `WeightedSampler`, `StratifiedSampler`, `SubsetSampler`, or a function; its
    `len`, if it has one, is the number of examples in an epoch.

    With `prefetch`, a thread prepares that many batches ahead: worth it where `data[i]` reads files, not where batches
    are cut from arrays. `workers` are more of these, or an executor of `concurrent.futures`: a `ProcessPoolExecutor`,
    joblib's `loky` one, or a cluster's; there, data that are no arrays travel with each batch, and `collate` and
    `transform` are functions of a module. The batches are the same, in the same order; but if `data[i]` itself draws
    random numbers, it then draws them earlier, and a resumed run would not be the same.

    Shape: each array (n, ...) -> batches (batch_size, ...)

    Raises ValueError for arrays of unequal length, no examples, a batch size that is not a positive integer, or options
    that exclude each other; TypeError for data that have no length; IndexError for a sampler's index out of range.

    >>> images, labels = np.zeros((5, 28, 28)), np.arange(5)
    >>> for x, y in DataLoader((images, labels), batch_size=2):
    ...     print(x.shape, y)
    (2, 28, 28) [0 1]
    (2, 28, 28) [2 3]
    (1, 28, 28) [4]
    >>> shuffled = DataLoader({"x": images, "y": labels}, batch_size=5, shuffle=True, rng=0)
    >>> [sorted(batch["y"].tolist()) for batch in shuffled]
    [[0, 1, 2, 3, 4]]
    >>> sentences, tone = [[3, 1], [4], [1, 5, 9], [2, 6, 5, 3]], [0, 1, 1, 0]
    >>> for words, mask, y in DataLoader((sentences, tone), batch_size=2, buckets=2):
    ...     print(words.tolist(), mask.sum(axis=1), y)
    [[3, 1], [4, 0]] [2 1] [0 1]
    [[1, 5, 9, 0], [2, 6, 5, 3]] [3 4] [1 0]
    >>> noisy = DataLoader(images, 5, transform=lambda batch, rng: batch + rng.standard_normal(batch.shape), rng=0)
    >>> [batch.shape for batch in noisy]
    [(5, 28, 28)]
    """

    def __init__(
        self,
        data: Any,
        batch_size: int,
        shuffle: bool = False,
        rng: Rng = None,
        drop_last: bool = False,
        prefetch: int = 0,
        buckets: int | Sequence[int] | None = None,
        padding: Any = 0,
        sampler: Callable[[np.random.Generator], Any] | None = None,
        collate: Callable[[list[Any]], Any] | None = None,
        transform: Callable[[Any, np.random.Generator], Any] | None = None,
        workers: int | futures.Executor = 1,
    ) -> None:
        for name, value, least in (("batch_size", batch_size, 1), ("prefetch", prefetch, 0)):
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
                kind = "a positive integer" if least else "an integer, 0 or more"
                raise ValueError(f"DataLoader: {name}={value!r} must be {kind}")
        if not isinstance(workers, futures.Executor) and (
            isinstance(workers, bool) or not isinstance(workers, (int, np.integer)) or workers < 1
        ):
            raise ValueError(
                f"DataLoader: workers={workers!r} must be a positive number of threads, or an executor of "
                "concurrent.futures"
            )
        for name, given in (("shuffle", shuffle), ("buckets", buckets is not None)):
            if sampler is not None and given:
                raise ValueError(
                    f"DataLoader: sampler= decides which examples come when, and so does {name}=; drop one"
                )
        if collate is not None and buckets is not None:
            raise ValueError("DataLoader: buckets= pads examples to batches, and so would collate=; drop one")
        for name, function in (("sampler", sampler), ("collate", collate), ("transform", transform)):
            if function is not None and not callable(function):
                raise TypeError(
                    f"DataLoader: {name}= takes a function, not a {type(function).__name__}"
                    + ("; SubsetSampler(indices) makes one of indices" if name == "sampler" else "")
                )
        self.buckets = None if buckets is None else Buckets(data, buckets, padding)
        if self.buckets is not None:
            data = self.buckets
        self._columns = isinstance(data, (np.ndarray, Tensor, tuple, dict)) or is_foreign_array(data)
        self.data = mapped(plain_array, data) if self._columns else data
        self.batch_size = int(batch_size)
        self.shuffle = shuffle
        self.drop_last = drop_last
        threads = 1 if isinstance(workers, futures.Executor) else int(workers)
        self.prefetch = int(prefetch) if workers == 1 else max(int(prefetch), threads)
        self.workers = workers if isinstance(workers, futures.Executor) else threads
        self.sampler, self.collate, self.transform = sampler, collate, transform
        self.rng = np.random.default_rng(rng)
        self._there = self._count()
        self.examples = len(sampler) if sampler is not None and hasattr(sampler, "__len__") else self._there
        self._epoch: _Epoch | None = None  # the one that was begun last, until its end
        self._resumed = False
        if not len(self):
            raise ValueError(
                f"DataLoader: {self.examples} examples give no batch"
                + (f" of {batch_size} with drop_last; take a smaller batch_size" if self.examples else "")
            )

    def _count(self) -> int:
        """How many examples there are."""
        if not self._columns:
            if self.buckets is not None:
                return len(self.buckets)
            if not (hasattr(self.data, "__len__") and hasattr(self.data, "__getitem__")):
                raise TypeError(
                    f"DataLoader: {type(self.data).__name__} has no length or cannot be indexed; give an array, a "
                    "tuple or dict of arrays, or a sequence (list(...) makes one of an iterator)"
                )
            return len(self.data)
        shapes: list[tuple[int, ...]] = []
        mapped(lambda column: shapes.append(column.shape), self.data)
        if not shapes:
            raise ValueError("DataLoader: there are no arrays in the data; give at least one")
        if () in shapes:
            raise ValueError(
                "DataLoader: an array without axes has no examples to count; give arrays of shape (n, ...)"
            )
        if len({shape[0] for shape in shapes}) != 1:
            raise ValueError(
                f"DataLoader: arrays of shapes {shapes} differ in length; the first axis counts the examples"
            )
        return shapes[0][0]

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        return self.examples // self.batch_size if self.drop_last else -(-self.examples // self.batch_size)

    # -- an epoch

    def __iter__(self) -> Iterator[Any]:
        # The permutation is drawn here, not at the first batch: the order in which iterators are *made* decides.
        if not self._resumed or self._epoch is None:
            self._epoch = self._begun()
        self._resumed = False
        return self._rest(self._epoch)

    def _begun(self) -> _Epoch:
        start = self.rng.bit_generator.state
        order = self.rng.permutation(self.examples) if self.shuffle else self._sampled()
        seed = None if self.transform is None else int(self.rng.integers(2**63))
        if self.buckets is None:
            return _Epoch(dict(start), order, seed)
        order = np.arange(self.examples) if order is None else order
        batches = self.buckets.arranged(order, self.batch_size, self.drop_last)
        if self.shuffle:
            batches = [batches[i] for i in self.rng.permutation(len(batches))]
        return _Epoch(dict(start), batches, seed)

    def _sampled(self) -> Array | None:
        """The order that the sampler draws, or None without one."""
        if self.sampler is None:
            return None
        order = np.asarray(self.sampler(self.rng))
        if order.shape != (self.examples,) or order.dtype.kind not in "iu":
            raise ValueError(
                f"DataLoader: the sampler gave an array of shape {order.shape} and dtype {order.dtype}, not "
                f"{self.examples} indices; give it a __len__ where an epoch has another number of examples"
            )
        if order.min() < 0 or order.max() >= self._there:
            raise IndexError(
                f"DataLoader: the sampler gave {order.min()}..{order.max()}, but {self._there} examples are there"
            )
        return order

    def _rest(self, epoch: _Epoch) -> Iterator[Any]:
        """The batches of an epoch that have not been given yet."""
        chosen: Iterator[Any]
        if isinstance(epoch.order, list):
            chosen = iter(epoch.order[epoch.given :])
        else:
            order, numbers = epoch.order, range(epoch.given, len(self))
            parts = (slice(i * self.batch_size, min((i + 1) * self.batch_size, self.examples)) for i in numbers)
            chosen = parts if order is None else map(order.__getitem__, parts)
        tasks = (self._task(part, epoch, number) for number, part in enumerate(chosen, start=epoch.given))
        if self.prefetch:
            batches = ahead(_made, tasks, self.prefetch, self.workers)
        else:
            batches = map(_made, tasks)
        for batch in batches:
            epoch.given += 1  # before it is used: a position is saved after the step that uses it
            yield batch
        if self._epoch is epoch:
            self._epoch = None

    def _task(self, part: Any, epoch: _Epoch, number: int) -> _Task:
        """What is to be done for a batch: arrays are cut here, so that no more than their parts travel."""
        seed = None if epoch.seed is None else (epoch.seed, number)
        if self.buckets is not None:
            return _Task(self.buckets, part, None, self.transform, seed)
        if self._columns:
            return _Task(mapped(lambda column: column[part], self.data), None, self.collate, self.transform, seed)
        indices = range(part.start, part.stop) if isinstance(part, slice) else part.tolist()
        return _Task(self.data, indices, self.collate, self.transform, seed)

    # -- its position

    def state_dict(self) -> dict[str, Any]:
        """Where the epoch begun last stands, so that another loader of the same data goes on with its next batch.

        The generator's state is kept twice, as it was before this epoch's permutation and as it is now: others may
        draw from the same generator meanwhile.

        >>> loader = DataLoader(np.arange(6), batch_size=2, shuffle=True, rng=0)
        >>> batches = iter(loader)
        >>> _ = next(batches)
        >>> other = DataLoader(np.arange(6), batch_size=2, shuffle=True)
        >>> other.load_state_dict(loader.state_dict())
        >>> [(a == b).all() for a, b in zip(batches, other)]
        [np.True_, np.True_]
        """
        epoch = self._epoch
        return {
            "made": self._made(),
            "rng": self.rng.bit_generator.state,
            "start": None if epoch is None else epoch.start,
            "given": 0 if epoch is None else epoch.given,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was called: the next `for` loop over the loader takes the rest of that epoch.

        Raises ValueError, and changes nothing, where the state is not one of a loader made like this one.
        """
        if not isinstance(state, Mapping) or set(state) != {"made", "rng", "start", "given"}:
            raise ValueError("DataLoader: this is no state of a DataLoader; pass what state_dict() returned")
        if state["made"] != self._made():
            raise ValueError(
                f"DataLoader: the state was saved with {state['made']}, this loader has {self._made()}; make it with "
                "the same data and options, then load"
            )
        given = state["given"]
        if isinstance(given, bool) or not isinstance(given, int) or not 0 <= given <= len(self):
            raise ValueError(f"DataLoader: {given!r} batches cannot have been given of {len(self)}; the state is wrong")
        before = self.rng.bit_generator.state
        try:
            epoch = None
            if state["start"] is not None:
                self.rng.bit_generator.state = state["start"]
                epoch = self._begun()
                epoch.given = given
            self.rng.bit_generator.state = state["rng"]
        except (TypeError, ValueError, KeyError, OverflowError) as error:
            self.rng.bit_generator.state = before
            raise ValueError(
                f"DataLoader: the saved state does not fit its generator ({error}); make the loader with the same kind "
                f"of generator ({type(self.rng.bit_generator).__name__} now), then load"
            ) from error
        self._epoch, self._resumed = epoch, True

    def _made(self) -> dict[str, Any]:
        """What must be the same for a saved position to mean the same."""
        return {
            "examples": self.examples,
            "batch_size": self.batch_size,
            "shuffle": bool(self.shuffle),
            "drop_last": bool(self.drop_last),
            **({} if self.buckets is None else {"buckets": self.buckets.limits}),
            **({} if self.sampler is None else {"sampler": type(self.sampler).__name__}),
            **({} if self.transform is None else {"transform": True}),
        }

    def __repr__(self) -> str:
        return (
            f"DataLoader({self.examples} examples, {len(self)} batches of {self.batch_size}"
            f"{', shuffled' if self.shuffle else ''}{', drop_last' if self.drop_last else ''}"
            f"{f', prefetch={self.prefetch}' if self.prefetch else ''}"
            f"{f', buckets={self.buckets.limits}' if self.buckets is not None else ''})"
        )
