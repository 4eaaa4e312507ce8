"""A program proves itself: on its first batches it runs beside the eager engine, from the same state.

How far two correct computations may be apart is asked of the eager engine itself, where there is a doubt: it computes
again with operands of every call that are off by some units in the last place (random rounding: Parker, Monte Carlo
Arithmetic, 1997). What then moves is noise, such as the gradient of a bias in front of a batch normalization; what
stays is compared closely.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from tinygrad_mm.errors import caller
from tinygrad_mm.graph import NO_KWARGS, RULES, Monitor, Vertex, entered, select

__all__ = [
    "CompileWarning",
    "Difference",
    "Noise",
    "Progress",
    "Surroundings",
    "culprit",
    "difference_error",
    "difference_of_generators",
    "first_difference",
    "named",
    "report",
    "retraced",
]

log = logging.getLogger("tinygrad_mm.compile")

BATCHES = 2  # on which a new program is compared
MOST = 8  # batches, while something that is compared has been all zero or not finite
SURE = 256  # units in the last place of an array's largest element: so little is no reason to look closer
COARSEST = 1e-2  # of the largest element, whatever the precision
SPREAD = 16  # how far correct results may be apart, in what random rounding has moved them
NOTHING = 0.25  # what moves by this much of itself holds nothing else
ROUNDINGS = (2, 2, 4, 2, 4, 8, 2, 4, 8, 4, 8, 8)  # units in the last place, in each run that is made for a doubt


class CompileWarning(UserWarning):
    """A compiled program computed something else than the eager engine, whose result was used instead.

    `compile`, `compile_step` and `fit` warn with it where `verify` is on.
    """


class Progress:
    """How far the check of a program has come.

    `runs` are the batches so far, `seen` says of each array by its name whether it has ever been finite and not all
    zero; `eager`: the program was found wrong, and its signature runs eagerly.
    """

    __slots__ = ("eager", "runs", "seen", "verify")

    def __init__(self, verify: bool) -> None:
        self.verify, self.runs, self.eager = verify, 0, False
        self.seen: dict[str, bool] = {}

    def due(self) -> bool:
        """Whether the next batch is to be compared."""
        return self.verify and (self.runs < BATCHES or (self.runs < MOST and not all(self.seen.values())))

    def over(self) -> bool:
        """Whether nothing is left to do: the program has served a second time, and is compared no more."""
        return self.runs > 1 and not self.eager and not self.due()

    def saw(self, arrays: Mapping[str, Any]) -> None:
        """Note what was compared."""
        for name, a in arrays.items():
            told = a.dtype.kind != "f" or not a.size or bool(a.any() and np.isfinite(a).all())
            self.seen[name] = told or self.seen.get(name, False)


class Difference(NamedTuple):
    """The first array that differs: what it is called, and one element of the program's beside eager's."""

    name: str
    found: Any
    expected: Any
    place: tuple[int, ...] = ()

    def __str__(self) -> str:
        where = f" at {list(self.place)}" if self.place else ""
        return f"{self.name} is {self.found}{where}, and {self.expected} in the eager engine"


class Surroundings:
    """The buffers and generators that a function may change, as they are now."""

    def __init__(self, buffers: Mapping[str, Vertex], generators: Mapping[str, np.random.Generator]) -> None:
        self.named, self.rngs = dict(buffers), dict(generators)
        self.buffers = [(b, b.value, b.value.copy(), b.version) for b in self.named.values()]
        self.states = [(rng, rng.bit_generator.state) for rng in self.rngs.values()]

    def put_back(self) -> None:
        """Make all of them what they were."""
        for buffer, array, content, version in self.buffers:
            if array.flags.writeable:
                array[...] = content
            buffer.value, buffer.version = array, version
        for rng, there in self.states:
            rng.bit_generator.state = there

    def now(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the buffers hold and where the generators stand, by name."""
        arrays = {f"the buffer {name}": b.value for name, b in self.named.items()}
        return arrays, {f"the generator {name}": rng.bit_generator.state for name, rng in self.rngs.items()}

    def again(self) -> Surroundings:
        """The same ones, as they are now."""
        return Surroundings(self.named, self.rngs)

    @contextmanager
    def as_before(self) -> Iterator[None]:
        """All of them as they were, for the length of a `with` block; then again as they are now."""
        now = self.again()
        self.put_back()
        try:
            yield
        finally:
            now.put_back()


class Noise:
    """How far arrays move by random rounding: `again` computes all of them once more, by name."""

    def __init__(self, again: Callable[[], Mapping[str, Any]]) -> None:
        self.again = again
        self.runs: list[Mapping[str, Any]] = []

    def run(self, number: int) -> Mapping[str, Any]:
        """The arrays of one run; none where it raised, for what is a little off may be refused."""
        while len(self.runs) <= number:
            with entered(monitor=_Rounding(len(self.runs)), recording=True), np.errstate(all="ignore"):
                try:
                    self.runs.append(self.again())
                except Exception:
                    self.runs.append({})
        return self.runs[number]


class _Rounding(Monitor):
    """Makes each call once more, on operands that are off by some units in the last place, and keeps that result.

    Calls that round nothing are left as they are, so that an element is still equal to the largest that it was: those
    that only pick, and functions without a gradient, such as comparisons. Whole numbers that nobody computed are exact,
    too: labels, masks, counts. (A softmax that is 1 is a rounded number.)
    """

    def __init__(self, number: int) -> None:
        self.units = ROUNDINGS[number]
        self.rng = np.random.default_rng(number)
        self.rounded: dict[int, Vertex] = {}  # held, so that no id is used twice

    def result(self, vertex: Vertex, fun: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        rule = RULES[fun]
        if not rule.differentiable:
            return
        self.rounded[id(vertex)] = vertex
        if fun is select or self._picks(vertex.value, [a.value if isinstance(a, Vertex) else a for a in args]):
            return
        values = [self._off(a.value, id(a) in self.rounded) if isinstance(a, Vertex) else self._off(a) for a in args]
        value = rule.forward(*values, **(kwargs or NO_KWARGS))
        vertex.value = tuple(value) if isinstance(value, (tuple, list)) else np.asarray(value)

    def _picks(self, result: Any, operands: Sequence[Any]) -> bool:
        """Whether a call has handed on elements of its operands, and zeros: some of the others tell."""
        if type(result) is tuple:
            return False
        given = [a for a in operands if isinstance(a, (np.ndarray, float, int))]
        told = result[result != 0]
        return not told.size or all(
            any(np.any(a == one) for a in given) for one in told[self.rng.integers(0, told.size, 16)]
        )

    def _off(self, a: Any, rounded: bool = False) -> Any:
        if not isinstance(a, np.ndarray) or a.dtype.kind != "f" or not a.size:
            return a
        eps = float(np.finfo(a.dtype).eps)
        if not rounded and np.array_equal(a, np.rint(a)) and np.max(np.abs(a)) < 1 / eps:
            return a
        off = np.asarray(a * (1 + self.units * eps * (2 * self.rng.random(a.shape) - 1))).astype(a.dtype)
        return np.where(np.isfinite(off), off, a)


def first_difference(
    found: Mapping[str, Any], expected: Mapping[str, Any], noise: Noise | None = None
) -> Difference | None:
    """The first array of the program's that is not eager's, as far as rounding lets one say; None for none."""
    sizes = {name: _size(a) for name, a in expected.items()}
    overall = max(sizes.values(), default=0.0)

    def differs(name: str, spread: float) -> Difference | None:
        floor = 0.0
        if spread >= NOTHING * sizes[name]:  # noise, or zero: as much as rounding what it is made of may have left
            floor = SPREAD * _eps(expected[name]) * overall
        return _differs(name, found[name], expected[name], spread, floor)

    doubts = {name: 0.0 for name in expected if differs(name, 0.0) is not None}
    for number in range(len(ROUNDINGS) if noise is not None else 0):
        if not doubts:
            return None
        assert noise is not None
        run = noise.run(number)
        for name in list(doubts):
            doubts[name] = max(doubts[name], _moved(run[name], expected[name]) if name in run else 0.0)
            if differs(name, doubts[name]) is None:
                del doubts[name]
    for name, spread in doubts.items():
        return differs(name, spread)
    return None


def _eps(a: Any) -> float:
    return float(np.finfo(a.dtype).eps) if a.dtype.kind == "f" else 0.0


def _size(a: Any) -> float:
    """The largest element that is finite."""
    return float(np.max(np.abs(a), where=np.isfinite(a), initial=0)) if a.dtype.kind == "f" else 0.0


def _differs(name: str, a: Any, b: Any, spread: float, floor: float) -> Difference | None:
    """What stands in the way of taking `a` for `b`. An infinite spread says that other elements may be not finite."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return Difference(name, f"{a.dtype}{a.shape}", f"{b.dtype}{b.shape}")
    if np.array_equal(a, b, equal_nan=a.dtype.kind == "f"):
        return None
    if a.dtype.kind != "f":
        return _at(name, a, b, a != b)
    finite = np.isfinite(a) & np.isfinite(b)
    odd = ~finite & (a != b) & ~(np.isnan(a) & np.isnan(b))
    if odd.any():
        return None if spread == np.inf else _at(name, a, b, odd)
    kind = np.finfo(a.dtype)
    left, right = a.astype(np.float64), b.astype(np.float64)
    error = np.abs(np.subtract(left, right, where=finite, out=np.zeros(a.shape)))
    largest = float(np.max(np.abs(right), where=finite, initial=0))
    underflow = (
        SURE * float(kind.tiny) / float(kind.eps) ** 2
    )  # what factors may make that have lost digits, being so small
    close = max(min(SURE * float(kind.eps), COARSEST) * largest, SPREAD * spread, floor, underflow)
    return _at(name, a, b, error) if error.max() > close else None


def _at(name: str, a: Any, b: Any, error: Any) -> Difference:
    index = tuple(map(int, np.unravel_index(int(np.argmax(error)), error.shape)))
    return Difference(name, a[index], b[index], index)


def _moved(a: Any, b: Any) -> float:
    """How far an array moved; infinitely where other elements are not finite."""
    if a.shape != b.shape:
        return np.inf
    if a.dtype.kind != "f":
        return 0.0
    finite = np.isfinite(a) & np.isfinite(b)
    if not (finite | (a == b) | (np.isnan(a) & np.isnan(b))).all():
        return np.inf
    error = np.subtract(a.astype(np.float64), b, where=finite, out=np.zeros(a.shape))
    return float(np.max(np.abs(error), initial=0))


def difference_of_generators(found: Mapping[str, Any], expected: Mapping[str, Any]) -> Difference | None:
    """The first generator that does not stand where eager left it."""
    for name, there in expected.items():
        if not _equal(found[name], there):
            return Difference(f"the state of {name}", found[name], there)
    return None


def _equal(a: Any, b: Any) -> bool:
    """Whether two states of a generator are the same; some hold arrays."""
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_equal(v, b[k]) for k, v in a.items())
    return bool(np.array_equal(a, b))


def culprit(passes: Iterable[str], cured: Callable[[Sequence[str]], bool]) -> str:
    """Which pass did it: leaving that one out cures the program, and making it anew with all of them does not."""
    for without in ([], *([name] for name in dict.fromkeys(passes))):
        try:
            if cured(without):
                return (
                    f"Without the pass {without[0]!r} it is right."
                    if without
                    else "Traced anew it is right: it holds something that has changed since it was traced."
                )
        except Exception:  # a program that cannot do without it
            continue
    return "No pass alone did it: leaving out any one of them does not help."


def report(what: str, difference: Difference, why: str, signature: str) -> None:
    """Warn of a program that is wrong."""
    warnings.warn_explicit(
        f"{what}: {difference}. The eager result was used, and what has this signature ({signature}) is computed "
        f"eagerly from now on. {why} Please report it; verify=False turns the check off.",
        CompileWarning,
        *caller(),
    )


def difference_error(what: str, difference: Difference, why: str) -> AssertionError:
    """What `verify` raises."""
    return AssertionError(f"{what}: {difference}. {why}")


def retraced(what: str, count: int, changed: str | None) -> None:
    """Say why, where a program has been made three times in a row for one call each."""
    if count == 3:
        log.warning(
            "%s was traced again at each of the last three calls, because %r had changed each time: that takes much "
            "longer than a call. Pass what changes as an array, or keep it where the code does not read it",
            what,
            changed,
        )


def named(captured: Any, more: Sequence[Any], kind: type) -> dict[str, Any]:
    """What a function has captured of a kind, and `more` of that kind, by name."""
    found: dict[int, Any] = {id(t): t for t in (*captured.tensors, *captured.generators, *more) if isinstance(t, kind)}
    names: dict[str, Any] = {}
    for key, one in found.items():
        name = captured.names.get(key) or str(len(names))
        names[name if name not in names else f"{name} ({len(names)})"] = one
    return names
