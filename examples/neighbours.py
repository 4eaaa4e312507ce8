"""Other libraries beside this one: one line each, and what came of it.

`python examples/neighbours.py` tries all of them and prints a table; those that are not installed are said to be
missing.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import tinygrad_mm as tg

X = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
Y = (X[:, 0] > X[:, 1]).astype(np.int64)


def network() -> tg.nn.Sequential:
    return tg.nn.Sequential(tg.nn.Dense(4, 8, activation="tanh", rng=0), tg.nn.Dense(8, 2, rng=1))


def numpy() -> str:
    """np.sum(np.tanh(x) ** 2).backward()"""
    x = tg.Tensor(X, requires_grad=True)
    loss: Any = np.sum(np.tanh(x) ** 2)
    loss.backward()
    return f"a gradient of shape {x.grad.shape}"


def scipy() -> str:
    """scipy.special.expit(x).sum().backward()"""
    from scipy import special

    x = tg.Tensor(X, requires_grad=True)
    special.expit(x).sum().backward()
    y = special.expit(X)
    return f"{np.abs(x.grad - y * (1 - y)).max():.0e} from y (1 - y)"


def scikit_learn() -> str:
    """make_pipeline(StandardScaler(), tg.sklearn.DenseClassifier(random_state=0)).fit(X, y)"""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    pipeline = make_pipeline(StandardScaler(), tg.sklearn.DenseClassifier(random_state=0)).fit(X, Y)
    return f"{100 * pipeline.score(X, Y):.0f} % right on what it learned from"


def pandas() -> str:
    """tg.Tensor(frame), tg.data.DataLoader((frame, series), 20)"""
    import pandas as library

    frame, series = library.DataFrame(X, columns=list("abcd")), library.Series(Y)
    x, y = next(iter(tg.data.DataLoader((frame, series), 20)))
    return f"{tg.Tensor(frame).dtype} stays; batches of {x.shape} and {y.shape}"


def polars() -> str:
    """tg.Tensor(frame)"""
    import polars as library

    return f"a Tensor of shape {tg.Tensor(library.DataFrame(X)).shape}"


def pytorch() -> str:
    """theirs.load_state_dict(tg.nn.to_torch_state(ours, tensors=True)); from_torch_state(ours, theirs.state_dict())"""
    import torch

    ours = network()
    theirs = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    theirs.load_state_dict(tg.nn.to_torch_state(ours, tensors=True))
    tg.nn.from_torch_state(ours, theirs.state_dict())
    apart = np.abs(theirs(torch.tensor(X)).detach().numpy() - tg.predict(ours, X)).max()
    return f"outputs {apart:.0e} apart"


def jax() -> str:
    """tg.from_dlpack(array), jax.numpy.asarray(t.data)"""
    import jax.numpy as jnp

    x = tg.from_dlpack(jnp.asarray(X))
    return f"there and back the same: {bool((jnp.asarray(x.data) == X).all())}"


def onnx() -> str:
    """tg.onnx.export(model, "model.onnx", X)"""
    model = network()
    with tempfile.TemporaryDirectory() as folder:
        path = tg.onnx.export(model, Path(folder, "model.onnx"), X)
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {"input": X})
    return f"onnxruntime's outputs {np.abs(found - tg.predict(model, X)).max():.0e} apart"


def safetensors() -> str:
    """tg.save("model.safetensors", model); safetensors.numpy.load_file("model.safetensors")"""
    from safetensors.numpy import load_file

    with tempfile.TemporaryDirectory() as folder:
        tg.save(Path(folder, "model.safetensors"), network())
        return f"{len(load_file(Path(folder, 'model.safetensors')))} arrays"


def joblib() -> str:
    """tg.data.DataLoader(data, 20, workers=joblib.externals.loky.get_reusable_executor(1))"""
    from joblib.externals.loky import get_reusable_executor

    executor = get_reusable_executor(1)
    batches = list(tg.data.DataLoader((X, Y), 20, shuffle=True, rng=0, workers=executor, prefetch=2))
    executor.shutdown()
    plain = list(tg.data.DataLoader((X, Y), 20, shuffle=True, rng=0))
    same = all(np.array_equal(one[0], two[0]) for one, two in zip(batches, plain, strict=True))
    return f"the same batches from another process: {same}"


def matplotlib() -> str:
    """axes.plot(t.detach())"""
    from matplotlib.figure import Figure

    (line,) = Figure().add_subplot().plot(tg.Tensor(X[:, 0]))
    return f"a line of {len(line.get_ydata())} points"


def tensorboard() -> str:
    """tg.fit(..., callbacks=[tg.training.TensorBoard(folder)])"""
    model = network()
    with tempfile.TemporaryDirectory() as folder:
        callback = tg.training.TensorBoard(folder)
        optimizer = tg.optim.Adam(model.parameters())
        tg.fit(model, (X, Y), tg.cross_entropy, optimizer, epochs=2, progress=False, rng=0, callbacks=[callback])
        return f"{len(list(Path(folder).rglob('*tfevents*')))} file of events"


NEIGHBOURS: dict[str, Callable[[], str]] = {
    "NumPy": numpy,
    "SciPy": scipy,
    "scikit-learn": scikit_learn,
    "pandas": pandas,
    "polars": polars,
    "PyTorch": pytorch,
    "JAX": jax,
    "ONNX": onnx,
    "safetensors": safetensors,
    "joblib": joblib,
    "Matplotlib": matplotlib,
    "TensorBoard": tensorboard,
}


def result(attempt: Callable[[], str]) -> str:
    """What came of it, or which library is missing."""
    try:
        return attempt()
    except ImportError as error:
        return f"not installed ({error.name or error})"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"some of {', '.join(NEIGHBOURS)} (default: all)")
    chosen = parser.parse_args(arguments).names or list(NEIGHBOURS)
    for name in chosen:
        print(f"{name:13} {result(NEIGHBOURS[name])}\n{'':13} {NEIGHBOURS[name].__doc__}")


if __name__ == "__main__":
    main()
