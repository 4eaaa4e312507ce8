"""Drawing without data: `draw(model, input_size=...)`, and pictures as JSON."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from gallery import models
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_mm as tg
from tinygrad_mm import nn


def sampled(rng: Any) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, rng=0),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.5, rng=rng),
        nn.Flatten(),
        nn.Dense(144, 3, rng=1),
    )


def test_a_model_is_drawn_from_a_shape_and_stays_as_it_was() -> None:
    rng = np.random.default_rng(7)
    model = sampled(rng)
    state, drawn_from = model.state_dict(), rng.bit_generator.state
    drawing = tg.draw(model, input_size=(2, 1, 8, 8), fold=())
    assert rng.bit_generator.state == drawn_from
    for path, array in model.state_dict().items():
        np.testing.assert_array_equal(array, state[path])
    assert all(p.grad is None for p in model.parameters())
    (x,) = (n for n in drawing.picture.nodes if n.kind == "input")
    assert (x.title, x.shape) == ("input", (2, 1, 8, 8))
    (y,) = (n for n in drawing.picture.nodes if n.kind == "output")
    assert y.shape == (2, 3)
    assert {n.title for n in drawing.picture.nodes if n.kind == "parameter"} >= {"layers.0.weight", "layers.5.bias"}


def test_the_picture_is_that_of_data_of_the_same_shape() -> None:
    model = nn.Sequential(nn.Dense(6, 4, "relu", rng=0), nn.Dense(4, 3, rng=1))
    input = tg.Tensor(np.ones((5, 6), np.float32))
    output = model(input)
    assert tg.draw(model, input_size=(5, 6)).picture == tg.draw(output, model=model).picture


def test_what_needs_no_gradient_is_drawn_too() -> None:
    model = nn.Sequential(nn.Dropout(0.5, rng=np.random.default_rng(0)), nn.Dense(4, 2, rng=0)).freeze()
    drawing = tg.draw(model, input_size=(3, 4))
    assert {"uniform_like", "matmul", "add"} <= {n.title for n in drawing.picture.nodes}
    with tg.no_grad():
        assert tg.draw(model, input_size=(3, 4)).picture == drawing.picture


def test_several_inputs_any_function_and_other_dtypes() -> None:
    picture = tg.draw(lambda a, b: {"y": a @ b, "z": (a.sum(),)}, input_size=[(2, 3), (3, 4)]).picture
    assert [(n.title, n.shape) for n in picture.nodes if n.kind == "input"] == [
        ("a", (2, 3)),
        ("b", (3, 4)),
    ]
    assert [n.shape for n in picture.nodes if n.kind == "output"] == [(2, 4), ()]
    embedding = nn.Embedding(10, 4, rng=0)
    picture = tg.draw(embedding, input_size=(2, 5), dtype=np.int64).picture
    assert next(n for n in picture.nodes if n.kind == "input").dtype == "int64"


def test_mistakes_are_named() -> None:
    model = nn.Dense(4, 2, rng=0)
    with pytest.raises(TypeError, match=r"a Dense has a graph only once it is called.*input_size="):
        tg.draw(model)
    with pytest.raises(TypeError, match="input_size= is for a model"):
        tg.draw(model(np.ones((1, 4), np.float32)), input_size=(1, 4))
    for wrong in (4, "4", (4, "a"), [(2, 3), 4], (-1, 4)):
        with pytest.raises(ValueError, match="is no shape"):
            tg.draw(model, input_size=wrong)
    with pytest.raises(ValueError, match="returned no Tensor"):
        tg.draw(lambda x: 3, input_size=(1, 4))


@settings(max_examples=10, deadline=None)
@given(st.sampled_from(sorted(models.MODELS)), st.sampled_from([(), "values", "numbers", "backward"]))
def test_json_holds_the_whole_picture(name: str, show: Any) -> None:
    drawing = models.MODELS[name](show=show)
    content = json.loads(drawing._content(".json"))
    assert content == json.loads(re.sub("NaN|-?Infinity", "null", json.dumps(asdict(drawing.picture))))


def test_json_has_no_nan(tmp_path: Any) -> None:
    x = tg.Tensor(np.full((30, 30), np.nan, np.float32), requires_grad=True)
    text = tg.draw(np.sum(x), show=("values", "backward")).save(tmp_path / "x.json").read_text()
    content = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    (node,) = (n for n in content["nodes"] if n["title"] == "x")
    assert node["views"][0][1]["cells"][0][0] is None
