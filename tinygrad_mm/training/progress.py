"""The progress bar, and one line for each epoch."""

from __future__ import annotations

import operator
import time
from typing import TYPE_CHECKING, Any

from tinygrad_mm.notebook import is_notebook
from tinygrad_mm.training.live import NotebookBar

if TYPE_CHECKING:
    from tinygrad_mm.training.run import Run

__all__ = ["Progress"]


class Progress:
    """A bar over all steps of a run with epoch, loss, metrics, rate and time left; in notebooks, too.

    Where the output is no terminal, there is no bar, only the lines.
    """

    def __init__(self, run: Run, shown: bool) -> None:
        self.run = run
        self.bar: Any = None
        self.drawn = time.monotonic()
        if shown:
            steps = operator.length_hint(run.loader, 0) * run.epochs or None
            if is_notebook():
                self.bar = NotebookBar(total=steps, initial=run.step, unit=" steps")
            else:
                from tqdm import tqdm

                # disable=None: hidden unless this is a terminal
                self.bar = tqdm(total=steps, initial=run.step, unit=" steps", disable=None, dynamic_ncols=True)

    def step(self) -> None:
        """One step more: the bar is drawn ten times a second."""
        if self.bar is not None and not self.bar.disable and time.monotonic() - self.drawn > 0.1:
            self._draw(self.run.epoch + 1, self.run.averages())

    def _draw(self, epoch: int, numbers: dict[str, float]) -> None:
        self.bar.set_description(f"epoch {epoch}/{self.run.epochs}", refresh=False)
        self.bar.set_postfix_str(_text(numbers), refresh=False)
        self.bar.update(self.run.step - self.bar.n)
        self.drawn = time.monotonic()

    def epoch(self) -> None:
        """A line about the epoch that has ended."""
        if self.bar is not None:
            if not self.bar.disable:
                self._draw(self.run.epoch, {name: values[-1] for name, values in self.run.history.items()})
            newest = {name: values[-1] for name, values in self.run.history.items()}
            self.bar.write(f"epoch {self.run.epoch}/{self.run.epochs}: {_text(newest)}")

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            if self.run.history.stopped:
                self.bar.write(f"stopped after step {self.run.step}: {self.run.history.stopped}")
            self.bar.close()


def _text(numbers: dict[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in numbers.items())
