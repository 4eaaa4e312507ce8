"""`compile`: a function with the same meaning that runs as straight-line NumPy code into buffers kept between calls."""

from __future__ import annotations

import copy
import functools
import logging
import os
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar, overload

import numpy as np

from tinygrad_mm.compiler.backends import backend_of
from tinygrad_mm.compiler.plan import Plan
from tinygrad_mm.compiler.proof import Proof, computed
from tinygrad_mm.compiler.report import Report
from tinygrad_mm.compiler.saving import save_program
from tinygrad_mm.compiler.verification import Progress, difference_error, retraced
from tinygrad_mm.graph import name_of, state

__all__ = ["Compiled", "compile"]

P = ParamSpec("P")
R = TypeVar("R")

log = logging.getLogger("tinygrad_mm.compile")


@overload
def compile(
    function: Callable[P, R], *, max_signatures: int = 32, backend: str = "numpy", verify: bool = True
) -> Compiled[P, R]: ...


@overload
def compile(
    function: None = None, *, max_signatures: int = 32, backend: str = "numpy", verify: bool = True
) -> Callable[[Callable[P, R]], Compiled[P, R]]: ...


def compile(
    function: Callable[..., Any] | None = None,
    *,
    max_signatures: int = 32,
    backend: str = "numpy",
    verify: bool = True,
) -> Any:
    """A function with the same meaning as `function`, traced once and then run as straight-line NumPy code.

    The first call with arguments of given shapes, dtypes and Python values traces `function`, differentiates the trace
    with the ordinary rules, optimizes both halves together and writes them out as Python: `print(compiled.source)`.
    Calls with other shapes or values are traced anew; at most `max_signatures` programs are kept. The result takes
    part in the graph as one operation, so that `loss = f(x, y); loss.backward(); optimizer.step()` stays as it was.

    What a program is right for, and what is fixed when it is traced, is said in `tinygrad_mm.compiler`.

    `verify`: a new program proves itself. At its first two calls (and, while something has been all zero or not finite,
    at up to eight) `function` is called once more, from the same parameters, buffers and generators: outputs are
    compared at the call, gradients at the first backward pass. Where they differ by more than rounding, the result is
    the function's own, a `CompileWarning` says what differs, and calls of this kind go to the function from then on.

    `backend="numba"` (extra `numba`) fuses what lies between matrix products into compiled loops: faster steps, after
    a warm-up of seconds.

    Raises TypeError where `function` looks at values (`if t > 0`, `t.item()`, `np.asarray(t)`): these would be baked
    into the program.

    >>> import numpy as np
    >>> from tinygrad_mm.tensor import Tensor
    >>> @compile
    ... def f(x, y):
    ...     return np.sum(np.tanh(x) * y)
    >>> x = Tensor([0.0, 1.0], requires_grad=True)
    >>> f(x, np.array([2.0, 0.0], np.float32)).backward()
    >>> x.grad
    array([2., 0.], dtype=float32)
    """
    if function is None:
        return functools.partial(compile, max_signatures=max_signatures, backend=backend, verify=verify)
    return Compiled(function, max_signatures, backend, verify)


class Compiled(Generic[P, R]):
    """What `compile` returns."""

    def __init__(
        self, function: Callable[P, R], max_signatures: int = 32, backend: str = "numpy", verify: bool = True
    ) -> None:
        if not callable(function):
            raise TypeError(f"compile: it takes a function or a module, not a {type(function).__name__}")
        if max_signatures < 1:
            raise ValueError(f"compile: max_signatures={max_signatures}; at least one program has to be kept")
        self.function = function
        self.max_signatures = max_signatures
        self.backend = backend_of(backend)
        self.verifies = verify
        self.plans: list[Plan] = []  # the one used last comes first
        self._unproved: dict[Plan, Progress] = {}  # programs that are new, or wrong
        self._in_a_row = 0  # programs that served one call each, because what the function reads had changed
        self._warned = False
        functools.update_wrapper(self, function, updated=())

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """What the function returns."""
        if state.watched:  # inside another trace, or with someone watching each operation
            return self.function(*args, **kwargs)
        for i, plan in enumerate(self.plans):
            given = plan.accepts(args, kwargs)
            if given is not None:
                if i:
                    self._first(plan)
                return self._new(plan, given, args, kwargs) if self._unproved else plan.run(given)
        return self._new(None, [], args, kwargs)

    def _new(self, plan: Plan | None, given: list[Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call that needs a program, or whose program may be a new one.

        A trace and a check set buffers and generators back, so there is one at a time. Nobody waits for it, and so
        nobody for ever, after a fork or when the interpreter ends: who comes second has no need of a program.
        """
        turn = _turn(os.getpid())
        if not turn.acquire(blocking=False):
            return self.function(*args, **kwargs) if plan is None else self._run(plan, given, args, kwargs)
        try:
            if plan is None:
                plan, given = self._traced(args, kwargs)
            return self._run(plan, given, args, kwargs, proving=not state.replaying)
        finally:
            turn.release()

    def _run(
        self, plan: Plan, given: list[Any], args: tuple[Any, ...], kwargs: dict[str, Any], proving: bool = False
    ) -> Any:
        progress = self._unproved.get(plan)
        if progress is None:
            return plan.run(given)
        if progress.eager:
            return self.function(*args, **kwargs)
        due = progress.due()
        if due and not proving:
            return plan.run(given)
        proof = self._proof(plan, given, args, kwargs, progress) if due else None
        progress.runs += 1
        if progress.over():
            self._unproved.pop(plan, None)
        if proof is None:
            return plan.run(given)
        result = plan.run(given, proof.checked)
        difference = proof.differs(result)
        if difference is None:
            return result
        proof.before.put_back()
        result = self.function(*args, **kwargs)
        proof.blame(difference)
        return result

    def _proof(
        self, plan: Plan, given: list[Any], args: tuple[Any, ...], kwargs: dict[str, Any], progress: Progress
    ) -> Proof:
        def without(names: Sequence[str]) -> Plan:
            return Plan(self.function, args, kwargs, self.backend, names)

        def wrong() -> None:
            progress.eager = True
            if plan in self.plans:
                self._unproved[plan] = progress

        return Proof(plan, given, progress, without, wrong)

    def verify(self, *args: Any, **kwargs: Any) -> None:
        """Compare the program for these arguments with the function itself, and leave everything as it was.

        Gradients are those for random gradients of the outputs.

        Raises AssertionError where they differ by more than rounding: what differs, by how much, and which pass did it.
        Calls of this kind go to the function from then on.
        """
        plan, given = next(
            ((p, found) for p in self.plans if (found := p.accepts(args, kwargs)) is not None), (None, [])
        )
        if plan is None:
            plan, given = self._traced(args, kwargs)
        progress = Progress(verify=True)
        proof = self._proof(plan, given, args, kwargs, progress)
        gradients = None
        with proof.before.as_before():
            difference = proof.differs(plan.run(list(given)))
        if difference is None and plan.graph:
            rng = np.random.default_rng(0)
            seeds = [rng.standard_normal(t.shape).astype(t.dtype) for t in proof.made]
            with proof.before.as_before():
                found = computed(plan, given, seeds)
            difference, gradients = proof.gradients_differ(found, seeds)
        if difference is not None:
            proof.wrong()
            raise difference_error(f"verify: {name_of(self.function)}", difference, proof.culprit(gradients))

    def retrace(self) -> None:
        """Forget all programs: the next call traces the function anew, after a change that no program looks at."""
        self.plans, self._unproved = [], {}

    def _traced(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Plan, list[Any]]:
        """A program for these arguments.

        Raises TypeError for a function that changes what it reads, so that every call would be the first.
        """
        before = self.plans[0] if self.plans else None
        changed = (
            before.captured.what_changed() if before in self._unproved and self._unproved[before].runs == 1 else None
        )
        for _ in range(2):  # the first call may have set up something
            plan = Plan(self.function, args, kwargs, self.backend)
            given = plan.accepts(args, kwargs)
            if given is not None:
                log.info("compile: traced %s for %s", name_of(self.function), plan.signature)
                again = before is not None and changed is not None and before.signature == plan.signature
                self._in_a_row = self._in_a_row + 1 if again else 0
                retraced(f"compile: {name_of(self.function)}", self._in_a_row, changed)
                self._unproved[plan] = Progress(self.verifies)
                self._first(plan)
                return plan, given
        changed = plan.captured.what_changed() or "what it reads"
        raise TypeError(
            f"compile: {name_of(self.function)} changes {changed!r} while it runs, which "
            " a program would not do again; return the new value instead (running statistics can be written by "
            "Buffer.assign)"
        )

    def _first(self, plan: Plan) -> None:
        """Keep a program in the first place, and forget the one used longest ago if there are too many."""
        plans = [plan, *(p for p in self.plans if p is not plan)]
        if len(plans) > self.max_signatures:
            self._unproved.pop(plans.pop(), None)
            if not self._warned:
                self._warned = True
                log.warning(
                    "compile: %s was called with more than %d combinations of shapes, dtypes and Python values; "
                    "programs used longest ago are dropped from now on. Pass numbers that change as arrays, or "
                    "raise max_signatures",
                    name_of(self.function),
                    self.max_signatures,
                )
        self.plans = plans

    def __get__(self, owner: Any, kind: Any = None) -> Any:
        """As a method: bound to the object that it is called on."""
        return self if owner is None else functools.partial(self, owner)

    @property
    def plan(self) -> Plan:
        """The program used last. Raises RuntimeError before the first call."""
        if not self.plans:
            raise RuntimeError(f"compile: {name_of(self.function)} has not been called yet, so there is no program")
        return self.plans[0]

    @property
    def source(self) -> str:
        """The program used last, as Python. Raises RuntimeError before the first call."""
        return self.plan.emitted.source

    def report(self, *args: Any, **kwargs: Any) -> Report:
        """Calls, buffers, multiply-adds, and the measured time of each line, for a call that was made before.

        Raises RuntimeError for arguments of another kind.
        """
        for plan in self.plans:
            given = plan.accepts(args, kwargs)
            if given is not None:
                return plan.report(given)
        raise RuntimeError(f"compile: {name_of(self.function)} has not been called with such arguments; call it first")

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the program used last as a Python file that needs NumPy alone, with the captured arrays as they are.

        In that file `functions` are the two halves: `forward(*arguments)` returns the outputs, the new values of
        buffers, and what `backward(*arguments, *gradients of outputs, *that)` wants to know; that one returns the
        gradients of `targets`.
        """
        plan = self.plan
        usage = (
            "`forward, backward = functions`: `forward(*arguments)` returns (outputs), (new values of buffers), "
            "(rest),\n`backward(*arguments, *gradients_of_outputs, *rest)` the gradients."
        )
        arrays = [leaf.value for leaf in plan.leaves if leaf is not None]
        return save_program(plan.emitted, path, arrays, [], f"{name_of(self.function)}, compiled.", usage)

    def __deepcopy__(self, memo: dict[int, Any]) -> Compiled[P, R]:
        """A copy of the function (of a module: with parameters of its own), compiled anew at its first call."""
        return Compiled(copy.deepcopy(self.function, memo), self.max_signatures, self.backend.name, self.verifies)

    def __reduce__(self) -> Any:
        """Pickled by name where it stands in a module under its name, as functions are; else by its function."""
        found: Any = sys.modules.get(getattr(self, "__module__", ""))
        for name in getattr(self, "__qualname__", "").split("."):
            found = getattr(found, name, None)
        name = getattr(found, "__qualname__", "")
        return (
            name
            if found is self
            else (Compiled, (self.function, self.max_signatures, self.backend.name, self.verifies))
        )

    def __repr__(self) -> str:
        return f"<compiled {name_of(self.function)}, {len(self.plans)} programs>"


@functools.cache
def _turn(process: int) -> threading.RLock:
    """Whose turn it is to trace. A forked process has its own, for the thread that had it may not be there."""
    return threading.RLock()
