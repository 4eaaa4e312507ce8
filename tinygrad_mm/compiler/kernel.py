"""What the way to write an operation consists of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tinygrad_mm.compiler.program import Value, free_name

__all__ = ["Kernel", "Made", "View", "dot", "free_name", "looked_at"]


@dataclass
class View:
    """The result is another way to look at `base`: `text(name of the base)` says which."""

    base: Value
    text: Callable[[str], str]
    apply: Callable[[Any], Any]


@dataclass
class Kernel:
    """The result is written into a buffer.

    `lines(out, operands, scratch, bind)` are the statements, given the names of all; `inplace` are the arguments whose
    own buffer may be the one written to; `scratch` are shapes and dtypes of further buffers needed meanwhile.
    """

    lines: Callable[..., list[str]]
    inplace: tuple[int, ...] = ()
    scratch: list[tuple[tuple[int, ...], Any]] = field(default_factory=list)


@dataclass
class Made:
    """The result is a new array at each call: `text(operands)` is the expression that makes it."""

    text: Callable[[list[str]], str]


def dot(a: str, b: str, out: str = "") -> str:
    """A product of vectors or matrices. As a method, since that saves a fifth of a microsecond over np.dot."""
    return f"{a}.dot({b}, {out})" if out else f"{a}.dot({b})"


def looked_at(name: str, suffix: str) -> str:
    """A view of an array as text: `suffix` follows the name, or takes it in wherever it says {}."""
    return suffix.format(name) if "{}" in suffix else f"{name}{suffix}"
