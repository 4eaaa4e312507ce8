"""`record`: reads the graph, then runs a backward pass with a monitor that notes every step."""

from __future__ import annotations

import linecache
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from tinygrad_mm.backprop import backpropagate, unbroadcast
from tinygrad_mm.drawing.text import index_text, printable, shortened, value_text
from tinygrad_mm.explorer.calls import Call, Ref
from tinygrad_mm.explorer.learning import learn
from tinygrad_mm.explorer.mathematics import expression, operation_name, tell
from tinygrad_mm.explorer.story import Story
from tinygrad_mm.explorer.tape import Argument, Contribution, Kind, Step, Value
from tinygrad_mm.graph import RULES, Monitor, Node, Scope, Vertex, entered, select, topological
from tinygrad_mm.names import Names, names_in, place_of, variables_of_caller
from tinygrad_mm.rules.shown import text_of
from tinygrad_mm.tensor import Buffer, Parameter, Tensor

__all__ = ["record"]

LONGEST_LABEL = 120  # characters
MOST_TOLD_AT_EACH_PLACE = 300  # steps; of more, formulas have their numbers at one place only


def record(
    loss: Tensor,
    model: Any = None,
    variables: Mapping[str, Any] | None = None,
    optimizer: Any = None,
    steps: int = 1,
) -> Story:
    """The computation behind `loss` and its backward pass, step by step, as plain data.

    It runs a backward pass of its own: no `.grad` is written, no hook called, and the graph stays as it is. With
    `model`, parameters and modules are called by their paths; `variables` are further names of tensors and modules (by
    default the variables of the caller). With `optimizer`, the updates after the pass are recorded, and `steps`
    training steps on the same graph; neither parameters nor optimizer change. What is recorded stays true when
    parameters change later; it keeps no tensor alive.

    Raises TypeError for anything but a Tensor, RuntimeError where there is no graph, where it was released (with the
    hint to use `retain_graph=True`) or where a parameter has changed since, ValueError for a loss of several numbers,
    and as `learn` does for an optimizer that does not go with the loss.

    >>> a = Tensor(3.0, requires_grad=True)
    >>> story = record(a * a + a, variables={"a": a})
    >>> [value.label for value in story.values]
    ['a', 'v1', 'v2']
    >>> for step in story.backward:
    ...     print(step.gradient, [entry.formula for entry in step.sent])
    1.0 ['∂L/∂v1 = ∂L/∂v2', '∂L/∂a += ∂L/∂v2']
    1.0 ['∂L/∂a += ∂L/∂v1 · a', '∂L/∂a += ∂L/∂v1 · a']
    7.0 []
    """
    if not isinstance(loss, Tensor):
        raise TypeError(f"the steps of a backward pass are those behind a Tensor, not behind a {type(loss).__name__}")
    if not loss.requires_grad:
        raise RuntimeError(
            "this tensor has no backward pass: none of its inputs has requires_grad=True, or it was computed under "
            "no_grad(), or a function without gradient (a comparison, argmax, detach) cut it off"
        )
    if loss.value.size != 1:
        raise ValueError(
            f"the loss has shape {loss.value.shape}; a backward pass starts from one number: use np.sum or np.mean"
        )
    names = names_in(model, variables_of_caller() if variables is None else variables)
    reader = _Reader(loss, names)
    watch = _Watch(reader.ids, reader.computed)
    with (
        _without_hooks(reader.computed + reader.leaves) as hooked,
        entered(monitor=watch, recording=False, lines=False),
    ):
        backpropagate([loss], [np.ones_like(loss.value)], release=False)
    story = Story(reader.values, reader.forward, watch.steps(), reader.ids[id(loss)], calls=reader.calls)
    if hooked:
        story.notes.append(
            f"{hooked} of the tensors have hooks; they were not called, so these gradients are without them"
        )
    _tell(story)
    if optimizer is not None:
        story.learning = learn(story, optimizer, reader.ids, steps)
    return story


@contextmanager
def _without_hooks(vertices: Sequence[Vertex]) -> Iterator[int]:
    """The graph without its hooks, for the length of a `with` block; gives the number of tensors that have some."""
    before = [(v, v.extra) for v in vertices if v.extra is not None and v.extra.get("hooks")]
    try:
        for vertex, extra in before:
            assert extra is not None
            vertex.extra = {key: value for key, value in extra.items() if key != "hooks"}
        yield len(before)
    finally:
        for vertex, extra in before:
            vertex.extra = extra


# ---------------------------------------------------------------------------------------------------------------------
# Forward: reading the graph
# ---------------------------------------------------------------------------------------------------------------------


class _Reader:
    """Numbers everything that the loss was computed from: results in order, leaves where they are used first."""

    def __init__(self, loss: Vertex, names: Names) -> None:
        self.loss, self.names = loss, names
        self.computed = [v for v in topological([loss], everything=True) if v.node is not None]
        self.leaves: list[Vertex] = []
        self.values: list[Value] = []
        self.forward: list[int] = []
        self.calls: dict[int, Call] = {}
        self.ids: dict[int, int] = {}  # id() of a vertex or array -> id of its value
        self.given: dict[Any, int] = {}  # place in memory of what was given -> id of its value
        self.labels: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()  # of leaves without a name
        arrays = {id(v.value) for v in self.computed}
        for vertex in self.computed:
            node = vertex.node
            assert node is not None
            assert node.args is not None
            for a in node.args:
                if isinstance(a, (Vertex, np.ndarray)) and id(a) not in self.ids:
                    self.add_leaf(a, arrays)
            self.add_computed(vertex, node, node.args)
        if id(loss) not in self.ids:  # a leaf is its own loss
            self.add_leaf(loss, arrays)

    def add_leaf(self, a: Any, computed: set[int]) -> None:
        place = place_of(a)
        if place is not None and place in self.given:  # the same array, given twice
            self.ids[id(a)] = self.given[place]
            return
        array = a.value if isinstance(a, Vertex) else a
        kind: Kind = "constant"
        if isinstance(a, Vertex):
            self.leaves.append(a)
            if isinstance(a, Parameter) or (id(a) in self.names.tensors and a.requires_grad):
                kind = "parameter"
            elif isinstance(a, Buffer):
                kind = "buffer"
            else:
                kind = "detached" if id(array) in computed else "input"
        # Whoever gave an array may write to it later (as an optimizer does), so the story has a copy.
        self.add(a, kind, array if kind == "detached" else array.copy())
        if place is not None and kind != "detached":
            self.given[place] = self.ids[id(a)]

    def add_computed(self, vertex: Vertex, node: Node, args: tuple[Any, ...]) -> None:
        rule = RULES[node.fun]
        names = rule.names if rule.each is None else ()  # the arrays of such a rule have no names
        arguments, references = [], []
        for i, a in enumerate(args):
            name = names[i] if i < len(names) else ""
            if isinstance(a, (Vertex, np.ndarray)):
                value = self.values[self.ids[id(a)]]
                arguments.append(Argument(value.id, value.label, name))
                references.append(Ref(value.id))
            else:
                arguments.append(Argument(None, index_text(a) if name == "key" else value_text(a), name))
                references.append(a)
        arguments += [Argument(None, f"{k}={value_text(v)}", k) for k, v in node.kwargs.items()]
        kind: Kind = "output" if vertex is self.loss else "operation" if vertex.requires_grad else "detached"
        self.add(
            vertex,
            kind,
            vertex.value,
            operation=operation_name(node.fun),
            expression=expression(node.fun, arguments),
            arguments=tuple(arguments),
            modules=self.modules(node.scope),
            line=node.line,
            code=printable(linecache.getline(*node.line).strip()) if node.line else "",
        )
        number = len(self.values) - 1
        self.forward.append(number)
        needed = frozenset(i for i, a in enumerate(args) if isinstance(a, Vertex) and a.requires_grad)
        self.calls[number] = Call(node.fun, tuple(references), node.kwargs, needed)

    def add(self, a: Any, kind: Kind, array: Any, **details: Any) -> None:
        number = self.ids[id(a)] = len(self.values)
        name = self.names.of(a)
        label = _label(name) if name else (f"v{len(self.forward) + 1}" if details else self.unnamed(kind))
        self.labels[label] += 1
        if self.labels[label] > 1:
            label = f"{label}#{number}"
        several = isinstance(array, tuple)
        dtype = ", ".join(str(part.dtype) for part in array) if several else str(array.dtype)
        shape = None if several else array.shape
        self.values.append(
            Value(number, label, name, kind, shape, dtype, getattr(a, "requires_grad", False), array, **details)
        )

    def unnamed(self, kind: Kind) -> str:
        """What a leaf without a name is called: "constant", "constant2", ..."""
        self.kinds[kind] += 1
        return kind if self.kinds[kind] == 1 else f"{kind}{self.kinds[kind]}"

    def modules(self, scope: Scope | None) -> tuple[str, ...]:
        found = []
        while scope is not None and (scope := scope.module) is not None:
            path = self.names.modules.get(scope.token)
            found.append(f"{_label(path)} ({scope.label})" if path else scope.label)
            scope = scope.parent
        return tuple(reversed(found))


def _label(name: str) -> str:
    """A name as it can stand in formulas: on one line, not too long, and set apart where it runs from right to left."""
    text = shortened(printable(name), LONGEST_LABEL)
    turned = any(unicodedata.bidirectional(letter) in ("R", "AL", "AN") for letter in text)
    return f"\N{FIRST STRONG ISOLATE}{text}\N{POP DIRECTIONAL ISOLATE}" if turned else text


# ---------------------------------------------------------------------------------------------------------------------
# Backward: watching the engine
# ---------------------------------------------------------------------------------------------------------------------


class _Watch(Monitor):
    """Notes every step of a backward pass over known vertices.

    The rule of a checkpointed call runs a backward pass of its own, over vertices that are not known here; what it
    tells of known ones is told again, in full, when the pass reaches them. So what comes last counts.
    """

    def __init__(self, ids: Mapping[int, int], computed: Sequence[Vertex]) -> None:
        self.ids = ids
        self.vertices = {id(v): v for v in computed}
        self.visits: dict[int, Step] = {}

    def visit(self, vertex: Vertex, gradient: Any) -> None:
        number = self.ids.get(id(vertex))
        if number is None:
            return
        self.visits.pop(number, None)
        self.visits[number] = Step(number, list(gradient) if type(gradient) is list else np.array(gradient))

    def contribution(self, vertex: Vertex, i: int, gradient: Any) -> None:
        if id(vertex) not in self.vertices:
            return
        node = vertex.node
        assert node is not None
        assert node.args is not None
        target, sender = node.args[i], self.ids[id(vertex)]
        before = _copied(gradient)
        output = None
        if node.fun is select:
            output = int(node.args[1] if len(node.args) > 1 else node.kwargs["index"])
        entry = Contribution(sender, i, self.ids[id(target)], output, before, before)
        if output is None and isinstance(before, np.ndarray):
            _fit(entry, target.value)
        self.visits[sender].sent.append(entry)

    def steps(self) -> list[Step]:
        """The steps in order, each with its ledger."""
        steps = list(self.visits.values())
        for step in steps:
            for entry in step.sent:
                self.visits[entry.target].ledger.append(entry)
        for step in steps[:1]:
            step.ledger.insert(
                0, Contribution(None, 0, step.value, None, step.gradient, step.gradient, formula="∂L/∂L = 1")
            )
        return steps


def _copied(gradient: Any) -> Any:
    """A contribution as it is now: the engine may add to its array later."""
    if isinstance(gradient, (list, tuple)):
        return [None if g is None else np.array(g) for g in gradient]
    return np.array(gradient)


def _fit(entry: Contribution, value: Any) -> None:
    """Sum and cast a contribution as the engine does."""
    before, shape = entry.before, value.shape
    lead = before.ndim - len(shape)
    stretched = (lead + i for i, n in enumerate(shape) if n == 1 and before.shape[lead + i] != 1)
    entry.summed = (*range(lead), *stretched)
    entry.array = before if before.shape == shape else unbroadcast(before, shape)
    if entry.array.dtype != value.dtype:
        entry.cast = str(entry.array.dtype)
        entry.array = entry.array.astype(value.dtype)


def _tell(story: Story) -> None:
    """Write down what each contribution means, once all of them are known."""
    uses = Counter((entry.target, entry.output) for step in story.backward for entry in step.ledger)
    written: dict[Any, str] = {}  # rules, which are looked up in their source files
    for step in story.backward:
        result, call = story.values[step.value], story.calls.get(step.value)
        if call is None:
            continue
        arrays = [story.values[a.value].array if isinstance(a, Ref) else a for a in call.args]
        sent = {entry.argument for entry in step.sent}
        for i, a in enumerate(call.args):
            if isinstance(a, Ref) and i not in sent:
                wanted = story.values[a.value].requires_grad
                step.stopped.append((i, "the rule sends nothing here" if wanted else "requires no gradient"))
        rule = RULES[call.fun]
        for entry in step.sent:
            vjp = rule.vjps[entry.argument] if rule.each is None else rule.each
            assert vjp is not None
            if vjp not in written:
                written[vjp] = text_of(vjp)
            entry.source = written[vjp]
            several = uses[entry.target, entry.output] > 1
            target, few = story.values[entry.target], len(story.backward) <= MOST_TOLD_AT_EACH_PLACE
            told = tell(call, result, target, entry, step.gradient, arrays, several, few)
            entry.formula, entry.where, entry.numbers = told.formula, told.where, told.numbers
            entry.shapes, entry.operands, entry.places = told.shapes, told.operands, told.places
