"""The pictures of `digits.py`: the weights, the learning curve, the mistakes, and a digit made of characters."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from course.style import AMOUNT, BLUE, GREEN, GREY, INK, ORANGE, SIGNED, figure

Array: TypeAlias = "np.ndarray[Any, Any]"

LOG_TICKS = [step * 10.0**power for power in range(-9, 4) for step in (1, 2, 3, 5)]


def draw_weights(weight: Array, height: int, width: int, path: Path) -> None:
    """The first layer's weights: one tile per unit, laid out like the image that it is multiplied with."""
    units = weight.shape[1]
    strongest = np.argsort(-np.square(weight).sum(axis=0), kind="stable")[:288]  # 12 rows of 24
    columns = math.ceil(math.sqrt(2 * len(strongest)))
    rows = math.ceil(len(strongest) / columns)
    wall = np.full((rows * (height + 1) + 1, columns * (width + 1) + 1), np.nan, np.float32)
    for i, unit in enumerate(strongest):
        top, left = 1 + i // columns * (height + 1), 1 + i % columns * (width + 1)
        wall[top : top + height, left : left + width] = weight[:, unit].reshape(height, width)
    limit = float(np.quantile(np.abs(weight), 0.998)) or 1.0  # a few extremes would pale all others

    fig = figure(12, 10.9 * wall.shape[0] / wall.shape[1] + 0.5)
    ax = fig.add_subplot()
    image = ax.imshow(wall, cmap=SIGNED, vmin=-limit, vmax=limit, interpolation="nearest")
    ax.set_axis_off()
    shown = "all" if units == len(strongest) else f"the {len(strongest)} strongest"
    ax.set_title(f"What the first layer looks for: the weights of {shown} of its {units} units, strongest first")
    bar = fig.colorbar(image, ax=ax, extend="both", fraction=0.02, pad=0.01)
    bar.set_label("weight: ink on red raises the unit, ink on blue lowers it")
    bar.outline.set_visible(False)
    fig.savefig(path)


def draw_learning_curve(history: dict[str, list[Any]], path: Path) -> None:
    """Loss and accuracy over the epochs, on the training images and on the test images."""
    epochs = np.arange(1, len(history["train"]) + 1)
    losses = np.array(history["batch loss"])
    piece = max(1, len(losses) // 200)
    running = losses[: len(losses) // piece * piece].reshape(-1, piece).mean(axis=1)

    fig = figure(11, 4.4)
    left, right = fig.subplots(1, 2)
    at = (np.arange(len(running)) + 0.5) * piece * epochs[-1] / len(losses)
    left.plot(at, running, color=BLUE, alpha=0.35, linewidth=1, label="train, during the epoch")
    for name, color in (("train", BLUE), ("test", ORANGE)):
        loss, accuracy = np.array(history[name]).T
        left.plot(epochs, loss, "o-", color=color, label=f"{name}, after the epoch")
        right.plot(epochs, accuracy, "o-", color=color, label=name)
        right.annotate(
            f"{name} {accuracy[-1]:.2f} %", (epochs[-1], accuracy[-1]), (8, 0), textcoords="offset points",
            va="center", color=color, annotation_clip=False,
        )  # fmt: skip
    left.set(title="Loss", xlabel="epoch", ylabel="mean cross entropy (log scale)", yscale="log", xlim=(0, None))
    ticks = [t for t in LOG_TICKS if left.get_ylim()[0] <= t <= left.get_ylim()[1]]
    if len(ticks) > 1:
        left.set_yticks(ticks)
        left.minorticks_off()
    left.yaxis.set_major_formatter("{x:g}")
    left.legend(frameon=False)
    floor = math.floor(min(right.get_ylim()[0], 99))
    right.set(title="Accuracy", xlabel="epoch", ylabel=f"% right (axis starts at {floor})", ylim=(floor, 100))
    for ax in (left, right):
        ax.set_xticks(epochs if len(epochs) <= 15 else np.unique(np.linspace(1, len(epochs), 10).astype(int)))
        ax.grid(axis="y", color=GREY, alpha=0.4, linewidth=0.6)
    fig.savefig(path)


def draw_mistakes(images: Array, labels: Array, chances: Array, path: Path) -> None:
    """The first ten wrong predictions: each image beside the probabilities of its classes."""
    guesses = chances.argmax(axis=1)
    wrong = np.flatnonzero(guesses != labels)
    which = f"the first {min(10, len(wrong))} of {len(wrong):,}" if len(wrong) else "none"
    fig = figure(15, 4.6, layout=None)  # 20 axes of known sizes need no layout engine
    fig.text(0.01, 0.94, f"Mistakes on {len(labels):,} test images: {which}", fontsize=14)
    fig.text(0.01, 0.89, "■ what the network says", color=ORANGE)
    fig.text(0.14, 0.89, "■ what it is", color=GREEN)
    place = {"left": 0.01, "right": 0.985, "bottom": 0.06, "top": 0.79, "wspace": 0.22, "hspace": 0.35}
    axes = fig.subplots(2, 10, gridspec_kw=place).reshape(10, 2)
    for ax in axes.flat:
        ax.set_visible(False)
    for (picture, bars), i in zip(axes, wrong, strict=False):
        picture.imshow(images[i], cmap="gray_r", vmin=0, vmax=255, interpolation="nearest")
        picture.set(visible=True, title=f"image {i}", xticks=[], yticks=[])
        picture.spines[:].set(visible=True, color=GREY)
        percents = 100 * chances[i]
        colors = {int(guesses[i]): ORANGE, int(labels[i]): GREEN}
        bars.barh(range(len(percents)), percents, color=[colors.get(c, GREY) for c in range(len(percents))])
        for c in colors:
            inside = percents[c] > 60
            end = {"x": percents[c] + (-3 if inside else 3), "y": c, "ha": "right" if inside else "left"}
            number = f"{percents[c]:.0f} %" if percents[c] >= 1 else "< 1 %"
            bars.text(**end, s=number, va="center_baseline", fontsize=7.5, color="white" if inside else INK)
        bars.set(
            visible=True, box_aspect=1, xlim=(0, 100), xticks=[0, 50, 100], title=f"says {guesses[i]}, is {labels[i]}"
        )
        bars.invert_yaxis()
        bars.tick_params(labelsize=8)
        if len(percents) <= 12:
            bars.set_yticks(range(len(percents)))
    fig.savefig(path)


def draw_confusion(labels: Array, guesses: Array, classes: int, path: Path) -> None:
    """How many images of each class were taken for each other class; those taken rightly are left white."""
    table = np.zeros((classes, classes), int)
    np.add.at(table, (labels, guesses), 1)
    wrong = np.where(np.eye(classes, dtype=bool), 0, table)
    size = 3 + 0.4 * min(classes, 30)
    fig = figure(size, size)
    ax = fig.add_subplot()
    ax.imshow(wrong, cmap=AMOUNT, vmin=0, vmax=max(1, wrong.max()))
    if classes <= 20:
        for (is_, says), count in np.ndenumerate(table):
            dark = wrong[is_, says] > 0.6 * wrong.max()
            ink = GREY if is_ == says else "white" if dark else INK
            ax.text(says, is_, count or "", ha="center", va="center", fontsize=8, color=ink)
        ax.set(xticks=range(classes), yticks=range(classes))
    ax.set(title=f"{wrong.sum():,} mistakes on {len(labels):,} test images", xlabel="the network says", ylabel="it is")
    fig.savefig(path)


def draw_attack(images: Array, fooled: Array, says: list[Array], epsilon: float, path: Path) -> None:
    """Images, and what they become when each pixel moves a little to where the loss grows."""
    fig = figure(1.4 * len(images) + 1, 3.6)
    axes = fig.subplots(2, len(images), squeeze=False)
    for row, pictures, answers in zip(axes, (images / 255, fooled), says, strict=True):
        for ax, picture, answer in zip(row, pictures, answers, strict=True):
            ax.imshow(picture, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
            ax.set(title=f"says {answer}", xticks=[], yticks=[])
            ax.spines[:].set(visible=True, color=GREY)
    fig.suptitle(f"Test images, and below each pixel moved by {epsilon} to where the loss grows", x=0.01, ha="left")
    fig.savefig(path)


def draw_favourites(liked: list[tuple[Array, Array]], images: Array, path: Path) -> None:
    """For each unit, an image made for it, and the test images that it answers to most."""
    columns = 1 + max(len(places) for _, places in liked)
    fig = figure(columns + 0.6, len(liked) + 0.7)
    axes = fig.subplots(len(liked), columns, squeeze=False)
    for row, (made, places) in zip(axes, liked, strict=True):
        for ax, picture in zip(row, (255 * made.reshape(images[0].shape), *images[places]), strict=False):
            ax.imshow(picture, cmap="gray_r", vmin=0, vmax=255, interpolation="nearest")
            ax.spines[:].set(visible=True, color=ORANGE if ax is row[0] else GREY)
        for ax in row:
            ax.set(xticks=[], yticks=[])
    fig.suptitle(
        "What hidden units like: an image made by gradients, and the test images most like it", x=0.01, ha="left"
    )
    fig.savefig(path)


# ---------------------------------------------------------------------------------------------------------------------
# In the terminal
# ---------------------------------------------------------------------------------------------------------------------

SHADES = " ░▒▓█"
FRAME = "┌─┐│└┘"


def in_characters(image: Array) -> list[str]:
    """A framed picture of text: a character stands for two pixels, as it is twice as high as it is wide."""
    shades, frame = (SHADES, FRAME) if can_print(SHADES + FRAME) else (" .+#@", "+-+|++")
    step = -(-image.shape[1] // 56)
    image = np.pad(image, ((0, -len(image) % (2 * step)), (0, 0)))[::step, ::step].astype(int)
    ink = (image[0::2] + image[1::2]) / (2 * 255)
    lines = ["".join(shades[math.ceil(v * (len(shades) - 1))] for v in row) for row in ink]
    edge = frame[1] * ink.shape[1]
    return [frame[0] + edge + frame[2], *(frame[3] + line + frame[3] for line in lines), frame[4] + edge + frame[5]]


def bar_in_characters(fraction: float) -> str:
    """A bar of up to 30 characters."""
    return (SHADES[-1] if can_print(SHADES) else "#") * round(30 * fraction)


def can_print(text: str) -> bool:
    """Whether the terminal knows these characters."""
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeError:
        return False
    return True
