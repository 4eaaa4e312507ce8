"""Floor 1. Trees: nested dicts, lists and tuples (named ones too) of arrays, taken apart and put together again.

A module is a tree as well: a dict of those of its parameters that require a gradient. It is known by its method
`named_parameters`, since modules stand on a higher floor. None is a container of nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

__all__ = ["Leaf", "flatten", "flatten_like", "unflatten"]


class Leaf(NamedTuple):
    """What stands at the end of a path: an array, a number, a Tensor; `parameter` says that a module owns it."""

    path: str
    value: Any
    parameter: bool = False


def _is_module(tree: Any) -> bool:
    return hasattr(type(tree), "named_parameters")


def _items(tree: Any) -> list[tuple[Any, Any]] | None:
    """What a container holds, by key, in the container's own order; None for a leaf."""
    if tree is None:
        return []
    if isinstance(tree, dict):
        return list(tree.items())
    if isinstance(tree, (list, tuple)):
        return list(enumerate(tree))
    if _is_module(tree):
        return [(path, p) for path, p in tree.named_parameters() if p.requires_grad]
    return None


def flatten(tree: Any, path: str = "") -> list[Leaf]:
    """The leaves of a tree, in order, with their paths.

    >>> [(leaf.path, leaf.value) for leaf in flatten({"b": [1.0, 2.0], "a": (3.0, None)}, "x")]
    [("x['b'][0]", 1.0), ("x['b'][1]", 2.0), ("x['a'][0]", 3.0)]
    """
    items = _items(tree)
    if items is None:
        return [Leaf(path, tree)]
    if _is_module(tree):
        return [Leaf(f"{path}.{name}", p, parameter=True) for name, p in items]
    return [leaf for key, item in items for leaf in flatten(item, f"{path}[{key!r}]")]


def unflatten(tree: Any, leaves: Iterator[Any], keep_modules: bool = False) -> Any:
    """A tree like `tree` with other leaves; a module becomes a dict by path, or, with `keep_modules`, stays as it is.

    >>> unflatten({"b": [1.0, 2.0], "a": (3.0, None)}, iter("xyz"))
    {'b': ['x', 'y'], 'a': ('z', None)}
    """
    items = _items(tree)
    if items is None:
        return next(leaves)
    parts = {key: unflatten(item, leaves, keep_modules) for key, item in items}
    if tree is None or (keep_modules and _is_module(tree)):
        return tree
    if isinstance(tree, list):
        return list(parts.values())
    if isinstance(tree, tuple):
        return type(tree)(*parts.values()) if hasattr(tree, "_fields") else tuple(parts.values())
    return parts


def flatten_like(tree: Any, other: Any, what: str) -> list[Any]:
    """The leaves of `other`, which is built like `tree`, in the order of those of `tree`.

    Raises ValueError where the two are built differently; `what` is what to call `other` there.

    >>> flatten_like({"b": 1.0, "a": 2.0}, {"a": "x", "b": "y"}, "other")
    ['y', 'x']
    """
    items = _items(tree)
    if items is None:
        return [other]
    by_name = isinstance(tree, dict) or _is_module(tree)
    fits: Any = dict if by_name else type(None) if tree is None else (list, tuple)
    found = dict(_items(other) or []) if isinstance(other, fits) else None
    if found is None or found.keys() != {key for key, _ in items}:
        needed = f"{_described(dict(items) if by_name else tree)}, as in the arguments"
        raise ValueError(f"{what}: expected {needed}; got {_described(other)}")
    return [leaf for key, item in items for leaf in flatten_like(item, found[key], f"{what}[{key!r}]")]


def _described(tree: Any) -> str:
    if isinstance(tree, dict):
        return f"a dict with the keys {', '.join(map(repr, tree))}" if tree else "an empty dict"
    if isinstance(tree, (list, tuple)):
        return f"a {type(tree).__name__} of length {len(tree)}"
    return "None" if tree is None else f"a {type(tree).__name__}"
