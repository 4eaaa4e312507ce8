"""A progress bar in a notebook: one block of HTML that is drawn anew in its place."""

from __future__ import annotations

import html
import time
from typing import Any

from tinygrad_mm.notebook import preformatted

__all__ = ["NotebookBar"]

EVERY = 0.2  # seconds between two drawings
MOST_LINES = 12  # of what was written below the bar


class NotebookBar:
    """A bar with the methods that `Progress` uses of tqdm's. It needs nothing but the kernel: no widgets.

    What stands there when training ends stays in the saved and in the exported notebook.
    """

    disable = False

    def __init__(self, total: int | None, initial: int = 0, unit: str = "") -> None:
        from IPython.display import HTML, display

        self.total, self.n, self.start, self.unit = total, initial, initial, unit
        self.began = self.drawn = time.monotonic()
        self.description = self.postfix = ""
        self.lines: list[str] = []
        self._html: Any = HTML
        self._handle: Any = display(HTML(self.text()), display_id=True)

    def set_description(self, text: str, refresh: bool = True) -> None:
        """What stands before the bar."""
        self.description = text

    def set_postfix_str(self, text: str, refresh: bool = True) -> None:
        """What stands behind it."""
        self.postfix = text

    def update(self, count: int = 1) -> None:
        """So many steps more."""
        self.n += count
        if time.monotonic() - self.drawn >= EVERY:
            self.draw()

    def write(self, line: str) -> None:
        """A line below the bar, which stays."""
        self.lines.append(line)
        self.draw()

    def close(self) -> None:
        """Draw the last state."""
        self.draw()

    def draw(self) -> None:
        """Put the current state in the place of the one before."""
        self.drawn = time.monotonic()
        self._handle.update(self._html(self.text()))

    def text(self) -> str:
        """The bar and the newest lines as HTML."""
        seconds = time.monotonic() - self.began
        rate = (self.n - self.start) / seconds if seconds > 0 else 0.0
        told = [f"{self.n}{'' if self.total is None else f'/{self.total}'}{self.unit}", f"{rate:.4g}/s"]
        if self.total is not None and rate and self.n < self.total:
            told.append(f"{(self.total - self.n) / rate:.0f} s left")
        if self.postfix:
            told.append(self.postfix)
        done = min(self.n, self.total or 0)
        bar = "" if self.total is None else f'<progress max="{self.total}" value="{done}"></progress> '
        head = f"{html.escape(self.description)} {bar}{html.escape(', '.join(told))}"
        hidden = len(self.lines) - MOST_LINES
        lines = [f"… {hidden} more"] * (hidden > 0) + self.lines[-MOST_LINES:]
        below = preformatted("\n".join(lines)) if lines else ""
        return f'<div style="font-variant-numeric:tabular-nums">{head.strip()}</div>{below}'
