"""A map of the handwritten digits: each image is squeezed into two numbers and made again from them.

    python examples/autoencoder.py

The encoder turns 784 pixels into two numbers, the decoder turns these into 784 pixels. The loss compares the image that
comes out with the one that went in, so no label is needed: to lose little, the network has to put images that are alike
next to each other. The two numbers are a place on a map. `map.png` shows where the test images lie, coloured by the
digit that they are (which the network never saw), and what the decoder makes of every place.
"""

from __future__ import annotations

from pathlib import Path

import command_line
import numpy as np
from command_line import COUNT, SEED
from course.style import INK, figure

import tinygrad_mm as tg

MNIST = Path(__file__).parent / "data" / "mnist"


class Autoencoder(tg.Module):
    """An encoder to two numbers, and a decoder back."""

    def __init__(self, pixels, rng):
        dense = tg.nn.Dense
        self.encoder = tg.nn.Sequential(
            dense(pixels, 256, "tanh", rng=rng), dense(256, 64, "tanh", rng=rng), dense(64, 2, rng=rng)
        )
        self.decoder = tg.nn.Sequential(
            dense(2, 64, "tanh", rng=rng), dense(64, 256, "tanh", rng=rng), dense(256, pixels, rng=rng)
        )

    def forward(self, images):
        """The logits of the pixels."""
        return self.decoder(self.encoder(images))


def draw(model, images, labels, height, width, path):
    """Where images lie, and what the decoder makes of a grid of places."""
    with tg.no_grad():
        places = model.encoder(images).data
        low, high = np.quantile(places, [0.02, 0.98], axis=0)
        xs, ys = np.linspace(low[0], high[0], 16), np.linspace(high[1], low[1], 16)
        corners = np.array([(x, y) for y in ys for x in xs], np.float32)
        made = tg.sigmoid(model.decoder(corners)).data.reshape(16, 16, height, width)
    fig = figure(11, 5.4)
    left, right = fig.subplots(1, 2)
    dots = left.scatter(*places.T, c=labels, cmap="tab10", vmin=-0.5, vmax=9.5, s=3)
    left.set(title="where the test images lie", xlim=(low[0], high[0]), ylim=(low[1], high[1]), xticks=[], yticks=[])
    fig.colorbar(dots, ax=left, ticks=range(10), fraction=0.04).outline.set_edgecolor(INK)
    right.imshow(made.transpose(0, 2, 1, 3).reshape(16 * height, 16 * width), cmap="gray_r", vmin=0, vmax=1)
    right.set(title="what the decoder makes of each place", xticks=[], yticks=[])
    fig.savefig(path)


def main(arguments=None):
    parser = command_line.parser("Learn a map of images of digits, without their labels.")
    add = parser.add_argument
    add("--epochs", type=COUNT, default=10, metavar="N", help="how often to go through the images")
    add("--images", type=COUNT, default=60_000, metavar="N", help="how many training images to use")
    add("--seed", type=SEED, default=0, metavar="N", help="of the starting weights and the shuffling")
    add("--data", type=Path, default=MNIST, metavar="DIR", help="folder with four IDX files, plain or .gz")
    add("--out", type=Path, default=Path("autoencoder-out"), metavar="DIR", help="folder for the picture")
    options = parser.parse_args(arguments)

    (images, _), (test_images, test_labels) = tg.data.read_idx_folder(options.data)
    height, width = images.shape[1:]
    x, x_test = (i.reshape(len(i), -1) / np.float32(255) for i in (images[: options.images], test_images))
    rng = np.random.default_rng(options.seed)
    model = Autoencoder(height * width, rng)
    step = tg.compile_step(model, tg.binary_cross_entropy_with_logits, tg.optim.Adam(model.parameters(), 1e-3))
    for epoch in range(1, options.epochs + 1):
        losses = [step(batch, batch) for batch in tg.data.DataLoader(x, 128, shuffle=True, rng=rng)]
        print(f"epoch {epoch}: loss {np.mean(losses):.4f}", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    draw(model, x_test, test_labels, height, width, options.out / "map.png")
    print(f"written: {options.out / 'map.png'}")

    with tg.no_grad():
        places = model.encoder(x_test[:2000]).data
    distances = np.linalg.norm(places[:, None] - places[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    alike = np.mean(test_labels[distances.argmin(axis=1)] == test_labels[: len(places)])
    print(f"the nearest neighbour on the map is the same digit for {100 * alike:.1f} % of test images")


if __name__ == "__main__":
    command_line.run(main)
