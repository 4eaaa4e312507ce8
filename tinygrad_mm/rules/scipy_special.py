"""The ufuncs of `scipy.special`, for programs that use SciPy: this file is read when a Tensor first meets one of them.

Parameters of a family (the order of a Bessel function, the shape of a gamma distribution) have no derivative in closed
form: where one is asked for, it raises. Source of the rules: NIST Digital Library of Mathematical Functions.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import special

from tinygrad_mm.graph import RULES, defstopped, defvjp
from tinygrad_mm.rules.operands import as_arrays, like


def unknown(fun, parameter):
    """Raise TypeError: a derivative was asked for that has no closed form."""
    raise TypeError(
        f"scipy.special.{fun}: the derivative with respect to {parameter} has no closed form; give {parameter} as a "
        f"number, an array, or {parameter}.detach()"
    )


def _log_where_used(a, b):
    """The logarithm of b, and 0 where a is 0 and b is not positive: there a log(b) is 0 by definition."""
    return np.log(np.where((a == 0) & (b <= 0), 1, b))


def _share(a, b):
    """The quotient a / b, and 0 where a is 0, also beside a b of 0."""
    return a / np.where(a == 0, 1, b)


THREE = "(...), (...), (...) -> (...) broadcast"

# fmt: off
# the logistic function, entropies and losses
defvjp(special.expit,        lambda g, y, x: g * y * (1 - y))
defvjp(special.logit,        lambda g, y, x: g / (x * (1 - x)))
defvjp(special.log_expit,    lambda g, y, x: g * special.expit(-x))
defvjp(special.xlogy,        lambda g, y, a, b: g * _log_where_used(a, like(b, a)),
                             lambda g, y, a, b: g * _share(like(a, b), b))
defvjp(special.xlog1py,      lambda g, y, a, b: g * _log_where_used(a, like(1 + b, a)),
                             lambda g, y, a, b: g * _share(like(a, b), 1 + b))
defvjp(special.entr,         lambda g, y, x: -g * (np.log(x) + 1))
defvjp(special.rel_entr,     lambda g, y, a, b: g * (np.log(a / b) + 1),
                             lambda g, y, a, b: -g * a / b)
defvjp(special.kl_div,       lambda g, y, a, b: g * np.log(a / b),
                             lambda g, y, a, b: g * (1 - a / b))
defvjp(special.huber,        lambda g, y, delta, r: np.where(abs(r) <= delta, 0, g * (abs(r) - delta)),
                             lambda g, y, delta, r: np.where(abs(r) <= delta, g * r, g * delta * np.sign(r)))
defvjp(special.pseudo_huber, lambda g, y, delta, r: g * (2 * y / delta - r * r / delta / np.sqrt(1 + (r / delta) ** 2)),
                             lambda g, y, delta, r: g * r / np.sqrt(1 + (r / delta) ** 2))

# elementary functions
defvjp(special.exp2,         lambda g, y, x: g * y * math.log(2))
defvjp(special.exp10,        lambda g, y, x: g * y * math.log(10))
defvjp(special.expm1,        lambda g, y, x: g * (y + 1))
defvjp(special.log1p,        lambda g, y, x: g / (x + 1))
defvjp(special.cosm1,        lambda g, y, x: -g * np.sin(x))
defvjp(special.cbrt,         lambda g, y, x: g / (3 * y * y))
defvjp(special.sindg,        lambda g, y, x: g * special.cosdg(x) * (math.pi / 180))
defvjp(special.cosdg,        lambda g, y, x: -g * special.sindg(x) * (math.pi / 180))
defvjp(special.tandg,        lambda g, y, x: g * (1 + y * y) * (math.pi / 180))
defvjp(special.cotdg,        lambda g, y, x: -g * (1 + y * y) * (math.pi / 180))

# error functions and the normal distribution
defvjp(special.erf,          lambda g, y, x: g * np.exp(-x * x) * (2 / math.sqrt(math.pi)))
defvjp(special.erfc,         lambda g, y, x: -g * np.exp(-x * x) * (2 / math.sqrt(math.pi)))
defvjp(special.erfi,         lambda g, y, x: g * np.exp(x * x) * (2 / math.sqrt(math.pi)))
defvjp(special.erfcx,        lambda g, y, x: g * (2 * x * y - 2 / math.sqrt(math.pi)))
defvjp(special.dawsn,        lambda g, y, x: g * (1 - 2 * x * y))
defvjp(special.erfinv,       lambda g, y, x: g * np.exp(y * y) * (math.sqrt(math.pi) / 2))
defvjp(special.erfcinv,      lambda g, y, x: -g * np.exp(y * y) * (math.sqrt(math.pi) / 2))
defvjp(special.ndtr,         lambda g, y, x: g * np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi))
defvjp(special.log_ndtr,     lambda g, y, x: g * math.sqrt(2 / math.pi) / special.erfcx(x * -math.sqrt(0.5)))
defvjp(special.ndtri,        lambda g, y, x: g * np.exp(0.5 * y * y) * math.sqrt(2 * math.pi))
defvjp(special.ndtri_exp,    lambda g, y, x: g * np.exp(x + 0.5 * y * y) * math.sqrt(2 * math.pi))
defvjp(special.owens_t,      lambda g, y, h, a: -g * np.exp(-0.5 * h * h) * special.erf(h * a * math.sqrt(0.5)) * (0.5 / math.sqrt(2 * math.pi)),
                             lambda g, y, h, a: g * np.exp(-0.5 * h * h * (1 + a * a)) / ((1 + a * a) * (2 * math.pi)))

# gamma and beta functions
defvjp(special.gamma,        lambda g, y, x: g * y * special.psi(x))
defvjp(special.gammaln,      lambda g, y, x: g * special.psi(x))
defvjp(special.loggamma,     lambda g, y, x: g * special.psi(x))
defvjp(special.psi,          lambda g, y, x: g * special.zeta(2, x))
defvjp(special._ufuncs._zeta, lambda g, y, x, q: unknown("zeta", "x"),  # special.zeta(x, q) is this ufunc
                             lambda g, y, x, q: -g * x * special.zeta(x + 1, q))
defvjp(special.beta,         lambda g, y, a, b: g * y * (special.psi(a) - special.psi(a + b)),
                             lambda g, y, a, b: g * y * (special.psi(b) - special.psi(a + b)))
defvjp(special.betaln,       lambda g, y, a, b: g * (special.psi(a) - special.psi(a + b)),
                             lambda g, y, a, b: g * (special.psi(b) - special.psi(a + b)))
defvjp(special.poch,         lambda g, y, z, m: g * y * (special.psi(z + m) - special.psi(z)),
                             lambda g, y, z, m: g * y * special.psi(z + m))
defvjp(special.gammainc,     lambda g, y, a, x: unknown("gammainc", "a"),
                             lambda g, y, a, x: g * np.exp(special.xlogy(like(a, x) - 1, x) - x - special.gammaln(like(a, x))))
defvjp(special.gammaincc,    lambda g, y, a, x: unknown("gammaincc", "a"),
                             lambda g, y, a, x: -g * np.exp(special.xlogy(like(a, x) - 1, x) - x - special.gammaln(like(a, x))))
defvjp(special.betainc,      lambda g, y, a, b, x: unknown("betainc", "a"),
                             lambda g, y, a, b, x: unknown("betainc", "b"),
                             lambda g, y, a, b, x: g * np.exp(special.xlogy(like(a, x) - 1, x) + special.xlog1py(like(b, x) - 1, -x) - special.betaln(like(a, x), like(b, x))), signature=THREE)
defvjp(special.betaincc,     lambda g, y, a, b, x: unknown("betaincc", "a"),
                             lambda g, y, a, b, x: unknown("betaincc", "b"),
                             lambda g, y, a, b, x: -g * np.exp(special.xlogy(like(a, x) - 1, x) + special.xlog1py(like(b, x) - 1, -x) - special.betaln(like(a, x), like(b, x))), signature=THREE)

# exponential integrals and Wright's omega
defvjp(special.expi,         lambda g, y, x: g * np.exp(x) / x)
defvjp(special.exp1,         lambda g, y, x: -g * np.exp(-x) / x)
defvjp(special.wrightomega,  lambda g, y, x: g * y / (1 + y))

# Bessel functions, those ending in e scaled by an exponential
defvjp(special.j0,           lambda g, y, x: -g * special.j1(x))
defvjp(special.j1,           lambda g, y, x: g * (special.j0(x) - special.jv(2, x)) * 0.5)
defvjp(special.y0,           lambda g, y, x: -g * special.y1(x))
defvjp(special.y1,           lambda g, y, x: g * (special.y0(x) - special.yv(2, x)) * 0.5)
defvjp(special.i0,           lambda g, y, x: g * special.i1(x))
defvjp(special.i1,           lambda g, y, x: g * (special.i0(x) + special.iv(2, x)) * 0.5)
defvjp(special.i0e,          lambda g, y, x: g * (special.i1e(x) - np.sign(x) * y))
defvjp(special.i1e,          lambda g, y, x: g * ((special.i0e(x) + special.ive(2, x)) * 0.5 - np.sign(x) * y))
defvjp(special.k0,           lambda g, y, x: -g * special.k1(x))
defvjp(special.k1,           lambda g, y, x: -g * (special.k0(x) + special.kv(2, x)) * 0.5)
defvjp(special.k0e,          lambda g, y, x: g * (y - special.k1e(x)))
defvjp(special.k1e,          lambda g, y, x: g * (y - (special.k0e(x) + special.kve(2, x)) * 0.5))
defvjp(special.jv,           lambda g, y, v, z: unknown("jv", "v"),
                             lambda g, y, v, z: g * (special.jv(v - 1, z) - special.jv(v + 1, z)) * 0.5)
defvjp(special.yv,           lambda g, y, v, z: unknown("yv", "v"),
                             lambda g, y, v, z: g * (special.yv(v - 1, z) - special.yv(v + 1, z)) * 0.5)
defvjp(special.iv,           lambda g, y, v, z: unknown("iv", "v"),
                             lambda g, y, v, z: g * (special.iv(v - 1, z) + special.iv(v + 1, z)) * 0.5)
defvjp(special.ive,          lambda g, y, v, z: unknown("ive", "v"),
                             lambda g, y, v, z: g * ((special.ive(v - 1, z) + special.ive(v + 1, z)) * 0.5 - np.sign(z) * y))
defvjp(special.kv,           lambda g, y, v, z: unknown("kv", "v"),
                             lambda g, y, v, z: -g * (special.kv(v - 1, z) + special.kv(v + 1, z)) * 0.5)
defvjp(special.kve,          lambda g, y, v, z: unknown("kve", "v"),
                             lambda g, y, v, z: g * (y - (special.kve(v - 1, z) + special.kve(v + 1, z)) * 0.5))

# hypergeometric functions
defvjp(special.hyp0f1,       lambda g, y, v, z: unknown("hyp0f1", "v"),
                             lambda g, y, v, z: g * special.hyp0f1(v + 1, z) / v)
defvjp(special.hyp1f1,       lambda g, y, a, b, x: unknown("hyp1f1", "a"),
                             lambda g, y, a, b, x: unknown("hyp1f1", "b"),
                             lambda g, y, a, b, x: g * a / b * special.hyp1f1(like(a, x) + 1, like(b, x) + 1, x), signature=THREE)
defvjp(special.hyp2f1,       lambda g, y, a, b, c, z: unknown("hyp2f1", "a"),
                             lambda g, y, a, b, c, z: unknown("hyp2f1", "b"),
                             lambda g, y, a, b, c, z: unknown("hyp2f1", "c"),
                             lambda g, y, a, b, c, z: g * a * b / c * special.hyp2f1(like(a, z) + 1, like(b, z) + 1, like(c, z) + 1, z), signature="(...), (...), (...), (...) -> (...) broadcast")
# fmt: on

defstopped(special.gammasgn, special.round)

# Beside a Python number SciPy computes some of these in float64, whatever the dtype of the array is.
for _fun in (special.xlogy, special.xlog1py, special.beta, special.betaln, special.gammainc, special.gammaincc,
             special.betainc, special.betaincc, special.hyp2f1):  # fmt: skip
    RULES[_fun].forward = lambda *operands, fun=_fun: fun(*as_arrays(operands))
