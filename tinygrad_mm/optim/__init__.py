"""Optimizers: each one pure formula, run over flat buffers; schedules, clipping, averages of weights."""

from tinygrad_mm.optim import schedules as schedules
from tinygrad_mm.optim.adaptive import Adadelta, Adamax, AMSGrad, NAdam, RAdam
from tinygrad_mm.optim.algorithms import SGD, Adagrad, Adam, AdamW, Lion, RMSprop
from tinygrad_mm.optim.averaging import ExponentialMovingAverage
from tinygrad_mm.optim.clipping import clip_grad_norm, clip_grad_value
from tinygrad_mm.optim.lbfgs import LBFGS
from tinygrad_mm.optim.optimizer import Optimizer
from tinygrad_mm.optim.schedules import (
    ReduceOnPlateau,
    cosine,
    cosine_with_restarts,
    exponential,
    joined,
    linear,
    one_cycle,
    polynomial,
    step_decay,
    warm_up,
)
from tinygrad_mm.optim.whole import LAMB, Muon

__all__ = [
    "AMSGrad",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "ExponentialMovingAverage",
    "LAMB",
    "LBFGS",
    "Lion",
    "Muon",
    "NAdam",
    "Optimizer",
    "RAdam",
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
    "polynomial",
    "step_decay",
    "warm_up",
]
