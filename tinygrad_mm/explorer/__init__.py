"""Studying backpropagation: the steps of a computation and of its backward pass, as data, as text, as a page.

Floor 7. `tape` is a recorded computation as plain data; `steps` records one: it reads the graph and watches a backward
pass of the engine. `mathematics` writes the rules as formulas (`formula` reads a rule's source, `terms` are what it is
made of), `checks` puts finite differences beside the gradients, `disorder` shows what another order would do, `replay`
makes the computation again, `learning` goes on to the optimizer's updates and further training steps; a `Story` has all
of it. `text` tells it in the terminal, `page` on a page for a browser (`payload` is its data, `store` the arrays in it,
`scene` its picture, `quiz` its questions, `program` what it can compute itself). `jacobian` is the picture of one
operation's derivative, `shown_rule` one rule by itself.
"""

from __future__ import annotations

from tinygrad_mm.explorer.jacobian import JacobianPicture, draw_jacobian
from tinygrad_mm.explorer.learning import Learning, TrainingStep, Update
from tinygrad_mm.explorer.page import Exploration, explore
from tinygrad_mm.explorer.shown_rule import ShownRule, rule
from tinygrad_mm.explorer.steps import record
from tinygrad_mm.explorer.story import Story
from tinygrad_mm.explorer.tape import Argument, Contribution, Step, Value
from tinygrad_mm.explorer.text import Explanation, explain

__all__ = [
    "Argument",
    "Contribution",
    "Explanation",
    "Exploration",
    "JacobianPicture",
    "Learning",
    "ShownRule",
    "Step",
    "Story",
    "TrainingStep",
    "Update",
    "Value",
    "draw_jacobian",
    "explain",
    "explore",
    "record",
    "rule",
]
