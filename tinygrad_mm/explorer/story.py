"""`Story`: a recorded computation, its gradients beside finite differences, and the same pass in the wrong order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from tinygrad_mm.explorer.checks import WORK, Check, call_work, check, check_work
from tinygrad_mm.explorer.disorder import WrongOrder, wrong_order
from tinygrad_mm.explorer.learning import Learning
from tinygrad_mm.explorer.replay import Rounding
from tinygrad_mm.explorer.tape import Tape

__all__ = ["Story"]


@dataclass
class Story(Tape):
    """A computation from its leaves to the loss and back, with what can be asked of it; `record` makes it.

    `learning` is what an optimizer makes of the gradients, where one was given.
    """

    learning: Learning | None = field(default=None, repr=False)
    _checks: dict[int, Check] = field(default_factory=dict, repr=False)
    _rounding: Rounding | None = field(default=None, repr=False)
    _wrong_order: WrongOrder | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        return f"<Story of {len(self.forward)} operations and {len(self.backward)} backward steps>"

    def check(self, value: int) -> Check:
        """The gradient of a value beside finite differences of the loss; computed at the first call."""
        if value not in self._checks:
            self._rounding = self._rounding or Rounding(self)
            self._checks[value] = check(self, value, self._rounding)
        return self._checks[value]

    def checks(self, values: Iterable[int] | None = None, work: int = WORK) -> dict[int, Check]:
        """The checks of several values as far as a bound on the work allows, by default of all with a gradient.

        `work` is counted in units of about a nanosecond; a value beyond it has a check of status "not checked". Unless
        `values` says otherwise, leaves come first, then the others in the order of the backward pass.
        """
        if values is None:
            values = [step.value for step in sorted(self.backward, key=lambda step: bool(step.sent))]
        above = [0] * len(self.values)  # the work for all that was computed after a value
        for value in reversed(range(len(self.values) - 1)):
            above[value] = above[value + 1] + (call_work(self, value + 1) if value + 1 in self.calls else 0)
        found: dict[int, Check] = {}
        for value in values:
            if value not in self._checks:
                needed = check_work(self, value, above[value])
                if needed > work:
                    found[value] = Check(value, "not checked", "beyond the bound on the work; ask for this one alone")
                    continue
                work -= needed
            found[value] = self.check(value)
        return found

    def wrong_order(self) -> WrongOrder:
        """The same backward pass in the wrong order, depth first: what it would do, and the gradients it would give."""
        if self._wrong_order is None:
            self._wrong_order = wrong_order(self)
        return self._wrong_order
