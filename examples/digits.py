"""Read handwritten digits: from the pixels of an image to the name of a digit, and how a network learns it.

    python examples/digits.py

An image of 28 x 28 pixels becomes a vector of 784 numbers. The vector is multiplied by a matrix of weights and
activated: 128 numbers, each saying how much of one pattern of strokes the image holds. These are multiplied by a second
matrix: ten numbers, one per digit. Softmax makes probabilities of them, and the largest one names the digit.

Training shows the network 60,000 images, five times. After each 64 of them the gradient of the loss says how every
weight should change for the right digits to become more probable, and Adam changes it a little in that direction.

`--model conv` puts two convolutions before the last matrix. Other images in the same format work too, Fashion-MNIST for
one: `--data DIR`. Everything drawn and saved goes to `--out` (digits-out).
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any, TypeAlias

# Matrices as small as these gain little from a second thread, and lose much where another program wants that core:
# the threads wait for each other in busy loops. For large hidden layers, set the variable to the number of cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import command_line
import numpy as np
from command_line import AMOUNT, COUNT, RATE, SEED
from digits_pictures import (
    bar_in_characters,
    draw_attack,
    draw_confusion,
    draw_favourites,
    draw_learning_curve,
    draw_mistakes,
    draw_weights,
    in_characters,
)
from tqdm import tqdm

import tinygrad_mm as tg

Array: TypeAlias = "np.ndarray[Any, Any]"
Data: TypeAlias = "tuple[Array, Array]"  # images (n, height, width), labels (n,)

MNIST = Path(__file__).parent / "data" / "mnist"
EPSILON = 0.1  # how far an attack moves each pixel, of black minus white


# ---------------------------------------------------------------------------------------------------------------------
# The network
# ---------------------------------------------------------------------------------------------------------------------


def as_vectors(images: Array) -> Array:
    """An image becomes a vector: (n, height, width) bytes -> (n, height * width) numbers from 0 to 1."""
    return images.reshape(len(images), -1) / np.float32(255)


def build(pixels: int, hidden: list[int], classes: int, activation: str, rng: np.random.Generator) -> tg.nn.Sequential:
    """One matrix from the pixels to the hidden units, one from these to the classes; more for more hidden layers."""
    sizes = [pixels, *hidden]
    layers = [tg.nn.Dense(a, b, activation, rng=rng) for a, b in pairwise(sizes)]
    return tg.nn.Sequential(*layers, tg.nn.Dense(sizes[-1], classes, rng=rng))


class AsImages(tg.Module):
    """Vectors become images of one channel again: (n, height * width) -> (n, 1, height, width)."""

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width

    def forward(self, x: tg.Tensor) -> tg.Tensor:
        return x.reshape(len(x), 1, self.height, self.width)


def build_conv(height: int, width: int, classes: int, rng: np.random.Generator) -> tg.nn.Sequential:
    """Two convolutions, which look for patterns everywhere, and a matrix from what they find to the classes."""
    found = 32 * (height // 4) * (width // 4)
    return tg.nn.Sequential(
        AsImages(height, width),
        *(tg.nn.Conv2d(1, 16, 3, padding=1, rng=rng), tg.nn.ReLU(), tg.nn.MaxPool2d(2)),
        *(tg.nn.Conv2d(16, 32, 3, padding=1, rng=rng), tg.nn.ReLU(), tg.nn.MaxPool2d(2)),
        *(tg.nn.Flatten(), tg.nn.Dense(found, classes, rng=rng)),
    )


def first_weights(model: tg.nn.Sequential, height: int, width: int) -> tuple[Array, int, int]:
    """The first layer's weights, a column for each unit, and the height and width of what it looks at."""
    layer = next(layer for layer in model if hasattr(layer, "weight"))
    weight = layer.weight.data
    return (weight, height, width) if weight.ndim == 2 else (weight.reshape(len(weight), -1).T, *weight.shape[2:])


def draw_graph(model: tg.nn.Module, images: Array, labels: Array, path: Path) -> Path:
    """The computation graph of one step: all that happens between a batch of images and its loss."""
    x, truth = tg.Tensor(as_vectors(images)), tg.Tensor(labels)
    x.name, truth.name = "images", "labels"
    loss = tg.cross_entropy(model(x), truth)
    loss.name = "loss"
    drawing = tg.draw(loss, model=model)
    try:
        return drawing.save(path)
    except RuntimeError as error:  # no layout program on this machine
        print(f"{error}\n")
        return drawing.save(path.with_suffix(".dot"))


# ---------------------------------------------------------------------------------------------------------------------
# Training and testing
# ---------------------------------------------------------------------------------------------------------------------


def train(
    model: tg.nn.Module, training: Data, test: Data, options: argparse.Namespace, rng: np.random.Generator
) -> dict[str, list[Any]]:
    """Adjust the weights, batch by batch; returns what the learning curve shows."""
    history: dict[str, list[Any]] = {"batch loss": [], "train": [], "test": []}
    batches = tg.data.DataLoader(training, options.batch_size, shuffle=True, rng=rng)
    steps = options.epochs * len(batches)
    optimizer = tg.optim.Adam(
        model.parameters(),
        lambda step: options.learning_rate * warm_up_and_decay((step + 0.5) / steps),
        weight_decay=options.weight_decay,
    )

    def vectors() -> Iterator[Data]:
        for images, labels in tqdm(batches, "training", unit=" batches", leave=False, disable=None):
            yield as_vectors(images), labels

    class Report:
        def on_step(self, run: tg.training.Run) -> None:
            history["batch loss"].append(run.newest["loss"])

        def on_epoch(self, run: tg.training.Run) -> None:
            report(run.epoch, model, training, test, history)

    try:
        done = tg.fit(model, vectors, tg.cross_entropy, optimizer, options.epochs, callbacks=[Report()], progress=False)
    except FloatingPointError as error:  # the step and the operation that made the first number that is none
        raise SystemExit(f"digits.py: {error}\nTake a smaller --learning-rate") from error
    if done.stopped:
        raise KeyboardInterrupt
    return history


def report(epoch: int, model: tg.nn.Module, training: Data, test: Data, history: dict[str, list[Any]]) -> None:
    """Test the network after an epoch, on all the images."""
    train_loss, train_accuracy = evaluate(model, *training)
    test_loss, test_accuracy = evaluate(model, *test)
    if not math.isfinite(train_loss):
        raise SystemExit(f"digits.py: the loss is {train_loss} after epoch {epoch}; take a smaller --learning-rate")
    history["train"].append((train_loss, train_accuracy))
    history["test"].append((test_loss, test_accuracy))
    print(
        f"epoch {epoch}   loss: train {train_loss:.4f}, test {test_loss:.4f}   "
        f"accuracy: train {train_accuracy:.2f} %, test {test_accuracy:.2f} %",
        flush=True,
    )


def warm_up_and_decay(done: float) -> float:
    """The learning rate, as a fraction of its peak: up over the first tenth of the training, then down to 0.

    Full steps at the very start would push some hidden units below zero for every image, where ReLU has no gradient to
    bring them back; small steps at the end let the weights settle.
    """
    return min(done / 0.1, (1 - done) / 0.9)


def evaluate(model: tg.nn.Module, images: Array, labels: Array) -> tuple[float, float]:
    """(mean loss, accuracy in percent) on all the images, in pieces that need little memory."""
    loss = right = 0.0
    with tg.no_grad():
        for some, truth in tg.data.DataLoader((images, labels), batch_size=1000):
            logits = model(as_vectors(some))
            loss += tg.cross_entropy(logits, truth, reduction="sum").item()
            right += np.count_nonzero(logits.data.argmax(axis=-1) == truth)
    return loss / len(labels), 100 * right / len(labels)


def probabilities(model: tg.nn.Module, images: Array) -> Array:
    """(n, classes): how probable the network holds each class for each image."""
    with tg.no_grad():
        return np.concatenate(
            [tg.softmax(model(as_vectors(some))).data for some in tg.data.DataLoader(images, batch_size=1000)]
        )


# ---------------------------------------------------------------------------------------------------------------------
# Looking inside, by gradients with respect to the image
# ---------------------------------------------------------------------------------------------------------------------


def attacked(model: tg.nn.Module, images: Array, labels: Array, epsilon: float) -> Array:
    """Vectors of pixels, each moved by epsilon to where the loss grows (Goodfellow et al. 2015)."""
    x = as_vectors(images)
    dx = tg.grad(lambda x: tg.cross_entropy(model(x), labels))(x)
    return np.clip(x + np.float32(epsilon) * np.sign(dx), 0, 1)


def favourites(model: tg.nn.Sequential, images: Array, units: int = 8, steps: int = 100) -> list[tuple[Array, Array]]:
    """What units of the last hidden layer like: for each an image made for it, and the places of real ones.

    The image begins as the mean of these and follows the gradient of the unit; what ink costs keeps it from becoming
    black all over. The units are those that differ most from image to image.
    """
    hidden = tg.nn.Sequential(*model.layers[:-1]) if len(model.layers) > 1 else model
    with tg.no_grad():
        parts = [hidden(as_vectors(some)).data for some in tg.data.DataLoader(images, batch_size=1000)]
    found = np.concatenate(parts)
    chosen = np.argsort(-found.std(axis=0), kind="stable")[:units]
    liked = [np.argsort(-found[:, unit], kind="stable")[:8] for unit in chosen]
    x = np.stack([as_vectors(images[places]).mean(axis=0) for places in liked])
    ink = np.abs(found).mean() / as_vectors(images).sum(axis=1).mean()
    climb = tg.grad(lambda x: np.sum(hidden(x)[np.arange(len(chosen)), chosen]) - ink * np.sum(x * x))
    for _ in range(steps):
        slope = climb(x)
        x = np.clip(x + slope * np.float32(0.1) / (np.abs(slope).max(axis=1, keepdims=True) + np.float32(1e-8)), 0, 1)
    return list(zip(x, liked, strict=True))


# ---------------------------------------------------------------------------------------------------------------------
# One prediction, in the terminal
# ---------------------------------------------------------------------------------------------------------------------


def show_prediction(model: tg.nn.Sequential, image: Array, truth: int) -> None:
    """Print the way from the pixels to the class, step by step."""
    x = tg.Tensor(as_vectors(image[None]))
    steps = [f"the image: {image.shape[0]} x {image.shape[1]} pixels", f"a vector of {x.size} numbers from 0 to 1"]
    with tg.no_grad():
        for layer in model:
            x = layer(x)
            if isinstance(layer, tg.nn.Dense):
                steps += ["", f"times a matrix of {layer.in_features} x {layer.out_features} weights, plus a bias:"]
                name = f"numbers after {layer.activation.__name__}" if layer.activation else "logits"
                steps += [f"{x.size} {name}, from {x.data.min():.1f} to {x.data.max():.1f}"]
            elif isinstance(layer, tg.nn.Conv2d):
                high, wide = layer.weight.shape[2:]
                steps += ["", f"{len(layer.weight)} filters of {high} x {wide} at every place:"]
            elif x.ndim == 4 and not isinstance(layer, AsImages):
                steps += [f"{x.shape[1]} images of {x.shape[2]} x {x.shape[3]} after {type(layer).__name__}"]
        chances = tg.softmax(x).data[0]
    steps += ["", f"softmax: {chances.size} probabilities"]

    print("\nOne prediction, of the first test image:\n")
    picture = in_characters(image)
    above = max(0, len(picture) - len(steps)) // 2
    for line, step in zip_longest(picture, [""] * above + steps, fillvalue=""):
        print(f"  {line:<{len(picture[0])}}  {step}".rstrip())
    print()
    guess = chances.argmax()
    for label in sorted(np.argsort(-chances, kind="stable")[:10]):  # all, where there are no more than ten
        verdict = f"the network says {guess}, it is {truth}" if label == guess else ""
        print(f"  {label:>4} {100 * chances[label]:6.2f} % {bar_in_characters(chances[label])} {verdict}".rstrip())


# ---------------------------------------------------------------------------------------------------------------------
# The command
# ---------------------------------------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    training, test = read(options.data)
    out = prepared(options.out)
    images, labels = training
    height, width = images.shape[1:]
    classes = 1 + int(max(labels.max(), test[1].max()))
    print(f"{len(images):,} training and {len(test[0]):,} test images of {height} x {width} pixels, {classes} classes")

    rng = np.random.default_rng(options.seed)
    if options.model == "conv":
        model = build_conv(height, width, classes, rng)
    else:
        model = build(height * width, options.hidden, classes, options.activation, rng)
    print(f"\n{tg.nn.summary(model)}\n")
    graph = draw_graph(model, images[: options.batch_size], labels[: options.batch_size], out / "graph.svg")

    start = time.perf_counter()
    history = train(model, training, test, options, rng)
    print(f"{len(history['batch loss']):,} steps in {time.perf_counter() - start:.1f} s")
    accuracy = history["test"][-1][1]
    weights = out / "weights.safetensors"
    tg.save(weights, model, {"activation": options.activation, "test accuracy": f"{accuracy:.2f} %"})

    show_prediction(model, test[0][0], test[1][0])
    names = ("first-layer", "learning-curve", "mistakes", "confusion", "attack", "favourites")
    pictures = [out / f"{name}.png" for name in names]
    chances = probabilities(model, test[0])
    draw_weights(*first_weights(model, height, width), pictures[0])
    draw_learning_curve(history, pictures[1])
    draw_mistakes(*test, chances, pictures[2])
    draw_confusion(test[1], chances.argmax(axis=1), classes, pictures[3])
    some = test[0][:8]
    fooled = attacked(model, some, test[1][:8], EPSILON).reshape(some.shape)
    says = [probabilities(model, images).argmax(axis=1) for images in (some, 255 * fooled)]
    draw_attack(some, fooled, says, EPSILON, pictures[4])
    draw_favourites(favourites(model, test[0]), test[0], pictures[5])

    print("\nwritten:", graph, *pictures, weights, sep="\n  ")
    print(f"\ntest accuracy: {accuracy:.2f} %")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    title = "Train a network to read handwritten digits, test it, and draw what it has learned."
    parser = command_line.parser(title)
    add = parser.add_argument
    add("--epochs", type=COUNT, default=5, metavar="N", help="how often to go through the training images")
    add("--batch-size", type=COUNT, default=64, metavar="N", help="images per step")
    add("--model", choices=("dense", "conv"), default="dense", help="matrices only, or two convolutions and a matrix")
    add("--hidden", type=COUNT, default=[128], metavar="N", nargs="*", help="units of each hidden layer (dense)")
    add("--activation", type=activation, default="relu", metavar="NAME", help="of hidden layers (dense): relu, ...")
    add("--learning-rate", type=RATE, default=4e-3, metavar="RATE", help="of Adam, at its peak")
    add("--weight-decay", type=AMOUNT, default=3e-4, metavar="RATE", help="pull of weights to 0")
    add("--seed", type=SEED, default=0, metavar="N", help="of the starting weights and the shuffling")
    add("--data", type=Path, default=MNIST, metavar="DIR", help="folder with four IDX files, plain or .gz")
    add("--out", type=Path, default=Path("digits-out"), metavar="DIR", help="folder for pictures and weights")
    return parser.parse_args(arguments)


def activation(name: str) -> str:
    try:
        tg.nn.Dense(1, 1, name)
    except ValueError as error:  # which lists the names there are
        raise argparse.ArgumentTypeError(str(error)) from error
    return name


def read(folder: Path) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    try:
        training, test = tg.data.read_idx_folder(folder)
    except (OSError, ValueError) as error:
        raise SystemExit(f"digits.py: {error} (--data names the folder)") from error
    images, labels = training
    if images.ndim != 3 or images.dtype != np.uint8 or min(labels.min(), test[1].min()) < 0:
        raise SystemExit(
            f"digits.py: {folder} holds {images.dtype} images of shape {images.shape} and labels from {labels.min()}; "
            "this example reads grey images of bytes, (n, height, width), with labels from 0"
        )
    return training, test


def prepared(out: Path) -> Path:
    """Find out now, not after the training, whether the results can be drawn and written."""
    if importlib.util.find_spec("matplotlib") is None:
        raise SystemExit("digits.py: the pictures need matplotlib; pip install 'tinygrad_mm[examples]'")
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise SystemExit(f"digits.py: cannot write into {out} ({error.strerror}); name a folder with --out") from error
    return out


if __name__ == "__main__":
    command_line.run(main, "stopped; the weights are written, whole, when the training is done")
