"""Translate: English number words into French, English dates into ISO 8601, English verses into Spanish.

    python examples/translate.py                                  # numbers
    python examples/translate.py --task dates
    python examples/translate.py --task verses --beams 4
    python examples/translate.py --text "ninety-one thousand and twelve"
    python examples/translate.py --data words.tsv --steps 2000    # pairs of one's own, a tab between the two

An encoder turns each word of the source into a vector that knows its surroundings; a decoder writes the target word by
word, and looks back at these vectors for each one. Where it looks is drawn: nobody told it which words belong together.

What is tested on was never seen in training. Numbers and dates have rules, and are learned exactly, from some thousand
examples. Verses of the New Testament, few as they are, are the contrast: translations that sound right, and are wrong.
With `--model gru` encoder and decoder are recurrent networks with additive attention (Bahdanau et al. 2015).
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import resource
import time
from pathlib import Path

import command_line
import numpy as np
from command_line import COUNT, RATE, SEED
from language_pictures import attention_weights, draw_alignment, draw_translation_product
from translation_tasks import TASKS, own_task

import tinygrad_mm as tg
from tinygrad_mm import text

SPECIALS = "<padding>", "<start>", "<stop>"

# ---------------------------------------------------------------------------------------------------------------------
# The models
# ---------------------------------------------------------------------------------------------------------------------


class Transformer(tg.Module):
    """An encoder of the source, and a decoder of the target that looks at what it made (Vaswani et al. 2017)."""

    def __init__(self, source, target, features, layers, dropout, rng):
        self.source = tg.nn.Embedding(source, features, rng=rng)
        self.target = tg.nn.Embedding(target, features, rng=rng)
        self.positions = tg.nn.SinusoidalPositions(features)
        options = {"heads": 4, "dropout": dropout, "norm_first": True, "rng": rng}
        self.encoder = tg.nn.TransformerEncoder(layers, features, **options)
        self.decoder = tg.nn.TransformerDecoder(layers, features, **options)
        self.output = tg.nn.Linear(features, target, rng=rng)

    def encode(self, source):
        words = text.padding_mask(source)
        return self.encoder(self.positions(self.source(source)), words), words

    def decode(self, target, memory, words, cache=None):
        x = self.positions(self.target(target), start=len(cache[0]) if cache else 0)
        return self.output(self.decoder(x, memory, memory_mask=words, caches=cache))

    def forward(self, source, target, *_):
        return self.decode(target, *self.encode(source))

    def cache(self):
        return [tg.nn.KeyValueCache() for _ in self.decoder.layers]

    def looks(self, target, memory, words):
        """Where the decoder looks for each word: (positions, words), the mean over the last layer's heads."""
        layers = self.decoder.layers
        return attention_weights(layers, "cross_attention", lambda: self.decode(target, memory, words))[-1].mean(axis=0)


class Recurrent(tg.Module):
    """A GRU reads the source from both ends, another writes the target, with additive attention (Bahdanau et al. 2015).

    What is looked at: softmax(v . tanh(state @ Q + memory @ K)), the words' shares in what the next word is made from.
    """

    cache = text.RecurrentCache

    def __init__(self, source, target, features, layers, dropout, rng):
        self.source = tg.nn.Embedding(source, features, rng=rng)
        self.target = tg.nn.Embedding(target, features, rng=rng)
        self.encoder = tg.nn.GRU(features, features, layers, bidirectional=True, dropout=dropout, rng=rng)
        self.query = tg.nn.Linear(features, features, bias=False, rng=rng)
        self.key = tg.nn.Linear(2 * features, features, rng=rng)
        self.score = tg.nn.Linear(features, 1, bias=False, rng=rng)
        self.begin = tg.nn.Dense(2 * features, features, "tanh", rng=rng)
        self.cell = tg.nn.GRUCell(3 * features, features, rng=rng)
        self.output = tg.nn.Linear(3 * features, target, rng=rng)

    def encode(self, source):
        words = text.padding_mask(source)
        return self.encoder(self.source(source), mask=words[:, 0])[0], words

    def step(self, x, state, memory, keys, words):
        scores = self.score(np.tanh(self.query(state)[:, None] + keys)).swapaxes(1, 2)
        weights = tg.softmax(np.where(words, scores, -1e9))
        context = (weights @ memory)[:, 0]
        state = self.cell(np.concatenate([x, context], axis=-1), state)
        return state, np.concatenate([state, context], axis=-1), weights

    def decode(self, target, memory, words, cache=None, return_weights=False):
        keys, x = self.key(memory), self.target(target)
        state = self.begin(memory[:, 0]) if cache is None or cache.state is None else cache.state[0]
        steps = []
        for i in range(x.shape[1]):
            state, *found = self.step(x[:, i], state, memory, keys, words)
            steps.append(found)
        if cache is not None:
            cache.state = state[None]
        outputs, weights = zip(*steps, strict=True)
        logits = self.output(np.stack(outputs, axis=1))
        return (logits, np.concatenate(weights, axis=1)) if return_weights else logits

    def forward(self, source, target, *_):
        return self.decode(target, *self.encode(source))

    def looks(self, target, memory, words):
        with tg.no_grad():
            return self.decode(target, memory, words, return_weights=True)[1].data[0]


MODELS = {"transformer": Transformer, "gru": Recurrent}

# ---------------------------------------------------------------------------------------------------------------------
# Learning and translating
# ---------------------------------------------------------------------------------------------------------------------


class Examples:
    """Pairs of texts as arrays: the source; what the decoder is given, from <start> on; what it should say."""

    def __init__(self, task, pairs):
        specials = [*SPECIALS, "<unknown>"] if task.unknown else SPECIALS
        self.vocabularies = [
            text.Vocabulary.of(side, words, specials, task.at_least)
            for side, words in zip(zip(*pairs, strict=True), task.words, strict=True)
        ]
        encoded = [self.encoded(pair) for pair in pairs]
        self.longest = [max(map(len, side)) for side in zip(*encoded, strict=True)]

    def encoded(self, pair):
        source, target = self.vocabularies
        return source.encode(pair[0]), target.encode(pair[1], start=True, stop=True)

    def columns(self, pairs):
        """Sources, and targets as they are given to the decoder and as it is to say them.

        It is not to say <unknown>, which stands for too many words to be one: there the loss asks for nothing.
        """
        sources, targets = zip(*map(self.encoded, pairs), strict=True)
        own = self.vocabularies[1]
        said = [np.where(target[1:] == own.unknown, own.padding, target[1:]) for target in targets]
        return list(sources), [target[:-1] for target in targets], said

    def arrays(self, pairs):
        return tuple(map(text.pad_sequences, self.columns(pairs)))


def learn(model, examples, parts, task, options, rng):
    """Train by the recipe of the task; returns the history."""
    steps = options.steps or task.steps
    batch_size = min(options.batch_size or task.batch_size, len(parts[0]))
    rate = options.learning_rate or task.learning_rate
    own = {"batch_size": batch_size, "shuffle": True, "rng": rng, "drop_last": True}
    if task.buckets > 1:
        batches = tg.data.DataLoader(examples.columns(parts[0]), buckets=task.buckets, **own)
    else:
        batches = tg.data.DataLoader(examples.arrays(parts[0]), **own)
    epochs = max(1, round(steps / len(batches)))
    steps = epochs * len(batches)
    warm = max(1, min(400, steps // 5))
    schedule = tg.optim.schedules.warm_up(warm, then=tg.optim.schedules.cosine(rate, steps, rate / 50))
    optimizer = tg.optim.AdamW(model.parameters(), schedule, betas=(0.9, 0.98), weight_decay=0.01)
    smoothed = functools.partial(tg.cross_entropy, ignore_index=0, label_smoothing=task.smoothing)

    def show(run):
        if run.epoch % max(1, epochs // 6) == 0:
            for (source, target), found in zip(parts[1][:2], translated(model, examples, parts[1][:2]), strict=True):
                print(f"    {source}\n      {'=' if found == target else '≠'} {found}", flush=True)

    return tg.fit(
        model,
        batches,
        smoothed,
        optimizer,
        epochs,
        validation=tg.data.DataLoader(examples.arrays(parts[1][:256]), 64),
        clip_norm=1.0,
        callbacks=[*examples.vocabularies, show],
        checkpoint=options.folder,
        resume=options.resume or options.text is not None,
        backend=options.backend,
        rng=rng,
    )


def translated(model, examples, pairs, beams=1, batch_size=500):
    """The translations of the sources of pairs; beams=1 takes the likeliest word each time."""
    source, target = examples.vocabularies
    found = []
    with tg.no_grad():
        for i in range(0, len(pairs), batch_size):
            codes = text.pad_sequences([source.encode(pair[0]) for pair in pairs[i : i + batch_size]])
            training, _ = model.training, model.eval()
            memory, words = (tg.Tensor(part).data for part in model.encode(codes))

            def next_word(target, cache, memory=memory, words=words):
                times = len(target) // len(memory)  # with beams, several translations of each source
                return model.decode(target, np.repeat(memory, times, axis=0), np.repeat(words, times, axis=0), cache)

            start = np.full((len(codes), 1), target.start)
            rows = text.generate(
                next_word, start, examples.longest[1], stop=target.stop, beams=beams, cache=model.cache
            )
            model.train(training)
            found += [target.decode(row) for row in rows]
    return found


def aligned(model, examples, source, found):
    """The words of both, and for each word of the translation where the decoder looked: (words, source words)."""
    own, target = examples.vocabularies
    codes, said = own.encode(source), target.encode(found, start=True)
    model.eval()
    with tg.no_grad():
        memory, words = model.encode(codes[None])
        looks = model.looks(said[None, :], memory, words)
    rows = [*(target.tokens[code] for code in said[1:]), "<stop>"]
    return rows, [own.tokens[code] for code in codes], looks


# ---------------------------------------------------------------------------------------------------------------------
# The command
# ---------------------------------------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    task = TASKS[options.task] if options.data is None else own_task(options.data, options.words)
    parts = task.pairs(np.random.default_rng(0))  # the same for all seeds: what is tested on is never learned
    parts = tuple(part[: options.examples] for part in parts)
    examples = Examples(task, parts[0])
    if options.text is not None:
        check_text(options, examples)
    sizes = [len(vocabulary) for vocabulary in examples.vocabularies]
    print(f"{len(parts[0]):,} pairs to learn from, such as: {parts[0][-1][0]} -> {parts[0][-1][1]}")
    print(f"{len(parts[2]):,} others to test on; vocabularies of {sizes[0]:,} and {sizes[1]:,}")

    rng = np.random.default_rng(options.seed)
    features = options.features or task.features
    model = MODELS[options.model](*sizes, features, options.layers, task.dropout, rng)
    print(f"{options.model}: {sum(p.size for p in model.parameters()):,} parameters\n", flush=True)
    start = time.perf_counter()
    history = learn(model, examples, parts, task, options, rng)
    if history.stopped == "Ctrl-C":
        raise SystemExit("stopped; the same command with --resume goes on")
    print(f"trained in {time.perf_counter() - start:.0f} s\n")

    if options.text is None:
        test(model, examples, parts[2], options)
    source = options.text or task.example or parts[2][0][0]
    show(model, examples, source, options)
    print(f"most memory at a time: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MB")


def test(model, examples, pairs, options):
    """How many are right, for numbers and dates; for verses ten beside their references, and BLEU."""
    wanted = [target for _, target in pairs]
    for beams in sorted({1, options.beams}):
        start = time.perf_counter()
        found = translated(model, examples, pairs, beams)
        how = "greedy" if beams == 1 else f"{beams} beams"
        seconds = f"{len(pairs) / (time.perf_counter() - start):.0f} a second"
        if options.task == "verses" and not options.data:
            print(f"{how}: BLEU {score(found, wanted)} on {len(pairs)} verses, {seconds}")
            continue
        wrong = [(s, t, f) for (s, t), f in zip(pairs, found, strict=True) if t != f]
        exact = f"{100 * text.exact_match(found, wanted):.2f} % exact"
        print(f"{how}: {exact}, {len(wrong)} of {len(pairs)} wrong, {seconds}")
        for source, target, other in wrong[:5]:
            print(f"    {source}: {other}, not {target}")
    if options.task == "verses" and not options.data:
        print("\nten of them:")
        for (source, target), other in list(zip(pairs, found, strict=True))[:10]:
            print(f"    source:    {source}\n    found:     {other}\n    reference: {target}\n")


def score(found, wanted):
    """BLEU on words and marks; and what sacrebleu says, where it is installed, which separates these its own way."""
    apart = lambda texts: [" ".join(token.strip() for token in text.tokens(one)) for one in texts]
    own = f"{text.bleu(apart(found), apart(wanted)):.2f}"
    if importlib.util.find_spec("sacrebleu") is None:
        return own
    import sacrebleu

    return f"{own} (sacrebleu: {sacrebleu.corpus_bleu(found, [wanted]).score:.2f})"


def show(model, examples, source, options):
    """One translation, which words it comes from, and two pictures."""
    (found,) = translated(model, examples, [(source, "")], options.beams)
    print(f"\n{source}\n  -> {found}\n")
    rows, columns, looks = aligned(model, examples, source, found)
    if all(vocabulary.words for vocabulary in examples.vocabularies):
        for row, weights in zip(rows, looks, strict=True):
            best = int(weights.argmax())
            print(f"    {row:>16} looks at {columns[best]} ({weights[best]:.0%})")
    pictures = [draw_alignment(rows, columns, looks, found, options.folder / "attention.png")]
    if options.model == "transformer":
        own, target = examples.vocabularies
        codes = own.encode(source)[None], target.encode(found, start=True)[None]
        pictures.append(draw_translation_product(model, target, *codes, options.folder / "last-product.png"))
    print("\nwritten:", *pictures, sep="\n  ")


def check_text(options, examples):
    """Say now, not after the training, what cannot be translated."""
    try:
        codes = examples.vocabularies[0].encode(options.text)
    except ValueError as error:
        raise SystemExit(f"translate.py: {error}") from error
    if not len(codes):
        raise SystemExit("translate.py: --text is empty; give words to translate")
    if len(codes) > examples.longest[0]:
        what = "words and marks" if examples.vocabularies[0].words else "characters"
        raise SystemExit(
            f"translate.py: --text has {len(codes)} {what}, the longest that is learned from has "
            f"{examples.longest[0]}; give a shorter one"
        )


def parse(arguments: list[str] | None) -> argparse.Namespace:
    title = "Learn to translate numbers, dates or verses, test that, and show which words belong together."
    parser = command_line.parser(title)
    add = parser.add_argument
    add("--task", choices=TASKS, default="numbers", help="what is translated")
    add("--model", choices=MODELS, default="transformer", help="or recurrent networks with additive attention")
    add("--data", type=Path, metavar="FILE", help="learn these pairs instead: source, tab, translation in each line")
    add("--words", action="store_true", help="learn those of --data in words and marks, not in characters")
    add("--text", metavar="TEXT", help="translate this, by the model of the last run (which is trained if need be)")
    add("--beams", type=COUNT, default=1, metavar="N", help="translations that are followed at a time")
    add("--steps", type=COUNT, metavar="N", help="of training (default: the task's)")
    add("--batch-size", type=COUNT, metavar="N", help="pairs in a step (default: the task's)")
    add("--learning-rate", type=RATE, metavar="RATE", help="at its peak (default: the task's)")
    add("--features", type=COUNT, metavar="N", help="numbers for each word (default: the task's)")
    add("--layers", type=COUNT, default=2, metavar="N", help="of encoder and decoder")
    add("--examples", type=COUNT, metavar="N", help="learn from and test on N pairs at most")
    add("--backend", choices=["numpy", "numba"], default="numpy", help="of the compiled step")
    add("--seed", type=SEED, default=0, metavar="N", help="of the starting weights and the order of pairs")
    add("--resume", action="store_true", help="go on where the last run stopped, or use it if it is done")
    add("--out", type=Path, default=Path("translate-out"), metavar="DIR", help="folder for checkpoints and pictures")
    options = parser.parse_args(arguments)
    if options.words and options.data is None:
        parser.error("--words is about the pairs of --data FILE")
    options.folder = options.out / f"{options.data.stem if options.data else options.task}-{options.model}"
    options.folder.mkdir(parents=True, exist_ok=True)
    return options


if __name__ == "__main__":
    command_line.run(main, "stopped; --resume goes on from the last checkpoint, if there is one")
