"""Averages of weights over the steps of training, for evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from tinygrad_mm.optim.clipping import members
from tinygrad_mm.optim.saving import check_array, check_names, whole_number

__all__ = ["ExponentialMovingAverage"]


class ExponentialMovingAverage:
    """A running average of the weights (Polyak and Juditsky 1992, with exponential weights): often the better model.

    Call `update()` after each optimizer step: `average = decay average + (1 - decay) parameter`. The first average is
    the parameters as they are now. `decay` may also be a function of the number of updates so far, such as
    `lambda n: min(0.999, (1 + n) / (10 + n))`, which forgets the beginning sooner. `parameters` may be a model, whose
    buffers (running statistics) are left alone. Averages of float16 parameters are kept in float32.

    Raises ValueError for no parameters or a decay outside [0, 1].

    >>> from tinygrad_mm.tensor import Tensor
    >>> w = Tensor([0.0], requires_grad=True)
    >>> average = ExponentialMovingAverage([w], decay=0.75)
    >>> w.data = np.array([4.0], np.float32)
    >>> average.update()
    >>> with average.swapped():
    ...     print(w.data)
    [1.]
    >>> w
    Tensor([4.], dtype=float32, requires_grad=True)
    """

    def __init__(self, parameters: Any, decay: Any = 0.999) -> None:
        self.parameters = members(parameters)
        if not self.parameters:
            raise ValueError("ExponentialMovingAverage: there are no parameters; pass a model or model.parameters()")
        self.decay = decay
        self.updates = 0
        self._inside = False
        self._decay_now()
        self.averages = [p.value.astype(_dtype_for(p.value)) for p in self.parameters]

    def _decay_now(self) -> float:
        decay = self.decay(self.updates) if callable(self.decay) else self.decay
        if not 0 <= decay <= 1:
            raise ValueError(f"ExponentialMovingAverage: decay={decay} must lie in [0, 1], such as 0.999")
        return float(decay)

    def update(self) -> None:
        """Move the averages towards the parameters as they are now.

        Raises RuntimeError inside `swapped()`, ValueError where a parameter was given another shape.
        """
        if self._inside:
            raise RuntimeError(
                "ExponentialMovingAverage: update() inside swapped() would average the averages; call it outside"
            )
        self._check_shapes()
        decay = self._decay_now()
        for i, p in enumerate(self.parameters):
            dtype = _dtype_for(p.value)
            average = self.averages[i] = self.averages[i].astype(dtype, copy=False)  # where the parameter was converted
            average *= decay
            average += (1 - decay) * p.value.astype(dtype, copy=False)
        self.updates += 1

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Have the averages in place of the weights inside a `with` block; the weights come back however it ends.

        What the block does to the weights is lost. Raises RuntimeError inside another such block.
        """
        if self._inside:
            raise RuntimeError("ExponentialMovingAverage: the averages are swapped in already; leave that block first")
        self._check_shapes()
        weights = [p.value.copy() for p in self.parameters]
        self._inside = True
        try:
            for p, average in zip(self.parameters, self.averages, strict=True):
                p.data = average.astype(p.dtype)
            yield
        finally:
            self._inside = False
            for p, weight in zip(self.parameters, weights, strict=True):
                p.data = weight

    def state_dict(self) -> dict[str, Any]:
        """Copies of the averages under flat names, "0", "1", …, in `["state"]`, and the number of updates."""
        return {
            "state": {str(i): average.copy() for i, average in enumerate(self.averages)},
            "options": {"updates": self.updates},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was called. Raises ValueError, and changes nothing, for what does not fit."""
        name, fix = "ExponentialMovingAverage", "pass what state_dict() returned for the same parameters"
        check_names(f"{name}: the saved dict", state, ["state", "options"], fix)
        check_names(f"{name}: the saved options", state["options"], ["updates"], fix)
        updates = whole_number(f"{name}: updates", state["options"]["updates"])
        arrays = state["state"]
        check_names(f"{name}: the saved state", arrays, map(str, range(len(self.parameters))), fix)
        for i, p in enumerate(self.parameters):
            check_array(f"{name}: {i}", arrays[str(i)], p.value.shape, _dtype_for(p.value))
        self.averages = [arrays[str(i)].copy() for i in range(len(self.parameters))]
        self.updates = updates

    def _check_shapes(self) -> None:
        for i, (p, average) in enumerate(zip(self.parameters, self.averages, strict=True)):
            if p.value.shape != average.shape:
                raise ValueError(
                    f"ExponentialMovingAverage: parameter {i} now has shape {p.value.shape}, its average "
                    f"{average.shape}; make a new average for the changed model"
                )


def _dtype_for(value: Any) -> Any:
    return np.result_type(value.dtype, np.float32)
