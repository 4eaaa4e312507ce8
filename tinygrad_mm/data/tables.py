"""Tables: arrays from CSV and NPZ files."""

from __future__ import annotations

import math
import os
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinygrad_mm.data.structures import Array

__all__ = ["read_csv", "read_npz"]


def read_csv(
    path: str | os.PathLike[str],
    *,
    delimiter: str = ",",
    header: int = 0,
    columns: Sequence[int] | None = None,
    missing: float | str | None = None,
    dtype: Any = np.float32,
) -> Array:
    """The numbers in a CSV file (RFC 4180), plain or compressed (.gz, .bz2, .xz), one row for each line.

    `header` is the number of lines above the data; `columns` chooses and orders columns by number, from 0; an empty
    field (nothing or blanks) becomes `missing`, or is an error where that is None; `dtype=str` reads text.

    Shape: (lines, columns)

    Raises FileNotFoundError where there is no such file, ValueError that names the row and column of what is no
    number of that dtype, and for lines of different length, no data, or a `missing` that the dtype cannot hold.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "flowers.csv")
    ...     _ = path.write_text("length,width,kind\\n5.1,3.5,0\\n7.0,,1\\n")
    ...     read_csv(path, header=1, columns=[0, 1], missing=0.0)
    array([[5.1, 3.5],
           [7. , 0. ]], dtype=float32)
    """
    path = _existing(path)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "loadtxt: input contained no data")
            table = np.loadtxt(
                path,
                dtype=dtype if missing is None else str,
                comments=None,  # a CSV file has none, and half a line silently dropped is no number
                delimiter=delimiter,
                skiprows=header,
                usecols=columns,
                ndmin=2,
                encoding="utf-8-sig",  # spreadsheets put a byte-order mark first
                quotechar='"',
            )
        if missing is not None and table.size:
            table = _filled(table, missing, np.dtype(dtype))
    except (ValueError, EOFError, OSError, zlib.error) as error:  # UnicodeDecodeError is a ValueError
        hint = "header=1 passes over a line of names, missing=... fills empty fields, columns=[...] leaves text out"
        raise ValueError(f"{path}: {error} (row 0 is the first below the header); {hint}") from error
    if not table.size:
        raise ValueError(f"{path}: there are no data below {header} lines of header; check the file and header=")
    return table


def _filled(text: Array, missing: Any, dtype: np.dtype[Any]) -> Array:
    """The fields of a table as numbers, read as they are read where no field is empty; `missing` in the empty ones."""
    empty = np.strings.str_len(np.strings.strip(text)) == 0
    if dtype.kind in "iub":
        try:
            holds = bool(dtype.type(missing) == missing)
        except (ValueError, OverflowError):
            holds = False
        if not holds:
            raise ValueError(f"missing={missing!r} is no {dtype} number; take dtype=np.float64, or another number")
    if dtype.kind in "SU":
        return np.where(empty, np.asarray(missing, dtype), text.astype(dtype))
    fields = np.where(empty, "0", np.strings.replace(text, '"', '""'))
    table: Array = np.loadtxt(
        [",".join(f'"{field}"' for field in row) for row in fields.tolist()],
        dtype=dtype,
        comments=None,
        delimiter=",",
        quotechar='"',
        ndmin=2,
    )
    table[empty] = missing
    return table


def read_npz(path: str | os.PathLike[str]) -> dict[str, Array]:
    """The arrays in a NumPy .npz file, by name. Pickled objects in it are refused: loading them runs code.

    Raises FileNotFoundError where there is no such file, ValueError where it is damaged, is no .npz file or holds
    Python objects.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "line.npz")
    ...     np.savez(path, slope=np.array([2.0]), offset=np.array(1.0))
    ...     read_npz(path)
    {'slope': array([2.]), 'offset': array(1.)}
    """
    path = _existing(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a damaged header may be odd Python
            with open(path, "rb") as raw:
                file = np.load(raw, allow_pickle=False)
                if isinstance(file, np.ndarray):
                    raise ValueError("it holds one array without a name, as .npy files do; np.load reads it")
                return {name: _member(file, name) for name in file.files}
    except _DAMAGES as error:
        raise ValueError(
            f"{path} cannot be read as .npz ({type(error).__name__}: {error}); fetch it again, or save it anew with "
            "np.savez from arrays of numbers"
        ) from error


def _member(file: Any, name: str) -> Array:
    """One array of an .npz file, once its header is seen to announce what is there."""
    inside = name if name in file.zip.namelist() else f"{name}.npy"
    with file.zip.open(inside) as stream:
        if stream.read(len(np.lib.format.MAGIC_PREFIX)) != np.lib.format.MAGIC_PREFIX:
            raise ValueError(f"its member {inside!r} is no array; take it out of the archive")
        stream.seek(0)
        version = np.lib.format.read_magic(stream)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(stream)
        announced = math.prod(shape) * dtype.itemsize
        there = file.zip.getinfo(inside).file_size - stream.tell()
    if not dtype.hasobject and (announced != there or (not dtype.itemsize and math.prod(shape))):
        raise ValueError(f"{inside!r} announces {announced} bytes of {dtype} {shape}, but holds {there}")
    return np.array(file[name])


# All that zipfile and NumPy's reader of headers are known to raise for files that are not what they should be.
_DAMAGES: tuple[type[Exception], ...] = (
    ValueError,
    TypeError,
    KeyError,
    OSError,
    EOFError,
    SyntaxError,
    MemoryError,
    RuntimeError,  # encrypted; NotImplementedError: an unknown compression
    struct.error,
    tokenize.TokenError,
    zlib.error,
    zipfile.BadZipFile,
)


def _existing(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file in it")
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; check the path, or fetch the file")
    return path
