"""`examples/neighbours.py`: each neighbour that is installed does what its line says."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
MODULES = {
    "NumPy": "numpy", "SciPy": "scipy", "scikit-learn": "sklearn", "pandas": "pandas", "polars": "polars",
    "PyTorch": "torch", "JAX": "jax", "ONNX": "onnxruntime", "safetensors": "safetensors", "joblib": "joblib",
    "Matplotlib": "matplotlib", "TensorBoard": "tensorboardX",
}  # fmt: skip
SAYS = {
    "SciPy": "from y (1 - y)",
    "scikit-learn": "% right",
    "pandas": "float32 stays; batches of (20, 4) and (20,)",
    "PyTorch": "apart",
    "JAX": "the same: True",
    "ONNX": "apart",
    "safetensors": "4 arrays",
    "joblib": "another process: True",
    "Matplotlib": "60 points",
    "TensorBoard": "1 file",
}


@pytest.fixture
def neighbours(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    yield importlib.import_module("neighbours")
    sys.modules.pop("neighbours", None)


def test_each_has_a_test():
    assert MODULES.keys() >= SAYS.keys()


@pytest.mark.parametrize("name", MODULES)
def test_a_neighbour(name, neighbours):
    assert neighbours.NEIGHBOURS.keys() == MODULES.keys()
    if importlib.util.find_spec(MODULES[name]) is None:
        pytest.skip(f"{MODULES[name]} is not installed")
    found = neighbours.NEIGHBOURS[name]()
    assert SAYS.get(name, "shape (60, 4)") in found
    assert all(float(number) < 1e-5 for number in re.findall(r"\d+e[+-]\d+", found))


def test_the_table_names_what_is_missing(neighbours, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "polars", None)
    neighbours.main(["NumPy", "polars"])
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("NumPy         a gradient of shape (60, 4)")
    assert said[2].startswith("polars        not installed (polars)")
