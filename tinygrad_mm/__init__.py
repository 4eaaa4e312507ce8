"""An autograd engine on NumPy: matrix multiplication at the heart of neural networks.

>>> import numpy as np
>>> import tinygrad_mm as tg
>>> W = tg.Tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
>>> loss = np.sum(np.tanh(np.ones((1, 2), np.float32) @ W))
>>> loss.backward()
>>> W.grad.shape
(2, 2)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tinygrad_mm.gradient import gradients, no_grad
from tinygrad_mm.graph import defcomposite, defstopped, defvjp, defvjp_each, primitive
from tinygrad_mm.tensor import Buffer, Parameter, Tensor, from_dlpack

if TYPE_CHECKING:
    from tinygrad_mm import data, nn, optim, study, testing, training, weights
    from tinygrad_mm.compiler import CompileWarning, compile
    from tinygrad_mm.debug import AnomalyError, detect_anomaly, why
    from tinygrad_mm.drawing import Drawing, draw, draw_error, record_lines
    from tinygrad_mm.explorer import draw_jacobian, explain, explore
    from tinygrad_mm.functional import (
        avg_pool2d,
        batch_norm,
        binary_cross_entropy_with_logits,
        conv2d,
        cross_entropy,
        dropout,
        elu,
        erf,
        gelu,
        huber_loss,
        kl_div,
        l1_loss,
        layer_norm,
        leaky_relu,
        log_softmax,
        logsumexp,
        max_pool2d,
        mse_loss,
        nll_loss,
        one_hot,
        relu,
        scaled_dot_product_attention,
        sigmoid,
        silu,
        softmax,
        softplus,
        tanh,
    )
    from tinygrad_mm.nn import Module
    from tinygrad_mm.step import compile_step
    from tinygrad_mm.training import EarlyStopping, History, evaluate, fit
    from tinygrad_mm.transforms import (
        checkpoint,
        grad,
        hessian,
        hvp,
        jacobian,
        jvp,
        local_jacobian,
        value_and_grad,
        vjp,
    )
    from tinygrad_mm.weights import load, save

__version__ = "0.1.0"

__all__ = [
    "AnomalyError",
    "Buffer",
    "CompileWarning",
    "Drawing",
    "EarlyStopping",
    "History",
    "Module",
    "Parameter",
    "Tensor",
    "avg_pool2d",
    "batch_norm",
    "binary_cross_entropy_with_logits",
    "checkpoint",
    "compile",
    "compile_step",
    "conv2d",
    "cross_entropy",
    "data",
    "defcomposite",
    "defstopped",
    "defvjp",
    "defvjp_each",
    "detect_anomaly",
    "draw",
    "draw_error",
    "draw_jacobian",
    "dropout",
    "elu",
    "erf",
    "evaluate",
    "explain",
    "explore",
    "fit",
    "from_dlpack",
    "gelu",
    "grad",
    "gradients",
    "hessian",
    "huber_loss",
    "hvp",
    "jacobian",
    "jvp",
    "kl_div",
    "l1_loss",
    "layer_norm",
    "leaky_relu",
    "load",
    "local_jacobian",
    "log_softmax",
    "logsumexp",
    "max_pool2d",
    "mse_loss",
    "nll_loss",
    "nn",
    "no_grad",
    "one_hot",
    "optim",
    "primitive",
    "record_lines",
    "relu",
    "save",
    "scaled_dot_product_attention",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "study",
    "tanh",
    "testing",
    "training",
    "value_and_grad",
    "vjp",
    "weights",
    "why",
]

# Loaded when first used, so that `import tinygrad_mm` stays quick: name -> the module it lives in. All others are
# network functions, which live in `functional`.
_LATER = {
    **{name: name for name in ("data", "nn", "optim", "study", "testing", "training", "weights")},
    **dict.fromkeys(("AnomalyError", "detect_anomaly", "why"), "debug"),
    **dict.fromkeys(("Drawing", "draw", "draw_error", "record_lines"), "drawing"),
    **dict.fromkeys(("draw_jacobian", "explain", "explore"), "explorer"),
    **dict.fromkeys(("CompileWarning", "compile"), "compiler"),
    "compile_step": "step",
    **dict.fromkeys(("checkpoint", "grad", "hessian", "hvp", "jacobian", "jvp"), "transforms"),
    **dict.fromkeys(("local_jacobian", "value_and_grad", "vjp"), "transforms"),
    **dict.fromkeys(("EarlyStopping", "History", "evaluate", "fit"), "training"),
    **dict.fromkeys(("load", "save"), "weights"),
    "Module": "nn",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'tinygrad_mm' has no attribute {name!r}")
    home = _LATER.get(name, "functional")
    module = import_module(f"tinygrad_mm.{home}")
    value = globals()[name] = module if home == name else getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
