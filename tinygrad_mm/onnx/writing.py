"""A file under way: its nodes, its constants, and what the values of a recorded graph are called in it."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_mm.graph import Vertex, name_of

__all__ = ["Call", "Graph", "Names", "pads"]


class Graph:
    """The nodes and constants of a file under way."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, operation: str, *inputs: str, **attributes: Any) -> str:
        """One more node; returns the name of its output."""
        return self.add_several(operation, inputs, 1, **attributes)[0]

    def add_several(self, operation: str, inputs: Any, outputs: int, **attributes: Any) -> list[str]:
        """One more node with several outputs; returns their names."""
        from onnx import helper

        name = f"{operation}_{len(self.nodes)}"
        names = [name] if outputs == 1 else [f"{name}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(operation, inputs, names, name=name, **attributes))
        return names

    def constant(self, value: Any, name: str | None = None) -> str:
        """One more constant; returns its name."""
        from onnx import numpy_helper

        name = name or f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value).reshape(np.shape(value)), name))
        return name

    def integers(self, values: Any) -> str:
        """A constant list of whole numbers: shapes, axes."""
        return self.constant(np.array(values, np.int64))


class Names:
    """What values are called in the file: those computed from the inputs, and constants when they are first used."""

    def __init__(self, graph: Graph, given: dict[int, str], parameters: list[tuple[str, Vertex]]) -> None:
        self.graph, self.given = graph, given
        self.parameters = {id(p): name for name, p in parameters}
        self.constants: dict[int, str] = {}
        self.arranged: dict[tuple[int, str], str] = {}  # parameters in another layout

    def any_of(self, arguments: Any) -> bool:
        """Whether something among the arguments was computed from an input."""
        return any(id(a) in self.given for a in arguments)

    def of(self, argument: Any, other: Any, dtype: Any = None) -> str:
        """The name of an argument, which is `other` in the other run; plain numbers are of the dtype."""
        if argument is None:
            return ""
        if id(argument) in self.given:
            return self.given[id(argument)]
        if not isinstance(argument, (Vertex, np.ndarray)):
            return self.graph.constant(np.asarray(argument, dtype))
        value, again = (a.value if isinstance(a, Vertex) else a for a in (argument, other))
        if not np.array_equal(value, again):
            raise ValueError(f"onnx.export: a constant of shape {value.shape} depends on the number of examples")
        if id(argument) not in self.constants:
            self.constants[id(argument)] = self.graph.constant(value, self.parameters.get(id(argument)))
        return self.constants[id(argument)]


class Call:
    """One recorded call, as a row of `OPERATIONS` sees it."""

    def __init__(self, graph: Graph, names: Names, vertex: Vertex, other: Vertex) -> None:
        assert vertex.node is not None
        assert other.node is not None
        self.graph, self.names, self.node, self.again = graph, names, vertex.node, other.node
        self.value, self.other_value = vertex.value, other.value
        self.args, self.kwargs = self.node.args or (), self.node.kwargs
        dtypes = [a.value.dtype for a in self.args if isinstance(a, Vertex) and not isinstance(a.value, tuple)]
        floats = [dtype for dtype in dtypes if dtype.kind == "f"]
        self.dtype = next(iter(floats or dtypes), None)

    @property
    def x(self) -> Any:
        """The array that is the first argument."""
        return getattr(self.args[0], "value", self.args[0])

    @property
    def varying(self) -> list[bool]:
        """For each axis of the first argument, whether its length depends on the number of examples."""
        again = (self.again.args or ())[0]
        return [n != m for n, m in zip(self.x.shape, getattr(again, "value", again).shape, strict=True)]

    def input(self, i: int) -> str:
        """The name of an argument."""
        return self.names.of(self.args[i], (self.again.args or ())[i], self.dtype)

    def inputs(self) -> list[str]:
        """The names of all arguments."""
        return [self.input(i) for i in range(len(self.args))]

    def add(self, operation: str, *inputs: str, **attributes: Any) -> str:
        """One more node; returns its name."""
        return self.graph.add(operation, *inputs, **attributes)

    def unsupported(self, what: str) -> TypeError:
        """The error of a call that has no form in ONNX here."""
        return TypeError(f"onnx.export: {name_of(self.node.fun)} with {what} has no form in ONNX here")


def pads(pairs: Any) -> list[int]:
    """All paddings before the axes, then all after: ONNX's order."""
    return [before for before, _ in pairs] + [after for _, after in pairs]
