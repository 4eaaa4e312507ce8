"""Trees of arrays as vectors, for what minimizes functions of one vector: SciPy, and formulas on the page."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinygrad_mm import pytree
from tinygrad_mm.tensor import Tensor

__all__ = ["flatten", "unflatten"]


def flatten(tree: Any) -> Any:
    """All arrays of a tree end to end, as one vector: a Tensor, if one of them is, through which gradients flow.

    A tree is an array, or nested dicts, lists and tuples of them; a module is a dict of its parameters that learn.
    SciPy begins at `flatten(model).detach().numpy()`.

    Shape: arrays of any shapes -> (all their elements,)

    Raises TypeError for leaves that are no numbers, ValueError for a tree without any.

    >>> flatten({"a": np.ones((2, 2)), "b": [np.zeros(1), 3.0]})
    array([1., 1., 1., 1., 0., 3.])
    """
    leaves = [leaf.value if isinstance(leaf.value, Tensor) else np.asarray(leaf.value) for leaf in pytree.flatten(tree)]
    if not leaves:
        raise ValueError("flatten: the tree has no leaves; give arrays, in dicts, lists and tuples, or a module")
    for leaf in leaves:
        if leaf.dtype.kind not in "fiub":
            raise TypeError(f"flatten: a leaf has dtype {leaf.dtype}; leaves are numbers")
    return np.concatenate([leaf.reshape(-1) for leaf in leaves])


def unflatten(vector: Any, like: Any) -> Any:
    """The tree like `like` whose arrays, end to end, are `vector`: the inverse of `flatten`.

    Arrays have the dtypes of those in `like`; gradients go to a vector that is a Tensor. A module becomes a dict by
    path, which `functional_call` takes.

    Shape: (all elements,) -> arrays of the shapes in `like`

    Raises ValueError for a vector of another length.

    >>> unflatten(np.arange(3.0), like={"a": np.ones((2, 1)), "b": 0.5})
    {'a': array([[0.],
           [1.]]), 'b': array(2.)}
    >>> from tinygrad_mm import nn
    >>> model = nn.Linear(2, 1, rng=0)
    >>> {path: array.shape for path, array in unflatten(np.zeros(3), model).items()}
    {'weight': (2, 1), 'bias': (1,)}
    """
    if not isinstance(vector, Tensor):
        vector = np.asarray(vector)
    leaves = [leaf.value for leaf in pytree.flatten(like)]
    shapes = [np.shape(leaf) for leaf in leaves]
    ends = np.cumsum([math.prod(shape) for shape in shapes]).tolist()
    if vector.shape != (ends[-1] if ends else 0,):
        raise ValueError(f"unflatten: a vector of shape {vector.shape} for a tree of {ends[-1] if ends else 0} numbers")
    parts = []
    for leaf, shape, start, end in zip(leaves, shapes, [0, *ends], ends, strict=False):
        part = vector[start:end].reshape(shape)
        dtype = getattr(leaf, "dtype", vector.dtype)
        parts.append(part if part.dtype == dtype else part.astype(dtype))
    return pytree.unflatten(like, iter(parts))
