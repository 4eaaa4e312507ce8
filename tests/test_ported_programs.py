"""What programs written for other libraries do on the first day: values and gradients are right, or a message says how."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import tinygrad_mm as tg
from tinygrad_mm import nn

POINT = np.array([1.0, 2.0])

# ---------------------------------------------------------------------------------------------------------------------
# Copies of the arguments of a transform, which are leaves inside of it
# ---------------------------------------------------------------------------------------------------------------------

CUTTING: dict[str, Any] = {
    "deepcopy": copy.deepcopy,
    "deepcopy of a list": lambda t: copy.deepcopy([t])[0],
    "pickle": lambda t: pickle.loads(pickle.dumps(t)),
    "Tensor": tg.Tensor,
    "Tensor with a dtype": lambda t: tg.Tensor(t, dtype=np.float64),
    "Tensor that requires grad": lambda t: tg.Tensor(t, requires_grad=True),
    "Parameter": nn.Parameter,
}
KEEPING: dict[str, Any] = {
    "copy.copy": copy.copy,
    "np.copy": np.copy,
    "t.copy": lambda t: t.copy(),
    "t.astype": lambda t: t.astype(np.float64),
    "np.stack": lambda t: np.stack(list(t)),
}
TRANSFORMS: dict[str, Any] = {
    "grad": lambda f, x: tg.grad(f)(x),
    "vjp": lambda f, x: tg.vjp(f, x)[1](1.0),
    "jacobian": lambda f, x: tg.jacobian(f)(x),
    "hessian": lambda f, x: tg.hessian(lambda x: f(x) * np.sum(x))(x),
    "grad of a Tensor": lambda f, x: tg.grad(f)(tg.Tensor(x, requires_grad=True)),
    "grad of a list": lambda f, x: tg.grad(lambda xs: f(xs[0]))([x]),
    "grad of a grad": lambda f, x: tg.grad(lambda x: np.sum(tg.grad(f)(x)))(x),
}


def plain(found: Any) -> Any:
    return found.detach().data if isinstance(found, tg.Tensor) else found[0] if isinstance(found, list) else found


def squares(copied: Any) -> Any:
    return lambda x: np.sum(copied(x) * x)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("way", CUTTING)
def test_a_copy_that_would_cut_the_argument_loose_raises(way: str, transform: str) -> None:
    with pytest.raises(TypeError, match=r"inside a function that is differentiated .* use t itself \(t\.copy\(\)"):
        TRANSFORMS[transform](squares(CUTTING[way]), POINT)


@pytest.mark.parametrize("transform", [name for name in TRANSFORMS if name != "vjp"])
@pytest.mark.parametrize("way", KEEPING)
def test_other_copies_keep_the_gradient(way: str, transform: str) -> None:
    found, expected = (TRANSFORMS[transform](squares(copied), POINT) for copied in (KEEPING[way], lambda t: t))
    np.testing.assert_array_equal(plain(found), plain(expected))
    assert plain(found).any()


def test_constants_and_leaves_outside_of_transforms_can_be_copied() -> None:
    constant, leaf = tg.Tensor(POINT), tg.Tensor(POINT, requires_grad=True)
    for copied in CUTTING.values():
        if copied is not CUTTING["Tensor that requires grad"] and copied is not nn.Parameter:
            inside = tg.grad(lambda x, copied=copied: np.sum(copied(constant) * x))(POINT)
            np.testing.assert_array_equal(inside, POINT)
        np.testing.assert_array_equal(copied(leaf).data, POINT)


# ---------------------------------------------------------------------------------------------------------------------
# Functions of other libraries
# ---------------------------------------------------------------------------------------------------------------------


def test_a_ufunc_of_another_library_is_not_called_numpys() -> None:
    """SciPy's have no module, as NumPy's had none before 2.2."""
    erf = np.frompyfunc(float, 1, 1)
    with pytest.raises(TypeError, match=r"^float \(vectorized\) has no derivative rule"):
        erf(tg.Tensor(POINT, requires_grad=True))


@pytest.mark.parametrize("rule", [lambda y, x: lambda g: g * y, lambda g, x: g * x, lambda g: g], ids=range(3))
def test_a_rule_of_too_few_arguments_is_refused_where_it_is_written(rule: Any) -> None:
    @tg.primitive
    def exponential(x: Any) -> Any:
        return np.exp(x)

    with pytest.raises(TypeError, match=r"a rule of exponential takes g, y and its 1 arguments, as in lambda g, y, x"):
        tg.defvjp(exponential, rule)


def test_rules_of_any_number_of_arguments_are_accepted() -> None:
    @tg.primitive
    def total(x: Any, y: Any) -> Any:
        return x + y

    tg.defvjp(total, lambda g, *rest: g, lambda g, ans, *args, **options: g)
    assert tg.grad(total)(1.0, 2.0) == 1.0


# ---------------------------------------------------------------------------------------------------------------------
# Whole programs
# ---------------------------------------------------------------------------------------------------------------------


def test_a_damped_oscillation_is_fitted_by_newtons_method() -> None:
    """Parameters, and their uncertainties from the Hessian: what an evaluation in physics asks for."""
    time, true = np.linspace(0, 10, 60), np.array([2.0, 0.3, 1.7, 0.4])
    model = lambda p: p[0] * np.exp(-p[1] * time) * np.cos(p[2] * time + p[3])
    measured = model(true) + 0.05 * np.random.default_rng(0).standard_normal(time.size)
    chi_squared = lambda p: np.sum(((model(p) - measured) / 0.05) ** 2)
    p = true + [0.1, 0.02, 0.05, -0.1]
    for _ in range(12):
        p = p - np.linalg.solve(tg.hessian(chi_squared)(p), tg.grad(chi_squared)(p))
    np.testing.assert_allclose(tg.grad(chi_squared)(p), 0, atol=1e-6)
    slopes = tg.jacobian(model)(p) / 0.05
    uncertainties = np.sqrt(np.diag(np.linalg.inv(tg.hessian(chi_squared)(p) / 2)))
    np.testing.assert_allclose(uncertainties, np.sqrt(np.diag(np.linalg.inv(slopes.T @ slopes))), rtol=0.05)
    assert (np.abs(p - true) < 4 * uncertainties).all()


def test_a_mixture_of_gaussians_as_it_is_written_for_autograd() -> None:
    """Parameters in a dict, a loop over clusters, logsumexp: its gradient is that of the responsibilities."""
    random = np.random.RandomState(0)
    data = random.randn(30, 2)
    parameters = {
        "proportions": random.randn(3),
        "means": random.randn(3, 2),
        "scales": np.eye(2) + np.zeros((3, 2, 2)),
    }

    def log_likelihood(p: Any) -> Any:
        shares = p["proportions"] - tg.logsumexp(p["proportions"])
        clusters = []
        for share, mean, scale in zip(shares, p["means"], p["scales"], strict=True):
            covariance = np.dot(scale.T, scale)
            apart = data - mean
            distance = np.sum(apart @ np.linalg.inv(covariance) * apart, axis=1)
            clusters.append(share - 0.5 * (np.linalg.slogdet(covariance)[1] + distance))
        return np.sum(tg.logsumexp(np.vstack(clusters), axis=0))

    found = tg.grad(log_likelihood)(parameters)
    shares = tg.softmax(parameters["proportions"])
    apart = data[None] - parameters["means"][:, None]
    responsible = tg.softmax(np.log(shares)[:, None] - 0.5 * np.sum(apart**2, axis=2), axis=0)
    np.testing.assert_allclose(found["proportions"], np.sum(responsible, axis=1) - 30 * shares, rtol=1e-10)
    np.testing.assert_allclose(found["means"], np.einsum("kn,knd->kd", responsible, apart), rtol=1e-10)
    tg.testing.check_grads(
        lambda *parts: log_likelihood(dict(zip(parameters, parts, strict=True))), [*parameters.values()]
    )
