"""Training: the loop around forward, backward and update, with what makes long runs safe.

Floor 9. Start with `loop.py`; everything else serves it.
"""

from tinygrad_mm.training.history import History
from tinygrad_mm.training.loop import evaluate, fit, predict
from tinygrad_mm.training.run import Run
from tinygrad_mm.training.stopping import EarlyStopping

__all__ = ["EarlyStopping", "History", "Run", "evaluate", "fit", "predict"]
