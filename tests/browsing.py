"""A headless Chromium for tests of pages: one window, and what is asked of it again and again."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
needs_browser = pytest.mark.skipif(
    not (CHROMIUM and DRIVER) and "CI" not in os.environ,
    reason="no chromium and chromedriver here; apt-get install chromium chromium-driver",
)

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
)
PHONE = (360, 740)
DESKTOP = (1280, 900)


# What a step looks like, in one question instead of ten.
NOW = """
const cells = (role) => { const f = document.querySelector(`#card [data-role="${role}"]`);
  return f && [...f.querySelectorAll("td")].map((c) => [c.dataset.value, c.textContent]); };
const text = (selector) => { const e = document.querySelector(selector); return e && e.textContent; };
return {kind: document.querySelector("#card").dataset.kind, heading: text("#card h2"), said: text("#announce"),
  output: cells("output"), gradient: cells("gradient"), incoming: text('#card [data-part="incoming"]'),
  folded: document.querySelectorAll("#card .folded li").length};
"""


def check_cells(cells: list[list[str]], array: Any, rtol: float = 0.0) -> None:
    """Cells, each as [number behind it, text shown], are exactly (but for `rtol`) the elements of an array."""
    expected = np.asarray(array, np.float64).reshape(-1)
    np.testing.assert_allclose([float(number) for number, _ in cells], expected, rtol, atol=1e-12 if rtol else 0.0)
    shown = [float(text.replace("−", "-")) for _, text in cells]
    np.testing.assert_allclose(shown, expected, rtol=6e-3)


class Page:
    """One browser window, and what is asked of it again and again."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, path: str | os.PathLike[str], size: tuple[int, int] = DESKTOP) -> Page:
        self.driver.get_log("performance")
        self.resize(*size)
        self.path = Path(path)
        self.driver.get(self.path.as_uri())
        return self

    def resize(self, width: int, height: int) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def prefer(self, scheme: str) -> None:
        wanted = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}
        media = {"features": [{"name": name, "value": value} for name, value in wanted.items()]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def find(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def all(self, selector: str) -> list[Any]:
        found: list[Any] = self.driver.find_elements("css selector", selector)
        return found

    def click(self, selector: str) -> None:
        self.find(selector).click()

    def press(self, *keys: str) -> None:
        """Keys as a person presses them, wherever the focus is."""
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def point(self, element: Any) -> None:
        from selenium.webdriver import ActionChains

        self.run("arguments[0].scrollIntoView({block: 'center'})", element)
        ActionChains(self.driver).move_to_element(element).perform()

    def text(self, selector: str) -> str:
        found: str = self.find(selector).text
        return found

    @property
    def kind(self) -> str:
        found: str = self.find("#card").get_attribute("data-kind")
        return found

    @property
    def value(self) -> int:
        return int(self.find("#card").get_attribute("data-value"))

    @property
    def at(self) -> int:
        return int(self.find("#slider").get_property("value"))

    @property
    def last(self) -> int:
        return int(self.find("#slider").get_attribute("max"))

    def move(self, to: int) -> None:
        """Set the slider, as dragging it does."""
        slider = self.find("#slider")
        self.run("arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))", slider, to)

    def numbers(self, selector: str) -> list[list[Any]]:
        """The cells of each figure: [number behind it, text shown]."""
        script = """return [...document.querySelectorAll(arguments[0])].map(
            f => [...f.querySelectorAll('td')].map(c => [c.dataset.value, c.textContent]))"""
        found: list[list[Any]] = self.run(script, selector)
        return found

    def shows(self, selector: str, array: Any, rtol: float = 0.0) -> None:
        """The first figure of a kind shows exactly (but for `rtol`) this array."""
        check_cells(self.numbers(selector)[0], array, rtol)

    def is_clean(self) -> None:
        """Nothing in the console, and nothing was loaded but the page itself."""
        assert self.driver.get_log("browser") == []
        loaded = []
        for line in self.driver.get_log("performance"):
            message = json.loads(line["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                loaded.append(message["params"]["request"]["url"])
        assert [url for url in loaded if url != self.path.as_uri() and not url.startswith("data:")] == []


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if not (CHROMIUM and DRIVER):
        pytest.fail("chromium and chromedriver are not installed: apt-get install chromium chromium-driver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(executable_path=DRIVER))
    yield browser
    browser.quit()


@pytest.fixture
def page(driver: Any) -> Iterator[Page]:
    """A window that must have stayed clean when a test is done with it."""
    opened = Page(driver)
    opened.prefer("light")
    yield opened
    opened.is_clean()


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)
