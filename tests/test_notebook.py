"""What things show of themselves in a notebook: HTML that parses, says what they are, and escapes what it is given."""

from __future__ import annotations

import os
import sys
import types
import warnings
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import Page, needs_browser

import tinygrad_mm as tg
from tinygrad_mm import nn
from tinygrad_mm.notebook import curve, preformatted, table
from tinygrad_mm.training.history import History

HOSTILE = "<script>alert(1)</script>\"'&"


class Text(HTMLParser):
    """The text of an HTML fragment; every tag must be closed, none may run anything."""

    def __init__(self, fragment: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.feed(fragment)
        self.close()
        assert self.open == []
        assert "script" not in self.tags

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.open.append(tag)
        self.tags.add(tag)
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def network() -> tuple[nn.Sequential, tg.Tensor]:
    model = nn.Sequential(nn.Dense(3, 4, "relu", rng=0), nn.Dense(4, 2, rng=1))
    return model, tg.cross_entropy(model(np.ones((5, 3), np.float32)), np.array([0, 1, 1, 0, 1]))


def test_each_thing_shows_itself():
    model, loss = network()
    told = tg.explain(loss, model)
    assert Text(told._repr_html_()).text == told == repr(told)
    optimizer = tg.optim.SGD(model.parameters(), 0.1)
    step = tg.compile_step(model, tg.cross_entropy, optimizer)
    assert "no step made yet" in Text(step._repr_html_()).text
    step(np.ones((5, 3), np.float32), np.array([0, 1, 1, 0, 1]))
    assert "def " in Text(step._repr_html_()).text
    assert "1 program" in Text(step._repr_html_()).text
    assert Text(model._repr_html_()).text.startswith(repr(model))
    assert "26 parameters" in Text(model._repr_html_()).text
    text = nn.summary(model)
    assert Text(text._repr_html_()).text == text == repr(text)


@pytest.mark.parametrize("shape", [(), (1,), (12,), (13,), (3, 4), (0, 4), (30, 30), (2, 3, 4)])
@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.bool_])
def test_tensors_show_numbers_shape_and_origin(shape, dtype):
    array = (np.arange(np.prod(shape)) - 1).reshape(shape).astype(dtype)
    found = Text(tg.Tensor(array)._repr_html_())
    assert f"Tensor of shape {shape}, dtype={array.dtype}" in found.text
    if "table" in found.tags:
        assert found.text.count("True") + found.text.count("False") in (0, array.size)
    else:
        assert np.array2string(array, separator=", ") in found.text
    w = tg.Tensor([1.0, 2.0], requires_grad=True)
    assert "made by multiply" in Text((w * 3)._repr_html_()).text


def test_results_of_one_call_show_themselves():
    _, r = np.linalg.qr(tg.Tensor(np.eye(2), requires_grad=True))
    assert "2 outputs of" in Text(r.node.args[0]._repr_html_()).text


def test_a_history_is_a_curve_and_a_table_of_bounded_length():
    history = History({"loss": [float(60 - i) for i in range(50)], "validation_loss": [float("nan")] * 50})
    history.stopped = HOSTILE
    found = Text(history._repr_html_())
    assert {"svg", "table"} <= found.tags
    assert found.text.count("… 30 more") == 1
    assert HOSTILE in found.text
    assert "polyline" not in Text(History()._repr_html_()).tags
    short = Text(History({"loss": [2.0, 1.0], "accuracy": [0.5]})._repr_html_()).text
    assert "epochlossaccuracy" in short


def test_everything_is_escaped():
    assert Text(preformatted(HOSTILE)).text == HOSTILE
    assert Text(table([HOSTILE], [[HOSTILE]], HOSTILE)).text == HOSTILE * 3
    assert HOSTILE in Text(curve({HOSTILE: [1.0, 2.0]})).text


class Kernel:
    """What a notebook's kernel would have shown: one entry for each place, the last state of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shown: list[str] = []
        kernel = self

        class Handle:
            def __init__(self, place: int) -> None:
                self.place = place

            def update(self, html: str) -> None:
                kernel.shown[self.place] = html

        def display(html: str, display_id: bool = False) -> Handle:
            assert display_id
            kernel.shown.append(html)
            return Handle(len(kernel.shown) - 1)

        module = types.ModuleType("IPython.display")
        module.display, module.HTML = display, str  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
        monkeypatch.setitem(sys.modules, "IPython.display", module)
        monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
        monkeypatch.setitem(sys.modules, "ipywidgets", None)


def test_fit_shows_one_bar_in_a_notebook_without_widgets(monkeypatch, capsys):
    kernel = Kernel(monkeypatch)
    model, _ = network()
    data = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32), np.arange(20) % 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tg.fit(model, data, tg.cross_entropy, tg.optim.SGD(model.parameters(), 0.1), epochs=15, batch_size=5, rng=0)
    assert len(kernel.shown) == 1
    found = Text(kernel.shown[0])
    assert "epoch 15/15: loss" in found.text
    assert "60/60 steps" in found.text
    assert "… 3 more" in found.text
    assert "progress" in found.tags
    assert capsys.readouterr() == ("", "")


@needs_browser
def test_a_page_of_explore_works_in_a_notebooks_frame(page: Page, tmp_path):
    """In a frame of its own, from the HTML alone, as Jupyter, VS Code and an exported notebook hold it."""
    model, loss = network()
    shown = tg.explore(loss, model, path=None)._repr_html_()
    assert Text(shown).tags == {"iframe"}
    path = tmp_path / "notebook.html"
    path.write_text(f"<!DOCTYPE html><meta charset=utf-8><link rel=icon href=data:,>{shown}", "utf-8")
    page.open(path)
    page.driver.switch_to.frame(0)
    try:
        page.click("#next")
        assert page.kind == "forward"
        page.move(page.last)
        assert page.kind == "end"
        page.click("#quiz")
        assert "Which number" in page.text("#card h2")
        assert page.run("return document.documentElement.scrollWidth <= window.innerWidth")
    finally:
        page.driver.switch_to.default_content()
    assert page.run("return document.documentElement.scrollWidth <= window.innerWidth")


def test_a_page_that_was_not_written_is_no_path(tmp_path):
    _, loss = network()
    exploration = tg.explore(loss, path=None)
    assert exploration.path is None
    with pytest.raises(TypeError, match="path="):
        os.fspath(exploration)
    written = tg.explore(loss, path=tmp_path / "page.html")
    assert Path(written).read_text("utf-8") == written.html
    assert str(written) == str(tmp_path / "page.html")
    assert "page.html" in repr(written)
