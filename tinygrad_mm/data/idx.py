"""IDX, the format of MNIST: files into arrays, and damaged files into errors that say what to do."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

__all__ = ["read_idx", "read_idx_folder"]

Array: TypeAlias = "np.ndarray[Any, Any]"

# The third byte of a file says what its elements are; numbers are stored with the most significant byte first.
IDX_TYPES: dict[int, np.dtype[Any]] = {
    0x08: np.dtype(">u1"),
    0x09: np.dtype(">i1"),
    0x0B: np.dtype(">i2"),
    0x0C: np.dtype(">i4"),
    0x0D: np.dtype(">f4"),
    0x0E: np.dtype(">f8"),
}
IDX_FILES = (
    ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
)
MOST_AXES = 64  # what a NumPy array can have
CHUNK = 2**20


def read_idx(path: str | os.PathLike[str]) -> Array:
    """The array in an IDX file (LeCun, Cortes and Burges's format for MNIST), plain or compressed by gzip.

    The file is two zero bytes, the type of the elements, the number of axes, the length of each axis (4 bytes, most
    significant first), and the elements, last axis fastest. The array has the machine's byte order and may be written.

    Raises FileNotFoundError where there is no such file, ValueError where it is not IDX, or damaged.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "three-numbers-idx1-ubyte")
    ...     _ = path.write_bytes(bytes([0, 0, 0x08, 1,  0, 0, 0, 3,  7, 8, 9]))
    ...     read_idx(path)
    array([7, 8, 9], dtype=uint8)
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; read_idx reads one file, read_idx_folder the four of a data set")
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; check the path, or fetch the file")
    with open(path, "rb") as raw:
        # Decided by what the file holds, not by its name: browsers unpack files and keep the .gz, or the other way.
        compressed = raw.peek(2)[:2] == b"\x1f\x8b"
        try:
            return _parse_idx(path, gzip.GzipFile(fileobj=raw) if compressed else raw)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise _damaged(path, f"its gzip stream is damaged ({error})") from error


def _parse_idx(path: Path, file: Any) -> Array:
    start = file.read(4)
    if len(start) < 4 or start[:2] != b"\0\0":
        raise _damaged(path, f"this is no IDX file: it starts with {start!r} instead of two zero bytes and a type")
    code, axes = start[2], start[3]
    if code not in IDX_TYPES:
        known = ", ".join(f"{c:#04x} {dtype.name}" for c, dtype in IDX_TYPES.items())
        raise _damaged(path, f"the element type {code:#04x} is unknown to IDX ({known})")
    if axes > MOST_AXES:
        raise _damaged(path, f"its header announces {axes} axes, more than the {MOST_AXES} of a NumPy array")
    dtype = IDX_TYPES[code]
    lengths = file.read(4 * axes)
    if len(lengths) < 4 * axes:
        raise _damaged(path, f"it is truncated: {len(lengths)} of the {4 * axes} bytes that give its shape are there")
    shape = tuple(int(n) for n in np.frombuffer(lengths, ">u4"))
    wanted = math.prod(shape) * dtype.itemsize

    # In pieces, and one byte more than announced: a damaged header cannot ask for memory that the file does not fill,
    # what follows the array is noticed, and gzip comes to the end of its stream, where it compares the checksum.
    elements = bytearray()
    while len(elements) <= wanted and (piece := file.read(min(CHUNK, wanted + 1 - len(elements)))):
        elements += piece
    if len(elements) < wanted:
        raise _damaged(path, f"it is truncated: {len(elements)} of {wanted} bytes of a {dtype.name} array {shape}")
    if len(elements) > wanted:
        raise _damaged(path, f"it goes on after the {wanted} bytes of its {dtype.name} array {shape}")
    try:
        array = np.frombuffer(elements, dtype).reshape(shape)
    except ValueError as error:
        raise _damaged(path, f"its header announces the shape {shape}, which NumPy cannot hold") from error
    return array.astype(dtype.newbyteorder("="), copy=False)


def _damaged(path: Path, what: str) -> ValueError:
    return ValueError(f"{path}: {what}. Fetch the file again and compare its checksum with the publisher's")


def read_idx_folder(folder: str | os.PathLike[str]) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """((training images, training labels), (test images, test labels)) from the four files of an MNIST-like data set.

    The files are `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-images-idx3-ubyte` and
    `t10k-labels-idx1-ubyte`, each plain or with `.gz`; MNIST, Fashion-MNIST, KMNIST and others come as such.

    Shape: images (n, height, width), labels (n,)

    Raises FileNotFoundError that lists the missing files, ValueError for files that are damaged or do not belong
    together.

    >>> import tempfile
    >>> images = bytes([0, 0, 0x08, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 1]) + bytes([7, 8])
    >>> labels = bytes([0, 0, 0x08, 1, 0, 0, 0, 2]) + bytes([0, 1])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for part in ("train", "t10k"):
    ...         _ = Path(folder, f"{part}-images-idx3-ubyte").write_bytes(images)
    ...         _ = Path(folder, f"{part}-labels-idx1-ubyte").write_bytes(labels)
    ...     (x_train, y_train), (x_test, y_test) = read_idx_folder(folder)
    >>> x_train.shape, y_train
    ((2, 1, 1), array([0, 1], dtype=uint8))
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder; name one that holds {', '.join(sum(IDX_FILES, ()))}")
    paths = [[_find(folder, name) for name in pair] for pair in IDX_FILES]
    missing = [
        name for names, pair in zip(IDX_FILES, paths, strict=True) for name, p in zip(names, pair, strict=True) if not p
    ]
    if missing:
        raise FileNotFoundError(
            f"{folder} lacks {', '.join(missing)} (plain or .gz); put the files there, or name another folder"
        )
    (train, train_labels), (test, test_labels) = [[read_idx(p) for p in pair if p] for pair in paths]
    for (name, label_name), images, labels in zip(IDX_FILES, (train, test), (train_labels, test_labels), strict=True):
        if images.ndim < 2 or labels.ndim != 1 or labels.dtype.kind not in "iu":
            raise ValueError(
                f"{folder}: {name} holds {images.dtype} {images.shape} and {label_name} {labels.dtype} {labels.shape}; "
                "images need at least two axes, labels are integers on one axis (were the files exchanged?)"
            )
        if len(images) != len(labels):
            raise ValueError(
                f"{folder}: {len(images)} images in {name}, but {len(labels)} labels in {label_name}; "
                "take both from the same data set"
            )
        if not len(images):
            raise ValueError(f"{folder}: {name} holds no images")
    if train.shape[1:] != test.shape[1:]:
        raise ValueError(
            f"{folder}: training images have shape {train.shape[1:]}, test images {test.shape[1:]}; "
            "take both from the same data set"
        )
    return (train, train_labels), (test, test_labels)


def _find(folder: Path, name: str) -> Path | None:
    """The file of this name, also as .gz, also with the dot that some unpackers put before "idx"."""
    dotted = name.replace("-idx", ".idx")
    candidates = (folder / (stem + end) for stem in (name, dotted) for end in ("", ".gz"))
    return next((path for path in candidates if path.is_file()), None)
