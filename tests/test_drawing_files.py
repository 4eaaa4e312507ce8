"""Drawings as files and in notebooks."""

from __future__ import annotations

import os
import struct
import sys
import sysconfig
import xml.etree.ElementTree as ET
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from drawn import (
    SVG,
    tensor,
)
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_mm as tg
from tinygrad_mm.drawing import Drawing
from tinygrad_mm.drawing.renderer import find_program, render, resolution


@pytest.fixture
def drawing() -> Drawing:
    return tg.draw(np.sum(tensor(2, name="x") * 2))


def png_size(path: Path) -> tuple[int, int]:
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", content[16:24])
    return width, height


def test_save(drawing: Drawing, tmp_path: Path) -> None:
    assert drawing.save(tmp_path / "graph.svg") == tmp_path / "graph.svg"
    assert ET.parse(tmp_path / "graph.svg").getroot().tag == SVG + "svg"
    drawing.save(str(tmp_path / "graph.PNG"))
    assert min(png_size(tmp_path / "graph.PNG")) > 50
    drawing.save(tmp_path / "graph.dot")
    assert (tmp_path / "graph.dot").read_text(encoding="utf-8") == drawing.source == drawing.graph.source
    assert sorted(p.name for p in tmp_path.iterdir()) == ["graph.PNG", "graph.dot", "graph.svg"]


def test_the_graphviz_object_can_be_changed_without_changing_the_drawing(drawing: Drawing) -> None:
    before = drawing.source
    graph = drawing.graph
    graph.node("mine")
    assert "mine" in graph.source
    assert drawing.source == before


@given(st.floats(1, 1e6), st.floats(1, 1e6))
def test_the_resolution_of_a_png_keeps_it_within_bounds(width: float, height: float) -> None:
    dots = resolution(width, height)
    pixels = width / 72 * dots, height / 72 * dots
    assert max(pixels) <= 32_000.1
    assert pixels[0] * pixels[1] <= 48_000_100
    assert dots == 144 or max(pixels) >= 31_999 or pixels[0] * pixels[1] >= 47_999_000


def test_a_large_png_is_bounded(tmp_path: Path) -> None:
    y = tensor(2)
    for _ in range(300):
        y = np.sin(y)
    path = tmp_path / "long.png"
    path.write_bytes(render(tg.draw(y, show="everything").source, "png"))  # in one row
    width, _ = png_size(path)
    assert 30_000 < width <= 32_100


@pytest.mark.parametrize("name", ["graph", "graph.jpeg", "svg", "graph.svg.gz"])
def test_an_unknown_ending_names_the_known_ones(drawing: Drawing, tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"\.svg, \.png, \.pdf, \.dot"):
        drawing.save(tmp_path / name)


def test_a_file_that_cannot_be_written(drawing: Drawing, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here")
    (tmp_path / "folder.svg").mkdir()
    for path in (tmp_path / "missing" / "a.svg", tmp_path / "file" / "a.svg", tmp_path / "folder.svg"):
        with pytest.raises(OSError, match=r"cannot write .*folder that exists"):
            drawing.save(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.svg"]
    assert list((tmp_path / "folder.svg").iterdir()) == []


def only_these_programs(monkeypatch: pytest.MonkeyPatch, folder: Path, **scripts: str) -> None:
    """No layout program but these shell scripts, on the PATH and nowhere else."""
    folder.mkdir()
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(folder / "nowhere"))


def test_without_a_layout_program(drawing: Drawing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only_these_programs(monkeypatch, tmp_path / "bin")
    with pytest.raises(RuntimeError, match="apt install graphviz") as error:
        drawing.save(tmp_path / "graph.svg")
    assert "pip install graphviz-pure" in str(error.value)
    assert not (tmp_path / "graph.svg").exists()
    assert drawing.save(tmp_path / "graph.dot").read_text(encoding="utf-8") == drawing.source
    shown = drawing._repr_mimebundle_()
    assert set(shown) == {"text/plain"}
    assert "apt install graphviz" in shown["text/plain"]


# A stand-in answers where things stand with what the real program says.
LAYOUT = f'if [ "$1" = -Tjson0 ]; then exec {find_program().path} -Tjson0; fi; '


posix = pytest.mark.skipif(os.name != "posix", reason="the stand-in programs are shell scripts")


@posix
def test_a_real_dot_is_preferred_and_writes_pdf(
    drawing: Drawing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_these_programs(monkeypatch, tmp_path / "bin", dot=LAYOUT + 'echo "%PDF $@"', **{"graphviz-pure": "echo pure"})
    assert drawing.save(tmp_path / "graph.pdf").read_text() == "%PDF -Kneato -n2 -Tpdf\n"


@posix
def test_graphviz_pure_is_used_where_there_is_no_dot_and_pygraphviz_for_pdf(
    drawing: Drawing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_these_programs(monkeypatch, tmp_path / "bin", **{"graphviz-pure": LAYOUT + "echo pure $3"})
    assert drawing.save(tmp_path / "graph.svg").read_text() == "pure -Tsvg\n"
    monkeypatch.setitem(sys.modules, "pygraphviz", None)
    with pytest.raises(RuntimeError, match=r"tinygrad_mm\[pdf\].*apt install graphviz"):
        drawing.save(tmp_path / "graph.pdf")

    class AGraph:
        def __init__(self, string: str) -> None:
            assert string.startswith("digraph")
            self.graph_attr: dict[str, str] = {}

        def draw(self, format: str, prog: str, args: str) -> bytes:
            return f"{format} by {prog} {args}".encode()

    monkeypatch.setitem(sys.modules, "pygraphviz", SimpleNamespace(AGraph=AGraph))
    assert drawing.save(tmp_path / "graph.pdf").read_text() == "pdf by neato -n2"


@posix
def test_graphviz_pure_is_found_among_the_scripts_of_this_python(
    drawing: Drawing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_these_programs(monkeypatch, tmp_path / "bin", **{"graphviz-pure": "echo scripts"})
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / "bin"))
    assert find_program() == (str(tmp_path / "bin" / "graphviz-pure"), True)


@posix
def test_a_layout_program_that_fails_leaves_the_old_file(
    drawing: Drawing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "graph.svg").write_text("old")
    only_these_programs(monkeypatch, tmp_path / "bin", dot="echo half; echo the reason >&2; exit 3")
    with pytest.raises(RuntimeError, match="status 3: the reason"):
        drawing.save(tmp_path / "graph.svg")
    assert (tmp_path / "graph.svg").read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bin", "graph.svg"]


def test_notebooks_show_svg(drawing: Drawing) -> None:
    shown = drawing._repr_mimebundle_()
    assert ET.fromstring(shown["image/svg+xml"]).tag == SVG + "svg"
    assert shown["text/plain"] == repr(drawing)
