"""The page for those who come from PyTorch or Keras: its code exists, computes the same, and all names are told of."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import tinygrad_mm as tg
from tinygrad_mm import functional, nn, optim

EXAMPLES = Path(__file__).parent.parent / "examples"
sys.path.insert(0, str(EXAMPLES))

import coming_from  # noqa: E402

TABLES = {name: table for name, table in vars(coming_from).items() if name.startswith(("TORCH_", "KERAS_"))}
PLACES = {"np": np, "tg": tg, "nn": nn, "optim": optim, "functional": functional}
RNG = np.random.default_rng(0)


def code(text):
    return re.findall(r"`([^`]+)`", text)


@pytest.mark.parametrize("name", TABLES)
def test_what_is_named_is_there(name):
    """Every expression is Python, and every function and class in it exists."""
    seen = 0
    for text in TABLES[name].values():
        for span in code(text):
            if span.endswith("=") or span.startswith("did you"):
                continue
            for node in ast.walk(ast.parse(span)):
                if isinstance(node, ast.Attribute) and (root := ast.unparse(node).split(".")[0]) in PLACES:
                    found = PLACES[root]
                    for part in ast.unparse(node).split(".")[1:]:
                        found = getattr(found, part)
                    seen += 1
    assert seen or name in ("KERAS_OPTIMIZERS_NOT", "TORCH_OPTIMIZERS")


def x(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


SIGNS = np.where(RNG.random((4, 3)) < 0.5, -1, 1).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "options", "inputs", "known"),
    [
        ("ChannelShuffle", (3,), [x(2, 6, 4, 4)], {"n": 2, "groups": 3, "h": 4, "w": 4}),
        ("CircularPad1d", (1,), [x(2, 3, 4)], {}),
        ("CircularPad2d", (1,), [x(2, 3, 4, 4)], {}),
        ("CosineSimilarity", (-1,), [x(4, 3), x(4, 3)], {}),
        ("Hardshrink", (), [x(4, 3)], {}),
        ("HingeEmbeddingLoss", (), [x(4, 3), SIGNS], {}),
        ("PairwiseDistance", (), [x(4, 3), x(4, 3)], {}),
        ("PixelUnshuffle", (2,), [x(2, 3, 4, 6)], {"n": 2, "c": 3, "h": 4, "w": 6}),
        ("SoftMarginLoss", (), [x(4, 3), SIGNS], {}),
        ("Softmax2d", (), [x(2, 3, 4, 4)], {}),
        ("Softshrink", (), [x(4, 3)], {}),
        ("Tanhshrink", (), [x(4, 3)], {}),
        ("Threshold", (0.1, 20), [x(4, 3)], {}),
        ("TripletMarginWithDistanceLoss", (), [x(4, 3), x(4, 3), x(4, 3)], {"distance": tg.pairwise_distance}),
        ("UpsamplingBilinear2d", (None, 2), [x(2, 3, 4, 4)], {}),
        ("UpsamplingNearest2d", (None, 2), [x(2, 3, 4, 4)], {}),
    ],
    ids=lambda a: a if isinstance(a, str) else "",
)
def test_expressions_compute_what_pytorch_computes(name, options, inputs, known):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'tinygrad_mm[peers]'")
    (expression,) = code(coming_from.TORCH_LAYERS[name])
    arrays = [tg.Tensor(a) for a in inputs]
    found = eval(expression, {**PLACES, **known, **dict(zip("xyz", arrays, strict=False)), "target": arrays[-1]})
    if callable(found):
        found = found(arrays[0])
    expected = getattr(torch.nn, name)(*options)(*map(torch.from_numpy, inputs))
    np.testing.assert_allclose(found.data, expected.numpy(), rtol=1e-4, atol=1e-5)


def test_the_page_is_what_the_command_writes():
    """With the PyTorch and the Keras that it was written with."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'tinygrad_mm[peers]'")
    text = coming_from.PAGE.read_text("utf-8")
    assert text.startswith(coming_from.HEAD)
    assert text.endswith(f"{coming_from.TAIL}\n")
    if f"PyTorch {torch.__version__.split('+')[0]}," not in text:
        pytest.skip("the page was written with another version of PyTorch")
    for row, part in coming_from.of_torch():
        assert f"\n{row}\n" in text
        assert part in text


def test_names_that_nobody_speaks_of_and_lines_that_speak_of_none_are_noticed():
    with pytest.raises(SystemExit, match=r"nothing is said of \['New'\]; nothing has the names \['Old'\]"):
        coming_from.told("there", ["Linear", "New"], nn, {"Old": "`nn.Linear`"}, {})
