"""The examples about language: each runs through on little data, says what is wrong with bad input, and reads its texts."""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
MODULES = (
    "language",
    "language_data",
    "language_pictures",
    "runs",
    "translation_tasks",
    "translate",
    "classify_text",
    "command_line",
    "course.style",
)
SAID = "It was said, and said again: what is written is written.\n"


@pytest.fixture
def example(monkeypatch):
    """An example as a module."""
    monkeypatch.syspath_prepend(EXAMPLES)
    yield importlib.import_module
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture
def language(example, monkeypatch, tmp_path, capsys):
    """examples/language.py with small models, on a text of one sentence; returns what it printed. It draws little."""
    module = example("language")
    wanted = lambda path: "transformer" in path.name or len([*path.parent.glob("*.json")]) == 4
    for name in ("draw_comparison", "draw_embedding", "draw_last_product"):
        drawn = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, f=drawn: f(*a) if wanted(a[-1]) else a[-1])
    small = {
        "transformer": functools.partial(module.Transformer, layers=1, features=16, heads=2),
        "gru": functools.partial(module.Recurrent, layer=module.tg.nn.GRU, features=8, hidden=16),
        "mlp": functools.partial(module.Window, window=4, features=8, hidden=32),
    }
    monkeypatch.setattr(module, "LENGTH", 8)
    monkeypatch.setattr(module.Transformer, "context", 8)
    for name, make in small.items():
        monkeypatch.setitem(module.RECIPES, name, module.Recipe(make, 120, 8, 1e-2))
    data = tmp_path / "text.txt"
    data.write_text(SAID * 30, "utf-8")

    def run(*arguments):
        module.main(["--data", str(data), "--length", "30", "--out", str(tmp_path), *map(str, arguments)])
        return capsys.readouterr().out

    run.module, run.path = module, tmp_path
    return run


def loss_in(said):
    return float(re.search(r"test loss ([\d.]+)", said)[1])


def test_the_learned_bigram_is_the_counted_one(language):
    counted, learned = loss_in(language("--model", "bigram")), loss_in(language("--model", "matrix"))
    assert abs(counted - learned) < 2e-4
    text = SAID * 30
    text = text[: int(0.9 * len(text))]  # what is learned from
    assert counted < np.log(len(set(text)))  # than guessing


def test_models_that_look_further_back_are_better_and_are_resumed(language):
    counted = loss_in(language("--model", "bigram"))
    for model in ("mlp", "gru", "transformer"):
        said = language("--model", model)
        assert loss_in(said) < counted - 0.3, model
    again = language("--model", "transformer", "--resume")
    assert loss_in(again) == loss_in(said)
    assert "epoch" not in again  # nothing was left to do
    table = said[said.index("model ") :]
    assert [line.split()[0] for line in table.splitlines()[1:5]] == ["bigram,", "MLP", "GRU", "transformer"]
    for name in ("embedding", "last-product", "attention"):
        assert (language.path / f"transformer-{name}.png").stat().st_size > 5000
    assert (language.path / "comparison.png").stat().st_size > 5000
    assert "It was" in language(
        "--model", "transformer", "--resume", "--prompt", "It w", "--temperature", 0, "--beams", 3
    )


def test_an_interrupted_run_goes_on(language, monkeypatch, capsys):
    module = language.module
    whole = loss_in(language("--model", "mlp"))
    assert (language.path / "mlp" / "checkpoint.safetensors").exists()

    class Interrupting(module.Sampler):
        def on_epoch(self, run):
            if run.epoch == 4:
                run.interrupt()

    with monkeypatch.context() as patch:
        patch.setattr(module, "Sampler", Interrupting)
        with pytest.raises(SystemExit, match="--resume goes on"):
            language("--model", "mlp")
    capsys.readouterr()
    said = language("--model", "mlp", "--resume")
    assert "epoch 4/10" not in said
    assert loss_in(said) == whole


def test_lines_stand_for_themselves(language):
    names = language.path / "names.txt"
    names.write_text("\n".join(a + b for a in ("anna", "emma", "otto", "hugo") for b in "abcdefghij"), "utf-8")
    said = language("--data", names, "--lines", "--model", "mlp", "--steps", 60, "--batch-size", 4)
    assert loss_in(said) < 2
    assert "learn from, " in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt", "ß"], r"language.py: Vocabulary: 'ß' in 'ß' is none of its \d+ tokens"),
        (["--prompt", ""], "--prompt is empty"),
        (["--prompt", "said, and said again"], "--prompt has 20 characters, the model looks at 8"),
        (["--data", "missing.txt"], "missing.txt cannot be read"),
    ],
)
def test_language_says_what_is_wrong(language, arguments, message):
    with pytest.raises(SystemExit, match=message):
        language(*arguments)


def test_language_refuses_short_texts_and_knows_characters_that_are_held_back_only(language):
    short = language.path / "short.txt"
    short.write_text("abc", "utf-8")
    with pytest.raises(SystemExit, match="2 characters to learn from and 1 to test on are too few"):
        language("--data", short)
    short.write_text("abc " * 200 + "é" * 60, "utf-8")
    assert "6 different" in language("--data", short, "--model", "bigram", "--prompt", "é")


def test_a_model_of_another_text_is_not_resumed(language):
    language("--model", "mlp", "--steps", 10)
    other = language.path / "other.txt"
    other.write_text(SAID.replace("w", "v") * 30, "utf-8")
    with pytest.raises(ValueError, match="it was trained with another vocabulary, of 17 tokens; this one has 17"):
        language("--model", "mlp", "--steps", 10, "--resume", "--data", other)
    with pytest.raises(ValueError, match=r"state of another text, or of other batches: .*batches=1; here .*batches=2"):
        language("--model", "mlp", "--steps", 20, "--resume")
    table = language("--model", "bigram", "--data", other).split("model  ")[1]
    assert "bigram" in table
    assert "MLP" not in table  # whose number is of the other text


@pytest.mark.parametrize("model", ["bigram", "mlp", "gru"])
def test_a_prompt_may_be_longer_than_what_a_model_looks_at(language, model):
    said = "It was said, " * 3
    assert said in language("--model", model, "--steps", 2, "--prompt", said)


def test_the_seconds_of_a_run_count_all_its_parts(language):
    def seconds(*arguments):
        language("--model", "mlp", "--steps", 10, *arguments)
        return json.loads((language.path / "mlp.json").read_text())["seconds"]

    first = seconds()
    assert seconds("--resume") >= 0.9 * first


# ---------------------------------------------------------------------------------------------------------------------
# Translation
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def translate(example, tmp_path, capsys):
    module = example("translate")

    def run(*arguments):
        small = ["--features", "16", "--layers", "1", "--out", str(tmp_path)]
        module.main([*small, *map(str, arguments)])
        return capsys.readouterr().out

    run.module, run.path = module, tmp_path
    return run


@pytest.fixture
def few_numbers(translate, monkeypatch):
    """Numbers below 100 in the place of those below a million."""
    num2words = pytest.importorskip("num2words").num2words

    def numbers(rng):
        many = [(num2words(n), num2words(n, lang="fr")) for n in rng.permutation(100).tolist()]
        return many[:80] * 4, many[80:84], many[84:]

    task = translate.module.TASKS["numbers"]._replace(pairs=numbers, batch_size=32, example="twenty-one")
    monkeypatch.setitem(translate.module.TASKS, "numbers", task)
    return translate


@pytest.mark.parametrize("model", ["transformer", "gru"])
def test_numbers_are_translated(few_numbers, model):
    said = few_numbers("--model", model, "--steps", 150, "--beams", 3)
    assert float(re.search(r"greedy: ([\d.]+) % exact", said)[1]) > 20  # of numbers never seen
    assert "3 beams: " in said
    assert "looks at" in said
    assert (few_numbers.path / f"numbers-{model}" / "attention.png").exists()
    said = few_numbers("--model", model, "--steps", 150, "--text", "sixty-one")
    assert "epoch" not in said
    assert "sixty-one\n  -> " in said


def test_beams_and_batches_change_nothing_for_the_sure(few_numbers):
    module = few_numbers.module
    task = module.TASKS["numbers"]
    parts = task.pairs(np.random.default_rng(0))
    examples = module.Examples(task, parts[0])
    for name, make in module.MODELS.items():
        model = make(*map(len, examples.vocabularies), 16, 1, 0.0, np.random.default_rng(0)).eval()
        together = module.translated(model, examples, parts[0][:6])
        assert together == [module.translated(model, examples, [pair])[0] for pair in parts[0][:6]], name
        # what the decoder says step by step, from its cache, is what it says to the whole
        (found,) = module.translated(model, examples, parts[0][:1])
        source, target = examples.vocabularies
        codes = target.encode(found, start=True)[None]
        logits = model(source.encode(parts[0][0][0])[None], codes).data[0]
        assert np.array_equal(logits.argmax(axis=-1)[:-1], codes[0, 1:])
        rows, columns, looks = module.aligned(model, examples, parts[0][0][0], found)
        assert looks.shape == (len(rows), len(columns))
        assert np.allclose(looks.sum(axis=-1), 1, atol=1e-5)


def test_dates_have_nine_formats_that_can_be_read(example):
    pytest.importorskip("babel")
    module = example("translation_tasks")
    parts = module.dates(np.random.default_rng(0))
    learned, _, test = parts
    assert {iso for _, iso in learned}.isdisjoint(iso for _, iso in test)
    assert len({re.sub(r"[A-Z][a-zé]+", "w", re.sub(r"\d", "0", given)) for given, _ in learned}) >= 9
    months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
    for given, iso in test[:300]:
        year, month, day = iso.split("-")
        numbers = {int(n) for n in re.findall(r"\d+", given)}
        assert numbers == {int(year), int(day)}
        assert months[int(month) - 1] in given


def test_verses_stand_beside_their_translations(example):
    learned, validation, test = example("translation_tasks").verses(np.random.default_rng(0))
    assert len(learned) > 3000
    assert len(validation) == len(test) == 300
    names = [("Jesus", "Jesús"), ("Pilate", "Pilato"), ("Abraham", "Abraham"), ("Galilee", "Galilea")]
    for english, spanish in names:
        pairs = [(a, b) for a, b in [*learned, *test] if english in a]
        assert sum(spanish in b for _, b in pairs) > 0.75 * len(pairs) > 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "--text is empty"),
        ("sixty-umpteen", "'umpteen' in 'sixty-umpteen' is none of its"),
        ("one one one one one one", "--text has 6 words and marks, the longest that is learned from has 3"),
    ],
)
def test_translate_says_what_is_wrong(few_numbers, text, message):
    with pytest.raises(SystemExit, match=message):
        few_numbers("--text", text)


def test_pairs_of_ones_own_are_learned(translate):
    """Words written backwards, in characters; and the same rule in words, where unknown ones come."""
    words = translate.path / "words.tsv"
    syllables = [a + b for a in "bdgklmnprt" for b in "aeiou"]
    words.write_text("\n".join(f"{one}{two}\t{two}{one}" for one in syllables[::3] for two in syllables[::4]), "utf-8")
    said = translate("--data", words, "--steps", 200, "--batch-size", 32, "--learning-rate", 0.01)
    assert re.search(r"greedy: [\d.]+ % exact, \d+ of 22 wrong", said)
    losses = [float(loss) for loss in re.findall(r"validation loss ([\d.]+)", said)]
    assert losses[-1] < 0.6 * losses[0]
    said = translate("--data", words, "--words", "--steps", 2, "--examples", 5)  # fewer than a batch
    assert "epoch 2/2" in said
    assert (translate.path / "words-transformer" / "attention.png").exists()


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("one\tun\ntwo deux\n", "'two deux' in .* is no pair; write source, one tab, translation"),
        ("one\t \n", "is no pair"),
        ("one\tun\n" * 30, "holds 1 pairs; 20 are the least"),
        ("", "holds 0 pairs"),
    ],
)
def test_translate_says_what_is_wrong_with_pairs(translate, written, message):
    pairs = translate.path / "pairs.tsv"
    pairs.write_text(written, "utf-8")
    with pytest.raises(SystemExit, match=message):
        translate("--data", pairs)
    with pytest.raises(SystemExit, match="cannot be read as text"):
        translate("--data", translate.path)


def test_translate_names_what_it_needs(translate, monkeypatch):
    monkeypatch.setattr(translate.module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"needs num2words; pip install 'tinygrad_mm\[language\]'"):
        translate()


# ---------------------------------------------------------------------------------------------------------------------
# Languages
# ---------------------------------------------------------------------------------------------------------------------


def test_languages_are_told_apart(example, tmp_path, capsys):
    module = example("classify_text")
    out = ["--out", str(tmp_path), "--pieces", "6000", "--epochs", "1", "--batch-size", "100"]
    module.main(["--model", "trigrams", *out])
    said = capsys.readouterr().out
    assert float(re.search(r"trigrams: ([\d.]+) % of the test", said)[1]) > 80
    module.main(["--model", "trigrams", *out, "--text", "Wo liegt denn der Bahnhof?"])
    said = capsys.readouterr().out
    assert "epoch" not in said
    assert re.search(r"German +\d", said.split("Bahnhof?'")[1].splitlines()[1])
    for given, message in (("ab", "too short"), ("Где", "none of the characters")):
        with pytest.raises(SystemExit, match=message):
            module.main(["--model", "trigrams", *out, "--text", given])


def test_no_piece_that_is_tested_on_was_learned_from(example):
    module = example("classify_text")
    articles = module.language_data.declarations()
    parts = [module.held_out(i) for i in range(31)]
    assert (parts.count("test"), parts.count("validation")) == (6, 3)
    vocabulary = module.text.Vocabulary.of([a for texts in articles.values() for a in texts])
    learned, test = (module.pieces(articles, part, vocabulary) for part in ("training", "test"))
    kept = module.unseen(test, learned)
    seen = {row.tobytes() for row in learned[0]}
    assert not any(row.tobytes() in seen for row in kept[0])
    assert len(kept[0]) == len(kept[1]) == sum(row.tobytes() not in seen for row in test[0]) > 15_000


def test_what_decides_adds_up_to_a_change_of_the_number(example):
    """Gradient times input, summed, is the derivative along the input: by a small step, the change it predicts."""
    module = example("classify_text")
    vocabulary = module.text.Vocabulary.of(["the quick brown fox"])
    model = module.Convolution(len(vocabulary), 3, np.random.default_rng(0)).eval()
    numbers = module.speaks(model, vocabulary, "the fox", 1)
    x = model.embedding(vocabulary.encode("the fox")[None]).data.astype(np.float64)
    for p in model.parameters():
        p.value = p.value.astype(np.float64)
    number = lambda t: model.output(model.found(x * t)).data[0, 1]
    assert np.isclose(numbers.sum(), (number(1 + 1e-6) - number(1 - 1e-6)) / 2e-6, rtol=1e-3)
    words = module.words_that_decide("the fox", numbers)
    assert {word for word, _ in words} == {"the", "fox"}
    assert words[0][1] >= words[1][1]


# ---------------------------------------------------------------------------------------------------------------------
# Texts
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["jane-austen", "udhr", "first-names", "bible-en-es"])
def test_texts_are_unchanged(folder):
    root = EXAMPLES / "data" / folder
    listed = re.findall(r"^ {4}([0-9a-f]{64})  (\S+)$", (root / "README.md").read_text("utf-8"), re.MULTILINE)
    named = {name.removeprefix(f"{folder}/"): digest for digest, name in listed}
    files = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    assert {*files} - {"README.md", "copyright"} == {*named}
    for name, digest in named.items():
        assert hashlib.sha256(files[name].read_bytes()).hexdigest() == digest, name


def test_texts_are_read(example):
    data = example("language_data")
    novels = data.novels()
    assert [*novels] == [*data.NOVELS]
    chapters = data.chapters(novels["Pride and Prejudice"])
    assert len(chapters) == 61
    assert "It is a truth universally acknowledged" in chapters[0]
    assert all("\x00" not in novel and "�" not in novel for novel in novels.values())
    declarations = data.declarations()
    assert len(declarations) == 16
    assert all(len(texts) == 31 and not re.search("[<>]|&[a-z]+;", " ".join(texts)) for texts in declarations.values())
    verses = data.verses()
    assert len(verses) > 7900
    assert not any("<" in a + b for a, b in verses)
    assert verses[0][0].startswith("The book of the genealogy")
    assert verses[0][1].startswith("LIBRO de la generación")
    assert verses[-1][1].startswith("La gracia de nuestro Señor")


def test_the_runs_are_commands_of_the_examples(example, tmp_path, monkeypatch, capsys):
    runs = example("runs")
    started = []

    def start(command, **_):
        started.append(command)
        said = " 1 of 2\r 2 of 2\ntrained, None\ntest loss 1.5000 nats a character\n"
        return type("Run", (), {"returncode": "gan.py" in command[1], "stdout": said})

    monkeypatch.setattr(runs.subprocess, "run", start)
    every = ["--reference", "ref", "--seeds", "3", "--logs", str(tmp_path), "--out", "out"]
    runs.main([*every, "--fashion", "images"])
    assert len(started) == len(runs.RUNS) == len([*tmp_path.glob("*-3.txt")])
    said = capsys.readouterr().out
    assert "test loss 1.5000" in said
    assert "gan, seed 3 failed" in said
    command, seconds, _, *rest = (tmp_path / "shakespeare-3.txt").read_text().splitlines()
    assert command.startswith("$ python examples/language.py --data REFERENCE/shakespeare/input.txt")
    assert re.fullmatch(r"\d+ s", seconds)
    assert rest == [" 2 of 2", "trained, None", "test loss 1.5000 nats a character"]
    assert "--data FASHION --seed 3\n" in (tmp_path / "fashion-3.txt").read_text()

    done = len(started)
    runs.main([*every, "--resume"])
    assert [Path(command[1]).stem for command in started[done:]] == ["gan"]  # the one that failed
    assert "fashion: left out, as it needs --fashion" in capsys.readouterr().out
    assert [runs.seeds(name, runs.parse([])) for name in ("dates", "moons")] == [[0, 1, 2], [0]]
    for command in started:
        module = example(Path(command[1]).stem)
        if not hasattr(module, "parse"):  # a small program, which the tests of its own run
            continue
        with monkeypatch.context() as patch:
            patch.chdir(tmp_path)
            assert module.parse([part.replace("ref/", f"{tmp_path}/") for part in command[2:]]).seed == 3
    with pytest.raises(SystemExit):
        runs.main(["nothing"])
