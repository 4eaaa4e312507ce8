"""`why`: says in words why a tensor's gradient is None, zero, NaN or huge."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinygrad_mm.debug.reasons import Reason, backward_reason, dead_reason, forward_reason, holds, zero_reason
from tinygrad_mm.debug.trace import Edge, Trace, magnitude
from tinygrad_mm.debug.wording import Names, arguments_text, array_text, names_in, place_text, scope_text, title
from tinygrad_mm.graph import RULES, Vertex, name_of, state, topological

__all__ = ["Diagnosis", "why"]

HUGE = 1e4  # elements larger than this make a gradient huge, and elements all smaller than that make it tiny:
TINY = 1e-8  # far outside what the common learning rates and float32 can work with
STEPS = 12  # a longer path is shown with its middle left out


@dataclass(frozen=True)
class Diagnosis:
    """What `why` found: `text` in words, `facts` for programs.

    `facts["verdict"]` is one of "none", "zero", "nan", "huge", "tiny", "fine"; `facts["cause"]` one word for the
    reason; where they are known, "operation" names the operation, "path" the operations from the loss to the tensor,
    and "norm" and "largest" say how large the gradient is.
    """

    text: str
    facts: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.text

    __repr__ = __str__


def why(tensor: Any, loss: Any = None, model: Any = None) -> Diagnosis:
    """Why the gradient of a tensor is None, zero, NaN or huge, in words, with the operation and the path to it.

    With `loss`, the tensor that `backward()` is (or was, with `retain_graph=True`) called on, the answer comes from a
    private backward pass: neither `.grad` nor the graph is changed; a loss of several numbers counts as their sum.
    Without it, it says what the tensor alone can tell. With `model`, modules and parameters go by their paths in it.
    Source lines are known for what was computed inside `detect_anomaly()`.

    Raises TypeError where `tensor` or `loss` is not a Tensor.

    >>> from tinygrad_mm.tensor import Tensor
    >>> x = Tensor([-1.0, -2.0], requires_grad=True)
    >>> why(x, loss=np.sum(np.maximum(x, 0)))
    The gradient of a leaf that requires grad, (2,) float32, is zero.
      reason: maximum, argument 0: the ReLU is dead: 100 % of the elements are 0
      argument 0: a leaf that requires grad, (2,) float32 from -2 to -1
      argument 1: a constant, the number 0
      path: sum > maximum
      fix: lower the learning rate, start with a small positive bias or He initialisation, or use a leaky ReLU or gelu
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
        self.name = f"{title(tensor, names)}, {tensor.value.shape} {tensor.value.dtype},"

    # -- without a loss

    def alone(self) -> Diagnosis:
        """What can be said from the tensor itself."""
        t = self.tensor
        if t.grad is not None:
            return self._of_grad(t.grad)
        if not t.requires_grad:
            return self._requires_none()
        if t.node is None:
            return self._none(
                "not_run",
                "it is a leaf that requires a gradient, and nothing has arrived: backward() has not been run since it "
                "was made (or since zero_grad()), or the loss does not depend on it (gradients() never writes .grad)",
                "call loss.backward(); if that was done, why(t, loss=loss) says where the path breaks off",
            )
        released = t.node.args is None
        return self._none(
            "not_leaf",
            f"it was computed, by {self._operation(t)}, and only leaves keep their gradient"
            + ("; a backward pass has been through here, and has released the graph" if released else ""),
            "call t.retain_grad() before backward(), or use tg.gradients(loss, t)",
            operation=name_of(t.node.fun),
        )

    def _of_grad(self, grad: Any) -> Diagnosis:
        """A gradient is there: is it as it should be?"""
        verdict = _verdict(grad)
        if verdict == "fine":
            return self._report("fine", "fine", [f"nothing is wrong with it: {array_text(grad)}"], grad=grad)
        lines = [
            f"its .grad is {array_text(grad)}",
            "fix: why(t, loss=loss), before loss.backward() or after loss.backward(retain_graph=True), "
            "names the operation that made it so",
        ]
        return self._report(verdict, "unknown", lines, grad=grad)

    def _requires_none(self) -> Diagnosis:
        """A tensor that does not require a gradient."""
        t = self.tensor
        if t.node is not None:
            name = name_of(t.node.fun)
            return self._none(
                "stopped",
                f"{self._operation(t)} made it, and the gradient stops there: "
                + (
                    f"a result of dtype {t.value.dtype} has no derivative"
                    if RULES[t.node.fun].differentiable
                    else f"{name} has no derivative, or one that is zero"
                ),
                "use a smooth function in its place (softmax for argmax, sigmoid for a comparison)",
                operation=name,
            )
        if t.value.dtype.kind != "f":
            return self._none(
                "dtype",
                f"numbers of dtype {t.value.dtype} have no derivative",
                "make it a floating one: Tensor(data, dtype=np.float32, requires_grad=True)",
            )
        no_grad = "" if state.recording else ", and recording is off here: this is inside no_grad()"
        return self._none(
            "no_requires_grad",
            "it does not require a gradient. Either it was made so, or it was computed without a record: by detach() or "
            f"from .data, under no_grad(), or from tensors none of which requires a gradient{no_grad}",
            "make it with requires_grad=True (or call t.requires_grad_()) before it is used, or leave the detach() out",
        )

    # -- with a loss

    def through(self, loss: Vertex) -> Diagnosis:
        """What a pass from the loss to the tensor shows."""
        t = self.tensor
        if not t.requires_grad:
            return self._requires_none()
        if not loss.requires_grad:
            return self._none(
                "loss_without_graph",
                f"the loss itself requires no gradient: {_Examiner(loss, self.names)._requires_none().facts['reason']}",
                "compute the loss from tensors that require a gradient, outside no_grad(), with functions that have one",
            )
        try:
            order = topological([loss])
        except RuntimeError as error:
            verdict = "none" if t.grad is None else _verdict(t.grad)
            fix = "fix: ask before backward(), or call loss.backward(retain_graph=True)"
            return self._report(
                verdict, "released", [f"reason: not known, {error}", fix], grad=t.grad, reason=str(error)
            )
        if not any(v is t for v in order):
            return self._unused(loss)
        try:
            trace = Trace(loss, t)
        except RuntimeError as error:
            return self._none("backward_fails", f"the backward pass raises: {error}", "as the error says")
        if id(t) not in trace.gradients:
            return self._cut_by_rule(order)
        grad = trace.gradients[id(t)]
        verdict = _verdict(grad)
        if verdict == "nan":
            return self._not_finite(trace, grad, topological([loss], everything=True))
        if verdict == "zero":
            return self._zero(trace, grad)
        return self._scaled(trace, grad, verdict)

    def _unused(self, loss: Vertex) -> Diagnosis:
        """No gradient leads from the loss to the tensor: is there a trace of it in the graph all the same?"""
        t = self.tensor
        everything = topological([loss], everything=True)
        reached = {id(t)}
        stops = []
        for v in everything:
            if v.node is not None and any(id(a) in reached for a in v.node.args or ()):
                if v.requires_grad:
                    reached.add(id(v))
                else:
                    stops.append(v)
        if stops:
            words = f"the loss uses it only by way of {self._operation(stops[0])}, where the gradient stops"
            fix = "use a smooth function in its place (softmax for argmax, sigmoid for a comparison)"
            assert stops[0].node is not None
            return self._none("stopped", words, fix, operation=name_of(stops[0].node.fun))
        constants = list(_constants(everything))
        for user, i, array in constants:
            if np.may_share_memory(getattr(array, "value", array), t.value):
                return self._none(
                    "detached",
                    f"the loss uses its array, but as a constant: argument {i} of {self._operation(user)}. It was cut off "
                    "by detach(), .data or np.asarray()",
                    "use the tensor itself",
                    operation=name_of(user.node.fun),  # type: ignore[union-attr]
                )
        later = [(u, i, a) for u, i, a in constants if isinstance(a, Vertex) and a.version > t.version]
        words = "the loss was not computed from it, as far as the graph shows"
        if later:
            places = "; ".join(
                f"argument {i} of {self._operation(user)}, {array_text(a.value)}" for user, i, a in later[:3]
            )
            words += (
                f". If it should have been, the path was cut by detach(), .data, no_grad() or a function without gradient: "
                f"these constants are younger than the tensor: {places}"
            )
        return self._none("unused", words, "check that the layer is called, and that its result is used in the loss")

    def _cut_by_rule(self, order: Sequence[Vertex]) -> Diagnosis:
        """The tensor is in the graph, but the rules on the way have no gradient for the argument that it became."""
        on_path = {id(self.tensor)}
        cuts = []
        for v in order:
            node = v.node
            if node is None:
                continue
            for i, a in enumerate(node.args or ()):
                if id(a) in on_path:
                    rule = RULES[node.fun]
                    if rule.each is None and not (i < len(rule.vjps) and rule.vjps[i] is not None):
                        cuts.append((v, i))
                    else:
                        on_path.add(id(v))
        v, i = cuts[0]
        assert v.node is not None
        words = f"{self._operation(v)} has no gradient for its argument {i}, and that is what the loss uses it for"
        return self._none("stopped", words, "use it in an argument that has a gradient", operation=name_of(v.node.fun))

    def _not_finite(self, trace: Trace, grad: Any, everything: Sequence[Vertex]) -> Diagnosis:
        """NaN or Inf: the first operation of the forward pass that gave one, or else the first rule."""
        for v in everything:
            if v.node is None or not holds(v.value, _not_finite):
                continue
            values = [a.value if isinstance(a, Vertex) else a for a in v.node.args or ()]
            if any(holds(value, _not_finite) for value in values):
                bad = next((a for a in v.node.args or () if holds(getattr(a, "value", a), np.isnan)), None)
                if bad is None or (isinstance(bad, Vertex) and bad.node is not None):
                    continue
                reason = Reason(f"{title(bad, self.names)} holds NaN already", "clean the data", "data")
            else:
                reason = forward_reason(v.node.fun, values, v.value)
            words = f"{self._operation(v)} gave {array_text(v.value)} in the forward pass already: {reason.words}"
            lines = [f"reason: {words}", *arguments_text(v.node.args, self.names), f"fix: {reason.fix}"]
            return self._report("nan", "forward", lines, grad=grad, operation=name_of(v.node.fun), reason=words)
        turns = trace.turns(self.tensor, lambda norm: not np.isfinite(norm))
        if not turns:
            return self._report(
                "nan", "sum", ["reason: the sum of finite contributions (or a hook) made it so"], grad=grad
            )
        edge, below = turns[0]
        node, values = self._call(edge)
        incoming = trace.gradients[id(edge.vertex)]
        reason = backward_reason(node.fun, edge.argument, values, edge.vertex.value, incoming, _received(edge))
        return self._named("nan", trace, edge, below, reason, grad)

    def _zero(self, trace: Trace, grad: Any) -> Diagnosis:
        """All zeros: the steps at which something became nothing."""
        turns = trace.turns(self.tensor, lambda norm: norm == 0)
        if not turns:
            words = "the contributions of the operations that use it cancel each other (or a hook has replaced them)"
            return self._report("zero", "cancelled", [f"reason: {words}"], grad=grad, reason=words)
        edge, below = turns[0]
        node, values = self._call(edge)
        incoming = trace.gradients[id(edge.vertex)]
        reason = zero_reason(node.fun, edge.argument, values, edge.vertex.value, incoming)
        if reason.cause == "multiplied_by_zero":
            reason = self._behind_zeros(node, edge.argument, reason)
        return self._named("zero", trace, edge, below, reason, grad, [e for e, _ in turns[1:]])

    def _behind_zeros(self, node: Any, argument: int, reason: Reason) -> Reason:
        """Where the other factor of a product was computed: which operation made it zero?"""
        for k, a in enumerate(node.args):
            if k != argument and isinstance(a, Vertex) and a.node is not None and not np.any(a.value):
                name = name_of(a.node.fun)
                dead = dead_reason(a.value) if name in ("relu", "maximum") else None
                words = f"{reason.words}: the result of {self._operation(a)}"
                if dead:
                    return Reason(f"{words}; {dead.words}", dead.fix, dead.cause)
                return Reason(words, f"look at why {name} gives zeros", reason.cause)
        return reason

    def _scaled(self, trace: Trace, grad: Any, verdict: str) -> Diagnosis:
        """Huge, tiny or as it should be: by which step was the norm multiplied the most?"""
        steps = trace.climb(self.tensor)
        if verdict == "fine" or not steps:
            lines = [f"nothing is wrong with it: {array_text(grad)}", *self._path(steps)]
            return self._report(verdict, "fine", lines, grad=grad, path=_path(steps))
        ranked = sorted(steps, key=trace.factor, reverse=verdict == "huge")
        edge = ranked[0]
        number = next(k for k, step in enumerate(steps) if step is edge)
        others = [f"{name_of(e.vertex.node.fun)} by {trace.factor(e):.3g}" for e in ranked[1:4]]  # type: ignore[union-attr]
        words = f"it multiplies the norm of the gradient by {trace.factor(edge):.3g}"
        words += f" (then come {', '.join(others)})" if others else ""
        fix = {
            "huge": "bring the arguments above to a size around 1 (normalise inputs, smaller weights), average rather "
            "than sum the loss, or clip the gradient",
            "tiny": "use relu or a residual connection, larger weights to start with, or normalise between the layers",
        }[verdict]
        below = steps[:number][::-1]
        return self._named(verdict, trace, edge, below, Reason(words, fix, "factor"), grad)

    # -- words

    def _named(
        self,
        verdict: str,
        trace: Trace,
        edge: Edge,
        below: Sequence[Edge],
        reason: Reason,
        grad: Any,
        more: Sequence[Edge] = (),
    ) -> Diagnosis:
        """A diagnosis that names one step."""
        node, _ = self._call(edge)
        lines = [f"reason: {self._operation(edge.vertex)}, argument {edge.argument}: {reason.words}"]
        lines += arguments_text(node.args, self.names)
        if more:
            lines.append("and likewise: " + ", ".join(self._operation(e.vertex) for e in more[:3]))
        steps = [*below[::-1], edge, *trace.climb(edge.vertex)]
        lines += [*self._path(steps), f"fix: {reason.fix}"]
        facts = {
            "operation": name_of(node.fun),
            "argument": edge.argument,
            "module": scope_text(node.scope, self.names),
        }
        return self._report(
            verdict, reason.cause, lines, grad=grad, path=_path(steps), reason=reason.words, line=node.line, **facts
        )

    def _call(self, edge: Edge) -> tuple[Any, list[Any]]:
        """The record of the call behind a step, and the arrays it was given."""
        node = edge.vertex.node
        assert node is not None
        return node, [a.value if isinstance(a, Vertex) else a for a in node.args or ()]

    def _operation(self, v: Vertex) -> str:
        assert v.node is not None
        place = place_text(v.node, self.names)
        return name_of(v.node.fun) + (f" ({place})" if place else "")

    def _path(self, steps: Sequence[Edge]) -> list[str]:
        """One line with the operations from the loss to the tensor."""
        if not steps:
            return []
        parts = []
        for edge in reversed(steps):
            assert edge.vertex.node is not None
            where = scope_text(edge.vertex.node.scope, self.names)
            parts.append(name_of(edge.vertex.node.fun) + (f" [{where}]" if where else ""))
        if len(parts) > STEPS:
            parts = [*parts[:3], f"... {len(parts) - STEPS} more ...", *parts[3 - STEPS :]]
        return [f"path: {' > '.join(parts)}"]

    def _none(self, cause: str, words: str, fix: str, **facts: Any) -> Diagnosis:
        return self._report("none", cause, [f"reason: {words}", f"fix: {fix}"], reason=words, **facts)

    def _report(self, verdict: str, cause: str, lines: Sequence[str], grad: Any = None, **facts: Any) -> Diagnosis:
        says = {"none": "None", "nan": "not finite"}.get(verdict, verdict)
        sizes = {}
        if grad is not None:
            sizes = {"norm": magnitude(grad), "largest": float(np.max(np.abs(grad), initial=0))}
        text = "\n  ".join([f"The gradient of {self.name} is {says}.", *lines])
        return Diagnosis(text, {"verdict": verdict, "cause": cause, **sizes, **facts})


def _verdict(grad: Any) -> str:
    """One word for a gradient."""
    largest = float(np.max(np.abs(grad), initial=0))
    if not np.isfinite(largest):
        return "nan"
    return "zero" if largest == 0 else "huge" if largest > HUGE else "tiny" if largest < TINY else "fine"


def _not_finite(a: Any) -> Any:
    return ~np.isfinite(a)


def _received(edge: Edge) -> Any:
    """Stands for a contribution of which only the norm was kept."""
    return np.asarray(edge.norm, edge.vertex.value.dtype)


def _path(steps: Sequence[Edge]) -> tuple[str, ...]:
    return tuple(name_of(edge.vertex.node.fun) for edge in reversed(steps))  # type: ignore[union-attr]


def _constants(order: Sequence[Vertex]) -> Iterator[tuple[Vertex, int, Any]]:
    """(user, argument number, array) for all arrays in a graph that no gradient flows to."""
    for v in order:
        for i, a in enumerate((v.node and v.node.args) or ()):
            if isinstance(a, Vertex) and a.node is None and not a.requires_grad:
                yield v, i, a
            elif isinstance(a, np.ndarray):
                yield v, i, a
