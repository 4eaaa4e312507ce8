"""`History`: what happened in each epoch."""

from __future__ import annotations

from typing import Any

from tinygrad_mm.notebook import curve, table

__all__ = ["History"]

MOST_ROWS = 20  # epochs in a notebook's table


class History(dict[str, list[float]]):
    """A dict of lists with one number for each epoch: "loss", "learning_rate", metrics, "validation_loss", ...

    `stopped` says in words why training ended before its last epoch; it is None where it did not.

    >>> history = History({"loss": [1.5, 0.5], "validation_loss": [1.6, 0.7]})
    >>> min(history["validation_loss"])
    0.7
    """

    stopped: str | None = None

    def add(self, **numbers: float) -> None:
        """Take down the numbers of one more epoch."""
        for name, value in numbers.items():
            self.setdefault(name, []).append(float(value))

    def _repr_html_(self) -> str:
        """What a notebook shows: the losses as a curve, and the numbers of each epoch."""
        lines = {name: self[name] for name in ("loss", "validation_loss") if name in self}
        epochs = range(max(map(len, self.values()), default=0))
        rows = [[str(i + 1), *(f"{v[i]:.4g}" if i < len(v) else "" for v in self.values())] for i in epochs]
        if len(rows) > MOST_ROWS:
            left_out = len(rows) - MOST_ROWS
            rows[MOST_ROWS // 2 : -MOST_ROWS // 2] = [[f"… {left_out} more", *("" for _ in self)]]
        header = ["epoch", *(name.replace("_", " ") for name in self)]
        return curve(lines) + table(header, rows, f"stopped: {self.stopped}" if self.stopped else "")

    def plot(self) -> Any:
        """Draw the losses, and beside them each metric, over the epochs; returns Matplotlib's Figure.

        Raises ImportError where Matplotlib is missing, ValueError before the first epoch has ended.
        """
        try:
            import matplotlib.pyplot as plt
            from matplotlib.ticker import MaxNLocator
        except ImportError as error:
            raise ImportError("history.plot() needs Matplotlib: pip install 'tinygrad_mm[examples]'") from error
        if not self.get("loss"):
            raise ValueError("history.plot(): no epoch has ended yet, so there is nothing to draw")
        panels = [name for name in self if not name.startswith("validation_") and name != "learning_rate"]
        figure, axes = plt.subplots(1, len(panels), figsize=(5 * len(panels), 4), squeeze=False, layout="constrained")
        for axis, name in zip(axes[0], panels, strict=True):
            for key, label in ((name, "training"), (f"validation_{name}", "validation")):
                if key in self:
                    axis.plot(range(1, len(self[key]) + 1), self[key], ".-", label=label)
            axis.set(xlabel="epoch", ylabel=name)
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            axis.legend()
        return figure
