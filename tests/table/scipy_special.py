"""The rows of rules/scipy_special.py; none where SciPy is not installed.

What a ufunc gives on arrays is the oracle for its values, numeric differentiation for its rule.
"""

from __future__ import annotations

import importlib.util

import numpy as np

from table.row import Row

BOTH, SHAPES = (0.3, 3), ("...", "...")


def rows() -> list[Row]:
    from scipy import special

    from tinygrad_mm.rules import scipy_special  # noqa: F401 (registers)

    zeta = special._ufuncs._zeta
    # fmt: off
    one = {
        (-3, 3): "expit log_expit exp2 exp10 expm1 cosm1 sindg cosdg erf erfc erfi erfcx dawsn ndtr log_ndtr "
                 "wrightomega j0 j1 i0 i1",
        (0.2, 3): "entr cbrt gamma gammaln loggamma psi expi exp1 y0 y1 i0e i1e k0 k1 k0e k1e log1p",
        (0.1, 0.9): "logit erfinv ndtri",
        (0.2, 1.8): "erfcinv",
        (-3, -0.2): "ndtri_exp i0e i1e",
        (-0.7, -0.3): "psi gamma gammaln",
        (20, 60): "tandg cotdg",
        (-60, -40): "log_ndtr",
    }
    found = [Row(getattr(special, name), domain=domain) for domain, names in one.items() for name in names.split()]
    for name in ["xlogy", "xlog1py", "rel_entr", "kl_div", "beta", "betaln", "poch"]:
        found.append(Row(getattr(special, name), *SHAPES, domain=BOTH))
    for parameter in (-0.5, 0, 1, 2.5):
        for name in ["jv", "yv", "iv", "ive", "kv", "kve"]:
            found.append(_with(getattr(special, name), parameter))
    found += [
        Row(special.huber,        *SHAPES, domain=[(2, 3), (-2, 2)]),
        Row(special.huber,        *SHAPES, domain=[(0.5, 1), (1, 3)], note="far"),
        Row(special.pseudo_huber, *SHAPES, domain=[(0.5, 2), (-3, 3)]),
        Row(special.owens_t,      *SHAPES, domain=(-2, 2)),
        *(_with(fun, a) for fun in (special.gammainc, special.gammaincc, special.hyp0f1) for a in (0.5, 1, 3.5)),
        *(_with(zeta, s) for s in (2, 3.5)),
        *(_with(fun, a, b, domain=(0.1, 0.9)) for fun in (special.betainc, special.betaincc) for a, b in ((2, 3.5), (1, 1))),
        *(_with(special.hyp1f1, a, b) for a, b in ((1, 2), (0.5, 1.5))),
        *(_with(special.hyp2f1, a, b, c, domain=(-0.4, 0.4)) for a, b, c in ((1, 2, 3), (0.5, 1.5, 2.5))),
    ]
    # fmt: on
    return found


def _with(fun, *parameters, domain=BOTH):
    """A function of its last argument, with parameters before that."""
    return Row(
        fun,
        call=lambda x: fun(*parameters, x),
        oracle=lambda x: fun(*(np.asarray(p, x.dtype) for p in parameters), x),
        domain=domain,
        note=f"of {', '.join(map(str, parameters))}",
    )


ROWS: list[Row] = rows() if importlib.util.find_spec("scipy") else []
