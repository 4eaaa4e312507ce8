"""The rules as mathematics: for each operation one formula per argument.

In a formula `{g}` is the gradient of the result, `{y}` the result, any other name in braces an argument or option of
the call as its rule names it. `⊙` is the product of elements, `·` that of matrices (or with a number), `ᵀ` exchanges
the last two axes, `[condition]` is 1 where it holds and else 0. A formula is what the rule computes before the loop
sums over broadcast axes; where it is a sentence instead, nothing is computed from it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinygrad_mm.functional import elu, erf, gelu, leaky_relu, log_softmax, logsumexp, relu, sigmoid, softmax
from tinygrad_mm.rules.indexing import getitem, scatter
from tinygrad_mm.rules.shape import astype, join

__all__ = ["ELEMENTWISE", "SENTENCES"]

Function = Callable[..., Any]

# Element by element: what is true of the arrays is true of each of their elements.
# fmt: off
ELEMENTWISE: dict[Function, tuple[str, ...]] = {
    np.add:          ("{g}",
                      "{g}"),
    np.subtract:     ("{g}",
                      "-{g}"),
    np.multiply:     ("{g} ⊙ {b}",
                      "{g} ⊙ {a}"),
    np.divide:       ("{g} / {b}",
                      "-{g} ⊙ {a} / {b}²"),
    np.power:        ("{g} ⊙ {b} ⊙ {a}^({b} - 1)",
                      "{g} ⊙ {y} ⊙ ln({a})"),
    np.float_power:  ("{g} ⊙ {b} ⊙ {a}^({b} - 1)",
                      "{g} ⊙ {y} ⊙ ln({a})"),
    np.remainder:    ("{g}",
                      "{g} ⊙ ({y} - {a}) / {b}"),
    np.fmod:         ("{g}",
                      "{g} ⊙ ({y} - {a}) / {b}"),
    np.negative:     ("-{g}",),
    np.positive:     ("{g}",),
    np.conjugate:    ("{g}",),
    np.absolute:     ("{g} ⊙ sign({x})",),
    np.fabs:         ("{g} ⊙ sign({x})",),
    np.square:       ("{g} ⊙ 2 · {x}",),
    np.sqrt:         ("{g} / (2 · {y})",),
    np.cbrt:         ("{g} / (3 · {y}²)",),
    np.reciprocal:   ("-{g} ⊙ {y}²",),
    np.exp:          ("{g} ⊙ {y}",),
    np.exp2:         ("{g} ⊙ {y} · ln(2)",),
    np.expm1:        ("{g} ⊙ ({y} + 1)",),
    np.log:          ("{g} / {x}",),
    np.log2:         ("{g} / ({x} · ln(2))",),
    np.log10:        ("{g} / ({x} · ln(10))",),
    np.log1p:        ("{g} / ({x} + 1)",),
    np.logaddexp:    ("{g} ⊙ exp({a} - {y})",
                      "{g} ⊙ exp({b} - {y})"),
    np.logaddexp2:   ("{g} ⊙ 2^({a} - {y})",
                      "{g} ⊙ 2^({b} - {y})"),
    np.sin:          ("{g} ⊙ cos({x})",),
    np.cos:          ("-{g} ⊙ sin({x})",),
    np.tan:          ("{g} ⊙ (1 + {y}²)",),
    np.arcsin:       ("{g} / √(1 - {x}²)",),
    np.arccos:       ("-{g} / √(1 - {x}²)",),
    np.arctan:       ("{g} / (1 + {x}²)",),
    np.sinh:         ("{g} ⊙ cosh({x})",),
    np.cosh:         ("{g} ⊙ sinh({x})",),
    np.tanh:         ("{g} ⊙ (1 - {y}²)",),
    np.arcsinh:      ("{g} / √({x}² + 1)",),
    np.arccosh:      ("{g} / √({x}² - 1)",),
    np.arctanh:      ("{g} / (1 - {x}²)",),
    np.arctan2:      ("{g} ⊙ {b} / ({a}² + {b}²)",
                      "-{g} ⊙ {a} / ({a}² + {b}²)"),
    np.hypot:        ("{g} ⊙ {a} / {y}",
                      "{g} ⊙ {b} / {y}"),
    np.degrees:      ("{g} · 180 / π",),
    np.rad2deg:      ("{g} · 180 / π",),
    np.radians:      ("{g} · π / 180",),
    np.deg2rad:      ("{g} · π / 180",),
    np.maximum:      ("{g} ⊙ ([{a} > {b}] + ½ [{a} = {b}])",
                      "{g} ⊙ ([{b} > {a}] + ½ [{a} = {b}])"),
    np.minimum:      ("{g} ⊙ ([{a} < {b}] + ½ [{a} = {b}])",
                      "{g} ⊙ ([{b} < {a}] + ½ [{a} = {b}])"),
    np.fmax:         ("{g} ⊙ ([{a} > {b}] + ½ [{a} = {b}])",
                      "{g} ⊙ ([{b} > {a}] + ½ [{a} = {b}])"),
    np.fmin:         ("{g} ⊙ ([{a} < {b}] + ½ [{a} = {b}])",
                      "{g} ⊙ ([{b} < {a}] + ½ [{a} = {b}])"),
    np.copy:         ("{g}",),
    astype:          ("{g}",),
    relu:            ("{g} ⊙ [{x} > 0]",),
    leaky_relu:      ("{g} ⊙ ([{x} > 0] + {negative_slope} · [{x} ≤ 0])",),
    elu:             ("{g} ⊙ ([{x} > 0] + [{x} ≤ 0] ⊙ ({y} + {alpha}))",),
    sigmoid:         ("{g} ⊙ {y} ⊙ (1 - {y})",),
    erf:             ("{g} ⊙ 2 / √(π) ⊙ exp(-{x}²)",),
}

# In words: what needs more than elements, or an explanation.
SENTENCES: dict[Function, tuple[str, ...]] = {
    np.where:         ("", "{g} where {condition} holds, else 0", "{g} where {condition} does not hold, else 0"),
    np.clip:          ("{g} where {a} was not cut off, else 0",) * 3,
    np.mean:          ("{g} / {count}, the same for each of the {count} elements",),
    np.max:           ("{g} where {a} is the largest, shared between equal ones, else 0",),
    np.min:           ("{g} where {a} is the smallest, shared between equal ones, else 0",),
    np.sum:           ("{g}, the same for each of the {count} elements",),
    np.prod:          ("{g} ⊙ the product of the other elements",),
    np.var:           ("{g} · 2 ({a} - mean({a})) / {freedom}",),
    np.std:           ("{g} · ({a} - mean({a})) / ({freedom} · {y})",),
    np.cumsum:        ("the sums of {g} from each place to the end",),
    softmax:          ("{y} ⊙ ({g} - Σ {g} ⊙ {y}), Σ along axis {axis}",),
    log_softmax:      ("{g} - softmax({x}) · Σ {g}, Σ along axis {axis}",),
    logsumexp:        ("{g} · softmax({x}) along axis {axis}",),
    np.reshape:       ("{g} in the shape of {a}",),
    np.ravel:         ("{g} in the shape of {a}",),
    np.expand_dims:   ("{g} in the shape of {a}",),
    np.squeeze:       ("{g} in the shape of {a}",),
    np.swapaxes:      ("{g} with the axes {axis1} and {axis2} exchanged again",),
    np.moveaxis:      ("{g} with the axes moved back",),
    np.broadcast_to:  ("{g}",),
    np.flip:          ("{g} turned round again",),
    np.roll:          ("{g} rolled back",),
    np.rot90:         ("{g} rotated back",),
    np.tril:          ("the lower triangle of {g}, 0 elsewhere",),
    np.triu:          ("the upper triangle of {g}, 0 elsewhere",),
    np.diagonal:      ("{g} on that diagonal of {a}, 0 elsewhere",),
    gelu:             ("{g} ⊙ (Φ({x}) + {x} ⊙ φ({x})), Φ the normal distribution, φ its density",),
    getitem:          ("{g} at the places {key} of {x}, 0 elsewhere",),
    scatter:          ("{g} at the places {key}",),
    join:             ("the part of {g} that came from here",),
    np.linalg.inv:    ("-{y}ᵀ · {g} · {y}ᵀ",),
    np.linalg.det:    ("{g} · {y} · ({a}⁻¹)ᵀ",),
}
# fmt: on
