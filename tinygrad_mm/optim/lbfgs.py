"""L-BFGS: a step is a search along a line that the last gradients say is good, and asks for the loss several times."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from tinygrad_mm.graph import tick
from tinygrad_mm.optim.saving import check_names, whole_number
from tinygrad_mm.tensor import Tensor

__all__ = ["LBFGS"]

SUFFICIENT, CURVATURE = 1e-4, 0.9  # the constants of Wolfe's conditions, Nocedal and Wright's c1 and c2


class LBFGS:
    """The limited-memory method of Broyden, Fletcher, Goldfarb and Shanno (Liu and Nocedal 1989), for whole data sets.

    `step(closure)` makes up to `iterations` moves; the closure computes the loss with its gradients and returns it. The
    inverse Hessian is built of the last `history` moves and what they did to the gradient. Each move goes as far as the
    strong Wolfe conditions ask (Nocedal and Wright 2006, algorithms 3.5 and 3.6); with `line_search=False`, by
    `learning_rate` times the direction. A step ends early where no element of the gradient is larger than
    `gradient_tolerance`, or a move and what it gains are below `change_tolerance`.

    The loss must be the same function at each call: no dropout, no new batch within a step. Parameters without a
    gradient are left alone.

    Raises ValueError for no parameters and options that make no sense, TypeError for a closure that returns no loss.

    >>> w = Tensor([-1.0, 2.0], requires_grad=True, dtype=np.float64)
    >>> optimizer = LBFGS([w])
    >>> def closure():
    ...     optimizer.zero_grad()
    ...     loss = (1 - w[0]) ** 2 + 100 * (w[1] - w[0] ** 2) ** 2  # Rosenbrock's valley
    ...     loss.backward()
    ...     return loss
    >>> for _ in range(3):
    ...     loss = optimizer.step(closure)
    >>> w.data.round(5)
    array([1., 1.])
    """

    def __init__(
        self,
        parameters: Iterable[Any],
        learning_rate: float = 1.0,
        iterations: int = 20,
        history: int = 10,
        gradient_tolerance: float = 1e-7,
        change_tolerance: float = 1e-9,
        line_search: bool = True,
    ) -> None:
        self.parameters: list[Tensor] = [parameters] if isinstance(parameters, Tensor) else list(parameters)
        if not self.parameters:
            raise ValueError("LBFGS: there are no parameters to optimize; pass model.parameters()")
        for p in self.parameters:
            if not isinstance(p, Tensor) or p.node is not None or p.dtype.kind != "f":
                raise TypeError("LBFGS takes floating leaf Tensors, such as model.parameters()")
        if not 0 < learning_rate < math.inf:
            raise ValueError(f"LBFGS: learning_rate={learning_rate} must be positive and finite")
        for name, n in (("iterations", iterations), ("history", history)):
            if n < 1:
                raise ValueError(f"LBFGS: {name}={n} must be a positive integer")
        self.learning_rate, self.iterations, self.history = learning_rate, iterations, history
        self.gradient_tolerance, self.change_tolerance = gradient_tolerance, change_tolerance
        self.line_search = line_search
        self.steps = 0
        self._forget()

    def _forget(self) -> None:
        self._moves: list[Any] = []  # of the parameters, newest last
        self._turns: list[Any] = []  # of the gradient meanwhile
        self._last: tuple[Any, Any] | None = None  # the gradient before the last move, and the move

    def zero_grad(self) -> None:
        """Forget the gradients of all parameters (`.grad = None`)."""
        for p in self.parameters:
            p.grad = None

    def step(self, closure: Callable[[], Any]) -> float:
        """Move the parameters; returns the loss where the step began.

        `closure()` sets the gradients anew: `zero_grad()`, the loss, `backward()`, and returns the loss.
        """
        loss, gradient = self._asked(closure)
        first = loss
        for _ in range(self.iterations):
            if np.max(np.abs(gradient), initial=0) <= self.gradient_tolerance:
                break
            self._learn(gradient)
            direction = -self._times_inverse_hessian(gradient)
            slope = float(gradient @ direction)
            if not slope < -self.change_tolerance:
                break
            rate = self.learning_rate
            if not self._moves:  # nothing is known of the curvature: no element moves by more than the rate
                rate *= min(1.0, 1 / float(np.sum(np.abs(gradient))))
            start, before = self._gathered(), (loss, gradient)
            if self.line_search:
                rate, loss, gradient = self._searched(closure, start, direction, rate, loss, gradient)
            else:
                self._put(start + rate * direction)
                loss, gradient = self._asked(closure)
            self._last = before[1], rate * direction
            small = np.max(np.abs(self._last[1]), initial=0) <= self.change_tolerance
            if small or abs(loss - before[0]) < self.change_tolerance or not math.isfinite(loss):
                break
        self.steps += 1
        return first

    # -- the direction

    def _learn(self, gradient: Any) -> None:
        """Take note of what the last move did to the gradient."""
        if self._last is None:
            return
        before, move = self._last
        self._last = None
        turn = gradient - before
        if turn @ move > 1e-10:  # elsewhere the loss curves down, and the Hessian would not be positive
            self._moves, self._turns = [*self._moves, move], [*self._turns, turn]
            del self._moves[: -self.history], self._turns[: -self.history]

    def _times_inverse_hessian(self, gradient: Any) -> Any:
        """Nocedal and Wright's algorithm 7.4: two loops over the history."""
        if not self._moves:
            return gradient
        q = gradient
        pairs = [(s, y, 1 / float(y @ s)) for s, y in zip(self._moves, self._turns, strict=True)]
        along = []
        for s, y, rho in reversed(pairs):
            along.append(rho * float(s @ q))
            q = q - along[-1] * y
        s, y, rho = pairs[-1]
        q = q * (1 / (rho * float(y @ y)))
        for (s, y, rho), a in zip(pairs, reversed(along), strict=True):
            q = q + (a - rho * float(y @ q)) * s
        return q

    # -- how far

    def _searched(
        self, closure: Callable[[], Any], start: Any, direction: Any, rate: float, loss: float, gradient: Any
    ) -> tuple[float, float, Any]:
        """A rate that satisfies the strong Wolfe conditions, with the loss and the gradient there."""
        slope = float(gradient @ direction)

        def tried(t: float) -> tuple[float, float, float, Any]:
            self._put(start + t * direction)
            value, g = self._asked(closure)
            return t, value, float(g @ direction), g

        def enough(t: float, value: float) -> bool:
            return value <= loss + SUFFICIENT * t * slope

        low, high = (0.0, loss, slope, gradient), None
        now = tried(rate)
        for _ in range(25):  # algorithm 3.5: grow until a good rate lies between
            t, value, there, _ = now
            if not math.isfinite(value) or not enough(t, value) or (low[0] and value >= low[1]):
                high = now
                break
            if abs(there) <= -CURVATURE * slope:
                return now[0], now[1], now[3]
            if there >= 0:
                low, high = now, low
                break
            low, now = now, tried(min(10 * t, max(2 * t, _lowest(low, now))))
        for _ in range(25 if high is not None else 0):  # algorithm 3.6: shrink the interval
            assert high is not None
            width = high[0] - low[0]
            if abs(width) * np.max(np.abs(direction), initial=0) < self.change_tolerance:
                break
            middle = _lowest(low, high) if math.isfinite(high[1]) else math.nan
            inside = 0.1 < (middle - low[0]) / width < 0.9
            now = tried(middle if inside else low[0] + 0.5 * width)
            t, value, there, _ = now
            if not math.isfinite(value) or not enough(t, value) or value >= low[1]:
                high = now
                continue
            if abs(there) <= -CURVATURE * slope:
                return now[0], now[1], now[3]
            if there * width >= 0:
                high = low
            low = now
        self._put(start + low[0] * direction)
        return low[0], low[1], low[3]

    # -- parameters and gradients, end to end

    def _gathered(self) -> Any:
        return np.concatenate([p.value.ravel().astype(np.float64) for p in self._moving()])

    def _moving(self) -> list[Tensor]:
        return [p for p in self.parameters if p.requires_grad and p.grad is not None]

    def _put(self, values: Any) -> None:
        start = 0
        for p in self._moving():
            p.value[...] = values[start : start + p.size].reshape(p.shape)
            start += p.size
            p.version = tick()

    def _asked(self, closure: Callable[[], Any]) -> tuple[float, Any]:
        """The loss and the gradient, as the closure computes them."""
        loss = closure()
        value = loss.value if isinstance(loss, Tensor) else loss
        if not isinstance(value, (float, np.ndarray, np.generic)) or np.size(value) != 1:
            raise TypeError(
                f"LBFGS: the closure returned {type(loss).__name__}; it must compute the loss and its gradients, and "
                "return the loss"
            )
        moving = self._moving()
        if not moving:
            raise ValueError("LBFGS: no parameter has a gradient after the closure; call loss.backward() in it")
        gradient = np.concatenate([np.ravel(p.grad).astype(np.float64) for p in moving])
        known = [*self._moves, *(self._last or ())]
        if any(len(array) != len(gradient) for array in known):
            self._forget()  # other parameters are trained now
        return float(np.reshape(value, ())), gradient

    # -- what is saved

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on besides parameters; arrays are copies."""
        state = {f"{i}.move": a.copy() for i, a in enumerate(self._moves)}
        state |= {f"{i}.turn": a.copy() for i, a in enumerate(self._turns)}
        if self._last is not None:
            state |= {"last.gradient": self._last[0].copy(), "last.move": self._last[1].copy()}
        return {"state": state, "options": {"optimizer": "LBFGS", "steps": self.steps, "moves": len(self._moves)}}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was called. Raises ValueError, and changes nothing, for anything else."""
        fix = "pass what state_dict() returned"
        check_names("LBFGS: the saved dict", saved, ["state", "options"], fix)
        state, options = saved["state"], saved["options"]
        check_names("LBFGS: the saved options", options, ["optimizer", "steps", "moves"], fix)
        if options["optimizer"] != "LBFGS":
            raise ValueError(f"LBFGS: this state was saved from {options['optimizer']!r}; make one of that kind")
        steps, moves = (whole_number(f"LBFGS: {name}", options[name]) for name in ("steps", "moves"))
        last = ["last.gradient", "last.move"] if "last.move" in state else []
        names = [f"{i}.{what}" for what in ("move", "turn") for i in range(moves)]
        check_names("LBFGS: the saved state", state, [*names, *last], fix)
        sizes = {np.shape(state[name]) for name in [*names, *last]}
        size = sum(p.size for p in self.parameters)
        if any(len(shape) != 1 or shape[0] > size for shape in sizes) or len(sizes) > 1:
            raise ValueError(f"LBFGS: the saved state has arrays of shapes {sorted(sizes)} for {size} numbers; {fix}")
        arrays = [np.array(state[name], np.float64) for name in [*names, *last]]
        self.steps, self._moves, self._turns = steps, arrays[:moves], arrays[moves : 2 * moves]
        self._last = (arrays[-2], arrays[-1]) if last else None

    def __repr__(self) -> str:
        numbers = f"learning_rate={self.learning_rate}, iterations={self.iterations}, history={self.history}"
        return f"LBFGS({len(self.parameters)} parameters, {numbers}{'' if self.line_search else ', line_search=False'})"


def _lowest(a: tuple[float, float, float, Any], b: tuple[float, float, float, Any]) -> float:
    """Where the cubic through two points with their slopes is lowest (Nocedal and Wright 2006, equation 3.59)."""
    (s, f, df, _), (t, g, dg, _) = a, b
    d1 = df + dg - 3 * (f - g) / (s - t)
    under = d1 * d1 - df * dg
    if under < 0:
        return math.nan
    d2 = math.copysign(math.sqrt(under), t - s)
    divisor = dg - df + 2 * d2
    return t - (t - s) * (dg + d2 - d1) / divisor if divisor else math.nan
