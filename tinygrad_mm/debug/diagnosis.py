"""`why`: says in words why a tensor's gradient is None, zero, NaN or huge."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinygrad_mm.debug.causes import (
    Reason,
    backward_reason,
    dead_reason,
    forward_reason,
    holds,
    not_finite,
    zero_reason,
)
from tinygrad_mm.debug.messages import (
    arguments_text,
    array_text,
    call_of,
    place_text,
    scope_text,
    title,
    value_of,
)
from tinygrad_mm.debug.trace import Step, Trace, magnitude
from tinygrad_mm.graph import RULES, Vertex, name_of, state, topological
from tinygrad_mm.names import Names, names_in

__all__ = ["Diagnosis", "why"]

# An element larger than HUGE makes a gradient huge, elements all smaller than TINY make it tiny: far outside of what
# common learning rates and float32 can work with.
HUGE = 1e4
TINY = 1e-8
STEPS = 12  # a longer path is shown with its middle left out

SHRINKING = "use relu or residual connections, larger weights to start with, or normalise between the layers"
SMOOTH = "use a smooth function in its place (softmax for argmax, sigmoid for a comparison)"


@dataclass(frozen=True)
class Diagnosis:
    """What `why` found: `text` in words, `facts` for programs.

    `facts["verdict"]` is one of "none", "zero", "nan", "huge", "tiny", "fine", and `facts["cause"]` one word for the
    reason; where they are known, "reason" says it in words, "operation" names the operation, "path" the operations from
    the loss to the tensor, and "norm" and "largest" say how large the gradient is.
    """

    text: str
    facts: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.text

    __repr__ = __str__


def why(tensor: Any, loss: Any = None, model: Any = None) -> Diagnosis:
    """Why the gradient of a tensor is None, zero, NaN or huge, in words, with the operation and the path to it.

    With `loss`, the tensor that `backward()` will be (or was, with `retain_graph=True`) called on, the answer comes
    from a private backward pass: neither `.grad` nor the graph is changed; a loss of several numbers counts as their
    sum. Without it, it says what the tensor alone can tell. With `model`, modules and parameters go by their paths in
    it. Source lines are known for what was computed inside `detect_anomaly()`.

    Raises TypeError where `tensor` or `loss` is not a Tensor.

    >>> from tinygrad_mm.tensor import Tensor
    >>> x = Tensor([-1.0, -2.0], requires_grad=True)
    >>> why(x, loss=np.sum(np.maximum(x, 0)))
    The gradient of a leaf that requires grad, (2,) float32, is zero.
      reason: maximum, for its argument 0: the ReLU is dead: 100 % of its elements are 0
      argument 0: a leaf that requires grad, (2,) float32 from -2 to -1
      argument 1: a constant, the number 0
      path: sum > maximum
      fix: lower the learning rate, start with He initialisation and a small positive bias, or use gelu or a leaky ReLU
    """
    for what, value in (("tensor", tensor), ("loss", loss)):
        if not isinstance(value, Vertex) and not (what == "loss" and value is None):
            raise TypeError(
                f"why: {what} is a {type(value).__name__}, not a Tensor; ask about the Tensor itself, not its .grad"
            )
    examiner = _Examiner(tensor, names_in(model))
    with np.errstate(all="ignore"):
        return examiner.alone() if loss is None else examiner.through(loss)


class _Examiner:
    """One question about one tensor."""

    def __init__(self, tensor: Vertex, names: Names) -> None:
        self.tensor = tensor
        self.names = names

    # -- without a loss

    def alone(self) -> Diagnosis:
        """What can be said from the tensor itself."""
        t = self.tensor
        if t.grad is not None:
            verdict = _verdict(t.grad)
            if verdict == "fine":
                return self._fine(t.grad, [])
            fix = (
                "why(t, loss=loss), before loss.backward() or after loss.backward(retain_graph=True), names the "
                "operation that made it so"
            )
            return self._report(verdict, Reason(f"its .grad is {array_text(t.grad)}", fix, "unknown"), grad=t.grad)
        if not t.requires_grad:
            return self._without_requirement()
        if t.node is not None:
            released = "; a backward pass has been through here and has released the graph"
            words = f"it was computed, by {self._operation(t)}, and only leaves keep their gradient"
            fix = "call t.retain_grad() before backward(), or use tg.gradients(loss, t)"
            reason = Reason(words + (released if t.node.args is None else ""), fix, "not_leaf")
            return self._report("none", reason, operation=name_of(t.node.fun))
        words = (
            "it is a leaf that requires a gradient, and nothing has arrived: backward() has not been run since it was "
            "made (or since zero_grad()), or the loss does not depend on it (gradients() never writes .grad)"
        )
        fix = "call loss.backward(); if that was done, why(t, loss=loss) says where the path breaks off"
        return self._report("none", Reason(words, fix, "not_run"))

    def _without_requirement(self) -> Diagnosis:
        """A tensor that does not require a gradient."""
        t = self.tensor
        if t.node is not None:
            fun = t.node.fun
            what = f"a result of dtype {t.value.dtype}" if RULES[fun].differentiable else f"{name_of(fun)}"
            words = f"{self._operation(t)} made it, and the gradient stops there: {what} has no derivative, or only 0"
            return self._report("none", Reason(words, SMOOTH, "stopped"), operation=name_of(fun))
        if t.value.dtype.kind != "f":
            fix = "make it a floating one: Tensor(data, dtype=np.float32, requires_grad=True)"
            return self._report("none", Reason(f"numbers of dtype {t.value.dtype} have no derivative", fix, "dtype"))
        words = (
            "it does not require a gradient: it was made so, or it was computed without a record, by detach() or from "
            ".data, under no_grad(), or from tensors none of which requires a gradient"
        )
        if not state.recording:
            words += "; recording is off right here, too: this is inside no_grad()"
        fix = (
            "make it with requires_grad=True (or call t.requires_grad_()) before it is used, or leave the detach() out"
        )
        return self._report("none", Reason(words, fix, "no_requires_grad"))

    # -- with a loss

    def through(self, loss: Vertex) -> Diagnosis:
        """What a backward pass from the loss to the tensor shows."""
        t = self.tensor
        if not t.requires_grad:
            return self._without_requirement()
        if not loss.requires_grad:
            because = _Examiner(loss, self.names)._without_requirement().facts["reason"]
            fix = (
                "compute the loss from tensors that require a gradient, with functions that have one, outside no_grad()"
            )
            words = f"the loss itself has no gradient to give: {because}"
            return self._report("none", Reason(words, fix, "loss_without_graph"))
        try:
            order = topological([loss])
            everything = topological([loss], everything=True)
        except RuntimeError as error:
            fix = "ask before backward(), or call loss.backward(retain_graph=True)"
            verdict = "none" if t.grad is None else _verdict(t.grad)
            return self._report(verdict, Reason(f"no longer known: {error}", fix, "released"), grad=t.grad)
        if not any(v is t for v in order):
            return self._unused(everything)
        try:
            trace = Trace(loss, t)
        except RuntimeError as error:
            return self._report("none", Reason(f"the backward pass fails: {error}", "see there", "backward_fails"))
        if id(t) not in trace.gradients:
            return self._cut(order)
        grad = trace.gradients[id(t)]
        verdict = _verdict(grad)
        if verdict == "nan":
            return self._not_finite_forward(everything, grad) or self._not_finite(trace, grad)
        if verdict == "zero":
            return self._zero(trace, grad)
        return self._fine(grad, trace.climb(t)) if verdict == "fine" else self._scaled(trace, grad, verdict)

    def _unused(self, everything: Sequence[Vertex]) -> Diagnosis:
        """No gradient leads from the loss to the tensor: is there a trace of it in the graph all the same?"""
        t = self.tensor
        reached = {id(t)}
        for v in everything:
            if v.node is not None and any(id(a) in reached for a in call_of(v)[1]):
                reached.add(id(v))
                if not v.requires_grad:
                    words = f"the loss uses it only by way of {self._operation(v)}, where the gradient stops"
                    return self._report("none", Reason(words, SMOOTH, "stopped"), operation=name_of(v.node.fun))
        constants = list(_constants(everything))
        for user, i, a in constants:
            if np.may_share_memory(value_of(a), t.value):
                words = (
                    f"the loss uses its array, but as a constant, in argument {i} of {self._operation(user)}: "
                    "detach(), .data or np.asarray() has cut it off"
                )
                reason = Reason(words, "use the tensor itself", "detached")
                return self._report("none", reason, operation=name_of(call_of(user)[0].fun))
        words = "the loss was not computed from it, as far as the graph shows: it was not used"
        owner = self._owner_without_calls(everything)
        if owner:
            words = (
                f"the loss was not computed from it: no operation in the graph was made in {owner}, which was not "
                "called, or whose result was not used"
            )
        younger = [] if owner else [c for c in constants if isinstance(c[2], Vertex) and c[2].version > t.version]
        if younger:
            places = [
                f"argument {i} of {self._operation(user)}, {array_text(value_of(a))}" for user, i, a in younger[:3]
            ]
            words += (
                "; if it was, then detach(), .data, no_grad() or a function without gradient made one of "
                f"these constants, which are younger than the tensor: {'; '.join(places)}"
            )
        fix = "check that the layer is called, and that its result is used in the loss"
        return self._report("none", Reason(words, fix, "unused"))

    def _owner_without_calls(self, everything: Sequence[Vertex]) -> str:
        """The module that a parameter belongs to, where the model is known and nothing in the graph was made in it."""
        path = self.names.tensors.get(id(self.tensor), "").rpartition(".")[0]
        called = set()
        for v in everything:
            scope = v.node.scope if v.node is not None else None
            while scope is not None:
                called.add(self.names.modules.get(scope.token))
                scope = scope.parent
        return "" if path in called else path

    def _cut(self, order: Sequence[Vertex]) -> Diagnosis:
        """The tensor is in the graph, but the rules on the way send nothing to the argument that it became."""
        reached = {id(self.tensor)}
        stops: list[tuple[Vertex, int]] = []
        for v in order:
            node, args = call_of(v) if v.node is not None else (None, ())
            for i, a in enumerate(args):
                if node is not None and id(a) in reached:
                    rule = RULES[node.fun]
                    if rule.each is not None or (i < len(rule.vjps) and rule.vjps[i] is not None):
                        reached.add(id(v))
                    else:
                        stops.append((v, i))
        user, i = stops[0]
        words = f"{self._operation(user)} has no gradient for its argument {i}, and that is what the loss uses it for"
        reason = Reason(words, "use it in an argument that has a gradient", "stopped")
        return self._report("none", reason, operation=name_of(call_of(user)[0].fun))

    def _not_finite_forward(self, everything: Sequence[Vertex], grad: Any) -> Diagnosis | None:
        """NaN or Inf in the forward pass already: the first operation that gave one."""
        for v in everything:
            if v.node is None or not holds(v.value, not_finite):
                continue
            node, args = call_of(v)
            values = value_of(args)
            given = [a for a in args if not (isinstance(a, Vertex) and a.node is not None)]
            nan = next((a for a in given if holds(value_of(a), np.isnan)), None)
            if nan is not None:
                reason = Reason(f"{title(nan, self.names)} holds NaN from the start", "clean the data", "data")
            elif not holds(values, not_finite):
                reason = forward_reason(node.fun, values, v.value)
            else:
                continue
            words = f"{self._operation(v)} gave {array_text(v.value)} in the forward pass already: {reason.words}"
            lines = arguments_text(args, self.names)
            reason = Reason(words, reason.fix, "forward")
            return self._report("nan", reason, lines, grad=grad, operation=name_of(node.fun))
        return None

    def _not_finite(self, trace: Trace, grad: Any) -> Diagnosis:
        """NaN or Inf: the first rule on the way that made it of a finite gradient."""
        turns = trace.turns(self.tensor, lambda norm: not np.isfinite(norm))
        if not turns:
            words = "the contributions are finite; their sum (or a hook) is not"
            return self._report("nan", Reason(words, "scale the loss down, or look at the hook", "sum"), grad=grad)
        step, between = turns[0]
        node, args = call_of(step.vertex)
        y, incoming = step.vertex.value, trace.gradients[id(step.vertex)]
        sent = np.asarray(step.norm, grad.dtype)
        reason = backward_reason(node.fun, step.argument, value_of(args), y, incoming, sent)
        return self._named("nan", trace, step, between, reason, grad)

    def _zero(self, trace: Trace, grad: Any) -> Diagnosis:
        """All zeros: the steps at which something became nothing."""
        turns = trace.turns(self.tensor, lambda norm: norm == 0)
        if not turns:
            words = "the contributions of the operations that use it cancel each other (or a hook has replaced them)"
            return self._report("zero", Reason(words, "check the signs in the loss", "cancelled"), grad=grad)
        step, between = turns[0]
        node, args = call_of(step.vertex)
        size = _largest(trace.gradients[id(step.vertex)])
        if size < 1e-3 and trace.underflows(step):  # a larger one is not lost to underflow, but to rounding
            words = f"the gradient has shrunk to {size:.2g} on the way here, and the next step underflows to 0"
            reason = Reason(words, SHRINKING, "underflow")
        else:
            reason = zero_reason(node.fun, step.argument, value_of(args), step.vertex.value)
        if reason.cause == "multiplied_by_zero":
            reason = self._behind_zeros(args, step.argument, reason)
        likewise = [self._operation(other.vertex) for other, _ in turns[1:4]]
        return self._named("zero", trace, step, between, reason, grad, likewise)

    def _behind_zeros(self, args: Sequence[Any], argument: int, reason: Reason) -> Reason:
        """Where the other factor of a product was computed: the operation that made it zero."""
        for k, a in enumerate(args):
            if k != argument and isinstance(a, Vertex) and a.node is not None and not np.any(a.value):
                words = f"{reason.words}: the result of {self._operation(a)}"
                if name_of(a.node.fun) in ("relu", "maximum"):
                    dead = dead_reason(a.value)
                    return Reason(f"{words}; {dead.words}", dead.fix, dead.cause)
                return Reason(words, "ask why that is zero, one operation earlier", reason.cause)
        return reason

    def _scaled(self, trace: Trace, grad: Any, verdict: str) -> Diagnosis:
        """Huge or tiny: the step that multiplied the norm the most, or the least; or the many of one kind that did."""
        steps = trace.climb(self.tensor)
        if not steps:
            return self._fine(grad, [])
        sign = -1 if verdict == "huge" else 1
        logs = [sign * math.log(max(trace.factor(step), 1e-300)) for step in steps]  # what changes most is lowest
        kinds: dict[str, list[int]] = {}  # the steps that go the same way, by operation
        for k, step in enumerate(steps):
            if logs[k] < 0:
                kinds.setdefault(name_of(call_of(step.vertex)[0].fun), []).append(k)
        most, *others = sorted(range(len(steps)), key=logs.__getitem__)
        alike = min(kinds.values(), key=lambda ks: sum(logs[k] for k in ks), default=[most])
        if len(alike) > 1 and most not in alike and sum(logs[k] for k in alike) < logs[most]:
            most = min(alike, key=logs.__getitem__)
        if len(alike) > 1 and most in alike:
            name, total = name_of(call_of(steps[most].vertex)[0].fun), sign * sum(logs[k] for k in alike)
            words = (
                f"it and {len(alike) - 1} more {name} on the way multiply the norm of the gradient by "
                f"{math.exp(total):.3g} together, by {math.exp(total / len(alike)):.3g} each"
            )
        else:
            words = f"it multiplies the norm of the gradient by {trace.factor(steps[most]):.3g}"
            if others:
                next_ones = [
                    f"{name_of(call_of(steps[k].vertex)[0].fun)}, by {trace.factor(steps[k]):.3g}" for k in others[:3]
                ]
                words += f" (the next are {'; '.join(next_ones)})"
        if verdict == "huge":
            fix = (
                "bring the arguments above to a size around 1 (normalise inputs, smaller weights), take the mean in "
                "the loss rather than the sum, or clip the gradient"
            )
        else:
            fix = SHRINKING
        return self._named(verdict, trace, steps[most], steps[:most], Reason(words, fix, "factor"), grad)

    # -- words

    def _operation(self, v: Vertex) -> str:
        """The operation that made a vertex, with the place it was called in."""
        node = v.node
        assert node is not None
        place = place_text(node.scope, node.line, self.names)
        return name_of(node.fun) + (f" ({place})" if place else "")

    def _named(
        self,
        verdict: str,
        trace: Trace,
        step: Step,
        between: Sequence[Step],
        reason: Reason,
        grad: Any,
        likewise: Sequence[str] = (),
    ) -> Diagnosis:
        """A diagnosis that names one step, and the path through it."""
        node, args = call_of(step.vertex)
        operation = f"{self._operation(step.vertex)}, for its argument {step.argument}"
        lines = arguments_text(args, self.names)
        if likewise:
            lines.append(f"likewise: {', '.join(likewise)}")
        steps = [*between, step, *trace.climb(step.vertex)]
        facts = {"operation": name_of(node.fun), "argument": step.argument, "line": node.line}
        facts["module"] = scope_text(node.scope, self.names)
        words = Reason(f"{operation}: {reason.words}", reason.fix, reason.cause)
        return self._report(verdict, words, [*lines, *self._path(steps)], grad=grad, path=_names(steps), **facts)

    def _path(self, steps: Sequence[Step]) -> list[str]:
        """One line with the operations from the loss to the tensor."""
        parts = []
        for step in reversed(steps):
            node, _ = call_of(step.vertex)
            where = scope_text(node.scope, self.names)
            parts.append(name_of(node.fun) + (f" [{where}]" if where else ""))
        if len(parts) > STEPS:
            parts = [*parts[:3], f"... {len(parts) - STEPS} more ...", *parts[3 - STEPS :]]
        return [f"path: {' > '.join(parts)}"] if parts else []

    def _fine(self, grad: Any, steps: Sequence[Step]) -> Diagnosis:
        sizes = f"{array_text(grad)}, {100 * np.mean(grad == 0):.3g} % of them 0"
        reason = Reason(f"nothing is wrong with it: {sizes}", "", "fine")
        return self._report("fine", reason, self._path(steps), grad=grad, path=_names(steps))

    def _report(
        self, verdict: str, reason: Reason, lines: Sequence[str] = (), grad: Any = None, **facts: Any
    ) -> Diagnosis:
        t = self.tensor
        says = {"none": "None", "nan": "not finite"}.get(verdict, verdict)
        head = f"The gradient of {title(t, self.names)}, {t.value.shape} {t.value.dtype}, is {says}."
        parts = [head, f"reason: {reason.words}", *lines]
        if reason.fix:
            parts.append(f"fix: {reason.fix}")
        facts = {"verdict": verdict, "cause": reason.cause, "reason": reason.words, **facts}
        if grad is not None:
            facts.update(norm=magnitude(grad), largest=_largest(grad))
        return Diagnosis("\n  ".join(parts), facts)


def _largest(grad: Any) -> float:
    """The largest magnitude in an array, or in several."""
    parts = grad if isinstance(grad, list) else [grad]
    return max(float(np.max(np.abs(part), initial=0)) for part in parts if part is not None)


def _verdict(grad: Any) -> str:
    """One word for a gradient."""
    largest = _largest(grad)
    if not np.isfinite(largest):
        return "nan"
    return "zero" if largest == 0 else "huge" if largest > HUGE else "tiny" if largest < TINY else "fine"


def _names(steps: Sequence[Step]) -> tuple[str, ...]:
    """The operations from the loss to the tensor."""
    return tuple(name_of(call_of(step.vertex)[0].fun) for step in reversed(steps))


def _constants(order: Sequence[Vertex]) -> Iterator[tuple[Vertex, int, Any]]:
    """(user, argument number, tensor or array) for everything given in a graph that no gradient flows to."""
    for v in order:
        if v.node is not None:
            for i, a in enumerate(call_of(v)[1]):
                if isinstance(a, np.ndarray) or (isinstance(a, Vertex) and a.node is None and not a.requires_grad):
                    yield v, i, a
