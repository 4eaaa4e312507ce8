"""Emitted Python: executed, and shown by tracebacks and debuggers for as long as its owner lives."""

from __future__ import annotations

import itertools
import linecache
import weakref
from typing import Any

__all__ = ["execute"]

_number = itertools.count(1).__next__


def execute(source: str, title: str, namespace: dict[str, Any], owner: Any) -> str:
    """Execute `source` in `namespace` under a file name of its own, which it returns.

    `linecache` knows the lines until `owner` is collected. The name stays, without lines: `linecache.checkcache` walks
    over the names that it listed before, and fails in the middle of somebody's traceback if one has vanished meanwhile.

    >>> class Owner: pass
    >>> owner, namespace = Owner(), {}
    >>> name = execute("def double(x):\\n    return 2 * x\\n", "an example", namespace, owner)
    >>> namespace["double"](4), linecache.getline(name, 2)
    (8, '    return 2 * x\\n')
    >>> del owner; linecache.getline(name, 2)
    ''
    """
    filename = f"<{title} #{_number()}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    weakref.finalize(owner, linecache.cache.__setitem__, filename, (0, None, [], filename)).atexit = False
    exec(compile(source, filename, "exec"), namespace)
    return filename
