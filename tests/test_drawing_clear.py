"""No line runs through a title, no name stands on a border, a node or another text: seen in the finished drawing."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ET
from typing import Any

import pytest
from drawn import SVG
from gallery import models
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_mm.drawing.clearing import Label, cleared, curve
from tinygrad_mm.drawing.layout import drawn

Box = tuple[float, float, float, float]  # left, top, right, bottom


def numbers(text: str) -> list[float]:
    return list(map(float, re.findall(r"-?[\d.]+", text)))


def points_of(path: str) -> list[tuple[float, float]]:
    found = numbers(path)
    return curve(list(zip(found[::2], found[1::2], strict=True)), pieces=40)


def box_of(element: Any) -> Box:
    found = numbers(element.get("d") or element.get("points"))
    return min(found[::2]), min(found[1::2]), max(found[::2]), max(found[1::2])


def texts_of(group: Any) -> list[Box]:
    """Where the words of a group stand, a little smaller than they are."""
    found = []
    for text in group.iter(SVG + "text"):
        said, size = "".join(text.itertext()), float(text.get("font-size"))
        x, y, width = float(text.get("x")), float(text.get("y")), 0.4 * size * len(said.strip())
        left = {"start": x, "middle": x - width / 2, "end": x - width}[text.get("text-anchor", "start")]
        if said.strip():
            found.append((left, y - 0.65 * size, left + width, y))
    return found


def inside(point: tuple[float, float], box: Box) -> bool:
    return box[0] < point[0] < box[2] and box[1] < point[1] < box[3]


def apart(one: Box, other: Box) -> bool:
    return one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]


def on_border(text: Box, frame: Box) -> bool:
    """Whether a text stands on the border of a frame: neither inside it nor outside."""
    within = frame[0] <= text[0] and text[2] <= frame[2] and frame[1] <= text[1] and text[3] <= frame[3]
    return not within and not apart(text, frame)


@pytest.mark.parametrize("direction", ["LR", "TB", "RL", "BT"])
@pytest.mark.parametrize("name", ["cnn", "lstm", "gpt", "autoencoder"])
def test_titles_and_names_stand_clear(name: str, direction: Any) -> None:
    picture = models.MODELS[name](direction=direction).picture
    root = ET.fromstring(drawn(picture, direction, "svg"))
    groups = [(g.get("class"), g) for g in root.iter(SVG + "g")]
    lines = [points_of(p.get("d")) for kind, g in groups if kind == "edge" for p in g.iter(SVG + "path")]
    titles = [box for kind, g in groups if kind == "cluster" for box in texts_of(g)]
    frames = [box_of(g.find(f".//{SVG}path")) for kind, g in groups if kind == "cluster"]
    names = [box for kind, g in groups if kind == "edge" for box in texts_of(g)]
    words = [box for kind, g in groups if kind == "node" for box in texts_of(g)]
    assert titles
    assert names
    for text in [*titles, *names]:
        assert not [line for line in lines if any(inside(point, text) for point in line)]
    for text in names:
        assert not [frame for frame in frames if on_border(text, frame)]
        assert all(apart(text, other) for other in [*titles, *words])
    assert all(apart(*pair) for pair in itertools.combinations(names, 2))


number = st.integers(-100, 100).map(float)
points = st.lists(st.tuples(number, number), min_size=2, max_size=5, unique=True)


@given(st.data())
def test_a_text_never_stands_worse_than_where_it_was(data: Any) -> None:
    """Counted by walking along the lines, not by the formula that places are found with."""
    left, bottom = data.draw(number), data.draw(number)
    width, height = data.draw(st.integers(60, 200)), data.draw(st.integers(30, 90))
    box = (left, bottom), (left + width, bottom + height)
    size = float(data.draw(st.integers(10, 50))), 10.0
    title = left + 8 + size[0] / 2, bottom + height - 10
    lines = {f"e{i}": line for i, line in enumerate(data.draw(st.lists(points, max_size=4)))}
    labels = {f"{name} head_lp": Label(name, line[-1], (12.0, 10.0)) for name, line in lines.items()}
    titles, names = cleared([], {"c": (box, title, size)}, lines, labels)
    assert names.keys() == labels.keys()

    def crossed(at: tuple[float, float], size: tuple[float, float]) -> int:
        found = 0
        for line in lines.values():
            for (a, b), (c, d) in itertools.pairwise(line):
                steps = [(a + (c - a) * k / 500, b + (d - b) * k / 500) for k in range(501)]
                found += any(abs(x - at[0]) <= size[0] / 2 and abs(y - at[1]) <= size[1] / 2 for x, y in steps)
        return found

    found = titles["c"]
    assert found[1] == title[1]
    assert title[0] <= found[0]
    assert found == title or found[0] + size[0] / 2 <= left + width
    around = (size[0] + 2, size[1] + 2)
    places = [(title[0] + 6 * k, title[1]) for k in range(40) if title[0] + 6 * k + size[0] / 2 + 1 <= left + width]
    if any(not crossed(place, (around[0] + 1, around[1] + 1)) for place in places):
        assert not crossed(found, size)
    assert crossed(found, size) <= crossed(title, (around[0] + 1, around[1] + 1))


@given(points, st.sampled_from(["head", "tail"]))
def test_a_name_stands_beside_the_end_of_its_own_line(line: Any, end: str) -> None:
    lines, label = {"e": line}, Label("e", (500.0, 500.0), (10.0, 8.0), end)
    _, names = cleared([], {}, lines, {"e": label})
    at = names["e"]
    if at == label.at:  # a line too short, or one that crosses itself everywhere
        return
    first, second = (line[-1], line[-2]) if end == "head" else line[:2]
    assert min(abs(at[0] - first[0]), abs(at[1] - first[1])) < 100
    del second
    nearest = min(
        ((a + (c - a) * k / 200 - at[0]) ** 2 + (b + (d - b) * k / 200 - at[1]) ** 2) ** 0.5
        for (a, b), (c, d) in itertools.pairwise(line)
        for k in range(201)
    )
    assert nearest < 20
