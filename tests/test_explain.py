"""The story as text, and what `print` says of a tensor."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_mm as tg
from tinygrad_mm import nn
from tinygrad_mm.graph import entered


def diamond() -> tg.Tensor:
    """A value used three times on the way to the loss."""
    w = tg.Tensor(np.array([1.0, 2.0]), requires_grad=True)
    w.name = "w"
    h = w * 3
    h.name = "h"
    return np.sum(h * h + h)


def sections(text: str) -> dict[str, list[str]]:
    parts = re.split(r"^(FORWARD|BACKWARD|IN THE WRONG ORDER)$", text, flags=re.M)
    return {head: body.strip().splitlines() for head, body in zip(parts[1::2], parts[2::2], strict=True)}


def test_the_steps_of_a_diamond():
    loss = diamond()
    text = tg.explain(loss)
    forward, backward, wrong = sections(text).values()
    assert text.startswith("L is loss = sum(v3): 4 operations, 5 steps back\n")
    assert [line.split()[0] for line in forward] == ["w", "h", "v2", "v3", "loss"]
    assert re.split(r"\s{2,}", forward[1]) == ["h", "w * 3", "(2,) float64", "[3, 6]"]
    assert [line for line in backward if line[0].isdigit()] == [
        *("1. loss = sum(v3)", "2. v3 = v2 + h", "3. v2 = h * h", "4. h = w * 3", "5. w, an input")
    ]
    fourth = backward[backward.index("4. h = w * 3") :]
    assert fourth[1] == "    ∂L/∂h = [7, 13]"
    assert [re.sub(r"\s+", " ", line).strip() for line in fourth[2:5]] == [
        "= [1, 1] from v3 = v2 + h, b",
        "+ [3, 6] from v2 = h * h, a sum [4, 7]",
        "+ [3, 6] from v2 = h * h, b sum [7, 13]",
    ]
    assert [line.strip() for line in fourth[5:8]] == [
        "→ w  ∂L/∂w = ∂L/∂h · 3",
        "rule     g * b",
        "numbers  [7, 13] · 3 = [21, 39]",
    ]
    assert "∂L/∂w = [9, 18], not [21, 39]" in wrong[-2]
    assert " ".join(wrong[:2]).startswith("Depth first, h would be handled after 1 of its 3 contributions, with [3, 6]")
    assert wrong[-1].endswith("take 9 steps instead of 5.")


def test_it_is_text_that_shows_itself_and_carries_the_story():
    text = tg.explain(diamond())
    assert isinstance(text, str)
    assert repr(text) == str(text) == text
    np.testing.assert_array_equal(text.story.gradient(text.story.named("w").id), [21, 39])


def test_nothing_is_touched():
    w = tg.Tensor([1.0, 2.0], requires_grad=True)
    seen: list[object] = []
    w.register_hook(seen.append)
    loss = np.sum(w * w)
    text = tg.explain(loss)
    assert w.grad is None
    assert seen == []
    assert "note: 1 of the tensors have hooks" in text
    loss.backward()
    with pytest.raises(RuntimeError, match="retain_graph=True"):
        tg.explain(loss)


def test_variables_of_the_caller_give_names():
    speed = tg.Tensor(2.0, requires_grad=True)
    energy = speed * speed / 2
    text = tg.explain(energy)
    assert "→ speed  ∂L/∂speed += " in text
    assert "energy = v1 / 2" in text
    assert "speed" not in tg.explain(energy, variables={})


def test_a_network_is_told_by_its_modules():
    model = nn.Sequential(nn.Dense(6, 4, "relu", rng=0), nn.Dense(4, 3, rng=1))
    images = tg.Tensor(np.random.default_rng(2).normal(size=(5, 6)).astype(np.float32))
    with entered(lines=True):
        loss = tg.cross_entropy(model(images), np.array([0, 1, 2, 0, 1]))
    text = tg.explain(loss, model)
    forward, backward, wrong = sections(text).values()
    assert [line.strip() for line in forward if line.startswith("  ")] == [
        "in Sequential > layers.0 (Dense)",
        "in Sequential > layers.1 (Dense)",
        "outside the modules",
    ]
    assert any(
        re.fullmatch(r"4\. v3 = relu\(v2\)   in layers\.0 \(Dense\)   test_explain\.py:\d+", b) for b in backward
    )
    assert "    → labels  nothing: requires no gradient" not in backward  # the array has no name here
    assert sum("nothing: requires no gradient" in line for line in backward) == 2
    assert sum(line.startswith("    check  finite differences agree") for line in backward) == 4
    assert wrong[0].startswith(
        "Every value is used once, so there is one path to each and depth first is a right order too"
    )
    assert "b = a * a; explain(np.tanh(b) + b)" in " ".join(wrong)  # a graph that has a fork
    assert "check" not in tg.explain(loss, model, check=False)


@given(st.integers(72, 140), st.integers(0, 3))
def test_lines_keep_to_the_width(width, seed):
    rng = np.random.default_rng(seed)
    x, w = (tg.Tensor(rng.normal(size=shape), requires_grad=True) for shape in ((2, 3), (3, 2)))
    loss = np.sum(tg.softmax(np.tanh(x @ w) + x[:, :2]) * np.arange(4.0).reshape(2, 2))
    for line in tg.explain(loss, width=width).splitlines():
        formula = re.match(r"\s*→ \S+  ∂L/∂", line)
        assert len(line) <= width or formula or "   from " in line


def test_the_middle_of_a_long_story_is_left_out():
    h = w = tg.Tensor(np.array([0.5]), requires_grad=True)
    for _ in range(200):
        h = np.tanh(h * w + h)
    loss = np.sum(h)
    short, whole = tg.explain(loss, limit=10, check=False), tg.explain(loss, limit=None, check=False)
    numbers = [int(n) for n in re.findall(r"^(\d+)\. ", short, re.M)]
    assert numbers == [1, 2, 3, 4, 5, 598, 599, 600, 601, 602]
    assert "… 592 steps left out; explain(loss, limit=None) shows all" in short
    assert [int(n) for n in re.findall(r"^(\d+)\. ", whole, re.M)] == list(range(1, 603))
    assert "left out" not in whole
    assert "take about 10^" in short
    assert short.count("from v") < whole.count("from v")


def test_kinks_and_wrong_rules_are_said():
    x = tg.Tensor(np.array([0.0, 1.0]), requires_grad=True)
    text = tg.explain(np.sum(tg.relu(x)))
    assert "check  at a kink: the gradient lies between the slopes on both sides" in text
    assert "at [0]: gradient 0, slopes 0 and 1" in text

    @tg.primitive
    def twice(x: object) -> object:
        return 2 * x  # type: ignore[operator]

    tg.defvjp(twice, lambda g, y, x: g * 3)
    text = tg.explain(np.sum(twice(x)))
    assert "check  DIFFERS from finite differences: relative error 0.3" in text
    assert "at [1]: gradient 3, finite difference 2" in text


def test_large_arrays_are_summarised_and_nan_is_counted():
    x = tg.Tensor(np.linspace(-1, 1, 100), requires_grad=True)
    with np.errstate(invalid="ignore"):
        text = tg.explain(np.sum(np.sqrt(x)))
    assert re.search(r"mean nan std nan norm nan, 50 not finite", text)
    assert re.search(r"^x +input +\(100,\) float64 +mean 0 std 0\.5831 norm 5\.831$", text, re.M) or "e-1" in text
    assert "not checked: the loss is not finite" in text


def test_wrong_input_raises():
    with pytest.raises(TypeError, match="ndarray"):
        tg.explain(np.ones(2))
    with pytest.raises(ValueError, match=r"np\.sum"):
        tg.explain(tg.Tensor([1.0, 2.0], requires_grad=True) * 2)


# ---------------------------------------------------------------------------------------------------------------------
# print(tensor)
# ---------------------------------------------------------------------------------------------------------------------


def test_print_shows_value_shape_dtype_gradient_and_operation():
    w = tg.Tensor([[1.0, 2.0]], requires_grad=True)
    y = w * 2
    loss = np.sum(y)
    assert str(tg.Tensor([1, 2])) == "Tensor([1, 2], shape=(2,), dtype=int64)"
    assert str(w) == "Tensor([[1., 2.]], shape=(1, 2), dtype=float32, requires_grad=True, no grad yet)"
    assert str(y) == "Tensor([[2., 4.]], shape=(1, 2), dtype=float32, requires_grad=True, made by multiply)"
    loss.backward()
    assert str(w) == "Tensor([[1., 2.]], shape=(1, 2), dtype=float32, requires_grad=True, grad=[[2., 2.]])"
    assert str(loss).endswith("requires_grad=True, made by sum (graph released))")
    assert f"{loss}" == str(loss)
    assert f"{loss:.1f}" == "6.0"
    assert repr(w) == "Tensor([[1., 2.]], dtype=float32, requires_grad=True)"


def test_print_summarises_a_large_gradient_and_knows_parameters():
    p = tg.Parameter(np.ones((10, 10)))
    (np.sum(p * 3)).backward()
    assert str(p).startswith("Parameter([[1., 1.")
    assert str(p).endswith("shape=(10, 10), dtype=float64, requires_grad=True, grad of norm 30)")
    y = (p * 2).retain_grad()
    assert str(y).endswith("no grad yet, made by multiply)")
