"""Optimizers: each one pure formula, run over flat buffers."""

from tinygrad_mm.optim.algorithms import SGD, Adam
from tinygrad_mm.optim.optimizer import Optimizer

__all__ = ["SGD", "Adam", "Optimizer"]
