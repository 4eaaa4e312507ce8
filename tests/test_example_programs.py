"""The small example programs: each writes its picture, and reaches what it is about, in a short run."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def example(monkeypatch, tmp_path, capsys):
    """Runs a program as a module; returns it, what it printed, and the folder it wrote into."""
    monkeypatch.syspath_prepend(EXAMPLES)

    def run(name, *arguments):
        module = importlib.import_module(name)
        module.main([*arguments, "--out", str(tmp_path)])
        return module, capsys.readouterr().out, tmp_path

    yield run
    for name in ("moons", "autoencoder", "regression", "gan", "course.style"):
        sys.modules.pop(name, None)


def test_moons(example):
    _, said, out = example("moons", "--steps", "120", "--points", "200", "--frames", "10")
    assert float(re.search(r"([\d.]+) % of new points right", said)[1]) > 95
    picture = (out / "moons.gif").read_bytes()
    assert picture[:6] == b"GIF89a"
    from PIL import Image

    with Image.open(out / "moons.gif") as animation:
        assert animation.n_frames == 11


def test_autoencoder(example):
    _, said, out = example("autoencoder", "--epochs", "3", "--images", "2000")
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", said)]
    assert losses == sorted(losses, reverse=True)
    assert float(re.search(r"for ([\d.]+) % of test images", said)[1]) > 20  # 10 is chance
    assert (out / "map.png").stat().st_size > 10_000


def test_regression(example):
    _, said, out = example("regression", "--steps", "600", "--networks", "8")
    among, gap = map(float, re.search(r"by ([\d.]+) among the points, ([\d.]+) in the gap", said).groups())
    assert gap > 1.5 * among
    assert (out / "regression.png").stat().st_size > 10_000


def test_gan(example):
    module, said, out = example("gan", "--steps", "400")
    distances = [float(d) for d in re.findall(r"energy distance ([\d.]+)", said)]
    assert distances[-1] < distances[0] / 3
    assert (out / "gan.png").stat().st_size > 10_000
    same = np.random.default_rng(0).normal(size=(50, 2))
    assert module.distance(same, same) == 0
    assert module.distance(same, same + 3) > 1


def test_the_discriminator_teaches_the_generator_nothing_through_detached_points(example, monkeypatch):
    module, _, _ = example("gan", "--steps", "4")
    game = module.Game(8, np.random.default_rng(0))
    fake = game.made(5)
    module.tg.binary_cross_entropy_with_logits(
        game.discriminator(fake.detach()), np.zeros((5, 1), np.float32)
    ).backward()
    assert all(p.grad is None for p in game.generator.parameters())
    assert all(p.grad is not None for p in game.discriminator.parameters())
