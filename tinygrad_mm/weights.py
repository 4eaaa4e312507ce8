"""Weights: named arrays in a safetensors file, written whole or not at all, and checked when read.

Floor 7. A safetensors file is a JSON header and the bytes of the arrays: nothing in it is ever executed.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from tinygrad_mm.arrays import as_array
from tinygrad_mm.files import keep_permissions
from tinygrad_mm.tensor import Tensor

__all__ = ["WeightsError", "load", "load_with_metadata", "read_metadata", "remove_unfinished", "save"]

Array: TypeAlias = "np.ndarray[Any, Any]"

OURS = "tinygrad_mm."  # how the keys of this program's own metadata begin
DIGEST, FORMAT = f"{OURS}sha256", f"{OURS}format"
UNSIGNED, SIGNED = ("uint8", "uint16", "uint32", "uint64"), ("int8", "int16", "int32", "int64")
# What the format calls dtypes; those of 8 bits and fewer have no equal in NumPy.
STORED = {
    **{f"F{bits}": f"float{bits}" for bits in (16, 32, 64)},
    **{f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
    "BOOL": "bool",
    "C64": "complex64",
}
DTYPES = ("float16", "float32", "float64", *SIGNED, *UNSIGNED, "bool")


class WeightsError(ValueError):
    """A file that cannot be read as weights, or weights that cannot be written to one; says what to do."""


def save(path: str | os.PathLike[str], tensors: Any, metadata: Mapping[str, str] | None = None) -> None:
    """Write a model's parameters and buffers, or a dict of arrays or Tensors, into a safetensors file.

    The file appears under its name only when it is complete and on the disk; a run that fails or is killed leaves what
    was there before. A SHA-256 digest of names, dtypes, shapes, elements and `metadata` goes into the file.

    Raises WeightsError for names, dtypes or metadata that the format does not know, OSError where the file cannot be
    written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(Path(folder, "line.safetensors"), {"slope": np.array([2.0]), "offset": np.array(1.0)})
    ...     load(Path(folder, "line.safetensors"))
    {'offset': array(1.), 'slope': array([2.])}
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save as serialize

    arrays = {name: _contiguous(path, name, value) for name, value in _named(path, tensors)}
    notes = dict(metadata or {})
    for key, value in notes.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise WeightsError(f"{path}: metadata are text by text, not {key!r}: {value!r}; use json.dumps(value)")
    notes[FORMAT] = "1"  # a second key: damage to the digest's own leaves it, and the digest is missed
    notes[DIGEST] = _digest(arrays, notes)
    try:
        content = serialize(arrays, notes)
    except (SafetensorError, UnicodeError) as error:
        raise WeightsError(
            f"{path}: these weights have no safetensors form ({error}); rename or convert them"
        ) from error
    _write(Path(os.path.realpath(path)), content)


def load(path: str | os.PathLike[str]) -> dict[str, Array]:
    """The arrays in a safetensors file, by name; one written by `save` is checked against its digest.

    Those of bfloat16 become float32, which holds each of its numbers. Raises FileNotFoundError where there is no such
    file, WeightsError where it is damaged, is no safetensors file (of PyTorch's .pt files it says how to convert them),
    or holds a type that NumPy lacks.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(Path(folder, "line.safetensors"), {"slope": np.array([2.0])})
    ...     load(Path(folder, "line.safetensors"))["slope"]
    array([2.])
    """
    return load_with_metadata(path)[0]


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The metadata that `save` was given; the file is checked as by `load`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(Path(folder, "none.safetensors"), {}, metadata={"epoch": "5"})
    ...     read_metadata(Path(folder, "none.safetensors"))
    {'epoch': '5'}
    """
    return load_with_metadata(path)[1]


# ---------------------------------------------------------------------------------------------------------------------
# Writing
# ---------------------------------------------------------------------------------------------------------------------


def _named(path: Any, tensors: Any) -> Iterable[tuple[Any, Any]]:
    """(name, value) of a dict, or of what has `named_parameters` and `named_buffers`: a module."""
    if hasattr(tensors, "named_parameters"):
        return [*tensors.named_parameters(), *tensors.named_buffers()]
    if not isinstance(tensors, Mapping):
        raise TypeError(f"{path}: save takes a model or a dict of arrays, not {type(tensors).__name__}")
    return tensors.items()


def _contiguous(path: Any, name: Any, value: Any) -> Array:
    """The value as safetensors wants it: strided arrays would be saved silently wrong."""
    if not isinstance(name, str):
        raise WeightsError(f"{path}: the name {name!r} is not text; safetensors names are, so use str({name!r})")
    if name == "__metadata__":
        raise WeightsError(f"{path}: the name {name!r} is taken by the safetensors format itself; choose another")
    array = value.data if isinstance(value, Tensor) else as_array(value)
    if array.dtype.name not in DTYPES:
        raise WeightsError(
            f"{path}: {name} is {array.dtype}, which safetensors does not hold; convert it with astype to one of "
            + ", ".join(DTYPES)
        )
    return np.asarray(array, array.dtype.newbyteorder("="), order="C")


def _digest(arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> str:
    sha = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        sha.update(json.dumps([name, array.dtype.name, array.shape]).encode())
        sha.update(array.reshape(-1).view(np.uint8).data)
    return sha.hexdigest()


def _write(path: Path, content: bytes) -> None:
    """Write a file in one step: a temporary neighbour, forced to the disk, then given the name.

    A new file gets the permissions that the umask decides, another version of a file those of that file.
    """
    temporary = path.with_name(f"{_unfinished(path)}{secrets.token_hex(8)}.tmp")
    try:
        try:
            with open(temporary, "xb") as file:
                keep_permissions(temporary, path)  # before there is anything to read in it
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:  # Ctrl-C too
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        what = f"the weights could not be written ({error.strerror}); check the folder, its permissions and free space"
        raise OSError(error.errno, what, str(path)) from error


def _unfinished(path: Path) -> str:
    """How the names of files begin that are to become this one."""
    return f".{path.name[:200]}-unfinished-"


def remove_unfinished(path: str | os.PathLike[str]) -> None:
    """Remove what runs that were killed in the middle of `save(path, ...)` have left beside it.

    Nobody else may be saving under this name at the same time.
    """
    path = Path(os.path.realpath(path))
    start = _unfinished(path)
    for file in path.parent.iterdir() if path.parent.is_dir() else ():
        if file.name.startswith(start) and file.name.endswith(".tmp"):
            file.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Force the new name to the disk too, where the system can: Windows and some network file systems cannot."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# ---------------------------------------------------------------------------------------------------------------------
# Reading
# ---------------------------------------------------------------------------------------------------------------------


def load_with_metadata(path: str | os.PathLike[str]) -> tuple[dict[str, Array], dict[str, str]]:
    """The arrays in a safetensors file, and the metadata, from one reading; raises what `load` raises."""
    import safetensors

    deserialize: Any = safetensors.deserialize  # without type hints
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name the .safetensors file in it")
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; check the path, or save weights there first")
    content = path.read_bytes()
    if _is_pickle(content):
        raise WeightsError(
            f"{path} was written by torch.save: it is a pickle, which may run any code, and is not read here; convert "
            f"it where PyTorch and safetensors are installed: safetensors.torch.save_file(torch.load({str(path)!r}, "
            f"weights_only=True), {str(path.with_suffix('.safetensors'))!r})"
        )
    try:
        found = {name: _array(stored) for name, stored in deserialize(content)}
    except (
        safetensors.SafetensorError,
        ValueError,
        TypeError,
        OverflowError,
        MemoryError,
    ) as error:  # NumPy's, for odd shapes
        raise WeightsError(
            f"{path} is no whole safetensors file ({error}); copy or download it again, or save the weights anew"
        ) from error
    except KeyError as error:
        raise WeightsError(
            f"{path} holds elements of type {error}, which NumPy lacks; convert them to float32 in the program that "
            "wrote the file"
        ) from error
    size = int.from_bytes(content[:8], "little")  # the header was found valid above
    metadata = dict(json.loads(content[8 : 8 + size]).get("__metadata__") or {})
    digest = metadata.pop(DIGEST, None)
    if digest is None and any(key.startswith(OURS) for key in metadata):
        raise WeightsError(
            f"{path} is damaged: it was written here, but the SHA-256 digest that was saved with it is missing; "
            "restore it from a copy, or save the weights anew"
        )
    if digest is not None and digest != _digest(found, metadata):
        raise WeightsError(
            f"{path} is damaged: its contents do not give the SHA-256 digest that was saved with them; "
            "restore it from a copy, or save the weights anew"
        )
    metadata.pop(FORMAT, None)
    return {name: _sound(array) for name, array in sorted(found.items())}, metadata


def _is_pickle(content: bytes) -> bool:
    """Whether a file is one of torch.save's: an archive with a pickle in it, or, before PyTorch 1.6, pickles."""
    if content[:4] == b"PK\3\4":
        return b"/data.pkl" in content
    protocol = content[:1] == b"\x80" and content[1:2] in (b"\2", b"\3", b"\4", b"\5")
    return protocol and content[8:9] != b"{"  # which is how the header of a safetensors file begins


def _array(stored: Mapping[str, Any]) -> Array:
    """An array from its dtype, shape and bytes. A bfloat16 is the first half of a float32, whose rest is zeros."""
    if stored["dtype"] == "BF16":
        halves = np.frombuffer(stored["data"], "<u2").astype(np.uint32)
        return (halves << np.uint32(16)).view(np.float32).reshape(stored["shape"])
    dtype = np.dtype(STORED[stored["dtype"]]).newbyteorder("<")
    return np.frombuffer(stored["data"], dtype).astype(dtype.newbyteorder("="), copy=False).reshape(stored["shape"])


def _sound(array: Array) -> Array:
    """An array of the file that can be written to, with no booleans other than 0 and 1."""
    if array.dtype == bool:
        return array.view(np.uint8).astype(np.bool_)
    return array if array.flags.writeable else array.copy()
