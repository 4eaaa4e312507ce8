"""Functional updates: `x.at[index].set(v)` instead of `x[index] = v`, which the graph could not differentiate.

Floor 2.
"""

from __future__ import annotations

from typing import Any

from tinygrad_mm.arrays import index_arrays
from tinygrad_mm.rules.indexing import (
    index_add,
    index_max,
    index_min,
    index_multiply,
    index_set,
    without_tensors,
)

__all__ = ["At"]


class At:
    """`x.at[index]`: functional updates of the elements at an index, each returning a new tensor."""

    __slots__ = ("key", "tensor", "tensors")

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor

    def __getitem__(self, key: Any) -> At:
        self.key, self.tensors = without_tensors(index_arrays(key))
        return self

    def set(self, value: Any) -> Any:
        """`value` at the index; where an element is named twice the last one stays.

        >>> from tinygrad_mm.tensor import Tensor
        >>> Tensor([1.0, 2.0]).at[0].set(5.0)
        Tensor([5., 2.], dtype=float32)
        """
        return index_set(self.tensor, value, self.key, *self.tensors)

    def add(self, value: Any) -> Any:
        """The elements plus `value`; where an element is named twice both are added.

        >>> from tinygrad_mm.tensor import Tensor
        >>> Tensor([1.0, 2.0]).at[[0, 0]].add(5.0)
        Tensor([11.,  2.], dtype=float32)
        """
        return index_add(self.tensor, value, self.key, *self.tensors)

    def multiply(self, value: Any) -> Any:
        """The elements times `value`; where an element is named twice both factors count.

        >>> from tinygrad_mm.tensor import Tensor
        >>> Tensor([1.0, 2.0]).at[1].multiply(5.0)
        Tensor([ 1., 10.], dtype=float32)
        """
        return index_multiply(self.tensor, value, self.key, *self.tensors)

    def max(self, value: Any) -> Any:
        """The larger of the elements and `value`; where an element is named twice all values count.

        >>> from tinygrad_mm.tensor import Tensor
        >>> Tensor([1.0, 2.0]).at[[0, 0]].max([5.0, 3.0])
        Tensor([5., 2.], dtype=float32)
        """
        return index_max(self.tensor, value, self.key, *self.tensors)

    def min(self, value: Any) -> Any:
        """The smaller of the elements and `value`; where an element is named twice all values count.

        >>> from tinygrad_mm.tensor import Tensor
        >>> Tensor([1.0, 2.0]).at[1].min(0.0)
        Tensor([1., 0.], dtype=float32)
        """
        return index_min(self.tensor, value, self.key, *self.tensors)
