"""Passes: each rewrites a program into one that computes the same with less."""

from __future__ import annotations

from tinygrad_mm.compiler.kernels import WHOLE
from tinygrad_mm.compiler.passes.cleaning import remove_dead, remove_identities, share_common
from tinygrad_mm.compiler.passes.images import examples_last_in
from tinygrad_mm.compiler.passes.inlining import inline
from tinygrad_mm.compiler.passes.layout import features_first
from tinygrad_mm.compiler.passes.patterns import flatten_products, fuse
from tinygrad_mm.compiler.program import Program

__all__ = ["clean", "optimize"]


def optimize(program: Program) -> Program:
    """All passes, in order."""
    program.let_go()
    remove_dead(program)
    inline(program, WHOLE)
    clean(program)
    fuse(program)
    clean(program)
    examples_last_in(program)
    clean(program)
    features_first(program)
    flatten_products(program)
    clean(program)
    remove_dead(program)
    return program


def clean(program: Program) -> None:
    """What is left over by other passes."""
    for _ in range(2):  # what one of them leaves, another may find
        remove_identities(program)
        share_common(program)
        remove_dead(program)
