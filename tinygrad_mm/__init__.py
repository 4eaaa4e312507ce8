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
    from tinygrad_mm import data, nn, optim, random, study, testing, text, training, weights
    from tinygrad_mm import onnx as onnx
    from tinygrad_mm import sklearn as sklearn
    from tinygrad_mm.compiler import CompileWarning, compile
    from tinygrad_mm.debug import AnomalyError, detect_anomaly, why
    from tinygrad_mm.drawing import Drawing, draw, draw_error, record_lines
    from tinygrad_mm.explorer import draw_jacobian, explain, explore, rule
    from tinygrad_mm.functional import (
        adaptive_avg_pool1d,
        adaptive_avg_pool2d,
        adaptive_max_pool1d,
        adaptive_max_pool2d,
        avg_pool1d,
        avg_pool2d,
        batch_norm,
        binary_cross_entropy,
        binary_cross_entropy_with_logits,
        celu,
        conv1d,
        conv2d,
        conv_transpose1d,
        conv_transpose2d,
        cosine_embedding_loss,
        cosine_similarity,
        cross_entropy,
        ctc_loss,
        dropout,
        elu,
        erf,
        feature_dropout,
        gaussian_nll_loss,
        gelu,
        glu,
        group_norm,
        hard_sigmoid,
        hard_swish,
        hard_tanh,
        hinge_loss,
        huber_loss,
        info_nce_loss,
        interpolate,
        kl_div,
        l1_loss,
        layer_norm,
        leaky_relu,
        log_sigmoid,
        log_softmax,
        logsumexp,
        margin_ranking_loss,
        max_pool1d,
        max_pool2d,
        mish,
        mse_loss,
        multi_margin_loss,
        nll_loss,
        one_hot,
        pairwise_distance,
        pixel_shuffle,
        poisson_nll_loss,
        prelu,
        relu,
        relu6,
        rms_norm,
        rotary,
        scaled_dot_product_attention,
        selu,
        sequence_mask,
        sigmoid,
        silu,
        smooth_l1_loss,
        softmax,
        softmin,
        softplus,
        softsign,
        swiglu,
        tanh,
        topk,
        triplet_margin_loss,
    )
    from tinygrad_mm.nn import Module, functional_call
    from tinygrad_mm.step import compile_step
    from tinygrad_mm.training import EarlyStopping, History, evaluate, fit, predict
    from tinygrad_mm.transforms import (
        checkpoint,
        flatten,
        grad,
        hessian,
        hvp,
        jacobian,
        jvp,
        local_jacobian,
        unflatten,
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
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "avg_pool1d",
    "avg_pool2d",
    "batch_norm",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "celu",
    "checkpoint",
    "compile",
    "compile_step",
    "conv1d",
    "conv2d",
    "conv_transpose1d",
    "conv_transpose2d",
    "cosine_embedding_loss",
    "cosine_similarity",
    "cross_entropy",
    "ctc_loss",
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
    "feature_dropout",
    "fit",
    "flatten",
    "from_dlpack",
    "gaussian_nll_loss",
    "functional_call",
    "gelu",
    "glu",
    "grad",
    "gradients",
    "group_norm",
    "hard_sigmoid",
    "hard_swish",
    "hard_tanh",
    "hessian",
    "hinge_loss",
    "huber_loss",
    "hvp",
    "info_nce_loss",
    "interpolate",
    "jacobian",
    "jvp",
    "kl_div",
    "l1_loss",
    "layer_norm",
    "leaky_relu",
    "load",
    "local_jacobian",
    "log_sigmoid",
    "log_softmax",
    "logsumexp",
    "margin_ranking_loss",
    "max_pool1d",
    "max_pool2d",
    "mish",
    "mse_loss",
    "multi_margin_loss",
    "nll_loss",
    "nn",
    "no_grad",
    "one_hot",
    "optim",
    "pairwise_distance",
    "pixel_shuffle",
    "poisson_nll_loss",
    "prelu",
    "predict",
    "primitive",
    "random",
    "record_lines",
    "relu",
    "relu6",
    "rms_norm",
    "rotary",
    "rule",
    "save",
    "scaled_dot_product_attention",
    "selu",
    "sequence_mask",
    "sigmoid",
    "silu",
    "smooth_l1_loss",
    "softmax",
    "softmin",
    "softplus",
    "softsign",
    "study",
    "swiglu",
    "tanh",
    "testing",
    "text",
    "topk",
    "training",
    "triplet_margin_loss",
    "unflatten",
    "value_and_grad",
    "vjp",
    "weights",
    "why",
]

# Loaded when first used, so that `import tinygrad_mm` stays quick: name -> the module it lives in. All others are
# network functions, which live in `functional`.
_LATER = {
    **{name: name for name in ("onnx", "sklearn")},  # no part of `__all__`: each needs the extra of its name
    **{name: name for name in ("data", "nn", "optim", "random", "study", "testing", "text", "training", "weights")},
    **dict.fromkeys(("AnomalyError", "detect_anomaly", "why"), "debug"),
    **dict.fromkeys(("Drawing", "draw", "draw_error", "record_lines"), "drawing"),
    **dict.fromkeys(("draw_jacobian", "explain", "explore", "rule"), "explorer"),
    **dict.fromkeys(("CompileWarning", "compile"), "compiler"),
    "compile_step": "step",
    **dict.fromkeys(("checkpoint", "flatten", "grad", "hessian", "hvp", "jacobian", "jvp"), "transforms"),
    **dict.fromkeys(("local_jacobian", "unflatten", "value_and_grad", "vjp"), "transforms"),
    **dict.fromkeys(("EarlyStopping", "History", "evaluate", "fit", "predict"), "training"),
    **dict.fromkeys(("load", "save"), "weights"),
    **dict.fromkeys(("Module", "functional_call"), "nn"),
}


def __getattr__(name: str) -> Any:
    if name not in __all__ and name not in _LATER:
        raise AttributeError(f"module 'tinygrad_mm' has no attribute {name!r}")
    home = _LATER.get(name, "functional")
    module = import_module(f"tinygrad_mm.{home}")
    value = globals()[name] = module if home == name else getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
