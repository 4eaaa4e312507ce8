"""Exercises in backpropagation: `check(name, answer)` says whether an answer is right, and if not, which mistake it is.

Floor 9. An `Exercise` is its right answer and the wrong ones that are made most often; `derivatives`, `networks` and
`architectures` hold those of the course, chapter by chapter; `examining` compares an answer with them.

>>> import tinygrad_mm as tg
>>> tg.study.check("4.2", lambda x, W, dy: x.T @ dy)
4.2: right.
>>> tg.study.check("4.2", lambda x, W, dy: dy.T @ x)
4.2: not yet. dW is the transpose of the right answer, which no shape tells in a square matrix.
"""

from __future__ import annotations

from tinygrad_mm.study import architectures, derivatives, networks  # noqa: F401 (they register their exercises)
from tinygrad_mm.study.examining import Verdict, check, examine
from tinygrad_mm.study.exercise import EXERCISES, Exercise, Gradient

__all__ = ["EXERCISES", "Exercise", "Gradient", "Verdict", "check", "examine"]
