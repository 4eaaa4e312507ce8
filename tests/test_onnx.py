"""`tg.onnx.export`: what onnxruntime computes from the file is what the network computes."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import tinygrad_mm as tg
from tinygrad_mm import nn

onnx = pytest.importorskip("onnx")

VECTORS, IMAGES, SEQUENCES = (5, 6), (3, 4, 8, 8), (3, 4, 9)
ACTIVATIONS = ["ReLU", "LeakyReLU", "ELU", "GELU", "SELU", "CELU", "SiLU", "Sigmoid", "Tanh", "Softplus", "Softmax"]
ACTIVATIONS += ["LogSoftmax", "Softmin", "Softsign", "LogSigmoid", "Mish", "Hardtanh", "Hardswish", "Hardsigmoid"]
ACTIVATIONS += ["ReLU6", "PReLU", "GLU"]

LAYERS = {
    **{name: (getattr(nn, name), VECTORS) for name in ACTIVATIONS},
    "GELU by tanh": (lambda: nn.GELU("tanh"), VECTORS),
    "Dense": (lambda: nn.Dense(6, 3, activation="tanh", rng=0), VECTORS),
    "Dense without bias": (lambda: nn.Dense(6, 3, bias=False, rng=0), VECTORS),
    "Dense on images": (lambda: nn.Dense(8, 3, rng=0), IMAGES),
    "Conv2d": (lambda: nn.Conv2d(4, 6, 3, rng=0), IMAGES),
    "Conv2d, options": (lambda: nn.Conv2d(4, 6, (3, 2), stride=2, padding=1, dilation=2, groups=2, rng=0), IMAGES),
    "Conv2d, same": (lambda: nn.Conv2d(4, 6, (4, 3), padding="same", bias=False, rng=0), IMAGES),
    "Conv2d, 1 x 1": (lambda: nn.Conv2d(4, 6, 1, rng=0), IMAGES),
    "Conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1, rng=0), SEQUENCES),
    "MaxPool2d": (lambda: nn.MaxPool2d(3, stride=2, padding=1), IMAGES),
    "MaxPool1d": (lambda: nn.MaxPool1d(2), SEQUENCES),
    "AvgPool2d": (lambda: nn.AvgPool2d(2), IMAGES),
    "GlobalAvgPool": (nn.GlobalAvgPool, IMAGES),
    "GlobalMaxPool": (nn.GlobalMaxPool, IMAGES),
    "AdaptiveAvgPool2d": (lambda: nn.AdaptiveAvgPool2d(3), IMAGES),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(4), IMAGES),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(6), VECTORS),
    "LayerNorm": (lambda: nn.LayerNorm(6), VECTORS),
    "LayerNorm over two axes": (lambda: nn.LayerNorm((8, 8)), IMAGES),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), IMAGES),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(4), IMAGES),
    "RMSNorm": (lambda: nn.RMSNorm(6), VECTORS),
    "Dropout": (lambda: nn.Sequential(nn.Dropout(0.5, rng=0), nn.Dense(6, 3, rng=1)), VECTORS),
    "Flatten": (nn.Flatten, IMAGES),
    "Residual": (lambda: nn.Residual(nn.Conv2d(4, 4, 3, padding=1, rng=0)), IMAGES),
    "LeNet": (
        lambda: nn.Sequential(
            *(nn.Conv2d(4, 6, 3, rng=0), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
            *(nn.Dense(54, 8, activation="relu", rng=1), nn.Dropout(0.5, rng=2), nn.Dense(8, 3, rng=3)),
        ),
        IMAGES,
    ),
}


def made(name, dtype=np.float32):
    """The layer, with parameters and buffers that are not the usual zeros and ones, and a function that draws batches."""
    make, shape = LAYERS[name]
    layer, rng = make(), np.random.default_rng(1)
    for _, p in [*layer.named_parameters(), *layer.named_buffers()]:
        p.data = (
            np.abs(p.data + rng.normal(scale=0.2, size=p.shape))
            if isinstance(p, tg.Buffer)
            else p.data + rng.normal(scale=0.2, size=p.shape)
        )
    layer = layer.to(dtype)
    return layer, lambda n: rng.normal(scale=2, size=(n, *shape[1:])).astype(dtype)


@pytest.mark.parametrize("name", LAYERS)
def test_onnxruntime_agrees(name, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    layer, batch = made(name)
    path = tg.onnx.export(layer, tmp_path / "model.onnx", batch(4))
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for n in (1, 4, 7):  # any number of examples
        x = batch(n)
        (found,) = session.run(None, {"input": x})
        np.testing.assert_allclose(found, tg.predict(layer, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_the_file_is_valid_and_in_the_data_s_dtype(name, tmp_path):
    layer, batch = made(name, np.float64)
    model = onnx.load(tg.onnx.export(layer, tmp_path / "model.onnx", batch(2)))
    onnx.checker.check_model(model, full_check=True)
    kinds = [value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)]
    assert kinds == [onnx.TensorProto.DOUBLE] * 2
    used = {name for node in model.graph.node for name in node.input}
    assert {constant.name for constant in model.graph.initializer} <= used


def test_readers_see_layers_and_names_of_parameters(tmp_path):
    layer, batch = made("LeNet")
    graph = onnx.load(tg.onnx.export(layer, tmp_path / "model.onnx", batch(2))).graph
    operations = [node.op_type for node in graph.node]
    assert len({node.name for node in graph.node}) == len(graph.node)
    assert [operations.count(name) for name in ("Conv", "MaxPool", "MatMul", "Relu")] == [1, 1, 2, 2]
    assert {name for name, _ in layer.named_parameters() if name.endswith("weight") and "1" not in name} <= {
        constant.name for constant in graph.initializer
    }


def test_the_modes_of_the_layers_stay(tmp_path):
    layer, batch = made("LeNet")
    layer.train()
    layer.layers[1].training = False
    before = [module.training for _, module in layer.named_modules()]
    tg.onnx.export(layer, tmp_path / "model.onnx", batch(2))
    assert [module.training for _, module in layer.named_modules()] == before


class Sorted(nn.Module):
    def forward(self, x):
        return np.sort(x, axis=1)


class Numbered(nn.Module):
    def forward(self, x):
        return x * np.arange(len(x), dtype=np.float32)[:, None]


def test_what_onnx_lacks_is_named(tmp_path):
    x = np.ones((2, 3), np.float32)
    with pytest.raises(TypeError, match="argsort has no form in ONNX"):
        tg.onnx.export(Sorted(), tmp_path / "model.onnx", x)
    with pytest.raises(ValueError, match="depends on the number of examples"):
        tg.onnx.export(Numbered(), tmp_path / "model.onnx", x)
    with pytest.raises(TypeError, match="give a batch of numbers"):
        tg.onnx.export(nn.Flatten(), tmp_path / "model.onnx", np.array(["a"]))
    assert not list(tmp_path.iterdir())


def test_without_onnx_the_extra_is_named():
    code = "import sys; sys.modules['onnx'] = None; import tinygrad_mm as tg; tg.onnx.export(tg.nn.Flatten(), 'x', [[1.0]])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install 'tinygrad_mm[onnx]'" in run.stderr
