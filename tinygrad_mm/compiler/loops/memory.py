"""Where results are kept: pieces of one block of memory, taken again as soon as nothing reads them any more."""

from __future__ import annotations

from tinygrad_mm.compiler.loops.entropy import Entropy
from tinygrad_mm.compiler.loops.nests import Nest
from tinygrad_mm.compiler.loops.schedule import Schedule
from tinygrad_mm.compiler.program import Value

__all__ = ["Memory"]

ALIGNED = 64  # bytes: a cache line


class Memory:
    """`offset`: for each result that is kept, by its id, where it begins; `nbytes`: how much there is in all.

    `elsewhere` are results with a place of their own; `until` the number of the item up to which results that are
    handed out have to last; `scratch` are further Values that one item needs meanwhile.
    """

    def __init__(
        self, schedule: Schedule, elsewhere: set[int], until: dict[int, int], scratch: dict[int, list[Value]]
    ) -> None:
        self.schedule = schedule
        self.offset: dict[int, int] = {}
        self.nbytes = 0
        self._free: list[tuple[int, int]] = []  # (offset, size), in order
        last = dict(until)
        for number, roots in enumerate(schedule.reads):
            for root in roots:
                last[id(root)] = max(last.get(id(root), -1), number)
        held: dict[int, Value] = {}
        for number, item in enumerate(schedule.items):
            dying = {id(root): root for root in schedule.reads[number] if id(root) in held and last[id(root)] <= number}
            for value in kept_results(schedule, number, last):
                if id(value) in elsewhere:
                    continue
                over = next((old for old in dying.values() if self._overwrites(item, value, old)), None)
                if over is not None:
                    del dying[id(over)], held[id(over)]
                    self.offset[id(value)] = self.offset[id(over)]
                else:
                    self.offset[id(value)] = self._take(_size(value))
                held[id(value)] = value
                last.setdefault(id(value), number)
            for value in scratch.get(number, []):
                self.offset[id(value)] = self._take(_size(value))
                held[id(value)] = value
                last[id(value)] = number
            for value in [v for v in held.values() if last[id(v)] <= number]:
                del held[id(value)]
                self._give(self.offset[id(value)], _size(value))

    @staticmethod
    def _overwrites(item: object, value: Value, old: Value) -> bool:
        if isinstance(item, Nest):
            return item.overwrites(value, old)
        return isinstance(item, Entropy) and value is item.error and old is item.logits and value.shape == old.shape

    def _take(self, size: int) -> int:
        """A free piece: the smallest that is large enough, else new memory at the end."""
        fitting = [piece for piece in self._free if piece[1] >= size]
        if fitting:
            offset, length = min(fitting, key=lambda piece: piece[1])
            self._free.remove((offset, length))
            if length > size:
                self._free.append((offset + size, length - size))
            return offset
        offset = self.nbytes
        for start, length in self._free:  # the end is free, but too short
            if start + length == self.nbytes:
                self._free.remove((start, length))
                offset = start
                break
        self.nbytes = offset + size
        return offset

    def _give(self, offset: int, size: int) -> None:
        self._free = sorted([*self._free, (offset, size)])
        together: list[tuple[int, int]] = []
        for start, length in self._free:
            if together and sum(together[-1]) == start:
                together[-1] = (together[-1][0], together[-1][1] + length)
            else:
                together.append((start, length))
        self._free = together


def _size(value: Value) -> int:
    return max(-(-value.nbytes // ALIGNED), 1) * ALIGNED


def kept_results(schedule: Schedule, number: int, last: dict[int, int]) -> list[Value]:
    """The results of an item that have to be in memory; `last` says by which item each root is read last."""
    item = schedule.items[number]
    if isinstance(item, Nest):
        return [op.result for op in item.ops if item.stored(op.result, last.get(id(op.result), -1) > number)]
    if isinstance(item, Entropy):
        return item.results
    return [] if item.op.result.shape is None else [item.op.result]
