"""The progress bar, and one line for each epoch."""

from __future__ import annotations

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
        if shown:
            steps = len(run.loader) * run.epochs if hasattr(run.loader, "__len__") else None
            if is_notebook():
                self.bar = NotebookBar(total=steps, initial=run.step, unit=" steps")
            else:
                from tqdm import tqdm

                # disable=None: hidden unless this is a terminal
                self.bar = tqdm(total=steps, initial=run.step, unit=" steps", disable=None, dynamic_ncols=True)

    def step(self) -> None:
        """One step more."""
        if self.bar is not None and not self.bar.disable:
            self.bar.set_description(f"epoch {self.run.epoch + 1}/{self.run.epochs}", refresh=False)
            self.bar.set_postfix_str(_text(self.run.averages()), refresh=False)
            self.bar.update()

    def epoch(self) -> None:
        """A line about the epoch that has ended."""
        if self.bar is not None:
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
