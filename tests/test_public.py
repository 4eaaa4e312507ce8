"""What `import tinygrad_mm as tg` offers."""

from __future__ import annotations

import inspect
import pkgutil
import subprocess
import sys

import pytest

import tinygrad_mm as tg


def test_all_is_sorted_complete_and_resolves():
    assert sorted(tg.__all__, key=str.lower) == sorted(set(tg.__all__), key=str.lower)
    for name in tg.__all__:
        assert getattr(tg, name) is not None
    public = {
        name
        for name, value in vars(tg).items()
        if not name.startswith("_")
        and not inspect.ismodule(value)
        and getattr(value, "__module__", "").startswith("tinygrad_mm")
    }
    assert public <= set(tg.__all__)
    assert set(tg.__all__) <= set(dir(tg))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        tg.nothing  # noqa: B018


def test_no_public_function_shares_a_submodules_name():
    submodules = {module.name for module in pkgutil.iter_modules(tg.__path__)}
    functions = {name for name in tg.__all__ if not inspect.ismodule(getattr(tg, name))}
    assert not submodules & functions


def test_public_names_have_docstrings_with_an_example():
    for name in tg.__all__:
        value = getattr(tg, name)
        assert inspect.getdoc(value), name
        if inspect.isfunction(value) or (inspect.isclass(value) and not issubclass(value, Exception)):
            doc = inspect.getdoc(value) or ""
            assert ">>>" in doc or "::" in doc, f"{name} has no example"


def test_heavy_packages_load_only_when_used():
    code = "import sys, tinygrad_mm; print([m for m in ('graphviz', 'tqdm', 'matplotlib', 'safetensors', 'tinygrad_mm.drawing') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
