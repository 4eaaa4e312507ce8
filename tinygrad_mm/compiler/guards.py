"""Checks made before each call, written out as one Python expression, which is quicker than a loop over them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["Guards"]


class Guards:
    """Collects conditions `expression is object`, and builds the function that checks all of them.

    >>> guards = Guards()
    >>> box = {"a": None}
    >>> guards.same(f"{guards.name(box)}['a']", None)
    >>> check = guards.function()
    >>> check(), box.update(a=1), check()
    (True, None, False)
    """

    def __init__(self, arguments: str = "") -> None:
        self.arguments = arguments
        self.conditions: list[str] = []
        self.objects: dict[str, Any] = {}
        self._names: dict[int, str] = {}

    def name(self, what: Any) -> str:
        """How an object is called in the conditions."""
        if id(what) not in self._names:
            self._names[id(what)] = name = f"o{len(self.objects)}"
            self.objects[name] = what
        return self._names[id(what)]

    def same(self, expression: str, what: Any) -> None:
        """The expression must give this very object."""
        constant = what is None or what is True or what is False
        self.conditions.append(f"{expression} is {what if constant else self.name(what)}")

    def true(self, condition: str) -> None:
        """The condition must hold."""
        self.conditions.append(condition)

    def function(self) -> Callable[..., bool]:
        """All conditions as a function; a place that is gone counts as changed."""
        lines = [f"def check({self.arguments}):", "    try:", "        pass"]
        for i in range(0, len(self.conditions), 50):
            lines.append(f"        if not ({' and '.join(self.conditions[i : i + 50])}): return False")
        lines += ["    except (KeyError, IndexError, ValueError, AttributeError):", "        return False"]
        lines += ["    return True"]
        outer = f"def make({', '.join(self.objects)}):\n" + "\n".join(f"    {line}" for line in lines)
        namespace: dict[str, Any] = {}
        exec(outer + "\n    return check\n", namespace)
        check: Callable[..., bool] = namespace["make"](*self.objects.values())
        return check
