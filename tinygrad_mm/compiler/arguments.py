"""The arguments of a call: the containers they come in, what each is called, and of what kind it is."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinygrad_mm.compiler.capture import same
from tinygrad_mm.graph import Vertex

__all__ = ["Leaf", "filled", "is_like", "is_of_kind", "kind_of", "names_of_leaves", "numbered"]


class Leaf:
    """The place of a leaf in a tree: its number among all of them."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number


def numbered(tree: Any, leaves: list[Any], kinds: Any = object) -> Any:
    """The same lists, tuples and dicts with a `Leaf` in place of each leaf of some kinds; these are collected."""
    if isinstance(tree, dict):
        return {key: numbered(item, leaves, kinds) for key, item in tree.items()}
    if isinstance(tree, (tuple, list)):
        return _made(tree, [numbered(item, leaves, kinds) for item in tree])
    if not isinstance(tree, kinds):
        return tree
    leaves.append(tree)
    return Leaf(len(leaves) - 1)


def _made(like: Any, items: list[Any]) -> Any:
    """A list or a tuple, named or not, of items."""
    return type(like)(*items) if hasattr(like, "_fields") else type(like)(items)


def filled(tree: Any, leaves: Sequence[Any]) -> Any:
    """The tree with leaves in their places again."""
    if isinstance(tree, Leaf):
        return leaves[tree.number]
    if isinstance(tree, dict):
        return {key: filled(item, leaves) for key, item in tree.items()}
    return _made(tree, [filled(item, leaves) for item in tree]) if isinstance(tree, (tuple, list)) else tree


def is_like(tree: Any, other: Any, leaves: list[Any]) -> bool:
    """Whether `other` has the containers of a tree; its leaves are collected."""
    if isinstance(tree, Leaf):
        leaves.append(other)
        return not isinstance(other, (tuple, list, dict))
    if type(tree) is not type(other) or len(tree) != len(other):
        return False
    if isinstance(tree, dict):
        return list(tree) == list(other) and all(map(is_like, tree.values(), other.values(), itertools.repeat(leaves)))
    return all(map(is_like, tree, other, itertools.repeat(leaves)))


def kind_of(leaf: Any, name: str) -> tuple[Any, ...]:
    """What a program depends on of an argument: (type, shape, dtype, requires_grad), or (None, the value itself)."""
    if isinstance(leaf, Vertex):
        return (Vertex, leaf.value.shape, leaf.value.dtype, leaf.requires_grad)
    if isinstance(leaf, np.ndarray):
        if type(leaf) not in (np.ndarray, np.memmap) or leaf.dtype.kind not in "fiub":
            raise TypeError(
                f"compile: {name} is a {type(leaf).__name__} of dtype {leaf.dtype}; a compiled function takes arrays "
                "of real numbers or booleans"
            )
        return (np.ndarray, leaf.shape, leaf.dtype, False)
    return (None, leaf)


def is_of_kind(leaf: Any, kind: tuple[Any, ...]) -> bool:
    if kind[0] is np.ndarray:
        return isinstance(leaf, np.ndarray) and leaf.shape == kind[1] and leaf.dtype == kind[2]
    if kind[0] is Vertex:
        return (
            isinstance(leaf, Vertex)
            and leaf.value.shape == kind[1]
            and leaf.value.dtype == kind[2]
            and leaf.requires_grad is kind[3]
        )
    value = kind[1]
    if leaf is value or same(leaf, value):
        return True
    if type(leaf) is not type(value) or isinstance(leaf, (Vertex, np.ndarray)):
        return False
    try:
        return bool(leaf == value) and str(leaf) == str(value)
    except Exception:
        return False


def names_of_leaves(function: Any, args: Any, kwargs: Any) -> dict[int, str]:
    """What the leaves of the arguments are called in the function's signature."""
    found: dict[int, str] = {}
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        parameters = []

    def walk(tree: Any, name: str) -> None:
        if isinstance(tree, Leaf):
            found[tree.number] = name
            return
        for key, item in tree.items() if isinstance(tree, dict) else enumerate(tree):
            walk(item, f"{name}_{key}")

    for i, tree in enumerate(args):
        p = parameters[min(i, len(parameters) - 1)] if parameters else None
        name = f"x{i}" if p is None else p.name if p.kind is not p.VAR_POSITIONAL else f"{p.name}_{i}"
        walk(tree, name)
    for key, tree in kwargs.items():
        walk(tree, key)
    return found
