"""Checkpoints: a tree of arrays, numbers and text in one safetensors file; no pickle, nothing is executed.

Arrays become tensors of the file under the path that leads to them ("model/layers.0.weight"), so that any program that
reads safetensors finds the weights; the rest is JSON in the metadata, with references to the arrays.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from tinygrad_mm.training.metrics import is_better_when_higher
from tinygrad_mm.training.run import Run
from tinygrad_mm.weights import WeightsError, load_with_metadata, remove_unfinished, save

__all__ = ["Saver", "best_path", "checkpoint_path", "read_checkpoint", "write_checkpoint"]

KEY = "tinygrad_mm.checkpoint"
ARRAY = "array at"  # {"array at": path} stands for an array; a name that reads so itself gets an apostrophe more


def checkpoint_path(given: Any) -> Path:
    """The file meant by a file or folder: a folder is one that exists, or a name without an ending.

    >>> checkpoint_path("runs/first").as_posix()
    'runs/first/checkpoint.safetensors'
    """
    path = Path(given)
    return path / "checkpoint.safetensors" if path.is_dir() or not path.suffix else path


def best_path(path: Path) -> Path:
    """The file beside a checkpoint for the best epoch.

    >>> best_path(Path("runs/first.safetensors")).name
    'first-best.safetensors'
    """
    return path.with_name(f"{path.stem}-best{path.suffix}")


def write_checkpoint(path: Path, tree: dict[str, Any]) -> None:
    """Write a tree of dicts, lists, arrays, numbers, text and None; the file is whole or is not changed."""
    arrays: dict[str, Any] = {}
    text = json.dumps(_without_arrays(tree, "", arrays))
    path.parent.mkdir(parents=True, exist_ok=True)
    save(path, arrays, {KEY: text})


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The tree in a file, with tuples as lists.

    Raises what `load` raises, and WeightsError where the file is no checkpoint.
    """
    arrays, metadata = load_with_metadata(path)
    if KEY not in metadata:
        raise WeightsError(
            f"{path} holds weights, but no state of a training run; model.load_state_dict(tg.load(path)) takes weights"
        )
    try:
        tree = _with_arrays(json.loads(metadata[KEY]), arrays)
        if not isinstance(tree, dict):
            raise TypeError(f"a {type(tree).__name__} instead of a dict")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise WeightsError(f"{path} is no checkpoint of this program ({error}); start the run anew") from error
    return tree


def _without_arrays(value: Any, path: str, arrays: dict[str, Any]) -> Any:
    if isinstance(value, np.ndarray):
        while path in arrays:  # names may hold "/" themselves
            path += "'"
        arrays[path] = value
        return {ARRAY: path}
    if isinstance(value, dict):
        below = f"{path}/" if path else ""
        return {_escaped(str(name)): _without_arrays(part, f"{below}{name}", arrays) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_arrays(part, f"{path}/{i}", arrays) for i, part in enumerate(value)]
    return value.item() if isinstance(value, np.generic) else value


def _with_arrays(value: Any, arrays: dict[str, Any]) -> Any:
    if isinstance(value, dict):
        if set(value) == {ARRAY}:
            return arrays[value[ARRAY]]
        return {_unescaped(name): _with_arrays(part, arrays) for name, part in value.items()}
    return [_with_arrays(part, arrays) for part in value] if isinstance(value, list) else value


def _escaped(name: str) -> str:
    return f"{name}'" if name.rstrip("'") == ARRAY else name


def _unescaped(name: str) -> str:
    return name[:-1] if name.rstrip("'") == ARRAY else name


class Saver:
    """Writes checkpoints when they are due, and reads the last one."""

    def __init__(
        self,
        run: Run,
        given: Any,
        every_steps: int | None = None,
        every_minutes: float | None = None,
        best: bool | str = False,
    ) -> None:
        self.run, self.every_steps, self.every_minutes = run, every_steps, every_minutes
        self.path = None if given is None else checkpoint_path(given)
        self.best = best  # whether to keep the best epoch's, too; by which number
        self.written: tuple[int, int] | None = None  # epoch and step of the last checkpoint
        self.time = time.monotonic()
        if self.path is None:
            if every_steps is not None or every_minutes is not None:
                raise ValueError("fit: every_steps and every_minutes say when to write checkpoint=...; name the file")
            if best:
                raise ValueError("fit: save_best keeps a second file beside checkpoint=...; name the first")
            return
        known = {id(p) for p in run.model.parameters()}
        if not all(id(p) in known for p in run.optimizer.parameters):
            raise ValueError(
                "fit: the optimizer has parameters that are not in the model, so that a checkpoint would lack them; "
                "put both into one Module"
            )
        _prepare(self.path)

    def save_if_due(self, epoch_ended: bool = False) -> None:
        """Save where enough steps or minutes have passed, and beside it what is best so far."""
        if epoch_ended and self.best and self.path is not None and self._is_best():
            write_checkpoint(best_path(self.path), self.run.state_dict())
        due = self.every_steps is not None and not epoch_ended and self.run.step % self.every_steps == 0
        due = due or (self.every_minutes is not None and time.monotonic() - self.time >= 60 * self.every_minutes)
        if due or (epoch_ended and self.every_steps is None and self.every_minutes is None):
            self.save()

    def _is_best(self) -> bool:
        """Whether the epoch that has ended is better than all before."""
        name = self.run.monitored_name(None if self.best is True else str(self.best))
        newest, sign = self.run.monitored(name), -1 if is_better_when_higher(name) else 1
        *before, now = (sign * value for value in [*self.run.history[name][:-1], newest])
        return now < min((value for value in before if not math.isnan(value)), default=math.inf)

    def save(self) -> None:
        """Save, unless that was just done."""
        now = (self.run.epoch, self.run.step)
        if self.path is not None and now != self.written:
            write_checkpoint(self.path, self.run.state_dict())
            self.written, self.time = now, time.monotonic()

    def resume(self) -> None:
        """Bring the run to where the file says it was, if there is one."""
        if self.path is None:
            raise ValueError("fit: resume=True needs checkpoint=..., the file or folder to resume from")
        if not self.path.exists():
            return
        state = read_checkpoint(self.path)
        try:
            self.run.load_state_dict(state)
        except ValueError as error:
            raise ValueError(
                f"{self.path} does not fit this run, which is unchanged: {error}\nMake model, optimizer, data and "
                "callbacks as they were; or start anew, with resume=False or another file"
            ) from error
        self.written = (self.run.epoch, self.run.step)


def _prepare(path: Path) -> None:
    """Find out now, not after the first epoch, whether the checkpoint can be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
        remove_unfinished(path)
    except OSError as error:
        what = f"checkpoints cannot be written here ({error.strerror}); name another file or folder"
        raise OSError(error.errno, what, str(path)) from error
