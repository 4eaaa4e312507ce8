"""A module as a function of its parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tinygrad_mm.nn.module import Module, as_tensor, parts_of
from tinygrad_mm.tensor import Buffer, Tensor

__all__ = ["functional_call"]


def functional_call(model: Module, parameters: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
    """`model(*args, **kwargs)` with other parameters and buffers, by path; the model itself is left as it is.

    What `parameters` leaves out is the model's own. Gradients go to the given Tensors, of whatever they were computed:
    by another network (hypernetworks), or by a step of gradient descent (MAML, Finn et al. 2017). A parameter that is
    shared by several layers is replaced in all of them. What `forward` assigns to a given buffer is lost.

    Raises ValueError for unknown paths, and for another shape than the model's.

    >>> import numpy as np
    >>> from tinygrad_mm.nn import Linear
    >>> layer = Linear(1, 1, rng=0)
    >>> w = Tensor([[3.0]], requires_grad=True)
    >>> functional_call(layer, {"weight": w}, [[2.0]])
    Tensor([[6.]], dtype=float32, requires_grad=True, made by add)
    """
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    unknown = [path for path in parameters if path not in own]
    if unknown:
        raise ValueError(
            f"functional_call: {type(model).__name__} has no {', '.join(unknown)}; it has {', '.join(own) or 'nothing'}"
        )
    given: dict[int, Tensor] = {}
    for path, value in parameters.items():
        tensor = as_tensor(value)
        if tensor.shape != own[path].shape:
            raise ValueError(f"functional_call: {path} has shape {own[path].shape}, what is given {tensor.shape}")
        given[id(own[path])] = Buffer(tensor.value) if isinstance(own[path], Buffer) else tensor
    with _replaced(model, given):
        return model(*args, **kwargs)


@contextmanager
def _replaced(model: Module, given: Mapping[int, Tensor]) -> Iterator[None]:
    """Have other tensors in the places of a model's, for the length of a `with` block."""
    before: list[tuple[dict[str, Any], str, Any]] = []
    try:
        for _, module in model.named_modules():
            for name, part in parts_of(module):
                other = _with_others(part, given)
                if other is not part:
                    before.append((vars(module), name, part))
                    vars(module)[name] = other
        yield
    finally:
        for own, name, part in reversed(before):
            own[name] = part


def _with_others(part: Any, given: Mapping[int, Tensor]) -> Any:
    """A tensor's substitute; a list, tuple or dict with those of its tensors; the same object where there is none."""
    if isinstance(part, Tensor):
        return given.get(id(part), part)
    if not isinstance(part, (list, tuple, dict)):
        return part
    items = [(key, _with_others(item, given)) for key, item in parts_of(part)]
    if all(other is item for (_, other), (_, item) in zip(items, parts_of(part), strict=True)):
        return part
    if isinstance(part, dict):
        return dict(items)
    values = [other for _, other in items]
    return type(part)(*values) if hasattr(part, "_fields") else type(part)(values)
