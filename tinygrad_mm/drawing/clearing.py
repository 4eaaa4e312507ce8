"""Where titles of frames and names of operands stand in a picture that is laid out: clear of whatever else is drawn.

Layout programs put both at fixed places, through which lines may run. Here a title moves along the upper border of its
frame, a name along its line, until nothing is in the way.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

__all__ = ["Box", "Label", "cleared", "curve"]

Point: TypeAlias = "tuple[float, float]"
Box: TypeAlias = "tuple[Point, Point]"  # the lower left and the upper right corner

STEP = 6.0  # points between two places that are tried for a title
ASIDE = 3.5  # between a line and a name beside it
FURTHEST = 60.0  # points along a line from its end to its name
NEAR = 100.0  # what is further away than this from a name can never be in its way
CLEAR = 1.0  # around a text


@dataclass(frozen=True)
class Label:
    """A text on a line: where a layout put its centre, its size, and from which end of the line it counts.

    `end` is "head" or "tail", or "" for one that stands anywhere along the line.
    """

    line: str
    at: Point
    size: Point
    end: str = "head"


def cleared(
    nodes: Iterable[Box],
    frames: Mapping[str, tuple[Box, Point, Point]],
    lines: Mapping[str, Sequence[Point]],
    labels: Mapping[str, Label],
) -> tuple[dict[str, Point], dict[str, Point]]:
    """Places for the titles of frames and for the labels of lines: the centre of each.

    Of a `frame` its box is known, the centre of its title, and the size of it; of a line the points on its way.

    >>> frame = ((0.0, 0.0), (100.0, 50.0)), (20.0, 40.0), (30.0, 10.0)
    >>> cleared([], {"c0": frame}, {}, {})[0]
    {'c0': (20.0, 40.0)}
    >>> cleared([], {"c0": frame}, {"e0": [(20.0, 0.0), (20.0, 50.0)]}, {})[0]
    {'c0': (38.0, 40.0)}
    """
    ways = [pair for points in lines.values() for pair in itertools.pairwise(points)]
    texts = [
        _around(label.at, label.size) for label in labels.values() if not label.end
    ]  # which have room of their own
    drawn = _Drawn(ways, texts)
    titles = {}
    for name, (box, title, size) in frames.items():
        titles[name] = drawn.first_clear(_along_border(box, title, size), size)
    borders = [side for box, _, _ in frames.values() for side in _sides(box)]
    there = _Drawn([*ways, *borders], [*nodes, *(_around(titles[n], frames[n][2]) for n in frames)])
    places = {}
    for name, label in labels.items():
        places[name] = there.near(label.at).first_clear(_along_line(label, lines[label.line]), label.size)
        there.boxes.append(_around(places[name], label.size))
    return titles, places


def curve(points: Sequence[Point], pieces: int = 6) -> list[Point]:
    """Points on the way of cubic curves, of which the control points are given.

    >>> curve([(0.0, 0.0), (1.0, 0.0), (2.0, 0.0), (3.0, 0.0)], pieces=2)
    [(0.0, 0.0), (1.5, 0.0), (3.0, 0.0)]
    """
    found = [points[0]]
    for i in range(0, len(points) - 3, 3):
        a, b, c, d = points[i : i + 4]
        for k in range(1, pieces + 1):
            t = k / pieces
            u = 1 - t
            shares = u**3, 3 * u**2 * t, 3 * u * t**2, t**3
            found.append(
                (
                    sum(s * p[0] for s, p in zip(shares, (a, b, c, d), strict=True)),
                    sum(s * p[1] for s, p in zip(shares, (a, b, c, d), strict=True)),
                )
            )
    return found


class _Drawn:
    """Straight pieces of lines, and boxes: what a text is to keep clear of."""

    def __init__(self, pieces: Sequence[tuple[Point, Point]], boxes: Sequence[Box]) -> None:
        ends: Any = np.array(pieces, np.float64).reshape(-1, 2, 2)
        self.pieces = ends
        self.middle, self.half = ends.mean(axis=1), (ends[:, 1] - ends[:, 0]) / 2
        self.boxes = list(boxes)

    def near(self, at: Point) -> _Drawn:
        """What can be in the way of a text about there."""
        apart = np.abs(self.middle - np.array(at)) - np.abs(self.half)
        boxes = [box for box in self.boxes if all(box[0][i] - NEAR < at[i] < box[1][i] + NEAR for i in (0, 1))]
        return _Drawn(self.pieces[(apart < NEAR).all(axis=1)].tolist(), boxes)

    def hits(self, at: Point, size: Point) -> int:
        """How many lines and boxes run through a text."""
        half = np.array([size[0] / 2 + CLEAR, size[1] / 2 + CLEAR])
        middle = self.middle - np.array(at)
        crossing = np.abs(self.half[:, 0] * middle[:, 1] - self.half[:, 1] * middle[:, 0])
        reach = np.abs(self.half[:, 0]) * half[1] + np.abs(self.half[:, 1]) * half[0]
        through = (np.abs(middle) <= np.abs(self.half) + half).all(axis=1) & (crossing <= reach)  # no axis parts them
        (left, bottom), (right, top) = _around(at, size)
        covered = sum(b[0][0] < right and left < b[1][0] and b[0][1] < top and bottom < b[1][1] for b in self.boxes)
        return int(np.count_nonzero(through)) + covered

    def first_clear(self, places: Iterable[Point], size: Point) -> Point:
        """The first of some places where nothing is in the way, or else one where little is."""
        best, fewest = None, math.inf
        for at in places:
            hits = self.hits(at, size)
            if hits < fewest:
                best, fewest = at, hits
            if not hits:
                break
        assert best is not None
        return best


def _around(at: Point, size: Point) -> Box:
    return (at[0] - size[0] / 2, at[1] - size[1] / 2), (at[0] + size[0] / 2, at[1] + size[1] / 2)


def _sides(box: Box) -> list[tuple[Point, Point]]:
    (left, bottom), (right, top) = box
    corners = [(left, bottom), (right, bottom), (right, top), (left, top)]
    return list(zip(corners, [*corners[1:], corners[0]], strict=True))


def _along_border(box: Box, title: Point, size: Point) -> Iterator[Point]:
    """Where a title can stand below the upper border of its frame, from where it is to the right."""
    yield title
    x = title[0]
    while x + STEP + size[0] / 2 + CLEAR <= box[1][0]:
        x += STEP
        yield x, title[1]


def _along_line(label: Label, points: Sequence[Point]) -> Iterator[Point]:
    """Where a label can stand beside its line, close to its end first."""
    if not label.end:
        yield label.at
    way = list(points) if label.end == "tail" else list(points)[::-1]
    width, height = label.size
    walked = 0.0
    for (a, b), (c, d) in itertools.pairwise(way):
        length = math.hypot(c - a, d - b)
        if not length:
            continue
        along = (c - a) / length, (d - b) / length
        aside = -along[1], along[0]
        if aside[1] < 0 or (aside[1] == 0 and aside[0] > 0):  # above a line, to the left of one upright
            aside = -aside[0], -aside[1]
        off = ASIDE + abs(aside[0]) * width / 2 + abs(aside[1]) * height / 2
        clear = abs(along[0]) * width / 2 + abs(along[1]) * height / 2 + CLEAR + 0.5  # of the node at the end
        for k in range(int(length // 2) + 1):
            s = 2.0 * k
            if not clear <= walked + s <= FURTHEST + clear:
                continue
            for sign in (1, -1):
                yield a + along[0] * s + sign * aside[0] * off, b + along[1] * s + sign * aside[1] * off
        walked += length
    if label.end:
        yield label.at
