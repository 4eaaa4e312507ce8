"""A picture as an HTML page of its own: modules fold and unfold, nodes tell what they are, all without a network.

The page lays the graph out by itself (`layout.js`), as every fold changes it; printed, it is the picture.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Set
from dataclasses import asdict
from importlib import resources
from typing import Any

from tinygrad_mm.drawing.picture import Picture, PictureCluster, PictureNode, finite
from tinygrad_mm.drawing.text import printable
from tinygrad_mm.drawing.theme import LOOKS

__all__ = ["page"]


def page(whole: Picture, at_first: Picture, svg: str = "") -> str:
    """The page of a picture: `whole` with nothing folded; modules are open as in `at_first`. `svg` is printed.

    A policy in its head forbids the browser to load anything, and to run any script but its own, by its digest.

    >>> "<script" in page(Picture((), ()), Picture((), ()))
    True
    """
    files = resources.files(__package__ or "tinygrad_mm.drawing")
    text = {name: files.joinpath(name).read_text("utf-8") for name in ("page.html", "page.css", "layout.js", "page.js")}
    script = text["layout.js"] + text["page.js"]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    parts = {
        "POLICY": f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'",
        "STYLE": text["page.css"] + "".join(_colours()),
        "PICTURE": re.sub(r"^.*?(?=<svg)", "", svg, count=1, flags=re.DOTALL),  # without the XML declaration
        "DATA": _json(_content(whole, at_first)),
        "SCRIPT": script,
    }
    first, *rest = re.split(f"@({'|'.join(parts)})@", text["page.html"])
    return first + "".join(parts[piece] if i % 2 == 0 else piece for i, piece in enumerate(rest))


def _content(whole: Picture, at_first: Picture) -> dict[str, Any]:
    """What the page draws: names on one line, with everything that cannot be printed escaped."""
    chips = {node.id for node in whole.nodes if node.chip}
    return {
        "nodes": [_node(node) for node in whole.nodes],
        "edges": [
            _lean(asdict(edge) | {"label": printable(edge.label)}) for edge in whole.edges if edge.kind != "backward"
        ],
        "clusters": [_frame(cluster, chips) for cluster in whole.clusters],
        "open": [cluster.id for cluster in at_first.clusters],
        "numbers": any(node.views for node in whole.nodes),
    }


def _frame(frame: PictureCluster, chips: Set[str]) -> dict[str, Any]:
    """A frame; what a function was given is named once, however many chips of it there are."""
    found = {"label": printable(frame.label), "path": printable(frame.path)}
    given = [argument for argument in frame.arguments if argument[0] not in chips]
    return _lean(asdict(frame) | found | {"arguments": given, "options": list(map(printable, frame.options))})


def _node(node: PictureNode) -> dict[str, Any]:
    found = asdict(node) | {"title": printable(node.title), "computed": node.computed}
    found["name"] = None if node.name is None else printable(node.name)
    found |= {what: list(map(printable, getattr(node, what))) for what in ("options", "notes")}
    found["views"] = [
        [what, asdict(view) | {"statistics": view.statistics, "alarm": view.alarm}] for what, view in node.views
    ]
    return _lean(found)


def _lean(values: dict[str, Any]) -> dict[str, Any]:
    """Without what says nothing."""
    return {name: value for name, value in values.items() if name == "shape" or value not in (None, "", (), [], False)}


def _colours() -> Iterable[str]:
    """Each kind of node in the light and in the dark."""
    for kind, look in LOOKS.items():
        dark = f"color-mix(in srgb, {look.border} 30%, #11171d)"
        line = f"color-mix(in srgb, {look.border} 70%, #ffffff)"
        yield (f".k-{kind}{{--fill:light-dark({look.fill},{dark});--border:light-dark({look.border},{line})}}")


def _json(data: Any) -> str:
    """JSON that can stand inside a script element: no `<`, which alone could end it."""
    text = json.dumps(finite(data), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
