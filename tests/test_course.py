"""The course: every chapter runs as a script, its numbers are reached, its exercises are solved; pages are made."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tinygrad_mm.study import EXERCISES

COURSE = Path(__file__).parents[1] / "examples" / "course"
CHAPTERS = sorted(COURSE.glob("[0-9][0-9]_*.py"))
PARTS = ["By hand", "Checked", "In the library", "Exercises", "Solutions"]


@pytest.fixture(scope="module")
def build():
    sys.path.insert(0, str(COURSE))
    yield importlib.import_module("build")
    sys.path.remove(str(COURSE))
    sys.modules.pop("build", None)


def test_there_are_fifteen_chapters():
    assert [int(chapter.name[:2]) for chapter in CHAPTERS] == list(range(1, 16))


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_runs_and_its_solutions_are_right(chapter, tmp_path):
    """In short mode; the numbers that it must reach are asserted in the chapter itself."""
    environment = {**os.environ, "COURSE_OUT": str(tmp_path), "PYTHONIOENCODING": "utf-8"}
    run = subprocess.run(
        # The oldest matplotlib calls the newest pyparsing by deprecated names: "'parseString' deprecated - use ...".
        [sys.executable, "-W", "error", "-W", "ignore:':DeprecationWarning", chapter, "--short"],
        env=environment,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    names = [name for name in EXERCISES if name.split(".")[0] == str(int(chapter.name[:2]))]
    assert len(names) >= 2
    for name in names:
        assert len(re.findall(rf"^{name}: not answered yet\. ", run.stdout, re.MULTILINE)) == 1
        assert len(re.findall(rf"^ *{name}: right\.$", run.stdout, re.MULTILINE)) >= 1
    pictures = [path for path in tmp_path.iterdir() if path.suffix in (".png", ".svg")]
    assert len(pictures) == chapter.read_text("utf-8").count("show(\n") + len(
        re.findall(r"^ *show\((?!\n)", chapter.read_text("utf-8"), re.MULTILINE)
    )
    assert all(path.stat().st_size > 1000 for path in pictures)


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_is_built_like_the_others(chapter):
    """One question, a picture, by hand, checked, in the library, exercises, solutions."""
    text = chapter.read_text("utf-8")
    assert re.match(rf"# %% \[markdown\]\n# # {int(chapter.name[:2])}\. .+\?\n#\n", text) or "yourself" in text
    headings = re.findall(r"^# ## (.+)$", text, re.MULTILINE)
    begins = [next((i for i, heading in enumerate(headings) if heading.startswith(part)), None) for part in PARTS]
    if "yourself" not in text.splitlines()[1]:  # there, the lines take the place of a derivation
        assert None not in begins
        assert begins == sorted(begins)
        assert text.index("show(") < text.index("# ## By hand")
    assert headings[-2:] == ["Exercises", "Solutions"]
    assert "/work" not in text


def test_the_pages_need_nothing_else_and_fold_the_solutions(build, tmp_path, capsys):
    pytest.importorskip("jupytext")
    pytest.importorskip("nbconvert")
    pytest.importorskip("ipykernel")
    build.main(["1", "--short", "--out", str(tmp_path), "--notebooks", str(tmp_path)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["01_nudge.html", "01_nudge.ipynb", "index.html"]
    page = (tmp_path / "01_nudge.html").read_text("utf-8")
    assert not re.search(r'(?:src|href)="(?!data:|[\w-]+\.html")', page)
    assert "<script" not in page
    solutions = re.findall(r'<details class="solution">\s*<summary>(.+?)</summary>', page)
    assert solutions == ["Solution 1.1", "Solution 1.2", "Solution 1.3"]
    assert page.count('<details class="maker">') == 2
    assert page.count("<figcaption>") == page.count('<img alt="') == 2
    assert '<a href="02_paths.html">2. How do many paths add up? →</a>' in page
    assert page.count("1.1: right.") == 1
    index = (tmp_path / "index.html").read_text("utf-8")
    assert re.findall(r'<li><a href="(\d\d)', index) == [f"{n:02}" for n in range(1, 16)]


def test_a_build_keeps_logs_goes_on_after_a_failure_and_is_resumed(build, tmp_path, monkeypatch, capsys):
    pytest.importorskip("jupytext")
    pytest.importorskip("nbconvert")
    monkeypatch.chdir(tmp_path)
    ran = []

    def executed(chapter):
        """A notebook as if it had been run; the second chapter fails at first."""
        import nbformat.v4 as nb
        from nbclient.exceptions import CellExecutionError

        ran.append(chapter.stem)
        if chapter.stem == "02_paths" and ran.count(chapter.stem) == 1:
            raise CellExecutionError("Traceback", "AssertionError", "reached 95.0")
        shown = [nb.new_output("stream", text="reached 96.5\n"), nb.new_output("display_data", {"text/html": "<p>"})]
        return nb.new_notebook(cells=[nb.new_code_cell("print()", outputs=shown)])

    monkeypatch.setattr(build, "executed", executed)
    arguments = ["1", "2", "3", "--logs", "logs", "--notebooks", str(tmp_path)]
    with pytest.raises(SystemExit, match="02_paths failed; --resume makes what is missing"):
        build.main(arguments)
    assert "reached 95.0" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == ["01_nudge.txt", "03_matmul.txt"]
    command, seconds, *rest = (tmp_path / "logs" / "03_matmul.txt").read_text("utf-8").splitlines()
    assert command == "$ python examples/course/build.py 3"
    assert re.fullmatch(r"\d+ s", seconds)
    assert rest == ["", "reached 96.5"]
    build.main([*arguments, "--resume"])
    assert ran[3:] == ["02_paths"]
    os.utime(tmp_path / "course-out" / "01_nudge.html", (0, 0))  # older than its chapter
    build.main([*arguments, "--resume"])
    assert ran[4:] == ["01_nudge"]


def test_what_a_cell_prints_is_one_output(build):
    outputs = [
        {"output_type": "stream", "name": "stdout", "text": "1.1: "},
        {"output_type": "stream", "name": "stdout", "text": "right.\n"},
        {"output_type": "display_data", "data": {"text/html": "<p>"}},
        {"output_type": "stream", "name": "stdout", "text": "\n"},
        {"output_type": "display_data", "data": {"text/html": "<p>"}},
        {"output_type": "stream", "name": "stdout", "text": "more"},
        {"output_type": "stream", "name": "stderr", "text": "else"},
    ]
    cell = {"outputs": [dict(output) for output in outputs]}
    build.join_streams(cell)
    assert [output.get("text") for output in cell["outputs"]] == ["1.1: right.\n", None, None, "more", "else"]
    text = {"source": "words"}
    build.join_streams(text)
    assert text == {"source": "words"}


def test_the_index_names_every_chapter(build):
    text = (COURSE.parent / "README.md").read_text("utf-8")
    for chapter in CHAPTERS:
        assert f"course/{chapter.name}" in text
        assert build.title_of(chapter).split(". ", 1)[1] in text


def test_what_the_index_links_to_exists():
    index = COURSE.parent / "README.md"
    links = re.findall(r"\]\(([^)]+)\)", index.read_text("utf-8"))
    assert len(links) > 40
    for link in links:
        assert (index.parent / link).exists(), link


def test_the_index_names_every_program():
    index = (COURSE.parent / "README.md").read_text("utf-8")
    programs = [path for path in COURSE.parent.glob("*.py") if "__main__" in path.read_text("utf-8")]
    assert len(programs) >= 7
    for path in programs:
        if path.stem == "runs":  # runs the others
            continue
        assert f"]({path.name})" in index
