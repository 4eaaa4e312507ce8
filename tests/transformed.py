"""Functions and arguments that the tests of transforms share."""

from __future__ import annotations

import numpy as np

RNG = np.random.default_rng(7)

INPUTS = RNG.standard_normal((5, 3))

CLASSES = RNG.integers(0, 2, 5)
