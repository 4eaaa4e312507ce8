"""Network functions that NumPy lacks: stateless, each an operation with its rule right below it.

Floor 5. They take arrays (and give arrays) or Tensors (and are recorded). Classes and features lie on the last axis,
images are (N, channels, height, width). A function that is clear as an expression of recorded ones is just that.
"""

from tinygrad_mm.functional.activations import (
    elu,
    gelu,
    leaky_relu,
    log_softmax,
    logsumexp,
    one_hot,
    relu,
    sigmoid,
    silu,
    softmax,
    softplus,
    tanh,
)
from tinygrad_mm.functional.attention import scaled_dot_product_attention
from tinygrad_mm.functional.convolution import conv1d, conv2d, conv_transpose1d, conv_transpose2d
from tinygrad_mm.functional.error_function import erf
from tinygrad_mm.functional.losses import _cross_entropy as _cross_entropy  # the operation table has a row for it
from tinygrad_mm.functional.losses import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    huber_loss,
    kl_div,
    l1_loss,
    mse_loss,
    nll_loss,
)
from tinygrad_mm.functional.normalization import batch_norm, group_norm, layer_norm, rms_norm, standardize
from tinygrad_mm.functional.pooling import (
    adaptive_avg_pool1d,
    adaptive_avg_pool2d,
    adaptive_max_pool1d,
    adaptive_max_pool2d,
    avg_pool1d,
    avg_pool2d,
    max_pool1d,
    max_pool2d,
)
from tinygrad_mm.functional.random import dropout, feature_dropout, uniform_like
from tinygrad_mm.functional.resizing import interpolate, pixel_shuffle
from tinygrad_mm.functional.sequences import rotary, sequence_mask, sinusoids, unstack
from tinygrad_mm.functional.sliding import overlap_add, windows

__all__ = [
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "avg_pool1d",
    "avg_pool2d",
    "batch_norm",
    "binary_cross_entropy_with_logits",
    "conv1d",
    "conv2d",
    "conv_transpose1d",
    "conv_transpose2d",
    "cross_entropy",
    "dropout",
    "elu",
    "erf",
    "feature_dropout",
    "gelu",
    "group_norm",
    "huber_loss",
    "interpolate",
    "kl_div",
    "l1_loss",
    "layer_norm",
    "leaky_relu",
    "log_softmax",
    "logsumexp",
    "max_pool1d",
    "max_pool2d",
    "mse_loss",
    "nll_loss",
    "one_hot",
    "overlap_add",
    "pixel_shuffle",
    "relu",
    "rms_norm",
    "rotary",
    "scaled_dot_product_attention",
    "sequence_mask",
    "sigmoid",
    "silu",
    "sinusoids",
    "softmax",
    "softplus",
    "standardize",
    "tanh",
    "uniform_like",
    "unstack",
    "windows",
]
