"""The page of `explore` in a real browser: every step, by button, key, slider and click; its numbers; its looks.

Chromium and its driver are needed (Debian: `apt-get install chromium chromium-driver`). Without them these tests are
skipped, except in CI, where they fail.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from browsing import DESKTOP, NOW, PHONE, Page, check_cells, needs_browser, wait_for

import tinygrad_mm as tg
from tinygrad_mm import nn
from tinygrad_mm.graph import topological

pytestmark = needs_browser


class Network:
    """Two layers, ReLU, cross entropy; what the engine computes for it, forward and backward, by its own means."""

    def __init__(self, folder: Path) -> None:
        self.model = nn.Sequential(nn.Dense(3, 4, activation="relu", rng=0), nn.Dense(4, 2, rng=1))
        x = tg.Tensor(np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32))
        x.name = "x"
        loss = tg.cross_entropy(self.model(x), np.array([0, 1, 1, 0, 1]))
        loss.name = "loss"
        self.path = tg.explore(loss, self.model, path=folder / "network.html").path
        self.computed = [v for v in topological([loss]) if v.node is not None]
        self.gradients = [g.value for g in tg.gradients(loss, self.computed, retain_graph=True)]
        names, parameters = zip(*self.model.named_parameters(), strict=True)
        found = tg.gradients(loss, parameters, retain_graph=True)
        self.parameters = {name: g.value for name, g in zip(names, found, strict=True)}


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Network:
    return Network(tmp_path_factory.mktemp("network"))


@pytest.fixture(scope="module")
def diamond(tmp_path_factory: pytest.TempPathFactory) -> Path:
    a = tg.Tensor(3.0, requires_grad=True)
    h = a * a
    loss = h * h + h
    for tensor, name in ((a, "a"), (h, "h"), (loss, "loss")):
        tensor.name = name
    return Path(tg.explore(loss, path=tmp_path_factory.mktemp("diamond") / "diamond.html"))


# ---------------------------------------------------------------------------------------------------------------------
# Every step, and its numbers
# ---------------------------------------------------------------------------------------------------------------------


def test_every_step_forward_and_backward_shows_the_engines_numbers(page, network):
    page.open(network.path)
    assert page.kind == "start"
    kinds = []
    labels = []
    while kinds[-1:] != ["end"]:
        page.click("#next")
        now = page.run(NOW)
        kinds.append(now["kind"])
        assert now["said"].startswith(
            "end" if now["kind"] == "end" else f"{now['kind']} {kinds.count(now['kind'])} of "
        )
        if now["kind"] == "forward":
            check_cells(now["output"], network.computed[kinds.count("forward") - 1].value)
        if now["kind"] == "backward":
            if "is complete" in now["heading"]:
                label = now["heading"].removeprefix("∂L/∂").removesuffix(" is complete")
                check_cells(now["gradient"], network.parameters[label])
                labels.append(label)
            else:
                number = len(network.computed) - kinds.count("backward")
                check_cells(now["gradient"], network.gradients[number])
                check_cells(now["output"], network.computed[number].value)
            assert "✓ finite difference agrees" in now["incoming"]
    assert not page.find("#next").is_enabled()
    assert kinds == ["forward"] * 6 + ["backward"] * 10 + ["end"]
    assert sorted(labels) == sorted(network.parameters)
    norms = page.run("return [...document.querySelectorAll('[data-result] [data-norm]')].map(c => +c.dataset.norm)")
    expected = [np.linalg.norm(g.astype(np.float64)) for g in network.parameters.values()]
    assert sorted(norms) == pytest.approx(sorted(expected))
    for _ in range(17):
        page.click("#back")
    assert page.kind == "start"
    assert not page.find("#back").is_enabled()


def test_contributions_rules_and_shapes_are_on_the_card(page, network):
    page.open(network.path).move(1 + 6 + 2)  # backward through the second matmul
    card = page.find('#card [data-target][data-argument="1"]')
    text = card.text
    assert "∂L/∂layers.1.weight = " in text
    assert "ᵀ · ∂L/∂" in text
    assert "a.mT @ g" in text
    assert "(5, 4)ᵀ @ (5, 2) = (4, 5) @ (5, 2) → (4, 2)" in text
    assert "Why the transpose?" in text
    page.shows('#card [data-argument="1"] [data-role="contribution"]', network.parameters["layers.1.weight"])
    page.shows('#card [data-argument="1"] [data-role="turned"]', network.computed[2].value.T)
    page.shows('#card [data-argument="1"] [data-role="g"]', network.gradients[3])


def test_pointing_at_a_number_writes_its_sum_out(page, network):
    page.open(network.path).move(1 + 6 + 2)
    page.point(page.find('[data-argument="1"] [data-role="contribution"] td[data-at="5"]'))  # row 2, column 1
    h, g = network.computed[2].value, network.gradients[3]
    gradient = network.parameters["layers.1.weight"][2, 1]
    written = page.text('[data-argument="1"] .sum .terms').replace("−", "-")
    terms, total = written.rsplit(" = ", 1)
    products = [[float(factor.strip("()")) for factor in term.split(" · ")] for term in terms.split(" + ")]
    np.testing.assert_allclose(products, np.stack([h[:, 2], g[:, 1]], axis=1), rtol=6e-3)
    assert float(total) == pytest.approx(float(gradient), rel=1e-3)
    marked = page.run(
        "return [...document.querySelectorAll('[data-argument=\"1\"] [data-role=g] .marked')].map(c => +c.dataset.at)"
    )
    assert marked == [1, 3, 5, 7, 9]  # column 1 of the incoming gradient
    marked = page.run(
        "return [...document.querySelectorAll('[data-argument=\"1\"] [data-role=turned] .marked')].map(c => +c.dataset.at)"
    )
    assert marked == [10, 11, 12, 13, 14]  # row 2 of hᵀ
    assert np.float32(page.text("#tip").split(" = ")[1].replace("−", "-")) == gradient


def test_ledgers_name_their_paths_and_running_sums(page, diamond):
    page.open(diamond).move(1 + 3 + 2)  # h, whose gradient is 2h + 1
    assert page.text("#card h2").startswith("Back through multiply")
    rows = page.all('[data-part="incoming"] .ledger > li')
    texts = [row.text for row in rows]
    assert len(rows) == 4
    assert "path 1, from loss (add)" in texts[0]
    assert all("multiply" in text and "sum so far" in text for text in texts[1:3])
    shown = page.numbers('[data-part="incoming"] .ledger [data-role="brief"]')
    assert [float(figure[0][0]) for figure in shown] == [1, 9, 10, 9, 19]
    assert "the whole ∂L/∂h" in texts[3]
    assert "✓" in texts[3]
    assert "+=" in page.text("#card")


# ---------------------------------------------------------------------------------------------------------------------
# Ways to move
# ---------------------------------------------------------------------------------------------------------------------


def test_keys(page, network):
    from selenium.webdriver import Keys

    page.open(network.path)
    page.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert page.at == 2
    page.press(Keys.ARROW_LEFT)
    assert page.at == 1
    page.press(Keys.END)
    assert page.kind == "end"
    page.press(Keys.HOME)
    assert page.kind == "start"
    page.press(Keys.SPACE)
    assert page.find("#play").get_attribute("aria-label") == "Pause"
    wait_for(lambda: page.at > 0)
    page.press(Keys.SPACE)
    assert page.find("#play").get_attribute("aria-label") == "Play"
    page.press("/")
    assert page.run("return document.activeElement.id") == "search"
    page.press(Keys.ARROW_RIGHT)  # in the text field it moves the caret
    page.press(Keys.ESCAPE, Keys.END)
    assert page.kind == "end"


def test_slider(page, network):
    from selenium.webdriver import Keys

    page.open(network.path)
    for to in (3, page.last, 8, 0):
        page.move(to)
        assert page.at == to
        assert f"{page.at}" in page.find("#list [aria-current]").get_attribute("textContent")
    page.find("#slider").send_keys(Keys.ARROW_RIGHT)
    assert (page.at, page.kind) == (1, "forward")
    assert page.find("#slider").get_attribute("aria-valuetext").startswith("forward 1 of 6")


def test_a_click_on_a_node_goes_there_in_either_direction(page, network):
    from selenium.webdriver import Keys

    page.open(network.path)
    nodes = {n.get_attribute("data-value"): n for n in page.all("#picture .node[data-value]")}
    relu = next(n for n in nodes.values() if " = relu:" in n.get_attribute("aria-label"))
    relu.find_element("css selector", "text").click()
    assert (page.kind, page.value) == ("forward", int(relu.get_attribute("data-value")))
    assert "here" in relu.get_attribute("class").split()
    assert relu.get_attribute("aria-current") == "step"
    page.press(Keys.END)
    relu.find_element("css selector", "text").click()
    assert (page.kind, page.value) == ("backward", int(relu.get_attribute("data-value")))
    weight = next(n for n in nodes.values() if n.get_attribute("aria-label").startswith("layers.0.weight"))
    page.run("arguments[0].focus()", weight)
    page.press(Keys.ENTER)
    assert page.text("#card h2") == "∂L/∂layers.0.weight is complete"
    page.press(Keys.HOME)
    weight.find_element("css selector", "text").click()
    assert page.kind == "start", "a leaf was given; it is shown among what is given"
    assert page.find(f'#card .spot[data-leaf="{weight.get_attribute("data-value")}"]').is_displayed()


def test_links_lead_from_gradient_to_gradient(page, network):
    page.open(network.path).move(1 + 6 + 2)
    page.find('#card [data-argument="1"] h3 .link').click()
    assert page.text("#card h2") == "∂L/∂layers.1.weight is complete"
    page.find('#card [data-part="incoming"] .note .link').click()
    assert page.text("#card h2").startswith("Back through matmul")


def test_the_list_of_steps(page, network):
    page.open(network.path)
    page.click(".all summary")
    items = page.all("#list button")
    assert len(items) == page.last + 1 == 18
    items[7].click()
    assert (page.at, page.kind) == (7, "backward")


# ---------------------------------------------------------------------------------------------------------------------
# Search, folding, the wrong order
# ---------------------------------------------------------------------------------------------------------------------


def test_search(page, network):
    from selenium.webdriver import Keys

    page.open(network.path).move(page.last)
    page.find("#search").send_keys("layers.1 matmul")
    (hit,) = page.all("#found button")
    assert "matmul" in hit.text
    dimmed = page.run("return [...document.querySelectorAll('#picture .node.unfound')].length")
    assert dimmed == len(page.all("#picture .node")) - 1
    page.press(Keys.ENTER)
    assert page.kind == "backward"
    assert "v4 = v3 @ layers.1.weight" in page.text("#card h2").replace("\n", " ")
    assert page.all("#picture .node.unfound") == []
    page.find("#search").send_keys("(4,)")  # by shape
    assert [b.text.split()[0] for b in page.all("#found button")] == ["layers.0.bias"]
    page.press(Keys.ARROW_DOWN, Keys.ENTER)
    assert page.text("#card h2") == "∂L/∂layers.0.bias is complete"
    page.find("#search").send_keys("no such thing")
    assert "nothing found" in page.text("#found")


def test_folding_a_layer(page, network):
    page.open(network.path).move(page.last)
    label = next(g for g in page.all("#picture [data-fold]") if "layers.0 Dense" in g.get_attribute("aria-label"))
    layer = label.get_attribute("data-fold")
    inside = page.all(f'#picture .node[data-layer="{layer}"]')
    assert all(node.is_displayed() for node in inside)
    label.find_element("css selector", "text").click()
    assert not any(node.is_displayed() for node in inside)
    assert label.get_attribute("aria-expanded") == "false"
    cover = page.find(f'#picture .cover[data-fold="{layer}"]')
    assert "3 operations" in cover.text
    page.press("\ue011")  # Home
    seen: list[tuple[str, int]] = []
    while not seen or seen[-1][0] != "backward":
        page.press("\ue014")  # arrow right
        now = page.run(NOW)
        seen.append((now["kind"], now["folded"]))
    assert seen.count(("forward", 3)) == 1, "three operations forward in one step"
    assert sum(many for kind, many in seen if kind == "forward") == 3
    assert len([kind for kind, _ in seen if kind == "forward"]) == 4
    cover.find_element("css selector", "text").click()
    assert all(node.is_displayed() for node in inside)
    page.click("#fold")
    assert len(page.all("#picture .cover")) == 2
    page.click("#fold")
    assert page.all("#picture .cover") == []


def test_the_wrong_order_against_the_right_one(page, diamond):
    page.open(diamond).move(5)
    page.click("#wrong")
    assert page.kind == "astrayStart"
    assert page.find("#wrong").get_attribute("aria-pressed") == "true"
    assert "come out wrong" in page.text("#card")
    early = 0
    while page.kind != "astrayEnd":
        page.click("#next")
        if page.kind == "astray" and "too early" in page.text("#card h2"):
            early += 1
            wrong, right = (float(page.numbers(f'[data-part="{p}"] figure')[0][0][0]) for p in ("wrong", "right"))
            assert wrong < right
            assert "Still missing" in page.text("#card")
    assert early == 2  # h, and below it a
    (wrong,), (right,) = (page.numbers(f'[data-astray] [data-part="{p}"] figure') for p in ("wrong", "right"))
    assert float(right[0][0]) == 114
    assert float(wrong[0][0]) in {54, 6}
    assert "✗ wrong by" in page.text("[data-astray]")
    assert page.all("#picture .bad .cross")
    page.click("#wrong")
    assert (page.at, page.kind) == (5, "backward")


def test_where_nothing_is_used_twice_any_order_is_right_and_the_page_says_so(page, network):
    page.open(network.path)
    page.click("#wrong")
    assert "no computed array is used twice" in page.text("#card")
    page.click("#last")
    assert "✗" not in page.text("#card")


# ---------------------------------------------------------------------------------------------------------------------
# Looks
# ---------------------------------------------------------------------------------------------------------------------

CONTRASTS = """
const parts = (c) => c.match(/[\\d.]+/g).map(Number);
const light = (c) => { const [r, g, b] = parts(c).map((x) => x / 255).map((x) => (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const behind = (e) => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if (parts(c).length === 3) return c; } return "rgb(255, 255, 255)"; };
const found = {};
for (const name of arguments[0]) for (const e of document.querySelectorAll(name)) {
  const [a, b] = [light(getComputedStyle(e).color), light(behind(e))].sort((x, y) => y - x);
  found[name] = Math.min(found[name] ?? 99, (a + 0.05) / (b + 0.05));
}
return found;
"""


def test_light_and_dark(page, network, diamond):
    def paper() -> int:
        return int(page.run("return +getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]"))

    names = [
        ".phase",
        ".note",
        ".verdict",
        ".source",
        "h2",
        "h4",
        "#summary",
        ".problem",
        "button.link",
        ".why",
        ".shape",
    ]
    page.open(network.path)
    assert paper() > 200
    page.prefer("dark")
    assert paper() < 60
    page.click("#theme")
    assert (page.find("#theme").text, paper() > 200) == ("Theme: light", True)
    page.click("#theme")
    page.prefer("light")
    assert (page.find("#theme").text, paper() < 60) == ("Theme: dark", True)
    page.click("#theme")
    assert paper() > 200
    for scheme in ("light", "dark"):
        page.prefer(scheme)
        for path, step in ((network.path, 9), (diamond, 4)):
            page.open(path)
            page.move(step)
            if path == diamond:
                page.click("#wrong")
                page.click("#next")
                page.click("#next")
                page.click("#next")
            found = page.run(CONTRASTS, names)
            assert len(found) >= 6
            assert {name: ratio for name, ratio in found.items() if ratio < 4.5} == {}


def test_a_phone_is_wide_enough_for_every_step(page, network):
    page.open(network.path, PHONE)
    for to in range(page.last + 1):
        page.move(to)
        assert page.run("return document.documentElement.scrollWidth") <= PHONE[0], to
    page.click("#wrong")
    page.click("#last")
    assert page.run("return document.documentElement.scrollWidth") <= PHONE[0]
    for button in page.all(".stepper > button"):
        assert button.is_displayed()
        assert 0 <= button.rect["x"] <= PHONE[0] - button.rect["width"]


def test_everything_can_be_reached_by_keyboard_and_has_a_name(page, network):
    from selenium.webdriver import Keys

    page.open(network.path)
    reached = []
    for _ in range(40):
        page.press(Keys.TAB)
        reached.append(
            page.run(
                "const e = document.activeElement; const s = getComputedStyle(e);"
                "return [e.id, e.dataset.node || '', e.ariaLabel || e.textContent.trim() || e.title, s.outlineStyle,"
                " e.querySelector && e.querySelector('.halo') ? getComputedStyle(e.querySelector('.halo')).display : '']"
            )
        )
    ids = [i for i, *_ in reached]
    assert {"search", "theme", "next", "play", "slider", "wrong", "fold"} <= set(ids)
    assert len({node for _, node, *_ in reached if node}) == len(page.all("#picture .node"))
    for i, node, name, outline, halo in reached:
        assert name, (i, node)
        assert outline != "none" or node == "" or halo == "inline"


def test_large_arrays_are_heat_maps_with_values_under_the_pointer(page, tmp_path):
    from selenium.webdriver import Keys

    w = tg.Tensor(np.random.default_rng(0).normal(size=(100, 90)).astype(np.float32), requires_grad=True)
    w.name = "w"
    long = tg.Tensor(np.arange(90, dtype=np.float32))
    page.open(tg.explore(np.sum(np.tanh(w) * long), path=tmp_path / "large.html")).move(1)
    canvas = page.find('[data-role="argument"] canvas')
    assert "a sample: every 2nd along axis 0" in page.text('[data-role="argument"] .said')
    assert "heat-map of shape (100, 90)" in canvas.get_attribute("aria-label")
    page.point(canvas)
    place, number = page.text("#tip").removeprefix("w").split(" = ")
    row, column = json.loads(place)
    assert np.float32(number.replace("−", "-")) == w.value[row, column]
    page.run("arguments[0].focus()", canvas)
    page.press(Keys.ARROW_RIGHT)
    assert json.loads(page.text("#tip").removeprefix("w").split(" = ")[0]) == [row, column + 1 * page_every(page)]
    assert page.at == 1, "arrow keys inside a heat-map do not step"
    pixels = page.run(
        "const c = arguments[0]; return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]", canvas
    )
    colours = np.array(pixels, np.int64).reshape(-1, 4)
    every = page_every(page)
    shown = w.value[::2, ::every].reshape(-1)
    strong = np.abs(shown) > 0.5
    assert ((colours[:, 0] > colours[:, 2]) == (shown > 0))[strong].all(), "vermilion above 0, blue below"


def page_every(page: Page) -> int:
    """Along the last axis of the first array shown, how many elements one cell of the sample stands for."""
    return int(page.run("return data.arrays[data.values[0].array].every[1]"))


def test_a_name_that_is_markup_is_shown_as_it_is(page, tmp_path):
    name = "</script><script>document.title='hacked'</script><img src=x onerror=\"document.title='hacked'\">"
    a = tg.Tensor([1.0, 2.0], requires_grad=True)
    a.name = name
    page.open(tg.explore(np.sum(a * a), path=tmp_path / "hostile.html"))
    for to in range(page.last + 1):
        page.move(to)
    page.move(page.last - 1)
    assert page.text("#card h2") == f"∂L/∂{name} is complete"
    page.find("#search").send_keys("onerror")
    assert len(page.all("#found button")) >= 1
    assert "hacked" not in page.driver.title
    assert page.all("img") == []


def test_without_a_picture_the_steps_still_work(page, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "which", lambda *_, **__: None)
        a = tg.Tensor([1.0, 2.0], requires_grad=True)
        path = tg.explore(np.sum(a * a), path=tmp_path / "bare.html")
    page.open(path)
    assert "graphviz" in page.text("#picture")
    for _ in range(page.last):
        page.click("#next")
    assert page.kind == "end"
    page.find("#search").send_keys("sum")
    page.click("#found button")
    assert page.kind == "backward"


@pytest.mark.parametrize("size", [DESKTOP, (390, 844)])
def test_wide_arrays_stay_in_their_cards_and_say_that_there_is_more(page, tmp_path, size):
    images = np.random.default_rng(0).normal(size=(4, 784)).astype(np.float32)
    model = nn.Sequential(nn.Dense(784, 16, "relu", rng=0), nn.Dense(16, 10, rng=1))
    loss = tg.cross_entropy(model(images), np.array([1, 2, 3, 4]))
    page.open(tg.explore(loss, model, path=tmp_path / "wide.html"), size)
    assert page.run("return document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    cut = page.run(
        "return [...document.querySelectorAll('.heat-holder')].filter((e) => e.scrollWidth > e.clientWidth + 2)"
    )
    assert cut
    assert all("more-right" in one.get_attribute("class") for one in cut)


def test_the_wrong_order_marks_what_is_wrong_and_only_that(page, tmp_path):
    a = tg.Tensor(3.0, requires_grad=True)
    b = a * a
    page.open(tg.explore(np.tanh(b) + b, path=tmp_path / "fork.html"))
    page.click("#wrong")
    while page.find("#next").is_enabled():
        page.click("#next")
        if page.kind != "astray":
            continue
        found = page.run(
            "return [...document.querySelectorAll('[data-part] td')].map((cell) => Number(cell.dataset.value))"
        )
        assert ("✓ right" in page.text("#card")) == bool(np.isclose(found[0], found[1], rtol=1e-6))
        assert ("✗ wrong" in page.text("#card")) != ("✓ right" in page.text("#card"))


def test_a_graph_without_a_fork_offers_one_that_has(page, tmp_path):
    page.open(tg.explore(np.tanh(tg.Tensor(3.0, requires_grad=True)), path=tmp_path / "chain.html"))
    page.click("#wrong")
    assert "This graph has no fork" in page.text("#card")
    assert "b = a * a" in page.text("#card")
