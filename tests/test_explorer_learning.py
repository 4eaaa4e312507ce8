"""Updates and training steps in the explorer: the numbers of the engine and the optimizers, bit for bit."""

from __future__ import annotations

import functools
import re
from typing import Any

import numpy as np
import pytest
from test_explorer_formulas import computed

import tinygrad_mm as tg
from tinygrad_mm import nn, optim
from tinygrad_mm.__main__ import main
from tinygrad_mm.explorer import Story, record

NEWER = ("Adadelta", "Adamax", "AMSGrad", "RAdam", "NAdam", "LAMB", "Muon")
OPTIMIZERS = {
    "SGD": lambda p: optim.SGD(p, 0.1),
    "momentum": lambda p: optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.01),
    "Nesterov": lambda p: optim.SGD(p, 0.1, momentum=0.9, nesterov=True),
    "Adagrad": lambda p: optim.Adagrad(p, 0.1),
    "RMSprop": lambda p: optim.RMSprop(p, 0.01, momentum=0.9, centered=True, weight_decay=0.1),
    "Adam": lambda p: optim.Adam(p, 0.1, weight_decay=0.01),
    "AdamW": lambda p: optim.AdamW(p, 0.1, betas=(0.8, 0.95)),
    "Lion": lambda p: optim.Lion(p, 0.01, weight_decay=0.1),
    **{name: functools.partial(getattr(optim, name), learning_rate=0.05) for name in NEWER},
    "schedule": lambda p: optim.SGD(p, optim.schedules.exponential(0.1, 0.5), momentum=0.5),
    "groups": lambda p: optim.SGD([{"parameters": p[:1], "learning_rate": 0.5}, {"parameters": p[1:]}], 0.01),
}


class Run:
    """A small network, and its training steps by the engine and the optimizer themselves."""

    def __init__(self, name: str, dtype: Any = np.float32) -> None:
        self.model = nn.Sequential(nn.Dense(3, 4, "tanh", rng=0), nn.Dropout(0.3, rng=2), nn.Dense(4, 2, rng=1))
        self.model.eval()
        for p in self.model.parameters():
            p.data = p.data.astype(dtype)
        self.optimizer = OPTIMIZERS[name](self.model.parameters())
        self.x = np.random.default_rng(0).normal(size=(5, 3)).astype(dtype)
        self.y = np.array([0, 1, 1, 0, 1])

    def loss(self) -> tg.Tensor:
        return tg.cross_entropy(self.model(self.x), self.y)

    def step(self) -> None:
        self.loss().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def recorded(self, steps: int) -> Story:
        return record(self.loss(), self.model, optimizer=self.optimizer, steps=steps)

    def parameters(self) -> dict[str, Any]:
        return {name: p.data.copy() for name, p in self.model.named_parameters()}


@pytest.mark.parametrize("before", [0, 3])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_replayed_steps_are_those_of_engine_and_optimizer(name, before):
    run = Run(name)
    for _ in range(before):
        run.step()
    kept = run.parameters(), run.optimizer.state_dict()["state"], run.optimizer.steps
    learning = (story := run.recorded(5)).learning
    assert learning is not None
    for one, other in zip(
        kept, (run.parameters(), run.optimizer.state_dict()["state"], run.optimizer.steps), strict=True
    ):
        assert str(one) == str(other)  # neither parameters nor optimizer have moved
    for number, step in enumerate(learning.steps):
        assert step.loss == float(run.loss().data)
        weights = run.parameters()
        for label, weight in weights.items():
            np.testing.assert_array_equal(step.weights[story.named(label).id], weight)
        if number == 0:
            states = {one.value: one.states for one in learning.updates}
        run.step()
        for p, (label, after) in zip(run.model.parameters(), run.parameters().items(), strict=True):
            i = story.named(label).id
            if number == 0:
                np.testing.assert_array_equal(next(u.after for u in learning.updates if u.value == i), after)
                for state, _, new in states[i]:
                    np.testing.assert_array_equal(new, run.optimizer.state_of(p)[state])
            size = np.linalg.norm(weights[label].astype(np.float64))
            moved = np.linalg.norm(after.astype(np.float64) - weights[label])
            assert step.ratios[i] == pytest.approx(moved / size if size else np.inf)
    assert learning.loss == float(run.loss().data)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_formulas_of_an_update_give_its_numbers(name):
    run = Run(name, np.float64)
    run.step()
    run.step()
    story = run.recorded(1)
    assert story.learning is not None
    for update in story.learning.updates:
        label = story.values[update.value].label
        values = {state: before for state, before, _ in update.states}
        values |= {"w": update.before, "g_w": story.gradient(update.value)}
        for option in update.options:
            key, text = option.split(" = ")
            numbers = [float(n) for n in re.findall(r"[\d.]+(?:e-?\d+)?", text)]
            if len(numbers) > 1:
                values |= {f"{key.removesuffix('s')}{i}": n for i, n in enumerate(numbers, 1)}
            elif numbers:
                values[key] = numbers[0]
        for line in update.where:
            left, right = line.replace(label, "w").split(" = ", 1)
            values[left.replace("′", "_prime")] = computed(right, values)
        left, right = update.formula.replace(label, "w").split(" ← ", 1)
        assert left == "w"
        np.testing.assert_allclose(computed(right, values), update.after, rtol=1e-3)
        assert not re.search(r"\b(formula|rule)\(", update.formula)
        for line in update.numbers:
            middle, result = line.split(" = ", 1)[1].rsplit(" = ", 1)
            assert computed(middle, {}) == pytest.approx(float(result), rel=5e-3, abs=1e-3)
        last = float(update.numbers[-1].rsplit(" = ", 1)[1])
        assert last == pytest.approx(update.after[update.place], rel=1e-3)


def test_half_precision_is_updated_in_single_precision():
    run = Run("Adam", np.float16)
    learning = (story := run.recorded(1)).learning
    assert learning is not None
    run.step()
    for label, after in run.parameters().items():
        found = next(u for u in learning.updates if u.value == story.named(label).id)
        assert found.after.dtype == np.float16
        np.testing.assert_array_equal(found.after, after)


def test_frozen_parameters_and_those_without_a_gradient_stay():
    run = Run("SGD")
    run.model.layers[0].weight.requires_grad = False
    other = nn.Parameter(np.ones(3, np.float32))
    run.optimizer.add_group({"parameters": [other]})
    story = run.recorded(2)
    assert story.learning is not None
    assert [story.values[u.value].label for u in story.learning.updates] == [
        *("layers.0.bias", "layers.2.weight", "layers.2.bias")
    ]


def test_what_does_not_go_with_the_loss_is_refused(tmp_path):
    run, other = Run("SGD"), Run("SGD")
    with pytest.raises(ValueError, match="another model"):
        record(run.loss(), run.model, optimizer=other.optimizer)
    for wrong in (run.model, optim.LBFGS(run.model.parameters())):
        with pytest.raises(TypeError, match=r"tg\.optim\.SGD"):
            record(run.loss(), run.model, optimizer=wrong)
    with pytest.raises(ValueError, match="optimizer="):
        tg.explore(run.loss(), run.model, steps=2, path=None)
    with pytest.raises(ValueError, match="optimizer="):
        tg.explain(run.loss(), run.model, steps=2)
    with pytest.raises(ValueError, match="steps=0"):
        tg.explore(run.loss(), run.model, run.optimizer, steps=0, path=None)
    with pytest.raises(TypeError, match="path="):
        tg.explore(run.loss(), run.model, "page.html")
    with pytest.raises(ValueError, match=r"image=\(28, 28\)"):
        tg.explore(run.loss(), run.model, image=(28, 28), path=None)
    x = tg.Tensor([0.5, 1.0], requires_grad=True)
    loss = np.sum(tg.checkpoint(np.exp)(x))
    with pytest.raises(RuntimeError, match="checkpointed"):
        record(loss, optimizer=optim.SGD([x], 0.1), steps=2)
    learning = record(loss, optimizer=optim.SGD([x], 0.1)).learning
    assert learning is not None
    assert (learning.loss, len(learning.updates)) == (None, 1)


def test_the_text_tells_updates_and_training():
    run = Run("momentum")
    text = str(tg.explain(run.loss(), run.model, run.optimizer, steps=3, check=False))
    update = text[text.index("UPDATE by SGD") :]
    assert "layers.0.weight ← layers.0.weight - learning_rate · velocity′" in update
    assert update.count("learning_rate = 0.1, momentum = 0.9") == 1  # all parameters have the same
    assert len(re.findall(r"^\d\. L = ", update, re.M)) == 3
    losses = [float(x) for x in re.findall(r"L = ([\d.]+)", update)]
    for loss in losses:
        assert loss == pytest.approx(float(run.loss().data), rel=1e-3)
        run.step()
    assert "UPDATE" not in tg.explain(run.loss(), run.model, check=False)


SCRIPT = """\
import numpy as np
import tinygrad_mm as tg
model = tg.nn.Sequential(tg.nn.Dense(4, 2, rng=0))
loss = tg.cross_entropy(model(np.ones((3, 4), np.float32)), np.array([0, 1, 1]))
optimizer = tg.optim.Adam(model.parameters(), 0.1)
"""


def test_the_command_line_has_the_functions_options(tmp_path, capsys):
    script, page = tmp_path / "script.py", tmp_path / "page.html"
    script.write_text(SCRIPT, "utf-8")
    target = f"{script}:loss"
    assert main(["explain", target, "--steps", "2"]) == 0
    assert "UPDATE by Adam" in capsys.readouterr().out
    assert main(["explain", target, "--optimizer", "optimizer"]) == 0
    assert "UPDATE by Adam" in capsys.readouterr().out
    assert main(["explore", target, "-o", str(page), "--steps", "3", "--image", "2x2"]) == 0
    assert '"image":{"axis":0,"size":[2,2]}' in page.read_text("utf-8")
    assert main(["explore", target, "-o", str(page), "--image", "9x9"]) == 1
    assert "image=(9, 9)" in capsys.readouterr().err
    assert main(["explain", target, "--optimizer", "optimiser"]) == 1
    assert "did you mean optimizer?" in capsys.readouterr().err
    script.write_text(SCRIPT + "second = tg.optim.SGD(model.parameters(), 0.1)\n", "utf-8")
    assert main(["explain", target, "--steps", "2"]) == 1
    assert "--steps needs an optimizer" in capsys.readouterr().err
    for wrong in (["--image", "9"], ["--image", "0x4"], ["--steps", "0"]):
        with pytest.raises(SystemExit):
            main(["explore", target, *wrong])
        assert "usage:" in capsys.readouterr().err
