"""Networks: modules, layers, losses, and how their weights start."""

from tinygrad_mm.nn import init
from tinygrad_mm.nn.activations import (
    ELU,
    GELU,
    LeakyReLU,
    LogSoftmax,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
)
from tinygrad_mm.nn.attention import MultiHeadAttention
from tinygrad_mm.nn.containers import Flatten, ModuleDict, ModuleList, Residual, Sequential
from tinygrad_mm.nn.convolution import AvgPool2d, Conv2d, MaxPool2d
from tinygrad_mm.nn.layers import Dense, Embedding, Linear
from tinygrad_mm.nn.losses import (
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    HuberLoss,
    KLDivLoss,
    L1Loss,
    MSELoss,
    NLLLoss,
)
from tinygrad_mm.nn.module import Module
from tinygrad_mm.nn.normalization import BatchNorm1d, BatchNorm2d, Dropout, LayerNorm
from tinygrad_mm.nn.overview import summary
from tinygrad_mm.nn.recurrent import GRU, GRUCell
from tinygrad_mm.nn.stateless import functional_call
from tinygrad_mm.nn.torch_state import from_torch_state, to_torch_state
from tinygrad_mm.tensor import Buffer, Parameter

__all__ = [
    "AvgPool2d",
    "BCEWithLogitsLoss",
    "BatchNorm1d",
    "BatchNorm2d",
    "Buffer",
    "Conv2d",
    "CrossEntropyLoss",
    "Dense",
    "Dropout",
    "ELU",
    "Embedding",
    "Flatten",
    "GELU",
    "GRU",
    "GRUCell",
    "HuberLoss",
    "KLDivLoss",
    "L1Loss",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "LogSoftmax",
    "MSELoss",
    "MaxPool2d",
    "Module",
    "ModuleDict",
    "ModuleList",
    "MultiHeadAttention",
    "NLLLoss",
    "Parameter",
    "ReLU",
    "Residual",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Tanh",
    "from_torch_state",
    "functional_call",
    "init",
    "summary",
    "to_torch_state",
]
