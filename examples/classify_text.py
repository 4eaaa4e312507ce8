"""Which of 16 languages is this? From 20 characters, without a dictionary.

    python examples/classify_text.py
    python examples/classify_text.py --text "Wo liegt der Bahnhof?"

The text is the Universal Declaration of Human Rights, from which each language has about 10,000 characters; every
fifth article is held out, and of its pieces those are tested on that occur nowhere in the others. Three models, each a
matrix product at its end:

- `bag` counts characters: a vector of counts times a matrix with a column for each language;
- `trigrams` counts runs of three characters, which are put into 20,011 places by arithmetic: the same product, wider;
- `convolution` makes vectors of characters, looks for 192 patterns of five of them, each a row of a matrix, and counts
  for each how well it is met at best: those numbers times a matrix are what the languages get.

What decides is read off the gradient: how much each character, as it is, adds to the language's number.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import command_line
import language_data
import numpy as np
from command_line import COUNT, SEED
from language_pictures import draw_confusion, draw_deciding, draw_product

import tinygrad_mm as tg
from tinygrad_mm import text

LENGTH = 20  # characters in a piece
PLACES = 20_011  # for runs of three characters; a prime number

# ---------------------------------------------------------------------------------------------------------------------
# Three models: characters by number (N, positions) -> a number for each language (N, languages)
# ---------------------------------------------------------------------------------------------------------------------


class Bag(tg.Module):
    """How often each character occurs, times a matrix: the sum of the matrix's rows for all characters."""

    def __init__(self, characters, languages, rng):
        self.rows = tg.nn.Embedding(characters, languages, rng=rng)
        self.rows.weight.value *= 0.01

    def forward(self, codes):
        return self.rows(codes).sum(axis=1)


class Trigrams(tg.Module):
    """The same with runs of three characters, by their places."""

    def __init__(self, characters, languages, rng):
        self.characters = characters
        self.rows = tg.nn.Embedding(PLACES, languages, rng=rng)
        self.rows.weight.value *= 0.01

    def forward(self, codes):
        places = (codes[:, :-2] * self.characters + codes[:, 1:-1]) * self.characters + codes[:, 2:]
        return self.rows(places % PLACES).sum(axis=1)


class Convolution(tg.Module):
    """Patterns of five characters, wherever they are."""

    def __init__(self, characters, languages, rng, features=24, patterns=192):
        self.embedding = tg.nn.Embedding(characters, features, rng=rng)
        self.patterns = tg.nn.Conv1d(features, patterns, 5, padding=2, rng=rng)
        self.dropout = tg.nn.Dropout(0.3, rng)
        self.output = tg.nn.Linear(patterns, languages, rng=rng)

    def forward(self, codes):
        return self.output(self.dropout(self.found(self.embedding(codes))))

    def found(self, x):
        """How well each pattern is met at best: (N, positions, features) -> (N, patterns)."""
        return tg.relu(np.max(self.patterns(x.swapaxes(1, 2)), axis=2))


MODELS = {"bag": (Bag, 3e-2), "trigrams": (Trigrams, 3e-2), "convolution": (Convolution, 4e-3)}

# ---------------------------------------------------------------------------------------------------------------------
# Pieces of text
# ---------------------------------------------------------------------------------------------------------------------


def held_out(number):
    """Which part an article belongs to: every fifth is for the test, every tenth for validation."""
    return "test" if number % 5 == 4 else "validation" if number % 10 == 2 else "training"


def pieces(articles, part, vocabulary, every=1):
    """All pieces of the articles of a part, from each `every`-th character on: codes (n, LENGTH) and labels (n,)."""
    codes, labels = [], []
    for label, texts in enumerate(articles.values()):
        for number, article in enumerate(texts):
            if held_out(number) == part and len(article) >= LENGTH:
                found = np.lib.stride_tricks.sliding_window_view(vocabulary.encode(article), LENGTH)[::every]
                codes.append(found)
                labels.append(np.full(len(found), label))
    return np.concatenate(codes), np.concatenate(labels)


def unseen(data, learned):
    """The pieces that are not among those learned from: the articles share phrases."""
    known = {row.tobytes() for row in learned[0]}
    kept = np.array([row.tobytes() not in known for row in data[0]])
    return data[0][kept], data[1][kept]


def speaks(model, vocabulary, written, language):
    """How much each character adds to the language's number: the gradient there, times what stands there."""
    x = model.embedding(vocabulary.encode(written)[None]).data
    model.eval()
    slope = tg.grad(lambda x: model.output(model.found(x))[0, language])(x)
    return (slope * x)[0].sum(axis=-1)


def words_that_decide(written, numbers):
    """The words of a text with what their characters say together, the strongest first."""
    parts, start = [], 0
    for word in text.tokens(written):
        start = written.index(word.strip() or word, start)
        parts.append((word.strip(), float(numbers[start : start + len(word)].sum())))
    return sorted((part for part in parts if part[0]), key=lambda part: -part[1])


# ---------------------------------------------------------------------------------------------------------------------
# The command
# ---------------------------------------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    articles = language_data.declarations()
    languages = list(articles)
    learned = [a for texts in articles.values() for i, a in enumerate(texts) if held_out(i) == "training"]
    vocabulary = text.Vocabulary.of(learned, specials=["<unknown>"])
    if options.text is not None:
        check_text(options.text, vocabulary)
    data = {part: pieces(articles, part, vocabulary) for part in ("training", "validation", "test")}
    data |= {part: unseen(data[part], data["training"]) for part in ("validation", "test")}
    sizes = ", ".join(f"{len(labels):,} {part}" for part, (_, labels) in data.items())
    print(f"{len(languages)} languages, {len(vocabulary)} characters; pieces of {LENGTH}: {sizes}")

    names = list(MODELS) if options.model == "all" else [options.model]
    for name in names:
        model = learn(name, data, len(languages), vocabulary, options)
        chances = tg.predict(model, data["test"][0], batch_size=1000)
        right = np.mean(chances.argmax(axis=1) == data["test"][1])
        print(f"{name}: {100 * right:.2f} % of the test pieces right\n", flush=True)
    if options.text is not None:
        say(model, vocabulary, languages, options.text)
    draw(name, model, data["test"], chances, articles, vocabulary, languages, options)
    print(f"most memory at a time: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MB")


def learn(name, data, languages, vocabulary, options):
    """Train one model."""
    make, rate = MODELS[name]
    rng = np.random.default_rng(options.seed)
    model = make(len(vocabulary), languages, rng)
    start = time.perf_counter()
    training = tuple(part[: options.pieces] for part in shuffled(data["training"], rng))
    batches = tg.data.DataLoader(training, options.batch_size, shuffle=True, rng=rng, drop_last=True)
    schedule = tg.optim.schedules.cosine(rate, options.epochs * len(batches))
    history = tg.fit(
        model,
        batches,
        tg.cross_entropy,
        tg.optim.AdamW(model.parameters(), schedule, weight_decay=0.01),
        options.epochs,
        validation=tuple(part[::10] for part in data["validation"]),
        metrics=["accuracy"],
        callbacks=[vocabulary],
        checkpoint=options.out / name,
        resume=options.resume or options.text is not None,
        backend=options.backend,
        rng=rng,
    )
    if history.stopped == "Ctrl-C":
        raise SystemExit("stopped; the same command with --resume goes on")
    size = sum(p.size for p in model.parameters())
    print(f"{name}: {size:,} parameters, trained in {time.perf_counter() - start:.0f} s")
    return model


def shuffled(data, rng):
    order = rng.permutation(len(data[1]))
    return tuple(part[order] for part in data)


def say(model, vocabulary, languages, written):
    """What a model says of a text, and which words decide."""
    with tg.no_grad():
        chances = tg.softmax(model.eval()(vocabulary.encode(written)[None])).data[0]
    print(f"{written!r}")
    for i in np.argsort(-chances)[:3]:
        print(f"    {languages[i]:<12} {100 * chances[i]:6.2f} %")
    if isinstance(model, Convolution):
        found = words_that_decide(written, speaks(model, vocabulary, written, chances.argmax()))
        print(f"    by: {', '.join(f'{word} ({number:+.1f})' for word, number in found[:4])}\n")


def draw(name, model, test, chances, articles, vocabulary, languages, options):
    """The confusion of the last model; what decides for it, and its last product."""
    pictures = [draw_confusion(test[1], chances.argmax(axis=1), languages, options.out / f"{name}-confusion.png")]
    if isinstance(model, Convolution):
        shown = [(language, texts[4][:60]) for language, texts in articles.items()]
        rows = [(one, t, speaks(model, vocabulary, t, languages.index(one))) for one, t in shown]
        pictures.append(draw_deciding(rows, options.out / "deciding.png"))
        codes = text.pad_sequences([vocabulary.encode(t[:LENGTH]) for _, t in shown])
        with tg.no_grad():
            hidden = model.eval().found(model.embedding(codes)).data
        rows = [t[:LENGTH] for _, t in shown]
        pictures.append(
            draw_product(hidden, model.output, languages, rows, languages, options.out / "last-product.png")
        )
        for language, written in shown[:4]:
            found = words_that_decide(written, speaks(model, vocabulary, written, languages.index(language)))
            print(f"{language}: {', '.join(f'{word} ({number:+.1f})' for word, number in found[:5])}")
    print("\nwritten:", *pictures, sep="\n  ")


def check_text(written, vocabulary):
    """Say now, not after the training, what cannot be classified."""
    if len(written) < 3:
        raise SystemExit(f"classify_text.py: --text {written!r} is too short; give three characters at least")
    unknown = sorted({c for c in written if c not in vocabulary.codes})
    if len(unknown) == len(set(written)):
        raise SystemExit(
            f"classify_text.py: none of the characters of --text is one of the {len(vocabulary) - 1} that these "
            f"languages are written with: {''.join(unknown)}"
        )


def parse(arguments: list[str] | None) -> argparse.Namespace:
    title = "Learn to tell 16 languages from 20 characters, by three models."
    parser = command_line.parser(title)
    add = parser.add_argument
    add("--model", choices=[*MODELS, "all"], default="all", help="one of the three, or one after the other")
    add("--text", metavar="TEXT", help="say the language of this, by the models of the last run (trained if need be)")
    add("--epochs", type=COUNT, default=3, metavar="N", help="how often to go through the pieces")
    add("--batch-size", type=COUNT, default=256, metavar="N", help="pieces in a step")
    add("--pieces", type=COUNT, metavar="N", help="learn from so many pieces only")
    add("--backend", choices=["numpy", "numba"], default="numpy", help="of the compiled step")
    add("--seed", type=SEED, default=0, metavar="N", help="of the starting weights and the order of pieces")
    add("--resume", action="store_true", help="go on where the last run stopped, or use it if it is done")
    add("--out", type=Path, default=Path("classify-out"), metavar="DIR", help="folder for checkpoints and pictures")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    command_line.run(main, "stopped; --resume goes on from the last checkpoint, if there is one")
