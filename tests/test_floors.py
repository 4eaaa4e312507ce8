"""The house's layout: imports go strictly down the floors, heavy packages load when used, rules stay plain NumPy."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import tinygrad_mm

PACKAGE = Path(tinygrad_mm.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# What stands on which floor. A unit is a file or a folder of the package; units of one floor do not know each other.
FLOORS = (
    {"files", "graph", "memory", "notebook"},
    {"arrays", "cost", "errors", "boundary", "mistakes", "numeric", "rules", "pytree"},
    {"array_methods", "at", "backprop", "dispatch", "names"},
    {"tensor"},
    {"gradient"},
    {"debug", "drawing", "functional", "transforms"},
    {"compiler"},
    {"data", "explorer", "nn", "optim", "random", "testing", "text", "weights"},
    {"distributed", "onnx", "step"},
    {"study", "training"},
    {"sklearn"},
    {"__init__", "__main__"},
)
FLOOR = {unit: number for number, units in enumerate(FLOORS) for unit in units}
# Modules that are nothing without another library.
NEEDS = {"tinygrad_mm.sklearn": {"sklearn"}, "tinygrad_mm.rules.scipy_special": {"scipy"}}
HEAVY = {
    "onnx",
    "scipy",
    "sklearn",
    "graphviz",
    "tqdm",
    "matplotlib",
    "safetensors",
    "numba",
    "threadpoolctl",
    "IPython",
}


def module_of(path: Path) -> str:
    """The dotted name of a file; a folder's own file keeps its `__init__`."""
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)


def unit_of(module: str) -> str:
    """The unit a module belongs to: the name after the package's. A program stands on top, wherever its file is."""
    parts = module.split(".")
    if parts[-1] == "__main__":
        return "__main__"
    return parts[1] if len(parts) > 1 else "__init__"


def called(call: ast.Call) -> str:
    """The last part of the name of what is called."""
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def imported(tree: ast.AST, module: str) -> Iterator[tuple[int, str]]:
    """(line, module) for every import anywhere in a file, also inside functions and for type checkers only."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            # `from tinygrad_mm import nn` imports the unit nn, any other name comes from the package's own file
            yield from (
                (node.lineno, f"{base}.{alias.name}" if base == "tinygrad_mm" and alias.name in FLOOR else base)
                for alias in node.names
            )
        elif isinstance(node, ast.Call) and called(node) in ("import_module", "__import__"):
            yield from ((node.lineno, str(a.value)) for a in node.args[:1] if isinstance(a, ast.Constant))


def violations(source: str, module: str) -> list[str]:
    """What is wrong with the imports of a file inside the package."""
    unit = unit_of(module)
    found = []
    for line, name in imported(ast.parse(source), module):
        if name.split(".")[0] != "tinygrad_mm" or unit_of(name) == unit:
            continue
        other = unit_of(name)
        if other not in FLOOR:
            found.append(f"{module}:{line} imports {other}, which has no floor")
        elif FLOOR[other] >= FLOOR[unit]:
            found.append(f"{module}:{line} (floor {FLOOR[unit]}) imports {other} (floor {FLOOR[other]})")
        elif unit == "rules" and other != "graph":
            found.append(f"{module}:{line} imports {other}; rules know graph only")
    return found


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_go_strictly_down(path):
    assert unit_of(module_of(path)) in FLOOR, "give the new unit a floor in the table above and in ARCHITECTURE"
    assert violations(path.read_text("utf-8"), module_of(path)) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("tinygrad_mm.graph", "from tinygrad_mm.tensor import Tensor"),
        ("tinygrad_mm.graph", "import tinygrad_mm.rules.shape"),
        ("tinygrad_mm.backprop", "import tinygrad_mm as tg"),
        ("tinygrad_mm.backprop", "from tinygrad_mm import Tensor"),
        ("tinygrad_mm.drawing.reader", "from tinygrad_mm import debug"),
        ("tinygrad_mm.drawing.reader", "def f():\n    from tinygrad_mm.compiler import compile"),
        ("tinygrad_mm.rules.shape", "from tinygrad_mm.backprop import backpropagate"),
        ("tinygrad_mm.tensor", "from .nn import Module"),
        ("tinygrad_mm.nn.layers", "from ..optim import SGD"),
        ("tinygrad_mm.nn.layers", "from .. import optim"),
        ("tinygrad_mm.tensor", "import importlib\nimportlib.import_module('tinygrad_mm.nn')"),
        (
            "tinygrad_mm.tensor",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from tinygrad_mm.nn import Module",
        ),
        ("tinygrad_mm.training", "from tinygrad_mm.unheard_of import x"),
    ],
)
def test_the_check_finds_a_wrong_import(module, source):
    assert len(violations(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("tinygrad_mm.tensor", "from tinygrad_mm.graph import Vertex\nimport numpy as np"),
        ("tinygrad_mm.nn.layers", "from tinygrad_mm import functional\nfrom . import init\nfrom .module import Module"),
        ("tinygrad_mm.rules.__main__", "from tinygrad_mm.rules.catalogue import catalogue"),
        ("tinygrad_mm.__init__", "from tinygrad_mm import nn"),
    ],
)
def test_the_check_accepts_a_right_import(module, source):
    assert violations(source, module) == []


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_a_floor_named_in_a_docstring_is_the_one_in_the_table(path):
    docstring = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    for number in re.findall(r"^Floor (\d+)", docstring, re.MULTILINE):
        assert int(number) == FLOOR[unit_of(module_of(path))]


# ---------------------------------------------------------------------------------------------------------------------
# No circles
# ---------------------------------------------------------------------------------------------------------------------


def known_as(path: Path) -> str:
    """The name that a file is imported by; a folder's own file has the folder's."""
    return module_of(path).removesuffix(".__init__")


def imports_of(source: str, module: str, modules: set[str]) -> set[str]:
    """The modules, out of those given, that a file imports anywhere; `from package import name` may mean a module."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            inner = {f"{base}.{alias.name}" for alias in node.names}
            found.update(name if name in modules else base for name in inner)
    return found & modules


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The modules that import each other: those left when whatever imports no other module of them is taken away."""
    left = {module: set(others) for module, others in graph.items()}
    for forwards in (True, False):  # take away the ends, then the beginnings
        while True:
            used = {other for others in left.values() for other in others}
            ends = [m for m, others in left.items() if (not others & left.keys() if forwards else m not in used)]
            if not ends:
                break
            for module in ends:
                del left[module]
            left = {module: others & left.keys() for module, others in left.items()}
    return [[module, *sorted(others)] for module, others in sorted(left.items())]


def test_no_module_imports_itself_by_way_of_others():
    """Those that wait inside functions and those for type checkers count too: they join what is read together."""
    modules = {known_as(path) for path in FILES}
    graph = {
        known_as(path): imports_of(path.read_text("utf-8"), module_of(path), modules) - {known_as(path)}
        for path in FILES
    }
    assert circles(graph) == []


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"p.a": "import p.b", "p.b": "from p import a"}, {"p.a", "p.b"}),
        ({"p.a": "from .b import x", "p.b": "def f():\n    import p.a", "p.c": "import p.a"}, {"p.a", "p.b"}),
        ({"p.a": "from p import b", "p.b": "import p.c", "p.c": "if TYPE_CHECKING:\n    import p.a"}, {"p.a", "p.b", "p.c"}),
        ({"p.a": "from p import b, c", "p.b": "import p.c", "p.c": "import numpy"}, set()),
    ],
)  # fmt: skip
def test_the_check_finds_circles(files, found):
    graph = {module: imports_of(source, module, set(files)) for module, source in files.items()}
    assert {row[0] for row in circles(graph)} == found


# ---------------------------------------------------------------------------------------------------------------------
# What loads when
# ---------------------------------------------------------------------------------------------------------------------


def imported_on_loading(tree: ast.Module) -> set[str]:
    """The packages that a file needs as soon as it is imported."""
    found = set()
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add((node.module or "").split(".")[0])
        waiting.extend(ast.iter_child_nodes(node))
    return found


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_only_numpy_and_the_standard_library_load_with_a_module(path):
    needed = imported_on_loading(ast.parse(path.read_text("utf-8")))
    assert needed <= {"numpy", "tinygrad_mm", *sys.stdlib_module_names, *NEEDS.get(module_of(path), ())}


def test_the_loading_check_tells_lazy_imports_from_others():
    source = "import tqdm\nclass A:\n    import graphviz\n    def f(self):\n        import matplotlib\n"
    assert imported_on_loading(ast.parse(source)) == {"tqdm", "graphviz"}


def test_importing_the_package_loads_no_heavy_package():
    code = f"import sys, tinygrad_mm; print(*sorted({HEAVY!r} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


# ---------------------------------------------------------------------------------------------------------------------
# Rules are plain NumPy
# ---------------------------------------------------------------------------------------------------------------------

REGISTER = ("defvjp", "defvjp_each")


def impure(source: str) -> list[str]:
    """What rule lambdas of a file do that would bake a value into a recorded or traced backward pass."""
    found = []
    for call in ast.walk(ast.parse(source)):
        if not (isinstance(call, ast.Call) and called(call) in REGISTER):
            continue
        for rule in call.args[1:]:
            for node in ast.walk(rule) if isinstance(rule, ast.Lambda) else ():
                if isinstance(node, ast.Attribute) and node.attr in ("value", "data", "asarray", "array", "item"):
                    found.append(f"line {node.lineno}: .{node.attr}")
    return found


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_rules_take_no_array_out_of_the_graph(path):
    assert impure(path.read_text("utf-8")) == []


@pytest.mark.parametrize("body", ["g * np.asarray(x)", "g * x.value", "g * x.data", "g * x.item()"])
def test_the_purity_check_finds_an_impure_rule(body):
    assert len(impure(f"defvjp(np.exp, None, lambda g, y, x: {body})")) == 1
    assert len(impure(f"tg.defvjp_each(np.exp, lambda i, g, y, x: {body})")) == 1
