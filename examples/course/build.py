"""Make notebooks and pages of the course from its scripts: `python examples/course/build.py`.

It needs the extra `course`. Every chapter is executed. Notebooks are written beside the scripts,
where they find `style.py`; pages into course-out. A page is one file, which opens from disk and
loads nothing from anywhere; solutions are folded. `build.py 4 5` makes two chapters only,
`--out DIR` writes elsewhere, `--short` runs them in their short mode. `--pictures` also writes the
cover of each chapter into examples/pictures, for the index in examples/README.md.

What a chapter prints in full is kept in examples/course/logs, with its command and its seconds in
the first two lines. A chapter that fails does not keep the others from being made. `--resume`
leaves out those whose page is newer than all that it is made from.
"""

from __future__ import annotations

import argparse
import base64
import html
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

# A chapter's cells as nbconvert writes them, but solutions folded, and what only makes a picture.
TEMPLATE = """
{%- extends 'basic/index.html.j2' -%}
{% block any_cell %}
{%- if 'solution' in cell.metadata.get('tags', []) -%}
<details class="solution">
<summary>Solution {{ cell.metadata.solves }}</summary>{{ super() }}</details>
{%- else -%}{{ super() }}{%- endif -%}
{% endblock any_cell %}
{% block input_group %}
{%- if 'picture' in cell.metadata.get('tags', []) -%}
<details class="maker"><summary>how this picture is made</summary>{{ super() }}</details>
{%- else -%}{{ super() }}{%- endif -%}
{% endblock input_group %}
{% block in_prompt %}{% endblock in_prompt %}
{% block output_area_prompt %}{% endblock output_area_prompt %}
{% block empty_in_prompt %}{% endblock empty_in_prompt %}
"""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{style}
</style>
</head>
<body>
<nav>{links}</nav>
<main>
{body}
</main>
<nav>{links}</nav>
</body>
</html>
"""


def chapters() -> list[Path]:
    """The scripts of the course, in order."""
    return sorted(HERE.glob("[0-9][0-9]_*.py"))


def title_of(chapter: Path) -> str:
    """A chapter's title, which is its first heading: `# # 1. What does a nudge do?`."""
    found = re.search(r"^# # (.+)$", chapter.read_text("utf-8"), re.MULTILINE)
    if found is None:
        raise ValueError(f"{chapter.name} has no heading")
    return found[1]


def plain(title: str) -> str:
    """A title without the marks of Markdown."""
    return title.replace("`", "")


def executed(chapter: Path) -> Any:
    """The chapter as a notebook, run from its first cell to its last.

    Raises nbclient's CellExecutionError where a cell fails.
    """
    import jupytext
    from nbclient import NotebookClient

    notebook = jupytext.read(chapter)
    notebook.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    client = NotebookClient(
        notebook, timeout=3600, kernel_name="python3", resources={"metadata": {"path": str(HERE)}}
    )
    client.execute()
    for cell in notebook.cells:
        join_streams(cell)
    return notebook


def join_streams(cell: Any) -> None:
    """What a cell prints comes in pieces: make one output of each stretch, none of empty lines."""
    joined: list[Any] = []
    for output in cell.get("outputs", []):
        last = joined[-1] if joined else {}
        if output["output_type"] == "stream" and last.get("name") == output["name"]:
            last["text"] += output["text"]
        else:
            joined.append(output)
    if joined:
        cell["outputs"] = [one for one in joined if one.get("text", "text").strip()]


def printed(notebook: Any) -> str:
    """All that the cells of a notebook have printed, and the words of what they show."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    texts = [
        output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs
    ]
    return "\n".join(
        text.rstrip("\n") for text in texts if text and not text.startswith("<IPython")
    )


def is_done(chapter: Path, folder: Path) -> bool:
    """Whether there is a page that is newer than the chapter, the style and this program."""
    made = folder / f"{chapter.stem}.html"
    sources = [chapter, HERE / "style.py", HERE / "page.css", Path(__file__)]
    newest = max(source.stat().st_mtime for source in sources)
    return made.exists() and made.stat().st_mtime > newest


def page(notebook: Any, title: str, links: str) -> str:
    """The notebook as a page."""
    from nbconvert import HTMLExporter
    from pygments.formatters import HtmlFormatter

    for cell in notebook.cells:
        cell.metadata["solves"] = ", ".join(re.findall(r'check\(\s*"([\d.]+)"', cell.source))
    exporter = HTMLExporter(raw_template=TEMPLATE, exclude_anchor_links=True)
    body, _ = exporter.from_notebook_node(notebook)
    light = HtmlFormatter(style="default").get_style_defs(".highlight")
    dark = HtmlFormatter(style="github-dark").get_style_defs(".highlight")
    style = (HERE / "page.css").read_text("utf-8")
    style = f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n{style}"
    return PAGE.format(title=html.escape(plain(title)), style=style, links=links, body=body)


def cover(notebook: Any) -> tuple[str, bytes]:
    """The form, "png" or "svg", and the bytes of the picture that stands for a chapter."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    texts = [output.get("data", {}).get("text/html", "") for output in outputs]
    figures = [text for text in texts if text.startswith("<figure")]
    chosen = next((text for text in figures if 'class="cover"' in text), figures[0])
    found = re.search(r"data:image/(png|svg)[+a-z]*;base64,([^\"]+)", chosen)
    assert found is not None
    return found[1], base64.b64decode(found[2])


def links_around(chapter: Path, every: list[Path]) -> str:
    """Links to the chapter before, the index and the chapter after."""
    place = every.index(chapter)
    before, after = every[place - 1 : place] if place else [], every[place + 1 : place + 2]
    parts = [f'<a href="{c.stem}.html">← {html.escape(plain(title_of(c)))}</a>' for c in before]
    parts.append('<a href="index.html">all chapters</a>')
    parts += [f'<a href="{c.stem}.html">{html.escape(plain(title_of(c)))} →</a>' for c in after]
    return " ".join(parts)


def index(every: list[Path]) -> str:
    """The page that lists all chapters."""
    rows = "\n".join(
        f'<li><a href="{c.stem}.html">{html.escape(plain(title_of(c).split(". ", 1)[1]))}</a></li>'
        for c in every
    )
    body = (
        f"<h1>Backpropagation, studied</h1>\n<ol>\n{rows}\n</ol>\n"
        "<p>One question a chapter: by hand, checked by the machine, found in the library.</p>"
    )
    style = (HERE / "page.css").read_text("utf-8")
    return PAGE.format(title="Backpropagation, studied", style=style, links="", body=body)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Make notebooks and pages of the course.")
    parser.add_argument(
        "chapters", nargs="*", type=int, metavar="N", help="the chapters to make; all by default"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("course-out"),
        metavar="DIR",
        help="the folder for the results",
    )
    parser.add_argument(
        "--notebooks", type=Path, default=HERE, metavar="DIR", help="the folder for the notebooks"
    )
    parser.add_argument("--pictures", action="store_true", help="write the pictures of the index")
    parser.add_argument("--short", action="store_true", help="less data and fewer steps")
    parser.add_argument("--resume", action="store_true", help="leave out what is made already")
    parser.add_argument(
        "--logs",
        type=Path,
        metavar="DIR",
        help="the folder for what chapters print; examples/course/logs by default, none if short",
    )
    options = parser.parse_args(arguments)
    try:
        import jupytext
        from nbclient.exceptions import CellExecutionError
    except ImportError as error:
        raise SystemExit(f"build.py: {error}; pip install 'tinygrad_mm[course]'") from error
    if options.short:
        os.environ["COURSE_SHORT"] = "1"  # which the kernels inherit
    every = chapters()
    chosen = [c for c in every if not options.chapters or int(c.stem[:2]) in options.chapters]
    logs = options.logs or (None if options.short else HERE / "logs")
    for folder in filter(None, (options.out, logs)):
        folder.mkdir(parents=True, exist_ok=True)
    failed = []
    for chapter in chosen:
        if options.resume and is_done(chapter, options.out):
            continue
        start = time.perf_counter()
        try:
            notebook = executed(chapter)
        except CellExecutionError as error:
            failed.append(chapter.stem)
            print(f"{chapter.stem} failed:\n{error}", file=sys.stderr)
            continue
        if logs is not None:
            command = f"$ python examples/course/build.py {int(chapter.stem[:2])}"
            command += " --short" * options.short
            seconds = f"{time.perf_counter() - start:.0f} s"
            text = f"{command}\n{seconds}\n\n{printed(notebook)}\n"
            (logs / f"{chapter.stem}.txt").write_text(text, "utf-8")
        jupytext.write(notebook, options.notebooks / f"{chapter.stem}.ipynb")
        text = page(notebook, title_of(chapter), links_around(chapter, every))
        (options.out / f"{chapter.stem}.html").write_text(text, "utf-8")
        print(f"{options.out / chapter.stem}.html", flush=True)
        if options.pictures:
            form, picture = cover(notebook)
            (HERE.parent / "pictures" / f"{chapter.stem}.{form}").write_bytes(picture)
    (options.out / "index.html").write_text(index(every), "utf-8")
    print(options.out / "index.html")
    if failed:
        raise SystemExit(f"build.py: {', '.join(failed)} failed; --resume makes what is missing")


if __name__ == "__main__":
    sys.exit(main())
