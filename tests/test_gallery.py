"""The gallery: every picture can be made, small, whole, and is the one that the folder holds."""

from __future__ import annotations

import re
import struct
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from gallery import FOLDER, loaded

SVG = "{http://www.w3.org/2000/svg}"


NAMES = list(loaded("make").PICTURES)


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_of_the_gallery(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loaded("make").main(["--out", str(tmp_path), "--only", name])
    assert f"{name}.png" in capsys.readouterr().out
    svg, png = (tmp_path / f"{name}.{form}" for form in ("svg", "png"))
    assert ET.parse(svg).getroot().tag == SVG + "svg"
    assert struct.unpack(">II", png.read_bytes()[16:24]) > (400, 200)
    assert max(svg.stat().st_size, png.stat().st_size) < 450_000

    def words(path: Path) -> list[str]:
        return ["".join(t.itertext()) for t in ET.parse(path).iter(SVG + "text")]

    number = re.compile(r"-?\d+\.?\d*(e-?\d+)?")  # the last digits may differ between machines
    here, there = (sorted(number.sub("#", w) for w in words(path)) for path in (svg, FOLDER / f"{name}.svg"))
    assert here == there


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_clipped(name: str) -> None:
    """All text of a picture in the folder lies inside it."""
    root = ET.parse(FOLDER / f"{name}.svg").getroot()
    _, _, width, height = map(float, root.get("viewBox", "").split())
    (graph,) = (g for g in root.iter(SVG + "g") if g.get("class") == "graph")
    found = re.search(r"translate\(([\d.]+) ([\d.]+)\)", graph.get("transform", ""))
    assert found is not None
    left, top = map(float, found.groups())
    texts = list(root.iter(SVG + "text"))
    assert len(texts) > 5
    for text in texts:
        x, y = float(text.get("x", 0)) + left, float(text.get("y", 0)) + top
        half = 0.3 * float(text.get("font-size", 10)) * len("".join(text.itertext()))
        before = {"middle": half, "start": 0.0, "end": 2 * half}[text.get("text-anchor", "start")]
        assert x - before >= 0
        assert x - before + 2 * half <= width * 1.02
        assert 0 < y < height
