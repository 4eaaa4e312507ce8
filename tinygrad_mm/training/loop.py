"""`fit`: the training loop; and `evaluate` and `predict`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from tinygrad_mm.compiler import Compiled
from tinygrad_mm.nn import Module
from tinygrad_mm.optim import Optimizer
from tinygrad_mm.step import Step
from tinygrad_mm.step.parts import check_loss
from tinygrad_mm.tensor import Buffer, Tensor
from tinygrad_mm.training.batches import arrays_in, as_loader, check_inputs, held_back, inputs_in, joined, with_weights
from tinygrad_mm.training.checkpoints import Saver
from tinygrad_mm.training.history import History
from tinygrad_mm.training.metrics import Metrics, named_metrics
from tinygrad_mm.training.progress import Progress
from tinygrad_mm.training.run import Run, evaluated, evaluating
from tinygrad_mm.training.stepping import module_of
from tinygrad_mm.training.stopping import EarlyStopping, interruptible

__all__ = ["evaluate", "fit", "predict"]


def fit(
    model: Module | Step | Compiled[..., Any],
    data: Any,
    loss: Callable[[Any, Any], Any] | None = None,
    optimizer: Optimizer | None = None,
    epochs: int = 1,
    *,
    batch_size: int = 32,
    rng: np.random.Generator | int | None = None,
    compile: bool | str = "auto",
    backend: str | None = None,
    verify: bool | None = None,
    validation: Any = None,
    metrics: Metrics | None = None,
    class_weight: Mapping[int, float] | None = None,
    sample_weight: Any = None,
    clip_norm: float | None = None,
    accumulate: int = 1,
    callbacks: Iterable[Any] = (),
    early_stopping: EarlyStopping | int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    every_steps: int | None = None,
    every_minutes: float | None = None,
    save_best: bool | str = False,
    resume: bool = False,
    progress: bool = True,
) -> History:
    """Train a model: for each batch `loss(model(input), target)`, its gradients, and a step of the optimizer.

    `data` is a DataLoader, or what one takes, which is then shuffled by `rng` into batches of `batch_size`; or it gives
    batches itself: PyTorch's DataLoader, an iterator, or, for several epochs, a function that makes one. A batch is
    a tuple (input, ..., target) or a dict with "target" and named inputs. `validation` is data of the same kind, looked
    at after each epoch, in order; a fraction holds back the last examples of arrays, which then have to be in no order.

    `compile="auto"` trains by `compile_step` with this `backend`, each program verified on its first batches
    (`verify`), and goes on eagerly, saying once why, where the model cannot be traced (True: raises; False: eagerly
    from the start). All options work both ways, with the same results but for rounding. `model` may also be what
    `compile` or `compile_step` made of one: loss, optimizer, backend and verification are then those of the step.

    `metrics` are names ("accuracy", "f1", "precision", "recall", "top_5", "mae", "mse", "r2") and functions of arrays,
    or a dict of them by the name in the history, `metric(prediction, target)`: in training averages over the batches as
    the weights change, in validation of all examples at once. `class_weight` (a dict, by label) and `sample_weight`
    (an array, by example) are factors of the examples' losses in training, whose mean is taken over the examples.

    `clip_norm` is the most that the norm of all gradients together may be. With `accumulate`, the weights are updated
    after so many batches, by the average over their examples. `callbacks` are functions `callback(run)` called after
    each epoch, or objects, such as a `ReduceOnPlateau`, an `ExponentialMovingAverage` or a `CSVLogger` (see `Run`).
    `early_stopping` is an `EarlyStopping` or its patience.

    `checkpoint` names a file or folder for the state of the run: model, optimizer, position in the epoch, all random
    generators in the model, in the loader and `rng`. It is written, whole or not at all, every so many steps or
    minutes (if neither is given, after each epoch), and at the end. With `resume`, a run goes on from there as if it
    had never stopped, bit for bit; without a file yet, it starts. Ctrl-C finishes the step, saves and returns.
    `save_best` writes the state after the best epoch beside it ("checkpoint-best"): by the validation loss, or by the
    number of this name in the history.

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
    _check(
        epochs=epochs, every_steps=every_steps, every_minutes=every_minutes, clip_norm=clip_norm, accumulate=accumulate
    )
    given = model if isinstance(model, (Step, Compiled)) else None
    if isinstance(model, Step):
        loss, optimizer = loss or model.loss, optimizer or model.optimizer
    if loss is None or optimizer is None:
        raise TypeError("fit: it needs a loss and an optimizer: fit(model, data, loss, optimizer, epochs)")
    model = module_of("fit", model)
    rng = np.random.default_rng(rng)
    if isinstance(validation, float):
        weights = None if sample_weight is None else held_back(sample_weight, validation)[0]
        (data, validation), sample_weight = held_back(data, validation), weights
    loader = as_loader(data if sample_weight is None else with_weights(data, sample_weight), batch_size, True, rng)
    tests = None
    if validation is not None:
        tests = as_loader(validation, max(batch_size, 256), False, 0)  # in order: it draws nothing
    if isinstance(early_stopping, int):
        early_stopping = EarlyStopping(early_stopping)
    callbacks = [*callbacks, *([] if early_stopping is None else [early_stopping])]
    run = Run(
        model,
        loss,
        optimizer,
        loader,
        epochs,
        tests,
        metrics,
        callbacks,
        rng,
        clip_norm=clip_norm,
        accumulate=accumulate,
        class_weight=class_weight,
        samples_weighted=sample_weight is not None,
        compile=compile,
        backend=backend or ("numpy" if given is None else given.backend.name),
        verify=verify if verify is not None else given is None or given.verifies,
    )
    saver = Saver(run, checkpoint, every_steps, every_minutes, save_best)
    if resume:
        saver.resume()

    optimizer.zero_grad()
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
    model: Module | Step | Compiled[..., Any],
    data: Any,
    loss: Callable[[Any, Any], Any],
    metrics: Metrics | None = None,
    batch_size: int = 256,
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
    module = module_of("evaluate", model)
    return evaluated(module, as_loader(data, batch_size, False, 0), loss, named_metrics(metrics, loss))


def predict(model: Module | Step | Compiled[..., Any], data: Any, batch_size: int = 256) -> Any:
    """What a model returns for data, as arrays, batch after batch.

    `data` are inputs without targets: an array, a tuple of the positional inputs, a dict of the named ones, or batches
    of these. The model is in evaluation mode meanwhile, and no graph is recorded. Where it returns a tuple or dict, so
    does this, of arrays.

    Shape: inputs (n, ...) -> predictions (n, ...)

    Raises ValueError for data without a batch, and for batches whose predictions have different lengths.

    >>> from tinygrad_mm import nn
    >>> predict(nn.Linear(3, 2, rng=0), np.zeros((1000, 3), np.float32)).shape
    (1000, 2)
    """
    module = module_of("predict", model)
    found: list[Any] = []
    with evaluating(module):
        for batch in as_loader(data, batch_size, False, 0):
            inputs, named = inputs_in(batch)
            if not found:
                check_inputs("predict", module, inputs, named)
            found.append(arrays_in(module(*inputs, **named)))
    if not found:
        raise ValueError("predict: the data gave no batch; an iterator can be gone through once")
    return joined("predict", found)


def _keep_frozen_statistics(model: Module) -> None:
    """Leave what has learned statistics and is frozen in evaluation mode: a batch norm whose weights do not learn."""
    for _, module in model.named_modules():
        own = [part for part in vars(module).values() if isinstance(part, Tensor)]
        learned = [part for part in own if not isinstance(part, Buffer)]
        if len(learned) < len(own) and learned and not any(p.requires_grad for p in learned):
            module.training = False


def _check(**numbers: Any) -> None:
    for name, value in numbers.items():
        whole = name not in ("every_minutes", "clip_norm")
        if value is None and name not in ("epochs", "accumulate"):
            continue
        if isinstance(value, bool) or not isinstance(value, (int, np.integer) if whole else (int, float)) or value <= 0:
            raise ValueError(f"fit: {name}={value!r} must be a positive {'integer' if whole else 'number'}")
