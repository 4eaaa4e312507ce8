"""Reasons to stop before the last epoch: no more progress, Ctrl-C."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tinygrad_mm.training.metrics import is_better_when_higher
from tinygrad_mm.training.run import Run

__all__ = ["EarlyStopping", "interruptible"]


class EarlyStopping:
    """Stop when a number of the history has not become better for more than `patience` epochs in a row.

    `monitor` is the number's name, by default "validation_loss", or "loss" without validation. Better is lower, by
    more than `threshold`, unless `higher_is_better` (None: so for metrics that have names, such as "accuracy"). With
    `restore_best`, training ends with the weights and buffers of the best epoch, however it ends. A number that is NaN
    is not better.

    Raises ValueError for a patience or threshold below 0.

    >>> EarlyStopping(patience=3, monitor="validation_accuracy")
    EarlyStopping(patience=3, monitor='validation_accuracy')
    """

    def __init__(
        self,
        patience: int = 5,
        monitor: str | None = None,
        higher_is_better: bool | None = None,
        threshold: float = 0.0,
        restore_best: bool = True,
    ) -> None:
        if patience < 0 or threshold < 0:
            raise ValueError(f"EarlyStopping: patience={patience} and threshold={threshold} must not be negative")
        self.patience, self.monitor, self.threshold = patience, monitor, threshold
        if higher_is_better is None:
            higher_is_better = monitor is not None and is_better_when_higher(monitor)
        self.higher_is_better, self.restore_best = higher_is_better, restore_best
        self.best, self.waited = -math.inf, 0  # the best number so far, with its sign changed where lower is better
        self.weights: dict[str, Any] = {}

    def on_epoch(self, run: Run) -> None:
        """Look at the newest number."""
        value = run.monitored(self.monitor)
        better = value if self.higher_is_better else -value
        if better > self.best + self.threshold or (self.best == -math.inf and better > self.best):
            self.best, self.waited = better, 0
            if self.restore_best:
                self.weights = run.model.state_dict()
            return
        self.waited += 1
        if self.waited > self.patience:
            best = self.best if self.higher_is_better else -self.best
            run.stop(f"no better than {best:g} for {self.waited} epochs")

    def on_end(self, run: Run) -> None:
        """Bring the best weights back."""
        if self.weights:
            run.model.load_state_dict(self.weights)

    def state_dict(self) -> dict[str, Any]:
        """What the next epochs depend on besides the options."""
        return {"best": self.best, "waited": self.waited, "weights": dict(self.weights)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was called."""
        self.best, self.waited = float(state["best"]), int(state["waited"])
        self.weights = dict(state["weights"])

    def __repr__(self) -> str:
        return f"EarlyStopping(patience={self.patience}, monitor={self.monitor!r})"


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets instead of raising KeyboardInterrupt; a second one raises as ever.

    Only the main thread receives signals: in others, and where Ctrl-C is ignored, nothing changes.
    """
    pressed = threading.Event()
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before in (None, signal.SIG_IGN):
        yield pressed
        return

    def note(*_: Any) -> None:
        pressed.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)
