"""Draws a picture: one that is wrapped row by row, which are then put together.

Layout programs know nothing of rows. Each row is laid out by itself; then the program draws all of them at once, with
everything in the place that it is given here. Lines from one row to the next run along the margins, titles and the
names of operands stand where nothing is in their way.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from tinygrad_mm.drawing.clearing import Box, Label, cleared, curve
from tinygrad_mm.drawing.dot import MOST_RANKED, Direction, Places, digraph, rows_of
from tinygrad_mm.drawing.labels import width_of
from tinygrad_mm.drawing.picture import Picture
from tinygrad_mm.drawing.renderer import laid_out, render
from tinygrad_mm.drawing.rows import PAGE, WIDEST, Plan, wrapped
from tinygrad_mm.drawing.theme import in_the_dark

__all__ = ["drawn", "in_rows"]

Point: TypeAlias = "tuple[float, float]"

MARGIN = 12.0  # points between a row and the first line beside it
LANE = 7.0  # between two lines
ROUND = 7.0  # radius of a corner
TRIES = 4  # of making rows shorter
SURE = 0.8  # of a page: what is estimated to be shorter will fit


def drawn(picture: Picture, direction: Direction, form: str) -> bytes:
    """The picture as "svg", "png" or "pdf", wrapped where it is longer than a page.

    Raises RuntimeError where there is no layout program, or where it fails.
    """
    wrapping, places = _arranged(picture, direction)
    images: dict[str, bytes] | None = {} if form == "svg" else None
    graph = digraph(wrapping, direction, images, places=places)
    image = render(graph.source, form, images, fixed=places is not None)
    return _with_dark_colours(image) if form == "svg" else image


def in_rows(picture: Picture, length: float) -> tuple[Picture, bytes]:
    """The picture in rows from left to right, each of so many points at most, and its SVG in light colours.

    Raises RuntimeError where there is no layout program, or where it fails.
    """
    wrapping, places = _arranged(picture, "LR", length, math.inf)
    return wrapping, render(digraph(wrapping, places=places).source, "svg", fixed=places is not None)


def _with_dark_colours(svg: bytes) -> bytes:
    """An SVG that turns dark where its reader prefers that; on paper it is light."""
    text = svg.decode().replace('fill="white"', 'fill="#ffffff"').replace('stroke="black"', 'stroke="#000000"')
    rules = "".join(
        f'.graph-picture [{name}="{colour}"]{{{name}:{in_the_dark(colour)}}}'
        for name, colour in sorted(set(re.findall(r' (fill|stroke)="(#[0-9a-f]{6})"', text)))
    )
    if not rules:
        return svg
    style = f"<style>@media screen and (prefers-color-scheme:dark){{{rules}}}</style>"
    head, tag, body = text.partition("<svg ")
    opening, end, rest = body.partition(">")
    return f'{head}{tag}class="graph-picture" {opening}{end}{style}{rest}'.encode()


def _arranged(
    picture: Picture, direction: Direction, length: float | None = None, widest: float = WIDEST
) -> tuple[Picture, Places | None]:
    """The picture in rows, and where everything stands; None for one so large that a program places it by itself.

    What a row needs is estimated first: where it turns out to be longer than a page, rows are made shorter.
    """
    horizontal = direction in ("LR", "RL")
    page = longest = length or PAGE[0 if horizontal else 1]
    for _ in range(TRIES):
        wrapping = wrapped(picture, horizontal, longest, widest)
        rows = 1 + max((node.row for node in wrapping.nodes), default=0)
        if rows == 1 and len(picture.nodes) > MOST_RANKED:
            return wrapping, None
        places = _places(wrapping, direction)
        short = rows == 1 and Plan(picture, horizontal).size()[0 if horizontal else 1] < SURE * page
        if short or places.length <= page or rows == len({*Plan(picture).columns.values()}):
            break
        longest *= 0.98 * page / places.length
    return wrapping, places


def _places(picture: Picture, direction: Direction) -> Places:
    """Where everything stands in a wrapped picture."""
    graphs = [digraph(picture, direction, row=row) for row in rows_of(picture)]
    label = graphs[0].graph_attr["label"]
    for graph in graphs:
        graph.graph_attr["label"] = ""
    legend = digraph(Picture((), ()), direction)
    legend.graph_attr["label"] = label
    *laid, below = laid_out([graph.source for graph in (*graphs, legend)])
    sheet = _Sheet(direction)
    for row in laid:
        sheet.add(_Row(row, direction))
    return sheet.places(72 * float(below["lwidth"]), 72 * float(below["lheight"]))


# Along a row and across it, from the first row to the last: what a row looks like whatever its direction.
TO_SHEET: dict[Direction, Callable[[float, float], Point]] = {
    "LR": lambda x, y: (x, -y),
    "RL": lambda x, y: (-x, -y),
    "TB": lambda x, y: (-y, x),
    "BT": lambda x, y: (y, x),
}
FROM_SHEET: dict[Direction, Callable[[float, float], Point]] = {
    "LR": lambda along, across: (along, -across),
    "RL": lambda along, across: (-along, -across),
    "TB": lambda along, across: (across, -along),
    "BT": lambda along, across: (across, along),
}


LABELS = {"lp": "label", "head_lp": "headlabel", "tail_lp": "taillabel"}  # the place of a label, and what it says


@dataclass(frozen=True)
class _Line:
    """The way of an edge: control points of cubic curves, the tips of arrows at its ends, where its labels stand."""

    points: list[Point]
    tips: dict[str, Point]
    labels: dict[str, tuple[Point, str]]  # where each stands, and what it says

    def moved(self, move: Callable[[Point], Point]) -> _Line:
        tips = {end: move(tip) for end, tip in self.tips.items()}
        labels = {name: (move(at), text) for name, (at, text) in self.labels.items()}
        return _Line([move(p) for p in self.points], tips, labels)

    @property
    def way(self) -> list[Point]:
        """Points along it, from its beginning to its end."""
        start, end = ([self.tips[name]] if name in self.tips else [] for name in "se")
        return [*start, *curve(self.points), *end]


class _Row:
    """One row as a layout program has laid it out, seen along and across."""

    def __init__(self, document: Mapping[str, Any], direction: Direction) -> None:
        seen = TO_SHEET[direction]
        objects = {o["_gvid"]: o for o in document.get("objects", ())}
        left, bottom, right, top = _numbers(document["bb"])
        corners = seen(left, bottom), seen(right, top)
        self.start = min(along for along, _ in corners), min(across for _, across in corners)
        self.end = max(along for along, _ in corners), max(across for _, across in corners)
        nodes = [o for o in objects.values() if "pos" in o]
        frames = [o for o in objects.values() if "bb" in o and "lp" in o and "id" in o]
        self.nodes = {o["name"]: seen(*_numbers(o["pos"])) for o in nodes}
        shares = 2 if direction in ("TB", "BT") else 1  # of its room, a title takes the left one
        self.frames = {}
        for o in frames:
            (x, y), width = _numbers(o["lp"]), 72 * float(o["lwidth"])
            self.frames[o["id"]] = _corners(o["bb"], seen), seen(x - width / 2 + width / shares / 2, y)
        # Width and height in points, whatever the direction: of nodes, and of the titles of frames.
        self.sizes = {o["name"]: (72 * float(o["width"]), 72 * float(o["height"])) for o in nodes}
        self.sizes |= {o["id"]: (72 * float(o["lwidth"]) / shares, 72 * float(o["lheight"])) for o in frames}
        self.lines: dict[str, _Line] = {}
        self.tails: dict[str, str] = {}  # of the edges that come in from the row before
        for edge in document.get("edges", ()):
            if "id" in edge and "pos" in edge:
                self.lines[edge["id"]] = _line(edge, seen)
                tail = objects[edge["tail"]]["name"]
                if tail.endswith("_in"):
                    self.tails[edge["id"]] = tail.removesuffix("_in")


def _numbers(text: str) -> list[float]:
    return [float(number) for number in text.split(",")]


def _corners(text: str, seen: Callable[[float, float], Point]) -> tuple[Point, Point]:
    left, bottom, right, top = _numbers(text)
    return seen(left, bottom), seen(right, top)


def _line(edge: Mapping[str, Any], seen: Callable[[float, float], Point]) -> _Line:
    points, tips = [], {}
    for part in edge["pos"].split(";")[0].split():
        if part[0] in "se":
            tips[part[0]] = seen(*_numbers(part[2:]))
        else:
            points.append(seen(*_numbers(part)))
    labels = {
        place: (seen(*_numbers(edge[place])), html.unescape(edge[label]))
        for place, label in LABELS.items()
        if place in edge
    }
    return _Line(points, tips, labels)


class _Sheet:
    """Rows below each other, and the lines between them."""

    def __init__(self, direction: Direction) -> None:
        self.direction = direction
        self.nodes: dict[str, Point] = {}
        self.frames: dict[str, tuple[tuple[Point, Point], Point]] = {}
        self.lines: dict[str, _Line] = {}
        self.sizes: dict[str, Point] = {}
        self.start, self.end = 0.0, 0.0  # of the longest row, along
        self.height = 0.0  # of all rows so far
        self.last = 0.0  # the end of the last row, along

    def add(self, row: _Row) -> None:
        """Put a row below those that are there, with room for the lines that lead to it."""
        incoming = {tail: self.nodes[f"{tail}_out"] for tail in row.tails.values()}
        lowest_first = sorted(incoming, key=lambda tail: -incoming[tail][1])
        top = self.height + (2 * MARGIN + LANE * len(incoming) if self.nodes else 0.0)

        def moved(point: Point) -> Point:
            return point[0] - row.start[0], point[1] - row.start[1] + top

        self.sizes |= row.sizes
        self.nodes |= {name: moved(point) for name, point in row.nodes.items()}
        for name, ((one, other), title) in row.frames.items():
            self.frames[name] = (moved(one), moved(other)), moved(title)
        for name, line in row.lines.items():
            line = line.moved(moved)
            if name in row.tails:
                tail = row.tails[name]
                lane = lowest_first.index(tail)
                line = self._joined(self.lines[f"{tail}_out"], lane, line)
            self.lines[name] = line
        if incoming:
            reach = MARGIN + LANE * (len(incoming) - 1)
            self.start, self.end = min(self.start, -reach), max(self.end, self.last + reach)
        self.last = row.end[0] - row.start[0]
        self.end = max(self.end, self.last)
        self.height = top + row.end[1] - row.start[1]

    def _joined(self, out: _Line, lane: int, into: _Line) -> _Line:
        """A line that leaves one row, runs back along the lane between the two, and enters the next."""
        shift = LANE * lane
        first, last = out.points[-1], into.points[0]
        right, left = self.last + MARGIN + shift, -MARGIN - shift
        between = self.height + MARGIN + shift
        corners = [(right, first[1]), (right, between), (left, between), (left, last[1])]
        points = [*out.points, *_rounded([first, *corners, last]), *into.points[1:]]
        tips = {end: tip for line, end in ((out, "s"), (into, "e")) if (tip := line.tips.get(end)) is not None}
        return _Line(points, tips, into.labels)

    def places(self, width: float, height: float) -> Places:
        """Everything as attributes in DOT, with a legend of this size below."""
        to_points = FROM_SHEET[self.direction]
        corners = to_points(self.start, 0.0), to_points(self.end, self.height)
        left, right = sorted(x for x, _ in corners)
        bottom, top = sorted(y for _, y in corners)
        legend = left + width / 2, bottom - MARGIN / 2 - height / 2

        def text(*points: Point) -> str:
            """Places are counted from the lower left corner of the picture."""
            return ",".join(f"{x - left:.2f},{y - bottom + height + MARGIN / 2:.2f}" for x, y in points)

        def at(point: Point) -> str:
            return text(to_points(*point))

        frames = {}
        for name, ((one, other), title) in self.frames.items():
            (a, b), (c, d) = to_points(*one), to_points(*other)
            box = (min(a, c), min(b, d)), (max(a, c), max(b, d))
            frames[name] = box, to_points(*title), self.sizes[name]
        titles, names = self._cleared(frames)
        edges = {}
        for name, line in self.lines.items():
            way = [*(f"{end},{at(tip)}" for end, tip in line.tips.items()), *map(at, line.points)]
            edges[name] = {"pos": " ".join(way), **{label: text(names[f"{name} {label}"]) for label in line.labels}}
        whole = text((left, bottom - height - MARGIN / 2), (max(right, left + width), top))
        return Places(
            {name: {"pos": at(point)} for name, point in self.nodes.items()},
            edges,
            {name: {"bb": text(*box), "lp": text(titles[name])} for name, (box, _, _) in frames.items()},
            {"bb": whole, "lp": text(legend), "lwidth": f"{width / 72:.2f}", "lheight": f"{height / 72:.2f}"},
            self.end - self.start,
        )

    def _cleared(self, frames: Mapping[str, tuple[Box, Point, Point]]) -> tuple[dict[str, Point], dict[str, Point]]:
        """Where the titles of frames stand (by id), and the labels of lines (by id and which of them)."""
        to_points = FROM_SHEET[self.direction]
        nodes: list[Box] = []
        for name, point in self.nodes.items():
            (x, y), (width, height) = to_points(*point), self.sizes[name]
            if width > 1:  # not one of the points through which lines leave a row
                nodes.append(((x - width / 2, y - height / 2), (x + width / 2, y + height / 2)))
        lines = {name: line.moved(lambda point: to_points(*point)) for name, line in self.lines.items()}
        labels = {
            f"{name} {place}": Label(name, at, (width_of(said, 9), 10.0), place.removesuffix("lp").rstrip("_"))
            for name, line in lines.items()
            for place, (at, said) in line.labels.items()
        }
        return cleared(nodes, frames, {name: line.way for name, line in lines.items()}, labels)


def _rounded(corners: list[Point]) -> list[Point]:
    """A way along straight lines with round corners, as control points of curves, without the first point."""
    found: list[Point] = []
    at = corners[0]
    for before, corner, after in zip(corners, corners[1:], corners[2:], strict=False):
        start, end = _towards(corner, before), _towards(corner, after)
        found += [*_straight(at, start), corner, corner, end]
        at = end
    return found + _straight(at, corners[-1])


def _towards(corner: Point, other: Point) -> Point:
    """A point near a corner, on the way to another one."""
    distance = abs(other[0] - corner[0]) + abs(other[1] - corner[1])  # lines run along and across only
    share = min(ROUND, distance / 2) / distance if distance else 0.0
    return corner[0] + share * (other[0] - corner[0]), corner[1] + share * (other[1] - corner[1])


def _straight(start: Point, end: Point) -> list[Point]:
    (a, b), (c, d) = start, end
    return [((2 * a + c) / 3, (2 * b + d) / 3), ((a + 2 * c) / 3, (b + 2 * d) / 3), end]
