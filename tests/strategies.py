"""Strategies: what the property tests draw.

Values are not drawn one by one: an example is a lattice of well separated numbers in a drawn order, so that no two
elements are tied, none lies at a kink, and a step of finite differences never crosses one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from architectures import architectures as architectures  # networks to train
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

if TYPE_CHECKING:
    from table.row import Row

Shape = tuple[int, ...]
FLOATS = (np.float32, np.float64)


@dataclass
class Case:
    """One example of a row: its arguments in float64, its options, and a seed for everything random about it."""

    arrays: list[np.ndarray]
    options: dict[str, Any]
    seed: int
    step: float  # for finite differences: small against the distance of two values

    def rng(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)


# ---------------------------------------------------------------------------------------------------------------------
# Shapes by law
# ---------------------------------------------------------------------------------------------------------------------


def names(row: Row) -> list[str]:
    """The lengths that a row's laws name, in order."""
    words = [word for law in row.shapes for word in law.split()]
    return list(dict.fromkeys(word for word in words if not word.isdigit() and not word.endswith("...")))


def has_dots(row: Row) -> bool:
    return any("..." in law for law in row.shapes)


def fill(row: Row, lengths: dict[str, int], broadcast: list[Shape], same: Shape) -> list[Shape]:
    """The shape of each argument, given the lengths of the names and the axes that the dots stand for."""

    def axes(word: str, i: int) -> Shape:
        if word == "...":
            return broadcast[i]
        return same if word == "s..." else (int(word),) if word.isdigit() else (lengths[word],)

    return [sum((axes(word, i) for word in law.split()), ()) for i, law in enumerate(row.shapes)]


@st.composite
def shapes(draw: st.DrawFn, row: Row, least: int = 1) -> list[Shape]:
    """Shapes that a row's laws allow, every length at least `least`; 0-d ones where NumPy accepts those."""
    lengths = {name: draw(st.integers(least, 3)) for name in names(row)}
    fewest = 0 if lengths else 1 if row.zero_d or least > 1 else 0
    bounds = {"min_dims": fewest, "max_dims": 2 if lengths else 3, "min_side": least, "max_side": 3}
    dotted = [i for i, law in enumerate(row.shapes) if "..." in law.split()]
    broadcast: list[Shape] = [()] * len(row.shapes)
    if len(dotted) == 1:
        broadcast[dotted[0]] = draw(hnp.array_shapes(**bounds))
    elif dotted:
        drawn = draw(hnp.mutually_broadcastable_shapes(num_shapes=len(dotted), **bounds)).input_shapes
        broadcast = [drawn[dotted.index(i)] if i in dotted else () for i in range(len(row.shapes))]
    same = draw(hnp.array_shapes(**bounds)) if "s..." in " ".join(row.shapes) else ()
    return fill(row, lengths, broadcast, same)


def empty_shapes(row: Row) -> Iterator[list[Shape]]:
    """Every way in which a row's arguments can be empty: each named length 0 in turn, the dots with a 0 in them."""
    lengths = dict.fromkeys(names(row), 2)
    for name in lengths:
        yield fill(row, {**lengths, name: 0}, [()] * len(row.shapes), ())
    if has_dots(row):
        for dots in ((0,), (2, 0), (0, 2)):
            yield fill(row, lengths, [dots] * len(row.shapes), dots)


# ---------------------------------------------------------------------------------------------------------------------
# Values
# ---------------------------------------------------------------------------------------------------------------------


def lattice_values(row: Row, shapes: list[Shape], seed: int) -> tuple[list[np.ndarray], float]:
    """Arguments whose elements all differ by a lattice constant, in a random order; and a step for differences.

    Arguments with the same domain share one lattice. It has an even number of points, so none in the middle.
    """
    rng = np.random.default_rng(seed)
    sizes = [int(np.prod(shape)) for shape in shapes]
    total = {domain: sum(n for n, d in zip(sizes, row.domains, strict=True) if d == domain) for domain in row.domains}
    points, smallest = {}, 0.05
    for (low, high), n in total.items():
        count = max(16, n + n % 2)
        spacing = (high - low) / count
        smallest = min(smallest, spacing)
        points[low, high] = iter(rng.permutation(low + spacing * (np.arange(count) + 0.5)))
    arrays = [
        np.array([next(points[domain]) for _ in range(n)], dtype=np.float64).reshape(shape)
        for n, domain, shape in zip(sizes, row.domains, shapes, strict=True)
    ]
    return arrays, smallest / 25


@st.composite
def cases(draw: st.DrawFn, row: Row, shapes: st.SearchStrategy[list[Shape]]) -> Case:
    """An example of a row, with arguments of the shapes given."""
    drawn = draw(shapes)
    seed = draw(st.integers(0, 2**32 - 1))
    arrays, step = lattice_values(row, drawn, seed)
    return Case(arrays, draw(options(row, drawn)), seed, step)


@st.composite
def options(draw: st.DrawFn, row: Row, shapes: list[Shape]) -> dict[str, Any]:
    """The options of a row: constants, strategies, and functions of the shapes that return a strategy."""
    result = {}
    for name, value in row.options.items():
        value = value(*shapes) if callable(value) and not isinstance(value, type) else value
        result[name] = draw(value) if isinstance(value, st.SearchStrategy) else value
    return result


def constant(row: Row) -> bool:
    """Whether a row's options are the same in every example."""
    return not any(
        isinstance(value, st.SearchStrategy) or (callable(value) and not isinstance(value, type))
        for value in row.options.values()
    )


def layouts(a: np.ndarray) -> Iterator[np.ndarray]:
    """The same elements elsewhere in memory: transposed, every second one of a larger array, backwards."""
    if a.ndim == 0:
        yield from (a, a, a)
        return
    yield np.asfortranarray(a)
    wide = np.full(tuple(2 * n for n in a.shape), np.nan, a.dtype)
    every_second = wide[(slice(None, None, 2),) * a.ndim]
    every_second[...] = a
    yield every_second
    yield np.flip(np.flip(a).copy())


# ---------------------------------------------------------------------------------------------------------------------
# Options that depend on shapes: each is called with the shapes of all arguments, the first one counts
# ---------------------------------------------------------------------------------------------------------------------


def one_axis(shape: Shape, *others: Shape) -> st.SearchStrategy[int]:
    """An axis, counted from either end; 0 or -1 where there is none, which is for NumPy to judge."""
    return st.integers(-len(shape), len(shape) - 1) if shape else st.sampled_from([0, -1])


def several_axes(shape: Shape, *others: Shape, least: int = 0) -> st.SearchStrategy[tuple[int, ...]]:
    """Different axes, counted from either end, possibly none."""
    axes = st.lists(st.sampled_from(range(len(shape))), unique=True, min_size=least) if shape else st.just([])
    return axes.flatmap(lambda found: st.tuples(*(st.sampled_from([axis, axis - len(shape)]) for axis in found)))


def any_axes(shape: Shape, *others: Shape) -> st.SearchStrategy[int | tuple[int, ...] | None]:
    """What a reduction takes as `axis`: None, one axis, several axes."""
    return st.none() | one_axis(shape) | several_axes(shape) if shape else st.sampled_from([None, ()])


def full_axes(shape: Shape, *others: Shape) -> st.SearchStrategy[int | tuple[int, ...] | None]:
    """The same without the empty tuple: something is reduced."""
    return st.none() | one_axis(shape) | several_axes(shape, least=1) if shape else st.none()


def permutation(shape: Shape, *others: Shape) -> st.SearchStrategy[tuple[int, ...]]:
    """All axes in some order."""
    return st.permutations(range(len(shape))).map(tuple)


def mask(shape: Shape, *others: Shape) -> st.SearchStrategy[np.ndarray]:
    """Booleans of the shape of the first argument."""
    return hnp.arrays(bool, shape)


def some_mask(shape: Shape, *others: Shape) -> st.SearchStrategy[np.ndarray]:
    """Booleans of the shape of the first argument, true at the first place of every axis."""

    def first(m: np.ndarray) -> np.ndarray:
        for axis in range(m.ndim):
            m[(slice(None),) * axis + (slice(0, 1),)] = True
        return m

    return mask(shape).map(first if shape else np.ones_like)


def broadcast_shape(shape: Shape, *others: Shape) -> st.SearchStrategy[Shape]:
    """A shape that the first argument can be broadcast to."""
    lead = hnp.array_shapes(min_dims=0, max_dims=2, max_side=2)
    stretched = st.tuples(*(st.integers(1, 3) if n == 1 else st.just(n) for n in shape))
    return st.tuples(lead, stretched).map(lambda parts: parts[0] + parts[1])


def basic_index(shape: Shape, *others: Shape) -> st.SearchStrategy[Any]:
    """Slices with any step, integers, ellipsis and newaxis."""
    return hnp.basic_indices(shape, allow_newaxis=True, allow_ellipsis=True)


def integer_arrays(shape: Shape, *others: Shape) -> st.SearchStrategy[Any]:
    """One array of integers for each axis, with repeats and from either end."""
    if 0 in shape:
        return st.just(tuple(np.zeros(0, np.int64) for _ in shape))
    result = hnp.array_shapes(min_dims=0, max_dims=2, max_side=3)
    return result.flatmap(
        lambda size: st.tuples(*(hnp.arrays(np.int64, size, elements=st.integers(-n, n - 1)) for n in shape))
    )


def places(shape: Shape, *others: Shape) -> st.SearchStrategy[np.ndarray]:
    """Places along the first axis, with repeats and from either end."""
    n = shape[0] if shape else 1
    return hnp.arrays(np.int64, st.integers(1, 4), elements=st.integers(-n, n - 1)) if n else st.just(np.zeros(0, int))
