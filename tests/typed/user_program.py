"""A program that uses each part of the library, written as a user would: type checkers find nothing wrong with it."""

from pathlib import Path
from typing import Any

import numpy as np

import tinygrad_mm as tg
from tinygrad_mm import Tensor, nn


class Residual(nn.Module):
    """x + activation(x @ weight + bias)"""

    def __init__(self, features: int, rng: int) -> None:
        self.dense = nn.Dense(features, features, activation="tanh", rng=rng)
        self.scale = tg.Parameter(np.ones(features, np.float32))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.dense(x)


@tg.primitive
def softplus(x: Any) -> Any:
    return np.logaddexp(x, 0)


def softplus_vjp(g: Any, y: Any, x: Any) -> Any:
    return g * tg.sigmoid(x)


tg.defvjp(softplus, softplus_vjp)


@tg.compile
def energy(x: Tensor, weight: Tensor) -> Tensor:
    return ((x @ weight) ** 2).sum()


def cubes(v: Tensor) -> Tensor:
    return (v**3).sum()


def main(folder: Path) -> float:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 4)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int64)
    inputs, weight = Tensor(x), Tensor(np.ones((4, 2), np.float32), requires_grad=True)

    loss = energy(inputs, weight)  # a Tensor, as the function says
    loss.backward()
    assert weight.grad.shape == weight.shape
    residual = Residual(4, rng=0)
    hidden = residual(inputs)  # a Tensor, as `forward` says
    above: Tensor = (1 - hidden / 2) @ weight > np.float32(0)
    print(hidden.T.shape, above.sum().item(), hidden[0].detach().numpy().mean())

    model = nn.Sequential(nn.Dense(4, 8, rng=1), residual := Residual(8, rng=2), nn.Dense(8, 2, rng=3))
    optimizer = tg.optim.AdamW(model.parameters(), learning_rate=1e-2)
    step = tg.compile_step(model, tg.cross_entropy, optimizer)
    for batch in tg.data.DataLoader((x, y), batch_size=16, shuffle=True, rng=4):
        step(*batch)
    history = tg.fit(
        *(model, (x, y), tg.cross_entropy, optimizer), epochs=2, metrics=["accuracy"], validation=0.25, progress=False
    )
    gradient, hessian = tg.grad(softplus)(1.0), tg.hessian(cubes)(np.ones(3))
    print(gradient.shape, hessian.shape, residual.scale.grad is None, history["validation_accuracy"][-1])

    tg.save(folder / "model.safetensors", model)
    model.load_state_dict(tg.load(folder / "model.safetensors"))
    loss = tg.cross_entropy(model(x), y)
    tg.draw(loss, model=model).save(folder / "graph.dot")
    tg.explore(loss, model, path=folder / "backprop.html")
    print(tg.explain(loss, model), tg.why(weight, loss), tg.predict(model, x).argmax(axis=1)[:4])
    return tg.evaluate(model, (x, y), tg.cross_entropy)["loss"]
