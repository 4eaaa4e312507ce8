"""Passes: each is a function from a program to a program that computes the same with less.

This is the list of them, in order. Each function's docstring says what it looks for, what it puts there, what has to
hold for that, and why it is the same. They recognise what they rewrite by identity, of a parameter or of a Value.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple

from tinygrad_mm.compiler.lowerings import WHOLE
from tinygrad_mm.compiler.passes.biases import fold_biases
from tinygrad_mm.compiler.passes.cleaning import remove_dead, remove_identities, share_common
from tinygrad_mm.compiler.passes.images import examples_last_in
from tinygrad_mm.compiler.passes.inlining import inline
from tinygrad_mm.compiler.passes.layout import features_first
from tinygrad_mm.compiler.passes.patterns import flatten_products, fuse
from tinygrad_mm.compiler.passes.shared_weights import join_products
from tinygrad_mm.compiler.program import Program

__all__ = [
    "CLEAN",
    "EXAMPLES_LAST",
    "INLINE",
    "JOIN_PRODUCTS",
    "FOR_CALLS",
    "FOR_PLACED_CALLS",
    "Pass",
    "optimize",
    "run",
]


class Pass(NamedTuple):
    """A pass under the name that a warning calls it by."""

    name: str
    run: Callable[[Program], None]


def clean(program: Program) -> None:
    """What is left over by other passes."""
    for _ in range(2):  # what one of them leaves, another may find
        remove_identities(program)
        share_common(program)
        remove_dead(program)


INLINE = Pass("inline", lambda program: inline(program, WHOLE))
CLEAN = Pass("clean", clean)
FUSE = Pass("fuse", fuse)
EXAMPLES_LAST = Pass("examples_last", examples_last_in)
JOIN_PRODUCTS = Pass("join_products", join_products)
FEATURES_FIRST = Pass("features_first", features_first)
FLATTEN_PRODUCTS = Pass("flatten_products", flatten_products)

# For NumPy calls, where each call costs.
FOR_CALLS = (INLINE, CLEAN, FUSE, CLEAN, EXAMPLES_LAST, CLEAN, JOIN_PRODUCTS, FEATURES_FIRST, FLATTEN_PRODUCTS, CLEAN)
# Where the gradients of a training step have their places.
FOR_PLACED_CALLS = (Pass("fold_biases", fold_biases),)


def optimize(program: Program, passes: tuple[Pass, ...] = FOR_CALLS, without: Collection[str] = ()) -> Program:
    """Run passes in order, except those named in `without`."""
    program.let_go()
    remove_dead(program)
    run(program, passes, without)
    return program


def run(program: Program, passes: tuple[Pass, ...], without: Collection[str] = ()) -> None:
    """Run passes in order, except those named in `without`."""
    for one in passes:
        if one.name not in without:
            one.run(program)
