"""A program as a Python file of its own, which needs NumPy and nothing else."""

from __future__ import annotations

import ast
import base64
import builtins
import inspect
import os
import sys
import tempfile
import textwrap
import types
from pathlib import Path
from typing import Any

import numpy as np

from tinygrad_mm.compiler.emitter import Emitted
from tinygrad_mm.files import keep_permissions
from tinygrad_mm.graph import module_of, name_of

__all__ = ["save_program"]

_HEAD = '''"""{title}

Written by tinygrad_mm {version}. {usage}
"""

import base64

import numpy as np


def memory_of(text):
    """Numbers that were written as text."""
    return np.frombuffer(bytearray(base64.b64decode(text)), np.uint8)


def view(memory, dtype, shape, strides, offset):
    """An array inside a piece of memory; several may share one."""
    return np.ndarray(shape, dtype, memory, offset, strides)


def array_in(memory, shape, dtype):
    """The beginning of a piece of memory, as an array."""
    count = int(np.prod(shape, dtype=np.int64))
    return memory[: count * np.dtype(dtype).itemsize].view(dtype).reshape(shape)


empty = np.empty
'''


def save_program(
    emitted: Emitted, path: str | os.PathLike[str], leaves: list[Any], given: list[Any], title: str, usage: str
) -> Path:
    """Write a program, with all arrays that it is bound to, as a Python file; whole or not at all.

    Raises TypeError for an operation that has no source of its own to write down, and for another backend's program.
    """
    if emitted.needs_numba:
        raise TypeError("save: a program of the Numba backend needs more than NumPy; compile with backend='numpy'")
    writer = _Writer()
    arguments = [writer.text(a) for a in [*leaves, *given, *emitted.bound.values()]]
    memory = [f"np.empty({nbytes}, np.uint8)" for nbytes in emitted.buffers]
    dtypes = sorted({n for n in emitted.namespace if isinstance(emitted.namespace[n], type)})
    parts = [
        _HEAD.format(title=title, version=sys.modules[__name__.partition(".")[0]].__version__, usage=usage),
        *(f"{name} = np.dtype({name!r}).type" for name in dtypes),
        "",
        *writer.roots,
        *writer.definitions.values(),
        "",
        emitted.source,
        "functions = make(",
        f"    [{', '.join(memory)}],",
        *(f"    {a}," for a in arguments),
        ")",
        "",
    ]
    target = Path(path)
    handle, temporary = tempfile.mkstemp(dir=target.parent, suffix=".py")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write("\n".join(parts))
        os.chmod(temporary, 0o644)
        keep_permissions(temporary, target)
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise
    return target


class _Writer:
    """Python text for what a program refers to."""

    def __init__(self) -> None:
        self.roots: list[str] = []  # lines that define pieces of memory
        self.definitions: dict[str, str] = {}  # functions and constants, by name
        self._known: dict[int, str] = {}
        self._keep: list[Any] = []

    def text(self, what: Any) -> str:
        """An expression that gives the object."""
        if isinstance(what, np.ndarray):
            return self._array(what)
        if isinstance(what, (list, tuple)):
            inner = ", ".join(map(self.text, what))
            return f"[{inner}]" if isinstance(what, list) else f"({inner}{',' * (len(what) == 1)})"
        if isinstance(what, np.ufunc):
            return self._ufunc(what)
        owner = getattr(what, "__self__", None)
        if isinstance(owner, np.ufunc):
            return f"{self._ufunc(owner)}.{what.__name__}"
        if isinstance(what, np.dtype):
            return f"np.dtype({what.str!r})"
        if isinstance(what, type) and issubclass(what, np.generic):
            return f"np.{what.__name__}"
        if isinstance(what, np.random.Generator):
            return self._generator(what)
        if isinstance(what, slice):
            return f"slice({self.text(what.start)}, {self.text(what.stop)}, {self.text(what.step)})"
        if what is None or what is Ellipsis or isinstance(what, (bool, int, str, bytes)):
            return repr(what)
        if isinstance(what, float):
            return f"float({str(what)!r})"
        module = getattr(what, "__module__", None) or ""
        name = getattr(what, "__name__", "")
        if module.split(".")[0] == "numpy" and getattr(np, name, None) is what:
            return f"np.{name}"
        if callable(what):
            return self._function(what)
        raise TypeError(f"save: a {type(what).__name__} in the program cannot be written as Python text")

    def _ufunc(self, what: np.ufunc) -> str:
        """A ufunc by its module: SciPy's make the file need SciPy."""
        home = module_of(what)
        if not home.startswith("scipy"):
            return f"np.{what.__name__}"
        self.definitions["scipy"] = "import scipy.special"
        return f"{home}.{what.__name__}"

    def _array(self, array: Any) -> str:
        root = array
        while isinstance(root.base, np.ndarray):
            root = root.base
        if not root.flags.c_contiguous and not root.flags.f_contiguous:
            root = array = np.ascontiguousarray(array)
        if id(root) not in self._known:
            name = f"memory_{len(self._known)}"
            self._known[id(root)] = name
            self._keep.append(root)
            data = base64.b64encode(root.tobytes("A")).decode("ascii")
            lines = textwrap.wrap(data, 110) or [""]
            self.roots.append("\n".join([f"{name} = memory_of(", *(f'    "{line}"' for line in lines), ")"]))
        offset = array.__array_interface__["data"][0] - root.__array_interface__["data"][0]
        shape, strides = tuple(map(int, array.shape)), tuple(map(int, array.strides))
        return f"view({self._known[id(root)]}, {array.dtype.str!r}, {shape}, {strides}, {int(offset)})"

    def _generator(self, rng: np.random.Generator) -> str:
        name = f"generator_{len(self._known)}"
        if id(rng) not in self._known:
            self._known[id(rng)] = name
            self._keep.append(rng)
            kind = type(rng.bit_generator).__name__
            state = _plain(rng.bit_generator.state)
            self.definitions[name] = (
                f"{name} = np.random.Generator(np.random.{kind}())\n{name}.bit_generator.state = {state!r}"
            )
        return self._known[id(rng)]

    def _function(self, function: Any) -> str:
        """A function of ours or of the user's, with all that it refers to."""
        function = getattr(function, "forward", function)
        name = str(getattr(function, "__name__", ""))
        if not isinstance(function, types.FunctionType) or not name.isidentifier() or function.__closure__:
            raise TypeError(f"save: {name_of(function)} has no source of its own that could be written to a file")
        if name in self.definitions:
            return name
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        except (OSError, SyntaxError) as error:
            raise TypeError(f"save: the source of {name} cannot be found") from error
        definition = tree.body[0]
        if not isinstance(definition, ast.FunctionDef):
            raise TypeError(f"save: {name} is not defined by a def statement")
        definition.decorator_list, definition.returns = [], None
        for argument in ast.walk(definition.args):
            if isinstance(argument, ast.arg):
                argument.annotation = None
        for node in ast.walk(definition):
            if isinstance(node, ast.AnnAssign):
                node.annotation = ast.Constant("Any")
        self.definitions[name] = ""  # it may call itself
        for used in sorted({n.id for n in ast.walk(definition) if isinstance(n, ast.Name)}):
            if used in function.__globals__ and not hasattr(builtins, used):
                self._global(used, function.__globals__[used])
        del self.definitions[name]
        self.definitions[name] = "\n" + ast.unparse(definition) + "\n"
        return name

    def _global(self, name: str, value: Any) -> None:
        if name in self.definitions or name == "np":
            return
        if isinstance(value, types.ModuleType):
            self.definitions[name] = f"import {value.__name__} as {name}"
            return
        text = self.text(value)
        if text != name:
            self.definitions[name] = f"{name} = {text}"


def _plain(state: Any) -> Any:
    """A generator's state in Python's own numbers."""
    if isinstance(state, dict):
        return {k: _plain(v) for k, v in state.items()}
    return state.tolist() if isinstance(state, np.ndarray) else state
