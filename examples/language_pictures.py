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
        if any(map(has, vocabulary.tokens)):
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
    return draw_product(hidden, model.output, vocabulary.tokens, list(sentence), [*sentence[1:], ""], path)


def draw_product(hidden, output, known, rows, following, path, marked="the right one"):
    """x, W and softmax(x @ W + b) side by side; orange marks the one of each row that follows."""
    with tg.no_grad():
        chances = tg.softmax(output(tg.Tensor(hidden))).data
    weight = output.weight.data
    often = np.sort(np.argsort(-chances.max(axis=0), kind="stable")[:30])
    some = np.argsort(-np.abs(hidden).std(axis=0), kind="stable")[:40]  # features that differ most between positions
    tokens = [known[i] for i in often]
    fig = figure(13, 0.2 * len(rows) + 1.8)
    axes = fig.subplots(1, 3, width_ratios=[4, 3, 3])
    shown = f"{len(some)} of them" if len(some) < hidden.shape[1] else "all of them"
    part = f"{len(some)} by {len(often)} of it" if weight.shape != (len(some), len(often)) else "all of it"
    for ax, values, title in (
        (axes[0], hidden[:, some], f"x: {hidden.shape[1]} numbers for each row ({shown})"),
        (axes[1], weight[np.ix_(some, often)], f"W: {weight.shape[0]} by {weight.shape[1]} ({part})"),
    ):
        limit = np.quantile(np.abs(values), 0.99)
        ax.imshow(values, cmap=SIGNED, vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
        ax.set(title=title, xticks=[], yticks=[])
    axes[0].set_yticks(range(len(rows)), [label(row) for row in rows], fontsize=8)
    upright = 90 if max(map(len, tokens)) > 1 else 0
    axes[1].set_xticks(range(len(tokens)), [label(token) for token in tokens], fontsize=8, rotation=upright)
    heat_map(axes[2], chances[:, often], rows, tokens, "softmax(x @ W + b)")
    for i, token in enumerate(following):
        if token in tokens:
            axes[2].plot(tokens.index(token), i, "s", color=ORANGE, markersize=5, fillstyle="none")
    axes[2].set_xlabel(f"orange: {marked}", fontsize=8)
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


def draw_alignment(rows, columns, looks, title, path):
    """Where the decoder looked for each word of a translation."""
    fig = figure(max(4.0, 0.28 * len(columns) + 1.8), max(2.6, 0.24 * len(rows) + 1.4))
    heat_map(fig.subplots(), looks, rows, columns, title if len(title) < 50 else "")
    fig.savefig(path)
    return path


def draw_translation_product(model, vocabulary, source, target, path):
    """The last product of a translation: the decoder's vectors times a column for each word."""
    with tg.no_grad():
        kept, model.output = model.output, tg.nn.Identity()
        try:
            hidden = model(source, target).data[0]
        finally:
            model.output = kept
    names = [*(vocabulary.tokens[code] for code in target[0, 1:]), "<stop>"]
    return draw_product(hidden, model.output, vocabulary.tokens, names, names, path, "the one that was written")


def draw_confusion(truth, found, names, path):
    """Of the texts in each language, how many are taken for which, in percent."""
    counts = np.zeros((len(names), len(names)))
    np.add.at(counts, (truth, found), 1)
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    fig = figure(8, 7)
    ax = fig.subplots()
    heat_map(ax, shares / 100, names, names, "in the rows: the language; in the columns: what it is taken for, in %")
    for (i, j), share in np.ndenumerate(shares):
        if share >= 0.5:
            ax.text(j, i, f"{share:.0f}", ha="center", va="center", fontsize=7, color="white" if share > 60 else INK)
    fig.savefig(path)
    return path


def draw_deciding(rows, path):
    """Texts, each character on a ground that says how much it speaks for the language: (title, text, numbers) each."""
    longest = max(len(written) for _, written, _ in rows)
    fig = figure(0.115 * longest + 2.2, 0.42 * len(rows) + 0.5)
    ax = fig.subplots()
    values = np.full((len(rows), longest), np.nan)
    for i, (_, written, speaks) in enumerate(rows):
        values[i, : len(written)] = speaks
    limit = np.nanquantile(np.abs(values), 0.99) * 1.5
    for i, (_, written, speaks) in enumerate(rows):
        for j, (character, number) in enumerate(zip(written, speaks, strict=True)):
            colour = "white" if abs(number) > 0.6 * limit else INK
            ax.text(j, i, character, ha="center", va="center", fontsize=9, family="monospace", color=colour)
    ax.imshow(values, cmap=SIGNED, vmin=-limit, vmax=limit, aspect="auto")
    ax.set(xticks=[], title="red: speaks for the language, blue: against it")
    ax.set_yticks(range(len(rows)), [title for title, _, _ in rows], fontsize=9)
    ax.tick_params(length=0)
    fig.savefig(path)
    return path
