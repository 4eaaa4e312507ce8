"""The page of `explore` beyond one pass, in a browser: edits, updates, training steps, the quiz, images."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import strategies as my
from browsing import DESKTOP, Page, needs_browser
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import leaves as results
from table import ROWS
from table.row import Row
from test_explorer_formulas import weights

import tinygrad_mm as tg
from tinygrad_mm import nn
from tinygrad_mm.explorer import record
from tinygrad_mm.explorer.payload import payload
from tinygrad_mm.explorer.program import ELEMENTWISE, program
from tinygrad_mm.functional.normalization import standardize
from tinygrad_mm.functional.sequences import unstack
from tinygrad_mm.mistakes import likely_mistakes

pytestmark = needs_browser

SMALL_PHONE = (390, 844)


def leaf(*shape: int, seed: int = 0, positive: bool = False) -> np.ndarray[Any, Any]:
    drawn = np.random.default_rng(seed).normal(size=shape)
    return np.abs(drawn) + 0.5 if positive else drawn


# ---------------------------------------------------------------------------------------------------------------------
# Edits: the page's own arithmetic beside the engine's
# ---------------------------------------------------------------------------------------------------------------------


def layers(x: Any, w: Any, b: Any, v: Any) -> Any:
    return tg.cross_entropy(tg.leaky_relu(tg.relu(x @ w + b) @ v, 0.1), np.array([0, 1, 1, 0]))


def stacks(a: Any, b: Any, c: Any) -> Any:
    return np.sum(np.tanh(a @ b) @ c)


def functions(x: Any, p: Any) -> Any:
    h = np.tanh(np.sin(x) * np.cos(x)) + np.exp(-np.abs(x)) + np.square(x) + tg.sigmoid(x) + np.expm1(x) * np.sign(x)
    return np.mean(h + np.log(p) / np.sqrt(p) + np.log1p(p) ** 2 + p**x)


def broadcasting(a: Any, b: Any, c: Any) -> Any:
    h = a * b - c / (1 + b * b)
    return np.sum(np.mean(h, axis=0, keepdims=True) * np.sum(h, axis=-1)[:, None])


def choices(a: Any, b: Any) -> Any:
    masks = (a < b, a > b, a <= b, a >= b, a == b, a != b)
    h = sum(np.where(mask, a, 0.5 * b) * (i + 1) for i, mask in enumerate(masks))
    return np.sum(np.maximum(h, a) * np.minimum(a, 0.3) + np.maximum(a, a) + np.logaddexp(a, b))


def moves(a: Any, b: Any) -> Any:
    joined = np.concatenate([a.reshape(2, 6), np.transpose(b)[:2]], axis=1)
    stacked = np.stack([joined, np.swapaxes(joined.T, 0, 1)])
    picked = stacked[1, :, ::2] * np.broadcast_to(np.squeeze(b[:1, :1], 0), (2, 5))
    return np.sum(picked * np.expand_dims(a[np.array([0, 2]), 1], 1)) + np.sum(np.moveaxis(stacked, 0, -1) ** 2)


def probabilities(a: Any, b: Any) -> Any:
    h = np.sum(tg.softmax(a) * b) + np.sum(tg.log_softmax(b) * np.tanh(a))
    return h + tg.cross_entropy(a, np.array([2, 0]), reduction="sum")


def images(x: Any, w: Any) -> Any:
    h = tg.max_pool2d(tg.relu(tg.conv2d(x, w, padding=1)), 2)
    return np.sum(tg.avg_pool2d(h, 2) ** 2) + np.sum(np.max(h, axis=(1, 3)) * np.min(h - 1, axis=1)[..., 0])


def normalized(x: Any, w: Any, b: Any) -> Any:
    y, mean, variance = standardize(tg.gelu(x) * w, (0, 2), 1e-5)
    return np.sum(tg.layer_norm(y, 3, w, b) ** 3) + np.sum(mean * variance)


def recurrent(x: Any, w: Any) -> Any:
    h = np.zeros((2, 3))
    for step in unstack(x, 1):
        h = np.tanh(step + h @ w)
    return tg.cross_entropy(np.stack([h, x[:, 0]], axis=1), np.array([[0, 1], [2, 2]]))


CASES: dict[str, tuple[Callable[..., Any], list[np.ndarray[Any, Any]]]] = {
    "layers": (layers, [leaf(4, 3), leaf(3, 5, seed=1), leaf(5, seed=2), leaf(5, 2, seed=3)]),
    "stacks": (stacks, [leaf(2, 1, 3, 4), leaf(3, 4, 2, seed=1), leaf(2, 2, seed=2)]),
    "images": (images, [leaf(2, 2, 4, 4), leaf(3, 2, 3, 3, seed=1)]),
    "normalized": (normalized, [leaf(2, 4, 3), leaf(3, seed=1), leaf(3, seed=2)]),
    "recurrent": (recurrent, [leaf(2, 4, 3), leaf(3, 3, seed=1)]),
    "functions": (functions, [leaf(3, 2), leaf(3, 2, seed=1, positive=True)]),
    "broadcasting": (broadcasting, [leaf(3, 4), leaf(4, seed=1), leaf(3, 1, seed=2)]),
    "choices": (choices, [leaf(2, 3), leaf(2, 3, seed=1)]),
    "moves": (moves, [leaf(4, 3), leaf(4, 3, seed=1)]),
    "probabilities": (probabilities, [leaf(2, 3), leaf(2, 3, seed=1)]),
}


def leaves_of(arrays: list[np.ndarray[Any, Any]]) -> list[tg.Tensor]:
    found = [tg.Tensor(array, dtype=np.float64, requires_grad=True) for array in arrays]
    for i, tensor in enumerate(found):
        tensor.name = f"leaf{i}"
    return found


def test_the_cases_use_every_operation_that_the_page_knows():
    structural = "take largest select unstack standardize matmul sum mean softmax log_softmax cross_entropy kept"
    known = {*ELEMENTWISE.values(), *structural.split()}
    used = {"kept"}  # a draw: below
    for f, arrays in CASES.values():
        found = program(record(f(*leaves_of(arrays))))
        assert found["problem"] == ""
        used |= {call["op"] for call in found["calls"]}
    assert used == known


@pytest.mark.parametrize("name", CASES)
def test_after_an_edit_the_page_has_the_engines_numbers(page, tmp_path, name):
    f, arrays = CASES[name]
    loss = f(*leaves_of(arrays))
    page.open(tg.explore(loss, path=tmp_path / "edit.html"))
    assert page.run("return edits.problem") == ""
    rng = np.random.default_rng(0)
    for number in range(len(arrays)):  # one change after the other, all of them standing
        place = tuple(int(rng.integers(n)) for n in arrays[number].shape)
        changed = float(np.round(arrays[number][place] + rng.uniform(0.2, 0.9), 3))
        arrays = [a.copy() for a in arrays]
        arrays[number][place] = changed
        page.move(0)
        edit(page, f"leaf{number}", place, changed)
    leaves = leaves_of(arrays)
    story = record(f(*leaves))
    page.move(page.last)
    page.move(0)
    for value in story.values:
        shows_the_same(page, f"values[{value.id}].array", value.array)
    for step in story.backward:
        shows_the_same(page, f"steps[data.values[{step.value}].step].gradient", step.gradient)
    page.move(1 + len(story.forward) + len(story.backward) - 1)  # on a card, in cells
    last = story.values[page.value]
    page.shows('[data-role="gradient"]', story.gradient(last.id), 1e-5)
    assert "✓ finite difference agrees" in page.text('[data-part="incoming"]')
    script = "return edits.data.values.filter((v) => v.step !== null && v.check).map((v) => [v.label, v.check.status])"
    checked = dict(page.run(script))  # what lies between, too
    assert set(checked.values()) <= {"agrees", "not checked"}, checked
    assert len(checked) > len(arrays)
    assert "Changed: leaf" in page.text('[data-part="edited"]')
    page.click("#undo")
    assert page.run("return edits.data === data")
    page.shows('[data-role="gradient"]', record(loss).gradient(last.id))


@pytest.fixture(scope="module")
def blank(driver: Any, tmp_path_factory: pytest.TempPathFactory) -> Page:
    """A page whose program computes whatever it is handed."""
    path = tmp_path_factory.mktemp("blank") / "blank.html"
    return Page(driver).open(tg.explore(tg.Tensor(1.0, requires_grad=True) * 2, path=path))


@pytest.mark.parametrize("row", ROWS, ids=repr)
@settings(max_examples=1)
@given(data=st.data())
def test_every_rule_is_computed_as_by_the_engine_or_named_as_unknown(blank, row: Row, data: st.DataObject) -> None:
    case = data.draw(my.cases(row, my.shapes(row)))
    inputs = [tg.Tensor(a, requires_grad=True) for a in case.arrays]
    outputs = [y for y in results(row.call(*inputs, **case.options)) if isinstance(y, tg.Tensor) and y.requires_grad]
    if not outputs:
        return
    story = record(
        sum((np.sum(y * tg.Tensor(w)) for y, w in zip(outputs, weights(outputs, case.seed), strict=True)), 0.0)
    )
    found = payload(story, {}, {})
    text = json.dumps(found, allow_nan=False)
    if found["program"]["problem"]:
        assert re.match("it does not know |the places that |one pass takes ", found["program"]["problem"])
    else:
        problem = blank.run("return new Edits(JSON.parse(arguments[0])).problem", text)
        assert problem in ("", "nothing that was given is a floating number"), row


def shows_the_same(page: Page, what: str, expected: Any) -> None:
    """The edited data hold these numbers; of a call with several results the list of them."""
    script = "[edits.data.%s].flat().map((n) => n === null ? null : Array.from(numbersOf(edits.data.arrays[n])))"
    found = page.run(f"return {script % what}")
    arrays = expected if isinstance(expected, (list, tuple)) else [expected]
    for numbers, array in zip(found, arrays, strict=True):
        assert (numbers is None) == (array is None)
        if array is not None:
            np.testing.assert_allclose(numbers, np.ravel(array), rtol=1e-9, atol=1e-12, err_msg=what)


def edit(page: Page, label: str, place: tuple[int, ...], value: float) -> None:
    """Change a number as a person does."""
    page.run(
        "const s = document.querySelector('#editLeaf'); s.value = data.values.find((v) => v.label === arguments[0]).id;"
        "s.dispatchEvent(new Event('change'))",
        label,
    )
    for selector, text in (("#editIndex", ", ".join(map(str, place))), ("#editNumber", repr(value))):
        if page.find(selector).is_displayed():
            page.find(selector).clear()
            page.find(selector).send_keys(text)
    page.click("#edit button")


def test_a_click_chooses_the_number_and_nonsense_is_refused(page, tmp_path):
    (x, w) = leaves_of([leaf(2, 3), leaf(3, 2, seed=1)])
    page.open(tg.explore(np.sum(np.tanh(x @ w)), path=tmp_path / "edit.html"))
    page.find('[data-leaf="1"] td[data-at="3"]').click()
    assert page.find("#editIndex").get_property("value") == "1, 1"
    assert float(page.find("#editNumber").get_property("value")) == pytest.approx(w.data[1, 1], rel=1e-6)
    for index, number in (("3, 0", "1"), ("0", "1"), ("x", "1"), ("0, 0", ""), ("0, 0", "one")):
        for selector, text in (("#editIndex", index), ("#editNumber", number)):
            page.find(selector).clear()
            page.find(selector).send_keys(text)
        page.click("#edit button")
        assert page.run("return edits.changes.size") == 0
        assert "must be a number" in page.text('[data-part="edit"]') or "its places begin at 0" in page.text(
            '[data-part="edit"]'
        )
    edit(page, "leaf1", (1, 1), 2.5)
    changed = page.all('[data-leaf="1"] td.changed')
    assert [cell.text for cell in changed] == ["2.5"]
    for name in ("#wrong", "#quiz"):
        assert not page.find(name).is_enabled()


@pytest.mark.parametrize(
    ("f", "arrays", "said"),
    [
        (lambda a: np.sum(np.linalg.inv(a)), [leaf(3, 3)], "it does not know inv"),
        (lambda a: np.sum(np.linalg.qr(a)[1]), [leaf(3, 3)], "several results"),
        (lambda a: np.sum(a * a), [leaf(100, 100)], "only a sample of the numbers of leaf0"),
        (lambda a: np.sum(a @ a @ a @ a @ a @ a @ a @ a @ a), [leaf(64, 64)], "2,000,000"),
    ],
)
def test_what_the_page_cannot_compute_it_says(page, tmp_path, f, arrays, said):
    page.open(tg.explore(f(*leaves_of(arrays)), path=tmp_path / "edit.html"))
    text = page.text('[data-part="edit"]')
    assert said in text
    assert "cannot compute its graph again" in text
    assert not page.all("#edit")


def test_random_draws_stay_what_they_were(page, tmp_path):
    (x,) = leaves_of([leaf(2, 3)])
    loss = np.sum(tg.dropout(x, 0.5, np.random.default_rng(0)) ** 2)
    page.open(tg.explore(loss, path=tmp_path / "draw.html"))
    kept = np.flatnonzero(np.ravel(record(loss).gradient(record(loss).named("leaf0").id)))[0]
    edit(page, "leaf0", divmod(int(kept), 3), 3.0)
    assert page.run("return numbersOf(edits.data.arrays[edits.data.values[data.loss].array])[0]") > 4 * 9 - 1


# ---------------------------------------------------------------------------------------------------------------------
# Updates and training steps
# ---------------------------------------------------------------------------------------------------------------------


def trained(folder: Path, steps: int, optimizer: str = "Adam") -> tuple[Any, list[Any], tg.Tensor]:
    model = nn.Sequential(nn.Dense(3, 4, "tanh", rng=0), nn.Dense(4, 2, rng=1))
    x, y = leaf(5, 3).astype(np.float32), np.array([0, 1, 1, 0, 1])
    chosen = getattr(tg.optim, optimizer)(model.parameters(), 0.1)
    loss = tg.cross_entropy(model(x), y)
    page = tg.explore(loss, model, chosen, steps=steps, path=folder / "training.html")
    moments = []
    for _ in range(steps + 1):
        now = tg.cross_entropy(model(x), y)
        now.backward()
        moments.append((now.item(), {n: (p.data.copy(), p.grad.copy()) for n, p in model.named_parameters()}))
        chosen.step()
        chosen.zero_grad()
    return page, moments, loss


def test_the_updates_are_the_optimizers(page, tmp_path):
    exploration, moments, _ = trained(tmp_path, 1)
    page.open(exploration)
    first = page.run("return RIGHT.findIndex((item) => item.kind === 'update')")
    assert page.last == first + 3
    for number, (name, (weight, gradient)) in enumerate(moments[0][1].items()):
        page.move(first + number)
        assert page.text("#card h2") == f"Adam changes {name}"
        after = moments[1][1][name][0]
        page.shows('[data-role="before"]', weight)
        page.shows('[data-part="update"] [data-role="gradient"]', gradient)
        page.shows('[data-role="after"]', after)
        text = page.text('[data-part="formula"]')
        assert f"{name} ← {name} - learning_rate · " in text
        assert "mean′ = beta1 · mean + (1 - beta1) · ∂L/∂" in text
        assert "learning_rate = 0.1, betas = (0.9, 0.999)" in text
        place = np.unravel_index(np.argmax(np.abs(gradient)), gradient.shape)
        assert float(text.rsplit(" = ", 1)[1]) == pytest.approx(after[place], rel=1e-3)
    outcome = page.text('[data-part="outcome"]').replace("−", "-")
    assert [float(n) for n in re.findall(r"\d+\.\d+", outcome)] == pytest.approx(
        [moments[0][0], moments[1][0]], rel=1e-3
    )


def test_the_slider_shows_each_training_step(page, tmp_path):
    exploration, moments, _ = trained(tmp_path, 6)
    page.open(exploration)
    page.move(page.last)
    assert page.kind == "training"
    for number, (loss, parameters) in enumerate(moments[:6]):
        page.run(
            "const s = document.querySelector('#moment'); s.value = arguments[0]; s.dispatchEvent(new Event('input'))",
            number,
        )
        assert float(page.find("[data-loss]").get_attribute("data-loss")) == pytest.approx(loss)
        for name, (weight, gradient) in parameters.items():
            box = f'[data-moment="{exploration.story.named(name).id}"]'
            page.shows(f'{box} [data-role="weight"]', weight)
            page.shows(f'{box} [data-role="gradient"]', gradient)
            moved = np.linalg.norm((moments[number + 1][1][name][0] - weight).astype(np.float64))
            size = np.linalg.norm(weight.astype(np.float64))
            shown = page.find(f"{box} [data-ratio]").get_attribute("data-ratio")
            assert float(shown) == pytest.approx(moved / size if size else np.inf, rel=1e-5)


# ---------------------------------------------------------------------------------------------------------------------
# The quiz
# ---------------------------------------------------------------------------------------------------------------------


def ask(page: Page, place: int, answer: float) -> str:
    page.find(f'[data-part="question"] button[data-at="{place}"]').click()
    page.find("#answer").clear()
    page.find("#answer").send_keys(f"{answer:.6g}")
    page.click("#question button[type=submit]")
    return page.text(".answer")


def test_the_quiz_knows_right_answers_and_names_mistakes(page, tmp_path):
    x, w, b = leaves_of([leaf(4, 3), leaf(3, 3, seed=1), leaf(3, seed=2)])
    h = np.tanh(x @ w + b)
    loss = np.sum(h * h)
    exploration = tg.explore(loss, path=tmp_path / "quiz.html")
    story = exploration.story
    page.open(exploration)
    page.click("#quiz")
    assert "Which number comes here?" in page.text("#card h2")
    seen = set()
    while page.find("#next").is_enabled():
        page.click("#next")
        value = page.value
        right = np.ravel(story.gradient(value))
        shown = page.run("return [...document.querySelectorAll('#card .name')].map((name) => name.textContent)")
        assert f"∂L/∂{story.values[value].label}" not in shown  # no figure gives the answer away
        mistakes = likely_mistakes(story.gradient(value))
        mistakes = {name: np.ravel(one) for name, one in mistakes.items() if one.shape == story.gradient(value).shape}
        for name, wrong in mistakes.items():
            place = int(np.argmax(np.abs(wrong - right)))
            alike = [other for other, one in mistakes.items() if np.isclose(one[place], wrong[place])]
            assert f"That is {alike[0]}." in ask(page, place, float(wrong[place])), name
            seen.add(alike[0])
        for place in range(min(3, right.size)):
            assert "✓ Right" in ask(page, place, float(right[place]))
        assert page.find('[data-part="question"] button[data-at="0"]').text != "?"
    assert {"the transpose", "the wrong sign"} <= seen
    page.click("#quiz")
    assert page.kind == "start"


def test_a_missing_sum_over_the_batch_and_a_lost_path_are_named(page, tmp_path):
    x, w, b = leaves_of([leaf(4, 3), leaf(3, 2, seed=1), leaf(2, seed=2)])
    h = np.sin(x @ w + b)
    loss = np.sum(h * h + h)
    exploration = tg.explore(loss, path=tmp_path / "quiz.html")
    story = exploration.story
    page.open(exploration)
    page.click("#quiz")

    def go(label: str) -> int:
        found = story.named(label).id
        page.move(page.run("return QUIZ.findIndex((item) => item.value === arguments[0])", found))
        return found

    before = story.ledger(go("leaf2"))[0].before  # the gradient of each example, before the sum
    assert "what example 2 alone adds: the sum over the batch is missing" in ask(page, 1, before[2, 1])
    upstream = story.ledger(go("leaf1"))[0].consumer
    assert "what example 1 alone adds" in ask(page, 0, x.data[1, 0] * story.gradient(upstream)[1, 0])
    total = story.gradient(go("leaf1"))
    assert "the mean over the batch instead of the sum" in ask(page, 0, total[0, 0] / 4)
    sine = next(value for value in story.values if value.operation == "sin")
    first = story.ledger(sine.id)[0].array
    go(sine.label)
    assert re.search(r"path \d of \d is lost", ask(page, 0, float((story.gradient(sine.id) - first)[0, 0])))
    assert "not what one of the likely mistakes gives" in ask(page, 0, 1234.5)


# ---------------------------------------------------------------------------------------------------------------------
# Looks
# ---------------------------------------------------------------------------------------------------------------------


def test_pixels_are_images(page, tmp_path):
    model = nn.Sequential(nn.Dense(48, 3, "relu", rng=0), nn.Dense(3, 2, rng=1))
    images = leaf(2, 48).astype(np.float32)
    x = tg.Tensor(images)
    x.name = "images"
    loss = tg.cross_entropy(model(x), np.array([0, 1]))
    exploration = tg.explore(loss, model, image=(6, 8), path=tmp_path / "images.html")
    page.open(exploration)
    for label, array, count in (("images", images, 2), ("layers.0.weight", model.layers[0].weight.data.T, 3)):
        canvas = f'[data-leaf="{exploration.story.named(label).id}"] canvas'
        assert f"{count} images of 6 x 8 pixels" in page.find(canvas).get_attribute("aria-label")
        drawn = page.run(
            "const c = document.querySelector(arguments[0]); const d = c.getContext('2d').getImageData(0, 0, c.width, c.height); return [c.width, c.height, [...d.data]]",
            canvas,
        )
        pixels = np.reshape(drawn[2], (drawn[1], drawn[0], 4))
        across = (drawn[0] + 1) // 9
        for n in range(count):
            row, column = divmod(n, across)
            tile = pixels[row * 7 : row * 7 + 6, column * 9 : column * 9 + 8]
            picture = array[n].reshape(6, 8)
            np.testing.assert_array_equal(tile[..., 2] > tile[..., 0], (picture < 0) & (tile[..., 3] > 0))
            np.testing.assert_allclose(tile[..., 3] / 255, (np.abs(picture) / np.abs(array).max()) ** 0.8, atol=0.01)


@pytest.mark.parametrize("size", [DESKTOP, SMALL_PHONE])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_card_fits_its_window_and_shows_only_text(page, tmp_path, size, scheme):
    exploration, _, _ = trained(tmp_path, 3, "RMSprop")
    page.prefer(scheme)
    page.open(exploration, size)
    for deck in ("RIGHT", "ASTRAY", "QUIZ"):
        page.run(f"change({deck})")
        for to in range(page.last + 1):
            page.move(to)
            assert page.run("return document.documentElement.scrollWidth <= window.innerWidth")
            shown = page.run("return document.querySelector('#card').textContent")
            assert not re.search(r"\[object|undefined|NaN", shown), shown


def test_what_is_typed_stays_when_the_window_changes(page, tmp_path):
    exploration, _, _ = trained(tmp_path, 1)
    page.open(exploration, SMALL_PHONE)
    page.click("#quiz")
    page.move(1)
    page.find("#answer").send_keys("0.12")
    page.resize(390, 500)  # as the keyboard of a phone does
    assert page.find("#answer").get_property("value") == "0.12"


HOSTILE = {
    "markup": "<script>document.title='hacked'</script><img src=x onerror=alert(1)>\"'`${1}",
    "lines": "first\nsecond\r\x00\u2028third",
    "override": "safe\u202e gnp.exe\u2066",
    "hebrew": "\u05e9\u05dc\u05d5\u05dd",
    "long": "w" * 10_000,
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_names_are_text_on_every_card(page, tmp_path, kind):
    w, v = leaves_of([leaf(2, 3), leaf(3, seed=1)])
    w.name, v.name = HOSTILE[kind], HOSTILE[kind]
    loss = np.sum(np.tanh(w) * v + v)
    optimizer = tg.optim.Adam([w, v], 0.1)
    exploration = tg.explore(loss, None, optimizer, steps=2, path=tmp_path / "hostile.html")
    assert len(exploration.html) < 400_000
    page.open(exploration, SMALL_PHONE)
    for deck in ("RIGHT", "ASTRAY", "QUIZ"):
        page.run(f"change({deck})")
        for to in range(page.last + 1):
            page.move(to)
            assert page.run("return document.documentElement.scrollWidth <= window.innerWidth")
            shown = page.run("return document.querySelector('#card').textContent")
            assert not set("\u202e\u2066\u2028\x00\r") & set(shown)
            assert shown.count("\u05e9") == shown.count("\u2068") == shown.count("\u2069") or kind != "hebrew"
    page.run("change(RIGHT)")
    page.move(0)
    page.find("#editNumber").clear()
    page.find("#editNumber").send_keys("2")
    page.click("#edit button")
    assert "Changed: " in page.text('[data-part="edited"]')
    assert "hacked" not in page.driver.title
    assert page.all("img") == []
    text = str(tg.explain(loss, None, optimizer, steps=2, check=False))
    assert not set("\u202e\u2066\u2028\x00\r") & set(text)
