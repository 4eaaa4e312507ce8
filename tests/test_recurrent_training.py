"""Recurrent networks learn as PyTorch's do: the same losses and weights, step by step, from the same beginning."""

from __future__ import annotations

import numpy as np
import pytest

import tinygrad_mm as tg
from tinygrad_mm import nn, optim

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'tinygrad_mm[peers]'")

STEPS, LENGTH, FEATURES, HIDDEN, CLASSES = 30, 9, 3, 4, 5


class Tagger(nn.Module):
    def __init__(self, layer):
        self.layer, self.head = layer, nn.Linear(HIDDEN, CLASSES, rng=1)

    def forward(self, x):
        return self.head(self.layer(x)[0])


class TaggerThere(torch.nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer, self.head = layer, torch.nn.Linear(HIDDEN, CLASSES)

    def forward(self, x):
        return self.head(self.layer(x)[0])


def pairs(seed=0):
    """Batches of sequences; the label of a step depends on those before it."""
    rng = np.random.default_rng(seed)
    for _ in range(STEPS):
        x = rng.standard_normal((6, LENGTH, FEATURES))
        yield x, np.cumsum(x[..., 0] > 0, axis=1) % CLASSES


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_training_is_pytorchs_to_rounding(kind, compiled):
    """In float64, by Adam, thirty updates later."""
    theirs = TaggerThere(getattr(torch.nn, kind)(FEATURES, HIDDEN, 2, batch_first=True)).double()
    ours = Tagger(getattr(nn, kind)(FEATURES, HIDDEN, 2, dtype=np.float64, rng=0)).to(np.float64)
    theirs.load_state_dict({name: torch.from_numpy(a) for name, a in nn.to_torch_state(ours).items()})
    there, found = torch.optim.Adam(theirs.parameters(), 0.02), []
    for x, y in pairs():
        loss = torch.nn.functional.cross_entropy(theirs(torch.from_numpy(x)).transpose(1, 2), torch.from_numpy(y))
        loss.backward()
        there.step()
        there.zero_grad()
        found.append(loss.item())
    here, log = optim.Adam(ours.parameters(), 0.02), Losses()
    tg.fit(ours, pairs, tg.cross_entropy, here, compile=compiled, callbacks=[log], progress=False)
    assert found[-1] < found[0]
    assert log.losses == pytest.approx(found, rel=1e-9)
    for name, weight in nn.to_torch_state(ours).items():
        np.testing.assert_allclose(weight, theirs.state_dict()[name].numpy(), rtol=1e-6, atol=1e-8, err_msg=name)


class Losses:
    """The loss of each step."""

    def __init__(self):
        self.losses = []

    def on_step(self, run):
        self.losses.append(run.newest["loss"])
