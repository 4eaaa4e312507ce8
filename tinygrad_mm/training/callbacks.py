"""Callbacks that write down how a run goes: for spreadsheets, and for TensorBoard."""

from __future__ import annotations

import csv
import importlib
import os
import time
from itertools import zip_longest
from pathlib import Path
from typing import Any

from tinygrad_mm.training.run import Run

__all__ = ["CSVLogger", "TensorBoard"]


class CSVLogger:
    """Write the history to a CSV file after each epoch: one row for each epoch, one column for each number.

    The whole history is written each time, so the file of a resumed run is complete.

    >>> import tempfile
    >>> from tinygrad_mm import nn, optim
    >>> from tinygrad_mm.training import fit
    >>> model, x = nn.Linear(1, 1, rng=0), [[0.0], [0.0]]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     log = CSVLogger(Path(folder, "history.csv"))
    ...     data = [(row, row) for row in x]
    ...     _ = fit(model, data, nn.MSELoss(), optim.SGD(model.parameters()), callbacks=[log], progress=False)
    ...     log.path.read_text().split()
    ['epoch,loss,learning_rate', '1,0.0,0.001']
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def on_epoch(self, run: Run) -> None:
        """Write all epochs so far."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["epoch", *run.history])
            rows = zip_longest(*run.history.values(), fillvalue="")
            writer.writerows([epoch, *row] for epoch, row in enumerate(rows, 1))


class TensorBoard:
    """Write the numbers of each epoch to a folder that `tensorboard --logdir FOLDER` shows (extra `tensorboard`).

    A number and the one of the validation data are drawn into one chart: "loss/training" and "loss/validation". With
    `every_steps`, the averages so far in the epoch are written as well, each so many steps.

    Raises ImportError where neither tensorboardX nor tensorboard is installed. For example::

        fit(model, data, loss, optimizer, epochs, callbacks=[TensorBoard("runs/first")])
    """

    def __init__(self, folder: str | os.PathLike[str], every_steps: int | None = None) -> None:
        self.every_steps = every_steps
        self.writer: Any = _writer(str(folder))

    def on_step(self, run: Run) -> None:
        """Write the averages so far, where it is time."""
        if self.every_steps is not None and run.step % self.every_steps == 0:
            for name, value in run.averages().items():
                self.writer.add_scalar(f"steps/{name}", value, run.step)

    def on_epoch(self, run: Run) -> None:
        """Write the epoch's numbers."""
        for name, values in run.history.items():
            held_back = name.startswith("validation_")
            chart = f"{name.removeprefix('validation_')}/{'validation' if held_back else 'training'}"
            self.writer.add_scalar(chart if name != "learning_rate" else name, values[-1], run.epoch)
        self.writer.flush()

    def on_end(self, run: Run) -> None:
        """Close the file."""
        self.writer.close()


def _writer(folder: str) -> Any:
    """A writer of event files, with `add_scalar(name, value, number)`, `flush()` and `close()`."""
    for package in ("tensorboardX", "tensorboard"):
        try:
            importlib.import_module(package)
        except ImportError:
            continue
        if package == "tensorboardX":
            return importlib.import_module(package).SummaryWriter(folder)
        return _EventFile(folder)
    raise ImportError("TensorBoard needs a package that writes its files: pip install 'tinygrad_mm[tensorboard]'")


class _EventFile:
    """The same by what the package tensorboard itself has."""

    def __init__(self, folder: str) -> None:
        writer: Any = importlib.import_module("tensorboard.summary.writer.event_file_writer")
        self.event: Any = importlib.import_module("tensorboard.compat.proto.event_pb2").Event
        self.summary: Any = importlib.import_module("tensorboard.compat.proto.summary_pb2").Summary
        self.file: Any = writer.EventFileWriter(folder)

    def add_scalar(self, name: str, value: float, number: int) -> None:
        """Write a number."""
        summary = self.summary(value=[self.summary.Value(tag=name, simple_value=value)])
        self.file.add_event(self.event(wall_time=time.time(), step=number, summary=summary))

    def flush(self) -> None:
        """Put on disk what was written."""
        self.file.flush()

    def close(self) -> None:
        """Close the file."""
        self.file.close()
