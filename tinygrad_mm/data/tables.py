"""Tables: arrays from CSV and NPZ files."""

from __future__ import annotations

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
    missing: float | None = None,
    dtype: Any = np.float32,
) -> Array:
    """The numbers in a CSV file (RFC 4180), plain or compressed (.gz, .bz2, .xz), one row for each line.

    `header` is the number of lines above the data; `columns` chooses and orders columns by number, from 0; an empty
    field becomes `missing`, or is an error where that is None; `dtype=str` reads text.

    Shape: (lines, columns)

    Raises FileNotFoundError where there is no such file, ValueError that names the row and column of what is no
    number, and for lines of different length or no data.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "flowers.csv")
    ...     _ = path.write_text("length,width,kind\\n5.1,3.5,0\\n7.0,,1\\n")
    ...     read_csv(path, header=1, columns=[0, 1], missing=0.0)
    array([[5.1, 3.5],
           [7. , 0. ]], dtype=float32)
    """
    path = _existing(path)
    convert = None if missing is None else lambda field: float(field.strip() or missing)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "loadtxt: input contained no data")
            table = np.loadtxt(
                path,
                dtype=dtype,
                comments=None,  # a CSV file has none, and half a line silently dropped is no number
                delimiter=delimiter,
                converters=convert,
                skiprows=header,
                usecols=columns,
                ndmin=2,
                encoding="utf-8-sig",  # spreadsheets put a byte-order mark first
                quotechar='"',
            )
    except (ValueError, EOFError, OSError, zlib.error) as error:  # UnicodeDecodeError is a ValueError
        hint = "header=1 passes over a line of names, missing=... fills empty fields, columns=[...] leaves text out"
        raise ValueError(f"{path}: {error} (row 0 is the first below the header); {hint}") from error
    if not table.size:
        raise ValueError(f"{path}: there are no data below {header} lines of header; check the file and header=")
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
                return {name: np.array(file[name]) for name in file.files}
    except _DAMAGES as error:
        raise ValueError(
            f"{path} cannot be read as .npz ({type(error).__name__}: {error}); fetch it again, or save it anew with "
            "np.savez from arrays of numbers"
        ) from error


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
