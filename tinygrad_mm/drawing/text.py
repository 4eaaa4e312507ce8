"""Numbers, shapes, indices and names as text: short, on one line, the same on every run."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

__all__ = ["index_text", "number_text", "printable", "shape_text", "shortened", "value_text"]

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def shape_text(shape: tuple[int, ...], dtype: str) -> str:
    """Shape and dtype, as NumPy writes them.

    >>> shape_text((64, 784), "float32")
    '(64, 784) float32'
    """
    return f"{shape} {dtype}".rstrip()


def number_text(value: Any) -> str:
    """A number with at most six significant digits.

    >>> number_text(0.1), number_text(1 / 3), number_text(1_000_000), number_text(True), number_text(2.0)
    ('0.1', '0.333333', '1000000', 'True', '2.0')
    """
    if isinstance(value, np.generic):
        value = value.item()
    if not isinstance(value, float):
        return str(value)
    text = f"{value:.6g}"
    return f"{text}.0" if text.lstrip("-").isdigit() else text


def value_text(value: Any) -> str:
    """An argument of a call, written out; arrays by shape and dtype, functions and types by name.

    >>> value_text((0, None)), value_text(np.dtype("float32")), value_text(np.zeros((2, 3))), value_text(np.tanh)
    ('(0, None)', 'float32', 'array (2, 3) float64', 'tanh')
    """
    if isinstance(value, (bool, int, float, np.generic)):
        return number_text(value)
    if isinstance(value, np.ndarray):
        return f"array {shape_text(value.shape, str(value.dtype))}"
    if isinstance(value, np.dtype):
        return str(value)
    if value is ...:
        return "..."
    if isinstance(value, slice):
        return _slice_text(value)
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return f"({', '.join(map(value_text, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, list):
        return f"[{', '.join(map(value_text, value))}]"
    name = getattr(value, "__name__", None) if callable(value) else None
    return name or _ADDRESS.sub("", repr(value))


def index_text(key: Any) -> str:
    """An index as it stands between the brackets.

    >>> index_text((slice(None), slice(1, 3), ..., None, 0))
    '[:, 1:3, ..., None, 0]'
    """
    return f"[{', '.join(map(value_text, key)) if isinstance(key, tuple) else value_text(key)}]"


def _slice_text(s: slice) -> str:
    text = f"{'' if s.start is None else value_text(s.start)}:{'' if s.stop is None else value_text(s.stop)}"
    return text if s.step is None else f"{text}:{value_text(s.step)}"


def printable(text: str) -> str:
    r"""The text on one line, with everything that cannot be printed as Python would escape it.

    >>> printable("two\nlines \x00 é")
    'two\\nlines \\x00 é'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def shortened(text: str, limit: int) -> str:
    """At most `limit` characters: the middle of a longer text gives way to an ellipsis.

    >>> shortened("encoder.layers.0.attention.weight", 20)
    'encoder.l…ion.weight'
    """
    if len(text) <= limit:
        return text
    start = (limit - 1) // 2
    return f"{text[:start]}…{text[start + 1 - limit :]}"
