"""What language.py, translate.py and classify_text.py draw."""

from __future__ import annotations

import numpy as np
from course.style import AMOUNT, BLUE, COLOURS, GREEN, GREY, INK, ORANGE, PINK, SIGNED, figure

import tinygrad_mm as tg

SHOWN = {"\n": "⏎", " ": "␣", "\t": "⇥"}


def label(token):
    """A token as it can be seen."""
    return "".join(SHOWN.get(c, c) for c in token)


class Watched(tg.Module):
    """An attention that keeps where it looked: put in its place, for the length of one call."""

    def __init__(self, attention):
        self.attention, self.weights = attention, None

    def forward(self, *inputs, **options):
        y, self.weights = self.attention(*inputs, return_weights=True, **options)
        return y


def attention_weights(layers, name, call):
    """Where the attention `name` of each layer looks in a call: (heads, queries, keys) each, of the first example."""
    watched = [Watched(getattr(layer, name)) for layer in layers]
    try:
        for layer, one in zip(layers, watched, strict=True):
            setattr(layer, name, one)
        with tg.no_grad():
            call()
    finally:
        for layer, one in zip(layers, watched, strict=True):
            setattr(layer, name, one.attention)
    return [one.weights.data[0] for one in watched]


def heat_map(ax, weights, rows, columns, title=""):
    """Where each row looks, among the columns: white for nowhere, dark for there only."""
    ax.imshow(weights, cmap=AMOUNT, vmin=0, vmax=1, aspect="auto")
    ax.set(title=title, xticks=range(len(columns)), yticks=range(len(rows)))
    upright = max(map(len, columns)) > 1
    ax.set_xticklabels([label(t) for t in columns], rotation=90 if upright else 0, fontsize=8)
    ax.set_yticklabels([label(t) for t in rows], fontsize=8)
    ax.tick_params(length=0)
    ax.spines[:].set(visible=True, color=GREY)


def plane(weights):
    """Vectors as points of the plane in which they differ most (Pearson 1901), and its share of their variance."""
    centred = weights - weights.mean(axis=0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    return u[:, :2] * s[:2], (s[:2] ** 2).sum() / (s**2).sum()


def draw_embedding(model, vocabulary, path):
    """The vectors of all characters, as points."""
    points, share = plane(model.embedding.weight.data)
    fig = figure(6.5, 6)
    ax = fig.subplots()
    kinds = {
        "vowels": (BLUE, lambda c: c in "aeiou"),
        "consonants": (ORANGE, lambda c: c.islower() and c not in "aeiou"),
        "capitals": (GREEN, str.isupper),
        "figures": (PINK, str.isdigit),
        "marks": (INK, lambda c: not c.isalnum()),
    }
    ax.plot(*points.T, ".", color="none")
    for kind, (colour, has) in kinds.items():
        ax.plot([], [], "o", color=colour, label=kind)
        for token, (x, y) in zip(vocabulary.tokens, points, strict=True):
            if has(token):
                ax.text(x, y, label(token), color=colour, ha="center", va="center", fontsize=11)
    ax.set(xticks=[], yticks=[], title=f"The embedding, {share:.0%} of its variance")
    ax.legend(fontsize=8, loc="best", handletextpad=0.2)
    fig.savefig(path)
    return path


def draw_last_product(model, vocabulary, sentence, path):
    """What the last matrix multiplies: a vector for each position, times a column for each character."""
    with tg.no_grad():
        hidden = model.hidden_states(vocabulary.encode(sentence)[None]).data[0]
        chances = tg.softmax(model.output(tg.Tensor(hidden))).data
    often = np.sort(np.argsort(-chances.max(axis=0), kind="stable")[:30])
    weight = model.output.weight.data
    some = np.argsort(-np.abs(hidden).std(axis=0), kind="stable")[:40]  # features that differ most between positions
    fig = figure(13, 0.2 * len(sentence) + 1.6)
    axes = fig.subplots(1, 3, width_ratios=[4, 3, 3])
    tokens = [vocabulary.tokens[i] for i in often]
    for ax, values, title in (
        (axes[0], hidden[:, some], f"x: {hidden.shape[1]} numbers for each position (40 of them)"),
        (axes[1], weight[np.ix_(some, often)], f"W: {weight.shape[0]} by {weight.shape[1]}"),
    ):
        limit = np.quantile(np.abs(values), 0.99)
        ax.imshow(values, cmap=SIGNED, vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
        ax.set(title=title, xticks=[], yticks=[])
    axes[0].set_yticks(range(len(sentence)), [label(c) for c in sentence], fontsize=8)
    axes[1].set_xticks(range(len(tokens)), [label(c) for c in tokens], fontsize=8)
    heat_map(axes[2], chances[:, often], sentence, tokens, "softmax(x @ W + b): the next character")
    for i, following in enumerate(sentence[1:]):
        if following in tokens:
            axes[2].plot(tokens.index(following), i, "s", color=ORANGE, markersize=5, fillstyle="none")
    axes[2].set_xlabel("orange: the one that follows", fontsize=8)
    fig.savefig(path)
    return path


def draw_attention(model, vocabulary, sentence, path):
    """Where the heads of the first and the last layer look."""
    codes = vocabulary.encode(sentence)[None]
    found = attention_weights(model.layers.layers, "self_attention", lambda: model(codes))
    heads = found[0].shape[0]
    fig = figure(3.2 * heads, 6.6)
    axes = np.atleast_2d(fig.subplots(2, heads))
    for row, layer in zip(axes, (0, len(found) - 1), strict=True):
        for head, ax in enumerate(row):
            heat_map(ax, found[layer][head], sentence, sentence, f"layer {layer + 1}, head {head + 1}")
    fig.savefig(path)
    return path


def draw_comparison(results, path):
    """Validation losses as the models learn, and the counted one as a line."""
    fig = figure(7, 4)
    ax = fig.subplots()
    colours = iter(COLOURS)
    for result in results:
        losses = result["history"].get("validation_loss", [])
        name = f"{result['model']}: {result['test']:.3f}"
        if losses:
            seconds = result["seconds"] * np.arange(1, len(losses) + 1) / len(losses)
            ax.plot(seconds, losses, "o-", markersize=3, color=next(colours), label=name)
        elif result["model"] == "bigram":
            ax.axhline(result["validation"], color=GREY, label=name)
    ax.set(xlabel="seconds", ylabel="nats a character, held back", title="Six models of the next character")
    ax.legend(title="on the test text", fontsize=8)
    fig.savefig(path)
    return path
