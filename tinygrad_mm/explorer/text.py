"""`explain`: the story of a loss as text, for the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tinygrad_mm.drawing.text import shortened
from tinygrad_mm.explorer.checks import Check
from tinygrad_mm.explorer.learning import Learning
from tinygrad_mm.explorer.mathematics import array_text, number_text
from tinygrad_mm.explorer.steps import record
from tinygrad_mm.explorer.story import Story
from tinygrad_mm.explorer.tape import Contribution, Step, Value
from tinygrad_mm.names import variables_of_caller
from tinygrad_mm.notebook import Shown
from tinygrad_mm.tensor import Tensor

__all__ = ["Explanation", "explain"]

SMALL = 8  # elements of an array that is written out
IN_TABLE = 36  # characters of one in the table of the forward pass
NARROWEST = 72
INDENT = " " * 4


class Explanation(Shown):
    """Text that shows itself as it is, in a notebook too; `story` is what it tells."""

    __slots__ = ("story",)

    story: Story


def explain(
    loss: Tensor,
    model: Any = None,
    optimizer: Any = None,
    *,
    steps: int = 1,
    check: bool = True,
    limit: int | None = 60,
    width: int = 100,
    variables: Mapping[str, Any] | None = None,
) -> Explanation:
    """The forward and the backward pass behind `loss`, step by step, as text: `print(tg.explain(loss))`.

    Each step back shows the gradient that arrived and what it is the sum of, then for each argument the rule as
    mathematics, as it stands in the source, with the numbers put in, and the shapes. With `check`, each gradient stands
    beside finite differences of the loss. It ends with what the wrong order of steps would have given and, with
    `optimizer`, with its updates and with `steps` training steps on the same graph. Of more than
    `limit` steps the middle is left out (None: never); lines are at most `width` characters, but for names and formulas
    longer than that. With `model`, parameters and layers have their paths; `variables` are further names, by default
    those of the caller. A backward pass of its own is run: every `.grad`, the hooks and the graph stay as they are.

    Raises TypeError for anything but a Tensor, RuntimeError where there is no graph or it was released, ValueError for
    a loss of several numbers and for an optimizer of other parameters.

    >>> w = Tensor(2.0, requires_grad=True)
    >>> print(explain(w * w, check=False, variables={"w": w}))
    L is v1 = w * w: 1 operation, 2 steps back
    <BLANKLINE>
    FORWARD
    w   input  () float32  2
    v1  w * w  () float32  4
    <BLANKLINE>
    BACKWARD
    1. v1 = w * w
        ∂L/∂v1 = 1
        → w  ∂L/∂w += ∂L/∂v1 · w
             rule     g * b
             numbers  1 · 2 = 2
        → w  ∂L/∂w += ∂L/∂v1 · w
             rule     g * a
             numbers  1 · 2 = 2
    2. w, an input
        ∂L/∂w = 4
              =  2   from v1 = w * w, a
              +  2   from v1 = w * w, b   sum 4
    <BLANKLINE>
    IN THE WRONG ORDER
    Depth first, every rule would still have run after its last contribution: here the order makes no
    difference.
    """
    if steps > 1 and optimizer is None:
        raise ValueError("explain: steps= takes training steps, which need optimizer=")
    story = record(loss, model, variables_of_caller() if variables is None else variables, optimizer, steps)
    text = "\n".join(_Writer(story, check, limit, max(width, NARROWEST)).lines())
    explanation = Explanation(text)
    explanation.story = story
    return explanation


class _Writer:
    """Writes a story down, line by line."""

    def __init__(self, story: Story, check: bool, limit: int | None, width: int) -> None:
        self.story, self.limit, self.width = story, limit, width
        self.checks: Mapping[int, Check] = story.checks() if check else {}

    def lines(self) -> Iterator[str]:
        story = self.story
        loss = story.values[story.loss]
        operations, steps = len(story.forward), len(story.backward)
        yield (
            f"L is {_title(loss)}: {operations} operation{'s' * (operations != 1)}, "
            f"{steps} step{'s' * (steps != 1)} back"
        )
        for note in story.notes:
            yield from self.wrapped(f"note: {note}")
        yield from ("", "FORWARD", *self.forward())
        yield from ("", "BACKWARD", *self.backward())
        yield from ("", "IN THE WRONG ORDER", *self.wrong_order())
        if story.learning is not None:
            yield from ("", f"UPDATE by {story.learning.optimizer}", *self.updates(story.learning))
            yield from ("", "TRAINING on the same graph", *self.training(story.learning))

    def wrapped(self, text: str, indent: str = "") -> list[str]:
        """The text in lines of the width; the second and further ones start with `indent`."""
        return textwrap.wrap(text, self.width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)

    def selected(self, entries: list[Any], what: str) -> Iterator[tuple[int, Any]]:
        """Entries with their numbers; of too many only the first and the last, and a line in between (number 0)."""
        if self.limit is None or len(entries) <= self.limit:
            yield from enumerate(entries, 1)
            return
        first = (self.limit + 1) // 2
        last = self.limit - first
        yield from enumerate(entries[:first], 1)
        yield 0, f"… {len(entries) - self.limit} {what} left out; explain(loss, limit=None) shows all"
        yield from enumerate(entries[len(entries) - last :], len(entries) - last + 1)

    # -- forward

    def forward(self) -> Iterator[str]:
        rows: list[tuple[str, ...] | str] = []
        modules: tuple[str, ...] = ()
        for number, value in self.selected(self.story.values, "values"):
            if not number:
                rows.append(value)
                continue
            user = next((v for v in self.story.values[value.id :] if not v.is_leaf), value)
            if value.kind not in ("input", "constant", "detached") and user.modules != modules:
                modules = user.modules
                rows.append(f"  in {' > '.join(modules)}" if modules else "  outside the modules")
            summary = "" if isinstance(value.array, tuple) else _summary(value.array, IN_TABLE)
            rows.append((value.label, value.expression or value.kind, _type(value), summary))
        columns = [row for row in rows if isinstance(row, tuple)]
        widths = [max(len(row[i]) for row in columns) for i in range(4)]
        for i, least in ((1, 12), (0, 20), (3, 24)):  # the columns that give way where the table is too wide
            widths[i] = max(min(widths[i], least), widths[i] - max(0, sum(widths) + 6 - self.width))
        for row in rows:
            if isinstance(row, str):
                yield row
            else:
                cells = [shortened(cell, width).ljust(width) for cell, width in zip(row, widths, strict=True)]
                yield "  ".join(cells).rstrip()

    # -- backward

    def backward(self) -> Iterator[str]:
        for number, step in self.selected(self.story.backward, "steps"):
            if not number:
                yield step
            else:
                yield from self.step(number, step)

    def step(self, number: int, step: Step) -> Iterator[str]:
        """A gradient that is complete: what it is the sum of, and what is made of it."""
        value = self.story.values[step.value]
        place = f"   in {value.modules[-1]}" if value.modules else ""
        line = f"   {value.line[0].rsplit('/', 1)[-1]}:{value.line[1]}" if value.line else ""
        yield f"{number}. {_title(value)}{place}{line}"
        head = f"{INDENT}∂L/∂{value.label} "
        yield f"{head}= {_summary(step.gradient, self.width - len(head) - 2)}"
        yield from self.ledger(step, " " * len(head))
        for entry in step.sent:
            yield from self.sent(value, entry)
        for position, reason in step.stopped:
            name = value.arguments[position].text
            yield f"{INDENT}→ {name}  nothing: {reason}"
        check = self.checks.get(step.value)
        if check is not None and (not step.sent or check.status in ("differs", "kink", "rounding")):
            yield from self.check(check)

    def ledger(self, step: Step, indent: str) -> Iterator[str]:
        """The contributions one below the other, with running sums, where there are several."""
        if len(step.ledger) < 2:
            return
        rows: list[tuple[str, str, str]] = []
        for entry, total in zip(step.ledger, step.running_sums(), strict=True):
            sign = "=" if not rows else "+" if entry.output is None else " "
            so_far = f"   sum {_summary(total)}" if rows and entry.output is None else ""
            rows.append((f"{sign}  {_summary(entry.array)}", f"   from {self.origin(entry)}", so_far))
        widths = [max(len(row[i]) for row in rows) for i in (0, 1)]
        for first, origin, so_far in rows[: self.limit]:
            yield f"{indent}{first.ljust(widths[0])}{origin.ljust(widths[1])}{so_far}".rstrip()
        if len(rows) > len(rows[: self.limit]):
            yield f"{indent}+  … {len(rows) - len(rows[: self.limit])} more"

    def origin(self, entry: Contribution) -> str:
        """The call that a contribution came back from, and the argument."""
        if entry.consumer is None:
            return "the start"
        consumer = self.story.values[entry.consumer]
        if entry.output is not None:
            return f"{consumer.label}, for result {entry.output}"
        name = consumer.arguments[entry.argument].name or f"argument {entry.argument}"
        return f"{consumer.label} = {consumer.expression}, {name}"

    def sent(self, value: Value, entry: Contribution) -> Iterator[str]:
        """What one rule gave to one argument."""
        target = self.story.values[entry.target]
        head = f"{INDENT}→ {target.label}  "
        yield head + entry.formula
        indent = " " * min(len(head), 24)
        for line in entry.where:
            yield from self.wrapped(f"{indent}where    {line}", f"{indent}{' ' * 9}")
        for i, line in enumerate(entry.source.splitlines()):
            deeper = " " * (len(line) - len(line.lstrip()) + 4)
            yield from self.wrapped(f"{indent}{'' if i else 'rule':<9}{line}", f"{indent}{' ' * 9}{deeper}")
        details = {
            "numbers": entry.numbers,
            "shapes": entry.shapes if target.shape != () or entry.summed else "",
        }
        for name, text in details.items():
            if text:
                yield from self.wrapped(f"{indent}{name:<9}{text}", f"{indent}{' ' * 9}")

    def check(self, check: Check) -> Iterator[str]:
        text = {
            "agrees": "finite differences agree",
            "kink": "at a kink: the gradient lies between the slopes on both sides",
            "rounding": f"agrees in float64; in {self.story.values[check.value].dtype} rounding hides this gradient",
            "differs": "DIFFERS from finite differences",
            "not checked": f"not checked: {check.reason}",
        }[check.status]
        if check.status != "not checked":
            text += f": relative error {check.error:.1g}"
            text += f" at {len(check.places)} elements" if check.sampled else ""
        yield f"{INDENT}check  {text}"
        for i, place in enumerate(check.places):
            if check.kinks[i] or (check.status == "differs" and i < SMALL):
                at = f"at {list(place)}: " if place else ""
                slopes = f"slopes {number_text(check.left[i])} and {number_text(check.right[i])}"
                numeric = slopes if check.kinks[i] else f"finite difference {number_text(check.numeric[i])}"
                yield f"{INDENT}       {at}gradient {number_text(check.engine[i])}, {numeric}"

    # -- the wrong order

    def wrong_order(self) -> Iterator[str]:
        story, wrong = self.story, self.story.wrong_order()
        if not wrong.late:
            yield from self.wrapped(
                "Every value is used once, so there is one path to each and depth first is a right order too. A graph "
                "with a fork: b = a * a; explain(np.tanh(b) + b)"
            )
            return
        if not wrong.wrong:
            yield from self.wrapped(
                "Depth first, every rule would still have run after its last contribution: here the order makes no "
                "difference."
            )
            return
        early = [step for step in wrong.steps if step.missing and story.step(step.value).sent]  # type: ignore[union-attr]
        value = story.values[early[0].value]
        entries = len(story.ledger(value.id))
        yield from self.wrapped(
            f"Depth first, {value.label} would be handled after {entries - len(early[0].missing)} of its {entries} "
            f"contributions, with {_summary(early[0].gradient)} instead of {_summary(story.gradient(value.id))}; the "
            f"rest would arrive when its rules have run. {len(wrong.wrong)} of {len(story.backward)} gradients would "
            "be wrong:"
        )
        leaves = [i for i in wrong.wrong if story.values[i].is_leaf] or wrong.wrong
        for i in leaves[:SMALL]:
            found, right = _summary(wrong.gradients[i]), _summary(story.gradient(i))
            yield f"{INDENT}∂L/∂{story.values[i].label} = {found}, not {right}"
        if len(leaves) > SMALL:
            yield f"{INDENT}… and {len(leaves) - SMALL} more leaves"
        visits = f"{wrong.visits:,}" if wrong.visits < 10**9 else f"about 10^{len(str(wrong.visits)) - 1}"
        yield from self.wrapped(
            f"Handing on each contribution by itself would be right, and take {visits} steps instead of "
            f"{len(story.backward)}."
        )

    # -- learning

    def updates(self, learning: Learning) -> Iterator[str]:
        """The update of each parameter, in formulas and numbers."""
        told: set[tuple[str, ...]] = set()
        for one in learning.updates:
            label = self.story.values[one.value].label
            yield from self.wrapped(one.formula, INDENT)
            for line in one.where:
                yield from self.wrapped(f"{INDENT}where    {line}", f"{INDENT}{' ' * 9}")
            if one.options not in told:  # most parameters have the same
                yield from self.wrapped(f"{INDENT}with     {', '.join(one.options)}", f"{INDENT}{' ' * 9}")
                told.add(one.options)
            for line in one.numbers:
                yield from self.wrapped(f"{INDENT}numbers  {line}", f"{INDENT}{' ' * 9}")
            moved = number_text(100 * learning.steps[0].ratios[one.value])
            yield from self.wrapped(
                f"{INDENT}{label} = {_summary(one.after)}, moved by {moved} % of its norm", INDENT * 2
            )

    def training(self, learning: Learning) -> Iterator[str]:
        """The loss before each step, and by how much each parameter moves."""
        for number, step in self.selected(learning.steps, "training steps"):
            if not number:
                yield step
                continue
            moved = ", ".join(
                f"{self.story.values[i].label} {number_text(100 * ratio)} %" for i, ratio in step.ratios.items()
            )
            yield from self.wrapped(f"{number}. L = {number_text(step.loss)}, moved: {moved}", INDENT)
        yield (
            f"then L = {number_text(learning.loss)}" if learning.loss is not None else f"not known: {learning.problem}"
        )


def _title(value: Value) -> str:
    if not value.is_leaf:
        return f"{value.label} = {value.expression}"
    return f"{value.label}, {'an' if value.kind[0] in 'aeiou' else 'a'} {value.kind}"


def _type(value: Value) -> str:
    if isinstance(value.array, tuple):
        return f"{len(value.array)} results"
    return f"{value.shape} {value.dtype}"


def _summary(array: Any, longest: int = 100) -> str:
    """A small array in full, a larger one by mean, standard deviation and norm."""
    if isinstance(array, (list, tuple)):
        return f"({', '.join('none' if a is None else _summary(a, longest) for a in array)})"
    if array.size <= SMALL and (len(text := array_text(array)) <= longest or array.size == 1):
        return text
    if array.dtype.kind not in "fiu":
        return f"{int(np.count_nonzero(array))} of {array.size} true" if array.dtype.kind == "b" else ""
    wide = array.astype(np.float64)
    with np.errstate(all="ignore"):
        mean, deviation, norm = wide.mean(), wide.std(), np.linalg.norm(wide)
    text = f"mean {number_text(mean)} std {number_text(deviation)} norm {number_text(norm)}"
    bad = int(np.count_nonzero(~np.isfinite(wide)))
    return f"{text}, {bad} not finite" if bad else text
