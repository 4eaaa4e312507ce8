"""`np.pad`, mode by mode: every new element is made of elements of its own axis."""

from __future__ import annotations

import numpy as np

from tinygrad_mm.graph import defcomposite
from tinygrad_mm.rules.axes import along

# The modes that Tensors know (a function as mode is not among them), and the option of each.
OPTIONS = {
    **dict.fromkeys(["edge", "empty", "wrap"]),
    **dict.fromkeys(["constant"], "constant_values"),
    **dict.fromkeys(["linear_ramp"], "end_values"),
    **dict.fromkeys(["maximum", "mean", "median", "minimum"], "stat_length"),
    **dict.fromkeys(["reflect", "symmetric"], "reflect_type"),
}


def _pad(array, pad_width, mode="constant", **options):
    """Each axis in turn: the new elements are copies, constants, or means and extremes, of elements of that axis."""
    if callable(mode):
        raise TypeError("pad: a function as mode= is not supported on Tensors; join the parts with np.concatenate")
    np.pad(np.zeros((1,) * array.ndim), pad_width, "empty")  # NumPy's own words about widths that are none
    if options.get("stat_length") is not None and np.any(np.asarray(options["stat_length"]) < 0):
        raise ValueError(f"pad: stat_length={options['stat_length']} must not be negative")
    if isinstance(pad_width, dict):
        pairs = [(0, 0)] * array.ndim
        for axis, width in pad_width.items():
            pairs[axis] = (width, width) if np.ndim(width) == 0 else tuple(width)
    else:
        pairs = np.broadcast_to(np.asarray(pad_width), (array.ndim, 2)).tolist()
    if any(n < 0 for pair in pairs for n in pair):
        raise ValueError(f"pad: pad_width {pad_width} must not be negative")
    if mode not in OPTIONS or set(options) - {OPTIONS[mode]}:
        raise ValueError(
            f"pad: mode={mode!r} with {', '.join(options) or 'no options'}; modes and options are {OPTIONS}"
        )
    odd = options.get("reflect_type", "even") == "odd"
    for axis, (before, after) in enumerate(pairs):
        if not before and not after:
            continue
        if mode in ("edge", "wrap", "reflect", "symmetric") and not odd:
            array = along(array, axis, np.pad(np.arange(array.shape[axis]), (before, after), mode))
            continue
        low, high = _pad_values(array, axis, before, after, mode, options)
        if array.dtype.kind in "iu":
            whole = np.floor if mode == "linear_ramp" else np.round
            low, high = whole(low).astype(array.dtype), whole(high).astype(array.dtype)
        array = np.concatenate([low, array, high], axis=axis)
    return array


def _pad_values(a, axis, before, after, mode, options):
    """What `np.pad` puts before and after the elements of one axis."""

    def pair(name, default):
        value = np.broadcast_to(np.asarray(options.get(name, default), dtype=object), (a.ndim, 2))[axis]
        return value[0], value[1]

    def block(v, n):
        return np.broadcast_to(v, tuple(n if i == axis else k for i, k in enumerate(a.shape)))

    def piece(part):
        return along(a, axis, part)

    n = a.shape[axis]
    if n == 0 and mode not in ("constant", "empty"):
        raise ValueError(f"pad: an empty axis ({axis}) can only be padded with mode='constant' or 'empty'")
    if mode in ("reflect", "symmetric"):  # each new element is a sum of multiples of the old ones: let NumPy say which
        factors = np.pad(np.eye(n, dtype=a.dtype), ((before, after), (0, 0)), mode, reflect_type="odd")
        new = np.moveaxis(np.tensordot(factors, a, (1, axis)), 0, axis)
        return along(new, axis, slice(0, before)), along(new, axis, slice(before + n, None))
    if mode == "constant":
        low, high = pair("constant_values", 0)
        return block(np.asarray(low, a.dtype), before), block(np.asarray(high, a.dtype), after)
    if mode == "empty":
        return block(np.zeros((), a.dtype), before), block(np.zeros((), a.dtype), after)
    if mode == "linear_ramp":
        low, high = pair("end_values", 0)
        shape = tuple(-1 if i == axis else 1 for i in range(a.ndim))
        dtype = a.dtype if a.dtype.kind == "f" else np.float64
        up = np.linspace(0, 1, before, endpoint=False, dtype=dtype).reshape(shape)
        down = np.linspace(0, 1, after, endpoint=False, dtype=dtype)[::-1].reshape(shape)
        return low + (piece(slice(0, 1)) - low) * up, high + (piece(slice(n - 1, n)) - high) * down
    whole = {"mean": np.mean, "median": np.median, "maximum": np.max, "minimum": np.min}[mode]
    low, high = ((n if s is None else min(int(s), n)) for s in pair("stat_length", None))
    return (
        block(whole(piece(slice(0, low)), axis=axis, keepdims=True), before),
        block(whole(piece(slice(n - high, n)), axis=axis, keepdims=True), after),
    )


defcomposite(np.pad, _pad, signature="(..., n, ...) -> (..., before + n + after, ...)")
