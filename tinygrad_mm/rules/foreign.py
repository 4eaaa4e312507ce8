"""Rules of other libraries' functions, which are read when one of those is first met: nothing here imports a library."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from tinygrad_mm.graph import RULES, Rule

__all__ = ["rule_for"]


def rule_for(fun: Callable[..., Any]) -> Rule | None:
    """What is known about a function, or None.

    A ufunc that is not known may be one of SciPy's, if the program has imported that: its rules are read then.

    >>> rule_for(np.exp).names
    ('x',)
    """
    if fun not in RULES and isinstance(fun, np.ufunc) and "scipy.special" in sys.modules:
        importlib.import_module("tinygrad_mm.rules.scipy_special")
    return RULES.get(fun)
