"""`fit`: the training loop; and `evaluate`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tinygrad_mm.nn import Module
from tinygrad_mm.optim import Optimizer
from tinygrad_mm.step.parts import check_loss
from tinygrad_mm.tensor import Buffer, Tensor
from tinygrad_mm.training.batches import as_loader
from tinygrad_mm.training.checkpoints import Saver
from tinygrad_mm.training.history import History
from tinygrad_mm.training.progress import Progress
from tinygrad_mm.training.run import Metrics, Run, evaluated
from tinygrad_mm.training.stopping import EarlyStopping, interruptible

__all__ = ["evaluate", "fit"]


def fit(
    model: Module,
    data: Any,
    loss: Callable[[Any, Any], Any],
    optimizer: Optimizer,
    epochs: int,
    *,
    batch_size: int = 32,
    rng: np.random.Generator | int | None = None,
    validation: Any = None,
    metrics: Metrics | None = None,
    callbacks: Iterable[Any] = (),
    early_stopping: EarlyStopping | int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    every_steps: int | None = None,
    every_minutes: float | None = None,
    resume: bool = False,
    progress: bool = True,
) -> History:
    """Train a model: for each batch `loss(model(input), target)`, its gradients, and a step of the optimizer.

    `data` is a DataLoader, or what one takes, which is then shuffled by `rng` into batches of `batch_size`. A batch is
    a tuple (input, ..., target) or a dict with "target" and named inputs. `validation` is data of the same kind, looked
    at after each epoch, in order. `metrics` are functions of arrays, `name: metric(prediction, target)`: in training
    averages over the batches as the weights change, in validation of all examples at once.

    `callbacks` are functions `callback(run)` called after each epoch, or objects, such as a `ReduceOnPlateau` or an
    `ExponentialMovingAverage` (see `Run`). `early_stopping` is an `EarlyStopping` or its patience.

    `checkpoint` names a file or folder for the state of the run: model, optimizer, position in the epoch, all random
    generators in the model, in the loader and `rng`. It is written, whole or not at all, every so many steps or
    minutes (if neither is given, after each epoch), and at the end. With `resume`, a run goes on from there as if it
    had never stopped, bit for bit; without a file yet, it starts. Ctrl-C finishes the step, saves and returns.

    A batch norm whose parameters are frozen keeps its running statistics. The model ends in evaluation mode. Returns
    the history: lists with one number per epoch, by name.

    Raises AnomalyError that names the step and the operation, before the weights are touched, where the loss or a
    gradient is not finite; ValueError where a checkpoint does not fit this run, which then is unchanged, and where the
    optimizer has none of the model's parameters (it warns where it lacks some).

    >>> from tinygrad_mm import nn, optim
    >>> x = np.linspace(-1, 1, 64, dtype=np.float32)[:, None]
    >>> model = nn.Linear(1, 1, rng=0)
    >>> optimizer = optim.SGD(model.parameters(), learning_rate=0.1)
    >>> history = fit(model, (x, 3 * x + 1), nn.MSELoss(), optimizer, epochs=60, rng=0, progress=False)
    >>> print(f"{model.weight.item():.2f} {model.bias.item():.2f} {history['loss'][-1]:.4f}")
    3.00 1.00 0.0000
    """
    _check(epochs=epochs, every_steps=every_steps, every_minutes=every_minutes)
    rng = np.random.default_rng(rng)
    loader = as_loader(data, batch_size, True, rng)
    tests = (
        None if validation is None else as_loader(validation, max(batch_size, 256), False, 0)
    )  # in order: it draws nothing
    if isinstance(early_stopping, int):
        early_stopping = EarlyStopping(early_stopping)
    callbacks = [*callbacks, *([] if early_stopping is None else [early_stopping])]
    run = Run(model, loss, optimizer, loader, epochs, tests, metrics, callbacks, rng)
    saver = Saver(run, checkpoint, every_steps, every_minutes)
    if resume:
        saver.resume()

    model.train()
    _keep_frozen_statistics(model)
    with interruptible() as interrupted, Progress(run, progress) as shown:
        while run.epoch < epochs and not run.history.stopped:
            for batch in loader:
                run.train_step(batch)
                shown.step()
                if interrupted.is_set():
                    run.interrupt()
                if run.history.stopped:
                    break
                saver.save_if_due()
            else:
                run.end_epoch()
                shown.epoch()
                if interrupted.is_set() and run.epoch < epochs:
                    run.interrupt()
                saver.save_if_due(epoch_ended=True)
        saver.save()
        run.end()
    return run.history


def evaluate(
    model: Module, data: Any, loss: Callable[[Any, Any], Any], metrics: Metrics | None = None, batch_size: int = 256
) -> dict[str, float]:
    """The loss and the metrics of a model on data that it does not learn from; `data` and `metrics` as for `fit`.

    The model is in evaluation mode meanwhile, and no graph is recorded.

    >>> from tinygrad_mm import nn
    >>> model = nn.Linear(1, 1, rng=0)
    >>> x = np.zeros((5, 1), np.float32)
    >>> evaluate(model, (x, x), nn.MSELoss(), {"largest error": lambda p, t: np.abs(p - t).max()})
    {'loss': 0.0, 'largest error': 0.0}
    """
    check_loss("evaluate", loss)
    return evaluated(model, as_loader(data, batch_size, False, 0), loss, metrics or {})


def _keep_frozen_statistics(model: Module) -> None:
    """Leave what has learned statistics and is frozen in evaluation mode: a batch norm whose weights do not learn."""
    for _, module in model.named_modules():
        own = [part for part in vars(module).values() if isinstance(part, Tensor)]
        learned = [part for part in own if not isinstance(part, Buffer)]
        if len(learned) < len(own) and learned and not any(p.requires_grad for p in learned):
            module.training = False


def _check(**numbers: Any) -> None:
    for name, value in numbers.items():
        whole = name != "every_minutes"
        if value is None and name != "epochs":
            continue
        if isinstance(value, bool) or not isinstance(value, (int, np.integer) if whole else (int, float)) or value <= 0:
            raise ValueError(f"fit: {name}={value!r} must be a positive {'integer' if whole else 'number'}")
