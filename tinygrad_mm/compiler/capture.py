"""What a function reads besides its arguments: closure cells, globals, modules; and whether any of it has changed.

A compiled program is right as long as everything that the trace has read is what it was. Tensors are read anew at
each call, and so are arrays in cells and globals of the function itself. All else (numbers, flags, which objects stand
where) is guarded: looked at before each call, by identity.

What is found: cells, globals and defaults of the function and of the functions it calls, by the names that their
bytecode loads; all that a Module consists of; what lists, tuples, dicts, sets, deques and the arguments of a partial
hold; of functions, classes and any other object, those attributes that the code names, and what the methods read that
operators and the like call (`table[i]`, `len(table)`); which function a class has under the name of a method.
"""

from __future__ import annotations

import dis
import functools
import inspect
import sys
import types
from collections import deque
from collections.abc import Callable, Iterable
from operator import contains, getitem
from typing import Any, NamedTuple

import numpy as np

from tinygrad_mm.compiler.guards import Guards
from tinygrad_mm.graph import Scope, Vertex

__all__ = ["Captured", "Place", "rebuilt"]

_PLAIN = (int, float, str, bytes, bool, type(None), complex, np.generic, np.dtype)
_MISSING = object()
_FIXED = ("builtins", "numpy")  # where objects come from that have no attributes to change
_IMPLICIT = frozenset(  # methods that are called without being named
    f"__{name}__" for name in ("call", "getitem", "len", "iter", "next", "contains", "bool", "float", "int", "index")
) | {"__getattr__"}
_SMALL = 1024  # bytes: an array of this size is compared with what it held
_STRUCTURE = 1000  # a container with more items is data: it is compared as a whole


class Place:
    """Somewhere that a function reads an array from: a cell (`key` None), or an entry of a dict or a list."""

    __slots__ = ("holder", "key", "name")

    def __init__(self, holder: Any, key: Any, name: str) -> None:
        self.holder, self.key, self.name = holder, key, name

    def read(self) -> Any:
        """What is there now."""
        return self.holder.cell_contents if self.key is None else self.holder[self.key]


class _Kind(NamedTuple):
    """What a guard looks at: as text, with the names of a holder and a key, or the key itself, put in; and as a call.

    What is to be the `same` object may also be an equal number or name; else an equal value will do.
    """

    text: str
    read: Callable[[Any, Any], Any]
    same: bool = False


_ENTRY = _Kind("{0}[{1}]", getitem, same=True)
_CELL = _Kind("{0}.cell_contents", lambda cell, _: cell.cell_contents, same=True)
_ATTRIBUTE = _Kind("{0}.{2}", getattr, same=True)
_SIZE = _Kind("len({0})", lambda sized, _: len(sized))
_KEYS = _Kind("[*{0}]", lambda keyed, _: list(keyed))
_PRESENT = _Kind("({1} in {0})", contains)
_WHOLE = _Kind("{0}", lambda whole, _: whole)
_BYTES = _Kind("{0}.tobytes()", lambda array, _: array.tobytes())


class Captured:
    """Everything that `function` reads besides its arguments; `others` are objects among these.

    `places` hold arrays, which become inputs of the program; `tensors` are all Tensors found, `names` what each is
    called, `arrays` other arrays by id, used as they are. `unchanged()` says whether the guards still hold.
    """

    def __init__(self, function: Callable[..., Any], *others: Any) -> None:
        self.places: list[Place] = []
        self.tensors: list[Vertex] = []
        self.names: dict[int, str] = {}
        self.modules: list[Any] = []
        self.generators: list[np.random.Generator] = []
        self.arrays: dict[int, Any] = {}
        self._guards: list[tuple[_Kind, Any, Any, str]] = []  # kind, holder, key, what the place is called
        self._values: list[Any] = []  # what was found there
        self._seen: dict[Any, Any] = {}  # what was looked at already; held, so that no id is used twice
        self._check: Callable[..., bool] | None = None  # all guards as one function
        self._root: Any = function
        self._function(function, inputs=True)
        for other in others:
            self._object(other, "", words_of(function))

    # -- walking

    def _new(self, value: Any, words: frozenset[str] = frozenset()) -> bool:
        """Whether something was not looked at before (an object: for these words)."""
        key = (id(value), words)
        if key in self._seen:
            return False
        self._seen[key] = value
        return True

    def _function(self, function: Any, inputs: bool = False) -> None:
        """A callable: what its code can reach. `inputs`: arrays directly in its cells and globals become inputs."""
        if isinstance(function, types.FunctionType) and function is self._root and not inputs:
            self._itself()
        if not isinstance(function, (types.FunctionType, types.MethodType, functools.partial)):
            return self._object(function, "")
        if not self._new(function):
            return None
        if isinstance(function, functools.partial):
            self._function(function.func)
            for a in function.args:
                self._object(a, "", words_of(function))
            self._container(function.keywords, "keywords", words_of(function))
        elif isinstance(function, types.MethodType):
            self._object(function.__self__, "", words_of(function))
            self._function(function.__func__)
        else:
            words = words_of(function)
            for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
                try:
                    value = cell.cell_contents
                except ValueError:  # not filled yet: a function that calls itself before it is defined
                    continue
                self._slot(cell, None, value, name, words, inputs)
            for name in sorted(_names_of(function)[0]):
                value = function.__globals__.get(name, _MISSING)
                if value is not _MISSING:
                    self._slot(function.__globals__, name, value, name, words, inputs)
            for part in ("__code__", "__defaults__", "__kwdefaults__"):
                if not is_known(str(function.__globals__.get("__name__", ""))):
                    self._attribute(function, part, f"{function.__name__}.{part}")
                if part != "__code__":
                    self._object(getattr(function, part) or (), f"{function.__name__}.{part}", words)
        return None

    def _guard(self, kind: _Kind, holder: Any, key: Any, value: Any, name: str) -> None:
        """From now on a value has to be found where it is."""
        self._guards.append((kind, holder, key, name))
        self._values.append(value)

    def _attribute(self, owner: Any, word: str, name: str) -> Any:
        """Guard an attribute of an object; returns what it is."""
        value = getattr(owner, word)
        self._guard(_ATTRIBUTE, owner, word, value, name)
        return value

    def _method(self, value: Any, word: str, name: str) -> None:
        """Guard that an object has this method: that of its class, and nothing of its own in front of it."""
        kind = value if isinstance(value, type) else type(value)
        if (id(kind), word) not in self._seen and isinstance(getattr(kind, word, None), (types.FunctionType, property)):
            self._seen[id(kind), word] = kind
            self._attribute(kind, word, f"{kind.__name__}.{word}")
        own = getattr(value, "__dict__", None)
        if type(own) is dict and word not in own and not hasattr(type(value), "named_modules"):
            self._guard(_PRESENT, own, word, False, f"{name}.{word}" if name else word)

    def _itself(self) -> None:
        """The function is reached from itself: its arrays cannot be replaced for a trace of one call of it."""
        for place in self.places:
            self._slot(place.holder, place.key, place.read(), place.name)
        self.places.clear()
        self._root = None

    def _slot(
        self,
        holder: Any,
        key: Any,
        value: Any,
        name: str,
        words: frozenset[str] = frozenset(),
        inputs: bool = False,
    ) -> None:
        """One place that holds something: an input, or a guard and what lies behind it."""
        if isinstance(value, types.ModuleType):
            if not is_known(value.__name__):
                for word in sorted(words & vars(value).keys()):
                    self._slot(vars(value), word, vars(value)[word], f"{name}.{word}", words)
            return
        if inputs and self._root is not None and type(value) is np.ndarray and value.dtype.kind in "fiub":
            self.places.append(Place(holder, key, name))
            return
        self._guard(_CELL if key is None else _ENTRY, holder, key, value, name)
        self._object(value, name, words)

    def _object(self, value: Any, name: str, words: frozenset[str] = frozenset()) -> None:
        if isinstance(value, _PLAIN):
            return
        if isinstance(value, (types.FunctionType, types.MethodType, functools.partial)):
            own = vars(getattr(value, "__func__", value))
            for word in sorted(words & own.keys()):
                self._slot(own, word, own[word], f"{name}.{word}" if name else word, words)
            self._function(value)
        elif isinstance(value, Vertex):
            if self._new(value):
                self.tensors.append(value)
                self.names.setdefault(id(value), name)
        elif isinstance(value, np.ndarray):
            if id(value) not in self.arrays and value.nbytes <= _SMALL and not value.dtype.hasobject:
                # also where only what NumPy made of it went into the trace
                self._guard(_BYTES, value, None, value.tobytes(), name)
            self.arrays[id(value)] = value
        elif isinstance(value, np.random.Generator):
            if self._new(value):
                self.generators.append(value)
                self.names.setdefault(id(value), name)
        elif isinstance(value, (dict, list, tuple, set, frozenset, deque)):
            if self._new(value):
                self._container(value, name, words)
        elif hasattr(type(value), "named_modules") and not isinstance(value, type):
            if self._new(value):
                self._module(value, name)
        elif not (is_known(value.__module__) if isinstance(value, type) else type(value).__module__ in _FIXED):
            self._other(value, name, words)

    def _other(self, value: Any, name: str, words: frozenset[str]) -> None:
        """Any other object: the attributes that are named in the code it is reached from."""
        if self._new(value, words):
            self._methods(value, name, words | _IMPLICIT)
            if hasattr(value, "__wrapped__"):  # another compiled function, a cached one
                self._function(value.__wrapped__)

    def _container(self, value: Any, name: str, words: frozenset[str]) -> None:
        if isinstance(value, dict):
            self._guard(_KEYS, value, None, list(value), name)
        if isinstance(value, (set, frozenset)) or len(value) > _STRUCTURE:
            return self._guard(_WHOLE, value, None, value.copy() if hasattr(value, "copy") else value, name)
        if isinstance(value, tuple):
            for i, item in enumerate(value):
                self._object(item, f"{name}.{i}" if name else str(i), words)
            return None
        if not isinstance(value, dict):
            self._guard(_SIZE, value, None, len(value), name)
        for key, item in list(value.items() if isinstance(value, dict) else enumerate(value)):
            self._slot(value, key, item, f"{name}.{key}" if name else str(key), words)
        return None

    def _module(self, value: Any, name: str) -> None:
        """A Module: all of its attributes, and what the methods of a user's class read."""
        self.modules.append(value)
        if "training" not in vars(value):
            value.training = value.training  # so that there is a place to look at
        self._guard(_SIZE, vars(value), None, len(vars(value)), name)
        for key, item in list(vars(value).items()):
            if key != "_token":
                self._slot(vars(value), key, item, f"{name}.{key}" if name else key)
        self._method(value, "forward", name)
        if not is_known(type(value).__module__):
            self._methods(value, name, _IMPLICIT | {"forward"})

    def _methods(self, value: Any, name: str, words: Iterable[str]) -> None:
        """Guard the attributes of an object that are named in the code it is reached from; look into its methods."""
        todo, done = list(words), set(words)
        while todo:
            word = todo.pop()
            found = inspect.getattr_static(value, word, _MISSING)
            if isinstance(found, (staticmethod, classmethod)):
                found = found.__func__
            if isinstance(found, property):
                found = found.fget
            if isinstance(found, types.FunctionType):
                self._method(value, word, name)
                self._function(found)
                inner = words_of(found) - done
                todo.extend(inner)
                done |= inner
            elif found is not _MISSING and word not in _IMPLICIT and word not in _modules_own(value):
                item = getattr(value, word, _MISSING)
                if item is _MISSING or isinstance(item, (types.MethodType, types.BuiltinMethodType)):
                    continue
                path = f"{name}.{word}" if name else word
                self._object(self._attribute(value, word, path), path, frozenset(done))

    def path_of(self) -> Callable[[Scope | None], str]:
        """A function that says where a call was made: the path of its module and what kind of module that is."""
        paths: dict[int, str] = {}
        for module in self.modules:
            for path, inner in module.named_modules():
                paths.setdefault(id(inner.token), path)

        def path_of(scope: Scope | None) -> str:
            module = None if scope is None else scope.module
            return "" if module is None else f"{paths.get(id(module.token), '')} {module.label}".strip()

        return path_of

    # -- guarding

    def unchanged(self) -> bool:
        """Whether everything stands where it stood."""
        if self._check is None:
            guards = Guards()
            self.guard(guards)
            self._check = guards.function()
        return self._check() or self.still_holds()

    def still_holds(self) -> bool:
        """The same, where a guard has failed: other objects may be the same numbers, and are guarded from then on."""
        if self.what_changed() is not None:
            return False
        self._check = None
        return True

    def guard(self, guards: Guards) -> None:
        """Add the conditions that everything stands where it stood."""
        for (kind, holder, key, _), value in zip(self._guards, self._values, strict=True):
            written = repr(key) if key is None or type(key) in (str, int) else guards.name(key)
            expression = kind.text.format(guards.name(holder), written, key)
            if kind.same:
                guards.same(expression, value)
            else:
                guards.true(f"{expression} == {value if type(value) in (int, bool) else guards.name(value)}")

    def what_changed(self) -> str | None:
        """What has changed, by name; None for nothing. Other objects may be the same numbers, flags and names."""
        for i, ((kind, holder, key, name), value) in enumerate(zip(self._guards, self._values, strict=True)):
            try:
                now = kind.read(holder, key)
            except (KeyError, IndexError, ValueError, AttributeError) as error:
                return f"something that is gone ({error!r})"
            if now is not value if kind.same else now != value:
                if not (kind.same and same(now, value)):
                    return name
                self._values[i] = now
        return None


def same(a: Any, b: Any) -> bool:
    """Whether two plain values are the same: 0.0 and -0.0 are not, nor are 1 and True; NaN is the same as NaN.

    >>> same(2.0, 2.0), same(0.0, -0.0), same(1, True), same(float("nan"), float("nan"))
    (True, False, False, True)
    """
    if not isinstance(a, _PLAIN) or type(a) is not type(b):
        return False
    return bool(a == b or (a != a and b != b)) and bool(a or str(a) == str(b))


def is_known(module: str) -> bool:
    """Whether a module is Python's own, ours, or of an installed package: such code is taken not to change."""
    return _is_installed(module.partition(".")[0])


@functools.cache
def _is_installed(package: str) -> bool:
    if package in ("numpy", "tinygrad_mm") or package in sys.stdlib_module_names:
        return True
    spec = getattr(sys.modules.get(package), "__spec__", None)
    places = [spec.origin or "", *(spec.submodule_search_locations or ())] if spec is not None else []
    return any("site-packages" in place or "dist-packages" in place for place in places)


def words_of(function: Any) -> frozenset[str]:
    """The attributes that a function's code names; none for code that does not change."""
    return _names_of(function)[1]


def _names_of(function: Any) -> tuple[frozenset[str], frozenset[str]]:
    while isinstance(function, functools.partial):
        function = function.func
    function = getattr(function, "__func__", function)
    if not isinstance(function, types.FunctionType) or is_known(str(function.__globals__.get("__name__", ""))):
        return frozenset(), frozenset()
    return names_in(function.__code__)


def _modules_own(value: Any) -> Any:
    """Attributes that are guarded already: those that a Module was assigned."""
    return vars(value) if hasattr(type(value), "named_modules") else ()


@functools.cache
def names_in(code: types.CodeType) -> tuple[frozenset[str], frozenset[str]]:
    """The globals and the attributes that a function's code, and code inside it, may look up.

    The same name is one or the other by the instruction that it belongs to.

    >>> tuple(map(sorted, names_in((lambda x: scale * x.rate).__code__)))
    (['scale'], ['rate'])
    """
    outside: set[str] = set()
    attributes: set[str] = set()
    for instruction in dis.get_instructions(code):
        if instruction.opname.endswith(("_GLOBAL", "_GLOBALS", "_NAME")):
            if instruction.opname != "IMPORT_NAME":
                outside.add(instruction.argval)
        elif instruction.opcode in dis.hasname:
            attributes.add(instruction.argval)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            inner = names_in(constant)
            outside |= inner[0]
            attributes |= inner[1]
    return frozenset(outside), frozenset(attributes)


def rebuilt(function: Callable[..., Any], places: list[Place], tensors: list[Any]) -> Callable[..., Any]:
    """The function with Tensors in the places of arrays that it reads, for the length of a trace."""
    if not places or not isinstance(function, types.FunctionType):
        return function
    there = {(id(p.holder), p.key): t for p, t in zip(places, tensors, strict=True)}
    cells = tuple(
        types.CellType(there[id(c), None]) if (id(c), None) in there else c for c in function.__closure__ or ()
    )
    names = {p.key: t for p, t in zip(places, tensors, strict=True) if p.holder is function.__globals__}
    namespace = {**function.__globals__, **names} if names else function.__globals__
    copy = types.FunctionType(function.__code__, namespace, function.__name__, function.__defaults__, cells)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy
