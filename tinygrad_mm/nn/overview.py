"""`summary(model)`: what a model consists of, as a table."""

from __future__ import annotations

from typing import Any

from tinygrad_mm.nn.module import Module

__all__ = ["summary"]


def summary(model: Module) -> str:
    """A table of the layers of a model: path, layer, shapes of its own parameters, number of parameters.

    A parameter shared between layers is counted where it comes first. Raises TypeError for anything but a Module.

    >>> from tinygrad_mm.nn import Dense, Sequential
    >>> print(summary(Sequential(Dense(784, 128, "relu", rng=0), Dense(128, 10, rng=1))))
    layer     type                              shapes                        parameters
    --------  --------------------------------  ----------------------------  ----------
    layers.0  Dense(784, 128, activation=relu)  weight (784, 128), bias (128)    100,480
    layers.1  Dense(128, 10)                    weight (128, 10), bias (10)        1,290
    --------  --------------------------------  ----------------------------  ----------
    total                                       0.4 MB                           101,770
    """
    if not isinstance(model, Module):
        raise TypeError(f"summary: a Module is needed, not a {type(model).__name__}")
    counted: set[int] = set()
    rows: list[tuple[str, str, str, str]] = []
    total = size = 0
    for path, module in model.named_modules():
        own = _own_parameters(module)
        if not own and module.children():
            continue
        new = [p for _, p in own if id(p) not in counted]
        counted.update(id(p) for p in new)
        count = sum(p.size for p in new)
        total, size = total + count, size + sum(p.nbytes for p in new)
        shapes = ", ".join(f"{n} {_shape(p.shape)}{'' if p.requires_grad else ' frozen'}" for n, p in own)
        described = repr(module).split("\n")[0].rstrip("(") if module.children() else repr(module)
        shared = " shared" if len(new) < len(own) else ""
        rows.append((path or "(model)", described, shapes or "-", f"{count:,}{shared}"))
    footer = ("total", "", f"{size / 1e6:.1f} MB", f"{total:,}")
    header = ("layer", "type", "shapes", "parameters")
    widths = [max(len(row[i]) for row in (header, *rows, footer)) for i in range(4)]
    rule = tuple("-" * w for w in widths)

    def line(row: tuple[str, ...]) -> str:
        cells = [cell.ljust(w) for cell, w in zip(row[:3], widths[:3], strict=True)]
        return "  ".join([*cells, row[3].rjust(widths[3])])

    return "\n".join(line(row) for row in (header, rule, *rows, rule, footer))


def _own_parameters(module: Module) -> list[tuple[str, Any]]:
    """The parameters that belong to a module itself rather than to a module inside it."""
    inside = {id(p) for child in module.children() for p in child.parameters()}
    return [(name, p) for name, p in module.named_parameters() if id(p) not in inside]


def _shape(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape))})"
