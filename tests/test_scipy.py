"""SciPy's ufuncs on Tensors, against PyTorch, at their edges, compiled, saved, and those without a rule."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import tinygrad_mm as tg

special = pytest.importorskip("scipy.special")

X = np.linspace(-2.4, 2.6, 11)
POSITIVE = np.linspace(0.1, 4, 11)
INSIDE = np.linspace(0.05, 0.95, 11)
# SciPy's name, PyTorch's in torch.special, and arguments.
PEERS = [
    *(
        (name, name, (X,))
        for name in ["expit", "erf", "erfc", "erfcx", "ndtr", "log_ndtr", "expm1", "exp2", "i0", "i0e", "i1", "i1e"]
    ),
    *((name, name, (POSITIVE,)) for name in ["entr", "gammaln", "digamma", "log1p"]),
    *((name, name, (INSIDE,)) for name in ["logit", "erfinv", "ndtri"]),
    *((name, name, (POSITIVE - 0.1, POSITIVE)) for name in ("xlogy", "xlog1py")),
    ("j0", "bessel_j0", (X,)),
]


def leaves(arrays):
    return [tg.Tensor(a, requires_grad=True) for a in arrays]


@pytest.mark.parametrize(("ours", "theirs", "arrays"), PEERS, ids=[ours for ours, *_ in PEERS])
def test_pytorch_agrees(ours, theirs, arrays):
    torch = pytest.importorskip("torch")
    xs, peers = leaves(arrays), [torch.tensor(a, requires_grad=True) for a in arrays]
    y, peer = getattr(special, ours)(*xs), getattr(torch.special, theirs)(*peers)
    np.testing.assert_allclose(y.data, peer.detach().numpy(), rtol=1e-9, atol=1e-15)
    y.sum().backward()
    if not peer.requires_grad:
        return
    try:
        peer.sum().backward()
    except RuntimeError:  # not differentiable there
        return
    for x, other in zip(xs, peers, strict=True):
        np.testing.assert_allclose(x.grad, other.grad.numpy(), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("fun", [special.xlogy, special.xlog1py])
def test_zero_times_the_logarithm_of_zero(fun):
    a, b = leaves([np.zeros(2), np.array([0.0, 1.0]) - (fun is special.xlog1py)])
    fun(a, b).sum().backward()
    assert a.grad.tolist() == [0.0, 0.0]
    assert b.grad.tolist() == [0.0, 0.0]


def test_the_tail_of_the_normal_distribution():
    (x,) = leaves([np.array([-1e4, -50.0, 0.0, 50.0], np.float32)])
    special.log_ndtr(x).sum().backward()
    np.testing.assert_allclose(x.grad, [1e4, 50.02, np.sqrt(2 / np.pi), 0], rtol=1e-4)


def test_a_python_number_is_weak():
    for call in (lambda x: special.xlogy(2.0, x), lambda x: special.gammainc(2, x), lambda x: special.iv(0.5, x)):
        (x,) = leaves([np.ones(3, np.float32)])
        y = call(x)
        y.sum().backward()
        assert (y.dtype, x.grad.dtype) == (np.float32, np.float32)


UNKNOWN = [
    ("gammainc", "a", 2), ("gammaincc", "a", 2), ("betainc", "a", 3), ("betaincc", "a", 3), ("jv", "v", 2),
    ("yv", "v", 2), ("iv", "v", 2), ("ive", "v", 2), ("kv", "v", 2), ("kve", "v", 2), ("hyp0f1", "v", 2),
    ("hyp1f1", "a", 3), ("hyp2f1", "a", 4), ("zeta", "x", 2),
]  # fmt: skip


@pytest.mark.parametrize(("name", "parameter", "arguments"), UNKNOWN, ids=[name for name, *_ in UNKNOWN])
def test_a_parameter_without_a_known_derivative_raises(name, parameter, arguments):
    numbers = [2.0, 0.5, 0.5, 0.5][:arguments] if name != "zeta" else [2.0, 0.5]
    for place in range(arguments - 1):
        given = [tg.Tensor(n, requires_grad=i == place) for i, n in enumerate(numbers)]
        y = getattr(special, name)(*given)
        with pytest.raises(TypeError, match=rf"scipy\.special\.{name}: .* no closed form; give "):
            y.backward()


def test_a_ufunc_without_a_rule_says_so():
    (x,) = leaves([POSITIVE])
    with pytest.raises(TypeError, match=r"scipy\.special\.voigt_profile has no derivative rule\. Register one"):
        special.voigt_profile(x, 1.0, 1.0)


def test_functions_that_are_no_ufuncs_name_the_way_out():
    (x,) = leaves([POSITIVE])
    for function in (special.logsumexp, special.softmax, special.log_softmax):
        with pytest.raises(TypeError, match=r"tg\.logsumexp, tg\.softmax"):
            function(x)


def test_they_can_be_compiled_and_saved(tmp_path):
    def loss(x):
        return np.sum(special.gammaln(x) * special.expit(x) + special.exp2(np.exp2(-x)) + special.zeta(2.0, x))

    compiled = tg.compile(loss)
    x, y = leaves([POSITIVE, POSITIVE])
    for _ in range(2):
        x.grad = y.grad = None
        ours, expected = compiled(x), loss(y)
        ours.backward(), expected.backward()
        np.testing.assert_allclose(ours.data, expected.data, rtol=1e-12)
        np.testing.assert_allclose(x.grad, y.grad, rtol=1e-12)
    compiled.save(tmp_path / "saved.py")
    run = subprocess.run([sys.executable, "-c", "import saved"], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert "scipy.special._ufuncs._zeta" in (tmp_path / "saved.py").read_text("utf-8")


def test_they_are_shown():
    shown = tg.rule(special.erf)
    assert shown.gradients[0].formula.startswith("∂L/∂x = ∂L/∂y ⊙ e^(-x ⊙ x)")
    from tinygrad_mm.rules.catalogue import catalogue

    assert "special.expit" in catalogue(["scipy.special.expit"])


CODE = """
import sys
import numpy as np
import tinygrad_mm as tg
assert not any(name.partition(".")[0] == "scipy" for name in sys.modules)
from scipy import special
assert "tinygrad_mm.rules.scipy_special" not in sys.modules
x = tg.Tensor(np.ones(2), requires_grad=True)
special.expit(x).sum().backward()
print(x.grad)
"""


def test_rules_are_read_when_scipys_function_is_met_and_scipy_is_never_imported():
    run = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, "[0.19661193 0.19661193]\n"), run.stderr
