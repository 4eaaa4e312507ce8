"""Passes: each rewrites a program into one that computes the same with less."""

from __future__ import annotations

from tinygrad_mm.compiler.kernels import WHOLE
from tinygrad_mm.compiler.passes.cleaning import fold_constants, remove_dead, remove_identities, share_common
from tinygrad_mm.compiler.passes.images import examples_last_in
from tinygrad_mm.compiler.passes.inlining import inline
from tinygrad_mm.compiler.passes.layout import features_first
from tinygrad_mm.compiler.passes.patterns import flatten_products, fuse, fuse_losses, turn_factors
from tinygrad_mm.compiler.program import Program

__all__ = ["clean", "optimize"]


def optimize(program: Program, fixed: frozenset[int] = frozenset()) -> Program:
    """All passes, in order; `fixed` are ids of arrays that others may write to."""
    program.let_go()
    remove_dead(program)
    inline(program, WHOLE)
    clean(program, fixed)
    fuse(program)
    clean(program, fixed)
    examples_last_in(program)
    clean(program, fixed)
    features_first(program)
    fuse_losses(program)
    flatten_products(program)
    clean(program, fixed)
    turn_factors(program)
    remove_dead(program)
    return program


def clean(program: Program, fixed: frozenset[int] = frozenset()) -> None:
    """What is left over by other passes."""
    for _ in range(2):  # what one of them leaves, another may find
        remove_identities(program)
        fold_constants(program, fixed)
        share_common(program)
        remove_dead(program)
