"""Optimizers: each one pure formula, run over flat buffers; schedules, clipping, averages of weights."""

from tinygrad_mm.optim.algorithms import SGD, Adagrad, Adam, AdamW, Lion, RMSprop
from tinygrad_mm.optim.averaging import ExponentialMovingAverage
from tinygrad_mm.optim.clipping import clip_grad_norm, clip_grad_value
from tinygrad_mm.optim.optimizer import Optimizer
from tinygrad_mm.optim.schedules import (
    ReduceOnPlateau,
    cosine,
    cosine_with_restarts,
    exponential,
    joined,
    linear,
    one_cycle,
    step_decay,
    warm_up,
)

__all__ = [
    "Adagrad",
    "Adam",
    "AdamW",
    "ExponentialMovingAverage",
    "Lion",
    "Optimizer",
    "RMSprop",
    "ReduceOnPlateau",
    "SGD",
    "clip_grad_norm",
    "clip_grad_value",
    "cosine",
    "cosine_with_restarts",
    "exponential",
    "joined",
    "linear",
    "one_cycle",
    "step_decay",
    "warm_up",
]
