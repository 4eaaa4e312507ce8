"""Learn to write like Jane Austen, one character after another, by six models from 1900 to 2017.

    python examples/language.py                     # a transformer
    python examples/language.py --model all         # all six, and how they compare
    python examples/language.py --resume --prompt "It is a truth"

A language model says how probable each character is as the next one, given those before. All models here do the same
at their end: what they found out about the text so far, a vector, is multiplied by a matrix, which gives one number
for each character; softmax makes probabilities of them. They differ in how they look at the text:

- `bigram` looks at the last character only, and is nothing but counted pairs (Markov 1913);
- `matrix` does the same with a matrix of weights that is learned by gradients: the same numbers come out;
- `mlp` puts vectors of the last 16 characters side by side, and multiplies (Bengio et al. 2003);
- `gru` and `lstm` carry a state along, which each character changes (Cho et al. 2014; Hochreiter, Schmidhuber 1997);
- `transformer` lets each position look back at all others (Vaswani et al. 2017).

They learn from the novels but for every third chapter of "Pride and Prejudice": one half of these is looked at while
training, the other one, "test", at the end, once. The number is the mean of -log(probability of the right character),
in nats. Other texts: `--data FILE` holds the last tenth back; with `--lines` each line stands for itself, a tenth of
them is held back twice.
"""

from __future__ import annotations

import argparse
import functools
import json
import random
import resource
import time
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import command_line
import language_data
import numpy as np
from command_line import AMOUNT, COUNT, RATE, SEED
from language_pictures import draw_attention, draw_comparison, draw_embedding, draw_last_product

import tinygrad_mm as tg
from tinygrad_mm import text

IGNORED = -1  # the target of what is no character: the filling behind a line
LENGTH = 64  # characters in a piece of text

# ---------------------------------------------------------------------------------------------------------------------
# Six models: characters by number (N, positions) -> logits of the next one (N, positions, characters)
# ---------------------------------------------------------------------------------------------------------------------


class Bigram(tg.Module):
    """A row of the matrix for each character: `one_hot(codes) @ weight` is `weight[codes]`."""

    cache = context = None

    def __init__(self, characters, rng):
        self.embedding = tg.nn.Embedding(characters, characters, rng=rng)

    def forward(self, codes):
        return self.embedding(codes)


class Window(tg.Module):
    """The vectors of the last characters side by side, through two matrices."""

    cache = context = None  # it takes what it looks at from a text of any length

    def __init__(self, characters, rng, window=16, features=32, hidden=512):
        self.window = window
        self.embedding = tg.nn.Embedding(characters, features, rng=rng)
        self.embedding.weight.value *= 0.1  # so that what is learned shows in the picture, not where it began
        self.hidden = tg.nn.Dense(window * features, hidden, "relu", rng=rng)
        self.output = tg.nn.Linear(hidden, characters, rng=rng)

    def hidden_states(self, codes):
        x = np.pad(self.embedding(codes), ((0, 0), (self.window - 1, 0), (0, 0)))  # nothing stands before the text
        last = [x[:, i : i + codes.shape[1]] for i in range(self.window)]
        return self.hidden(np.concatenate(last, axis=-1))

    def forward(self, codes):
        return self.output(self.hidden_states(codes))


class Recurrent(tg.Module):
    """A state that each character changes: the layer before the last matrix is the state."""

    context = None  # it remembers without end

    def __init__(self, characters, rng, layer=tg.nn.GRU, features=64, hidden=256, scale=0.1):
        self.embedding = tg.nn.Embedding(characters, features, rng=rng)
        self.embedding.weight.value *= scale
        self.recurrent = layer(features, hidden, rng=rng)
        self.output = tg.nn.Linear(hidden, characters, rng=rng)

    cache = text.RecurrentCache

    def hidden_states(self, codes, cache=None):
        states, last = self.recurrent(self.embedding(codes), None if cache is None else cache.state)
        if cache is not None:
            cache.state = last
        return states

    def forward(self, codes, cache=None):
        return self.output(self.hidden_states(codes, cache))


class Transformer(tg.Module):
    """Each position looks back at those before it, in four layers of four heads."""

    context = LENGTH

    def __init__(self, characters, rng, layers=4, features=128, heads=4):
        self.embedding = tg.nn.Embedding(characters, features, rng=rng)
        self.embedding.weight.value *= 0.02  # as small as the positions that are added to it
        self.positions = tg.nn.LearnedPositions(LENGTH, features, rng=rng)
        self.layers = tg.nn.TransformerEncoder(layers, features, heads, dropout=0.0, norm_first=True, rng=rng)
        self.output = tg.nn.Linear(features, characters, rng=rng)

    def cache(self):
        return [tg.nn.KeyValueCache() for _ in self.layers.layers]

    def hidden_states(self, codes, cache=None):
        x = self.positions(self.embedding(codes), start=len(cache[0]) if cache else 0)
        return self.layers(x, causal=True, caches=cache)

    def forward(self, codes, cache=None):
        return self.output(self.hidden_states(codes, cache))


class Recipe(NamedTuple):
    """How a model is made and trained."""

    make: Any
    steps: int
    batch_size: int
    learning_rate: float


RECIPES = {  # those with steps of pieces see as many characters, 4,096,000, so that the models are compared
    "bigram": Recipe(Bigram, 0, 0, 0.0),
    "matrix": Recipe(Bigram, 1500, 0, 0.5),
    "mlp": Recipe(Window, 2000, 32, 2e-3),
    "gru": Recipe(functools.partial(Recurrent, layer=tg.nn.GRU), 2000, 32, 4e-3),
    # Four gates and two tanh pass small vectors on weakly: an LSTM learns late from them, and at a small rate.
    "lstm": Recipe(functools.partial(Recurrent, layer=tg.nn.LSTM, scale=1.0), 2000, 32, 1e-2),
    "transformer": Recipe(Transformer, 4000, 16, 2e-3),
}
NAMES = {"bigram": "bigram, counted", "matrix": "bigram, learned", "mlp": "MLP", "gru": "GRU", "lstm": "LSTM"}

# ---------------------------------------------------------------------------------------------------------------------
# Texts
# ---------------------------------------------------------------------------------------------------------------------


class Texts(NamedTuple):
    """Three texts, or with `lines` three lists of them."""

    training: Any
    validation: Any
    test: Any
    lines: bool


def austen():
    """All novels but for every third chapter of one."""
    found = language_data.novels()
    chapters = language_data.chapters(found.pop("Pride and Prejudice"))
    training = [*found.values(), *(chapter for i, chapter in enumerate(chapters) if i % 3 < 2)]
    return Texts("\n".join(training), "\n".join(chapters[2::6]), "\n".join(chapters[5::6]), False)


def read(path, lines):
    """Any text; the last tenth is both validation and test. Lines are shuffled, and a tenth is for each of the two."""
    try:
        found = Path(path).read_text("utf-8")
    except (OSError, UnicodeError) as error:
        raise SystemExit(f"language.py: {path} cannot be read as text: {error}") from error
    if lines:
        found = found.split("\n")
        found = [line for line in found if line]
        random.Random(42).shuffle(found)
        a, b = int(0.8 * len(found)), int(0.9 * len(found))
        parts = found[:a], found[a:b], found[b:]
    else:
        a = int(0.9 * len(found))
        parts = found[:a], found[a:], found[a:]
    return Texts(*parts, lines)


def examples(part, vocabulary, lines):
    """Inputs and targets: a text in pieces, or each line between line feeds, filled up."""
    if not lines:
        return text.windows(vocabulary.encode(part), LENGTH)
    rows = [vocabulary.encode(f"\n{line}\n") for line in part]
    return text.pad_sequences([r[:-1] for r in rows]), text.pad_sequences([r[1:] for r in rows], padding=IGNORED)


def loss(logits, targets, reduction="mean"):
    return tg.cross_entropy(logits, targets, ignore_index=IGNORED, reduction=reduction)


def nats(model, data, batch_size=256):
    """The mean loss over all characters, each counted once."""
    total = 0.0
    with tg.no_grad():
        for x, y in tg.data.DataLoader(data, batch_size):
            total += loss(model(x), y, "sum").item()
    return total / np.count_nonzero(data[1] != IGNORED)


# ---------------------------------------------------------------------------------------------------------------------
# Learning
# ---------------------------------------------------------------------------------------------------------------------


def pairs(data, characters):
    """How often each character follows each other one; once more than that, so that nothing is impossible."""
    x, y = data
    counts = np.ones((characters, characters))
    np.add.at(counts, (x[y != IGNORED], y[y != IGNORED]), 1)
    return counts


def learn(name, model, data, vocabulary, options, rng):
    """Train a model by its recipe; returns the seconds that took, and the history."""
    recipe, folder = RECIPES[name], options.out / name
    start = time.perf_counter()
    counts = pairs(data[0], len(vocabulary)) if name in ("bigram", "matrix") else None
    if name == "bigram":
        model.embedding.weight.value[...] = np.log(counts / counts.sum(axis=1, keepdims=True))
        return time.perf_counter() - start, {}
    steps = options.steps or recipe.steps
    batch_size = options.batch_size or recipe.batch_size
    rate = options.learning_rate or recipe.learning_rate
    settings: dict[str, Any] = {"checkpoint": folder, "resume": options.resume, "backend": options.backend, "rng": rng}
    if name == "matrix":
        # The loss of all characters of the text, those with the same character before taken together: their mean is
        # the cross entropy with the shares in which the next ones occur.
        shares = (counts / counts.sum(axis=1, keepdims=True)).astype(np.float32)
        rows = np.arange(len(counts)), shares
        weights = (counts.sum(axis=1) / counts.sum() * len(counts)).astype(np.float32)
        optimizer = tg.optim.Adam(model.parameters(), tg.optim.schedules.cosine(rate, steps))
        settings |= {"sample_weight": weights, "batch_size": len(counts), "progress": False, "callbacks": [vocabulary]}
        settings |= {"every_steps": steps}
        history = tg.fit(model, rows, tg.cross_entropy, optimizer, steps, **settings)
        return time.perf_counter() - start, history

    schedule = tg.optim.schedules.warm_up(
        max(1, min(200, steps // 10)), then=tg.optim.schedules.cosine(rate, steps, rate / 20)
    )
    optimizer = tg.optim.AdamW(model.parameters(), schedule, betas=(0.9, 0.99), weight_decay=0.1)
    epochs = min(10, steps)
    if options.lines:
        epochs = max(1, round(steps * batch_size / len(data[0][0])))
        batches = tg.data.DataLoader(data[0], batch_size, shuffle=True, rng=rng, drop_last=True)
    else:
        batches = text.RandomWindows(options.codes, LENGTH, batch_size, steps // epochs, rng)
    few = tuple(part[:256] for part in data[1])  # of the validation text: its beginning, so that training goes on
    sampler = Sampler(vocabulary, options)
    settings |= {"validation": few, "callbacks": [vocabulary, sampler], "clip_norm": 1.0}
    history = tg.fit(model, batches, loss, optimizer, epochs, **settings)
    return sampler.state_dict()["seconds"], history


class Sampler:
    """Lets the model write a little after each epoch; knows how long it has learned, before a resume too."""

    def __init__(self, vocabulary, options):
        self.vocabulary, self.options = vocabulary, options
        self.start = time.perf_counter()

    def state_dict(self):
        return {"seconds": time.perf_counter() - self.start}

    def load_state_dict(self, state):
        self.start = time.perf_counter() - state["seconds"]

    def on_epoch(self, run):
        if run.epoch % max(1, run.epochs // 5) == 0:
            print(f"    {written(run.model, self.vocabulary, chr(10), 100, self.options)!r}", flush=True)


def written(model, vocabulary, prompt, length, options):
    """What a model writes behind a prompt; ten lines of their own with `--lines`."""
    how = {"cache": model.cache, "context": model.context, "beams": options.beams}
    if options.temperature:
        how |= {"temperature": options.temperature, "rng": options.seed}
        how |= {"top_k": min(options.top_k, len(vocabulary))} if options.top_k else {}
    if not options.lines:
        return text.generate(model, prompt, length, vocabulary=vocabulary, **how).removeprefix("\n")
    start = vocabulary.encode("\n" + prompt.removeprefix("\n"))
    rows = text.generate(model, np.tile(start, (10, 1)), min(length, 30), stop=start[0], **how)
    return ", ".join(vocabulary.decode(row).strip("\n") for row in rows)


# ---------------------------------------------------------------------------------------------------------------------
# The command
# ---------------------------------------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    texts = austen() if options.data is None else read(options.data, options.lines)
    if options.characters:
        texts = texts._replace(training=texts.training[: options.characters], test=texts.test[: options.characters])
    sizes, least = [len(part) for part in texts[:3]], 1 if texts.lines else LENGTH + 1
    if min(sizes) < least:
        what = "lines" if texts.lines else "characters"
        raise SystemExit(
            f"language.py: {sizes[0]:,} {what} to learn from and {sizes[2]:,} to test on are too few, not {least}"
        )
    # Which characters there are is no secret: rare ones occur in one of the parts only.
    vocabulary = text.Vocabulary.of(["\n", *map("".join, texts[:3])])
    if options.prompt is not None:
        check_prompt(options, vocabulary)
    data = [examples(part, vocabulary, texts.lines) for part in texts[:3]]
    options.fingerprint = zlib.crc32("".join(texts.test).encode())  # results of another text are not compared
    options.codes = None if texts.lines else vocabulary.encode(texts.training)
    sizes = [np.count_nonzero(y != IGNORED) for _, y in data]
    print(
        "{:,} characters to learn from, {:,} and {:,} held back".format(*sizes),
        f"{len(vocabulary)} different",
        sep="; ",
    )

    for name in list(RECIPES) if options.model == "all" else [options.model]:
        run(name, data, vocabulary, options)
    found = [json.loads(path.read_text()) for name in RECIPES if (path := options.out / f"{name}.json").exists()]
    results = [result for result in found if result.get("text") == options.fingerprint]
    print(f"\n{table(results)}")
    if len(results) > 1:
        print(f"written: {draw_comparison(results, options.out / 'comparison.png')}")
    print(f"most memory at a time: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MB")


def run(name, data, vocabulary, options):
    """Train one model, test it, let it write, and draw what it has learned."""
    rng = np.random.default_rng(options.seed)
    model = RECIPES[name].make(len(vocabulary), rng)
    parameters = sum(p.size for p in model.parameters())
    print(f"\n{NAMES.get(name, name)}: {parameters:,} parameters", flush=True)
    seconds, history = learn(name, model, data, vocabulary, options, rng)
    if getattr(history, "stopped", None) == "Ctrl-C":
        raise SystemExit("stopped; the same command with --resume goes on")
    result = {
        "model": name,
        "text": options.fingerprint,
        "parameters": parameters,
        "training": nats(model, tuple(part[:4000] for part in data[0])),
        "validation": nats(model, data[1]),
        "test": nats(model, data[2]),
        "seconds": seconds,
        "history": {key: list(values) for key, values in dict(history).items()} if name != "matrix" else {},
    }
    (options.out / f"{name}.json").write_text(json.dumps(result))
    print(
        f"test loss {result['test']:.4f} nats a character, {text.bits_per_character(result['test']):.3f} bits; "
        f"trained in {seconds:.0f} s"
    )
    print(written(model, vocabulary, "\n" if options.prompt is None else options.prompt, options.length, options))
    pictures = [draw_embedding(model, vocabulary, options.out / f"{name}-embedding.png")]
    if hasattr(model, "hidden_states"):
        sentence = options.prompt or ("\nemma\n" if options.lines else "It is a truth universally")
        sentence = "".join(c for c in sentence if c in vocabulary.codes)[:LENGTH] or "\n"
        pictures.append(draw_last_product(model, vocabulary, sentence, options.out / f"{name}-last-product.png"))
        if name == "transformer":
            pictures.append(draw_attention(model, vocabulary, sentence, options.out / "transformer-attention.png"))
    print("written:", *pictures, sep="\n  ")


def check_prompt(options, vocabulary):
    """Say now, not after the training, what is wrong with the text to go on from."""
    try:
        codes = vocabulary.encode(options.prompt)
    except ValueError as error:
        raise SystemExit(f"language.py: {error}") from error
    if not len(codes):
        raise SystemExit("language.py: --prompt is empty; give one character at least, or leave it out")
    if options.model in ("transformer", "all") and len(codes) > LENGTH:
        raise SystemExit(
            f"language.py: --prompt has {len(codes)} characters, the model looks at {LENGTH}; give the last ones"
        )


def table(results):
    """All models so far below each other."""
    rows = [
        f"{'model':<16} {'parameters':>10} {'training':>9} {'validation':>10} {'test':>7} {'bits':>6} {'seconds':>8}"
    ]
    for result in results:
        bits, name = text.bits_per_character(result["test"]), NAMES.get(result["model"], result["model"])
        numbers = f"{result['training']:9.4f} {result['validation']:10.4f} {result['test']:7.4f}"
        rows.append(f"{name:<16} {result['parameters']:>10,} {numbers} {bits:6.3f} {result['seconds']:8.0f}")
    return "\n".join(rows)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    title = "Train models of the next character, compare them, and let them write."
    parser = command_line.parser(title)
    add = parser.add_argument
    add("--model", choices=[*RECIPES, "all"], default="transformer", help="which one, or all")
    add("--data", type=Path, metavar="FILE", help="a text to learn instead of Jane Austen's novels, in UTF-8")
    add("--lines", action="store_true", help="each line of --data is a text of its own, a name, say")
    add("--characters", type=COUNT, metavar="N", help="learn from the first N characters (or lines) only")
    add("--steps", type=COUNT, metavar="N", help="of training (default: the model's recipe)")
    add("--batch-size", type=COUNT, metavar="N", help="pieces of text in a step (default: the recipe)")
    add("--learning-rate", type=RATE, metavar="RATE", help="at its peak (default: the recipe)")
    add("--backend", choices=["numpy", "numba"], default="numpy", help="of the compiled step")
    add("--prompt", metavar="TEXT", help="what the model goes on from when it is trained")
    add("--length", type=COUNT, default=400, metavar="N", help="how many characters it writes")
    add("--temperature", type=AMOUNT, default=0.8, metavar="T", help="0: the likeliest character, 1: as it has learned")
    add("--top-k", type=COUNT, metavar="K", help="draw from the K likeliest characters")
    add("--beams", type=COUNT, default=1, metavar="N", help="search the likeliest text (with --temperature 0)")
    add("--seed", type=SEED, default=0, metavar="N", help="of starting weights, pieces of text and what is drawn")
    add("--resume", action="store_true", help="go on where the last run of this model stopped, or use it if it is done")
    add("--out", type=Path, default=Path("language-out"), metavar="DIR", help="folder for checkpoints and pictures")
    options = parser.parse_args(arguments)
    if options.lines and options.data is None:
        parser.error("--lines is about the lines of --data FILE")
    if options.beams > 1 and options.temperature:
        parser.error("--beams searches for the likeliest text; add --temperature 0")
    return options


if __name__ == "__main__":
    command_line.run(main, "stopped; --resume goes on from the last checkpoint, if there is one")
