"""Training: the loop around forward, backward and update, with what makes long runs safe.

Floor 9. Start with `loop.py`; everything else serves it.
"""

from tinygrad_mm.training.callbacks import CSVLogger, TensorBoard
from tinygrad_mm.training.history import History
from tinygrad_mm.training.loop import evaluate, fit, predict
from tinygrad_mm.training.range_test import RangeTest, learning_rate_range_test
from tinygrad_mm.training.run import Run
from tinygrad_mm.training.stopping import EarlyStopping

__all__ = [
    "CSVLogger",
    "EarlyStopping",
    "History",
    "RangeTest",
    "Run",
    "TensorBoard",
    "evaluate",
    "fit",
    "learning_rate_range_test",
    "predict",
]
