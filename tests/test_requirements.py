"""What an install asks for: a layout program wherever there is a wheel of it, and nothing that cannot be had."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

tomllib = pytest.importorskip("tomllib", reason="Python 3.11 or later")

PROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]

# The files of graphviz-pure 0.2.2 on PyPI, and machines for which there is none.
WITH_WHEEL = [
    *(("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "x86_64"), ("darwin", "arm64")),
    *(("win32", "AMD64"), ("win32", "ARM64")),
]
WITHOUT = [
    *(("emscripten", "wasm32"), ("linux", "armv7l"), ("linux", "riscv64"), ("linux", "ppc64le"), ("linux", "i686")),
    *(("android", "aarch64"), ("ios", "arm64"), ("freebsd14", "amd64"), ("win32", "x86"), ("wasi", "wasm32")),
]


def wanted(system: str, machine: str) -> list[Requirement]:
    all_of_them = [Requirement(text) for text in PROJECT["dependencies"]]
    place = {"sys_platform": system, "platform_machine": machine}
    return [r for r in all_of_them if r.marker is None or r.marker.evaluate(place)]


@pytest.mark.parametrize("place", WITH_WHEEL)
def test_a_plain_install_brings_a_layout_program(place: tuple[str, str]) -> None:
    assert [r.name for r in wanted(*place)].count("graphviz-pure") == 1


@pytest.mark.parametrize("place", WITHOUT)
def test_where_there_is_no_wheel_the_install_goes_on_without(place: tuple[str, str]) -> None:
    assert "graphviz-pure" not in [r.name for r in wanted(*place)]


def test_what_this_machine_needs_is_installed() -> None:
    import platform

    for requirement in wanted(sys.platform, platform.machine()):
        assert importlib.metadata.version(requirement.name) in requirement.specifier
