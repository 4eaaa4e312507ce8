"""Studying backpropagation: the steps of a computation and of its backward pass, as data, as text, as a page.

Floor 7. `tape` is a recorded computation as plain data; `steps` records one: it reads the graph and watches a backward
pass of the engine. `mathematics` writes the rules as formulas, `checks` puts finite differences beside the gradients,
`disorder` shows what another order would do; a `Story` has all of it. `text` tells it in the terminal, `page` on a page
for a browser (`payload` is its data, `scene` its picture). `jacobian` is the picture of one operation's derivative,
`shown_rule` the derivative of one function with an example (`latex` writes its formulas).
"""

from __future__ import annotations

from tinygrad_mm.explorer.jacobian import JacobianPicture, draw_jacobian
from tinygrad_mm.explorer.page import explore
from tinygrad_mm.explorer.shown_rule import ShownRule, rule
from tinygrad_mm.explorer.steps import record
from tinygrad_mm.explorer.story import Story
from tinygrad_mm.explorer.tape import Argument, Contribution, Step, Value
from tinygrad_mm.explorer.text import Explanation, explain

__all__ = [
    "Argument",
    "Contribution",
    "Explanation",
    "JacobianPicture",
    "ShownRule",
    "Step",
    "Story",
    "Value",
    "draw_jacobian",
    "explain",
    "explore",
    "record",
    "rule",
]
