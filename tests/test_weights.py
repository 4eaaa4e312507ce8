"""Weights: what is saved comes back, what is damaged is noticed, what is interrupted leaves the old file."""

from __future__ import annotations

import ast
import copy
import errno
import io
import json
import os
import pickle
import signal
import stat
import subprocess
import sys
import time
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load_file as independent_load
from safetensors.numpy import save as independent_bytes
from safetensors.numpy import save_file as independent_save

import tinygrad_mm
from tinygrad_mm.nn import Dense, Module, Sequential
from tinygrad_mm.tensor import Buffer, Tensor
from tinygrad_mm.weights import DIGEST, DTYPES, WeightsError, _digest, load, read_metadata, save

SAMPLE = {
    "layers.0.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "layers.0.bias": np.array([1.5, -2.5]),
    "steps": np.array(7),
    "mask": np.array([True, False, True]),
}
NOTES = {"epoch": "3", "rate": "0.004"}


def same(a, b):
    """Equal in names, dtypes, shapes and bits."""
    return a.keys() == b.keys() and all(
        a[k].dtype == b[k].dtype and a[k].shape == b[k].shape and a[k].tobytes() == b[k].tobytes() for k in a
    )


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("weights") / "some.safetensors"


def raw(header, data=b""):
    """A safetensors file, written from the description of the format."""
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


# ---------------------------------------------------------------------------------------------------------------------
# There and back
# ---------------------------------------------------------------------------------------------------------------------

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=8).filter(lambda name: name != "__metadata__")
arrays = st.sampled_from(DTYPES).flatmap(lambda kind: hnp.arrays(kind, hnp.array_shapes(min_dims=0, min_side=0)))


@settings(max_examples=50)
@given(tensors=st.dictionaries(names, arrays, max_size=4), notes=st.dictionaries(names, names, max_size=3))
def test_everything_comes_back(file, tensors, notes):
    save(file, tensors, notes)
    assert same(load(file), tensors)
    assert same(independent_load(file), tensors)
    assert read_metadata(file) == notes
    assert all(array.flags.writeable for array in load(file).values())


def test_strided_and_big_endian_arrays(file):
    x = np.arange(24.0).reshape(2, 3, 4)
    strided = {"transposed": x.T, "reversed": x[::-1, ::2], "broadcast": np.broadcast_to(x[0, 0], (3, 4))}
    save(file, {**strided, "big": x.astype(">f4"), "fortran": np.asfortranarray(x)})
    back = load(file)
    assert all(np.array_equal(back[k], v) for k, v in strided.items())
    assert np.array_equal(back["big"], x)
    assert back["big"].dtype == np.dtype("float32")
    assert np.array_equal(back["fortran"], x)


def test_a_model_is_saved_by_the_names_of_its_parameters_and_buffers(file):
    class Scaled(Module):
        def __init__(self):
            self.inner = Sequential(Dense(3, 2, "relu", rng=0), Dense(2, 2, rng=1))
            self.again = self.inner.layers[0]  # shared: saved once
            self.seen = Buffer(np.array(5))

    model = Scaled()
    save(file, model)
    first, second = model.inner.layers
    assert same(
        load(file),
        {
            "inner.layers.0.weight": first.weight.data,
            "inner.layers.0.bias": first.bias.data,
            "inner.layers.1.weight": second.weight.data,
            "inner.layers.1.bias": second.bias.data,
            "seen": np.array(5),
        },
    )


def test_tensors_numbers_and_lists_are_arrays_too(file):
    save(file, {"t": Tensor([1.0, 2.0], requires_grad=True), "f": 0.5, "l": [1, 2]})
    expected = {"t": np.float32([1, 2]), "f": np.array(0.5, np.float32), "l": np.array([1, 2])}
    assert same(load(file), expected)


def test_files_from_elsewhere_have_no_digest(file):
    independent_save(SAMPLE, file, {"format": "np"})
    assert same(load(file), SAMPLE)
    assert read_metadata(file) == {"format": "np"}
    independent_save(SAMPLE, file)
    assert read_metadata(file) == {}


# ---------------------------------------------------------------------------------------------------------------------
# Damage
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(file):
    save(file, SAMPLE, NOTES)
    return file.read_bytes()


def noticed(file, content):
    """Whether a file is refused with an error that names it; if not, it must hold exactly what was saved."""
    file.write_bytes(content)
    try:
        back = load(file)
    except WeightsError as error:
        return str(error).startswith(str(file))
    assert same(back, SAMPLE)
    return False


def test_every_flipped_bit_of_the_data_is_noticed(file, whole):
    start = 8 + int.from_bytes(whole[:8], "little")
    for at in range(start, len(whole)):
        for bit in range(8):
            content = bytearray(whole)
            content[at] ^= 1 << bit
            assert noticed(file, bytes(content)), (at, bit)


def test_every_flipped_bit_of_the_header_is_noticed(file, whole):
    """That of the digest's key too, which leaves a file with a digest that nobody would look for."""
    start = 8 + int.from_bytes(whole[:8], "little")
    for at in range(start):
        for bit in range(8):
            content = bytearray(whole)
            content[at] ^= 1 << bit
            assert noticed(file, bytes(content)), (at, bit)


def test_truncated_at_every_byte(file, whole):
    for length in range(len(whole)):
        assert noticed(file, whole[:length]), length


@settings(max_examples=300)
@given(data=st.data())
def test_drawn_mutations(file, whole, data):
    content = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content)))
        cut = data.draw(st.integers(0, 16))
        content[at : at + cut] = data.draw(st.binary(max_size=16))
    if b'"tinygrad_mm.' in content:
        noticed(file, bytes(content))
    else:  # no digest any more: whatever it is, it is arrays or a WeightsError
        file.write_bytes(bytes(content))
        with suppress(WeightsError):
            assert all(type(array) is np.ndarray for array in load(file).values())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no whole safetensors file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "is no whole safetensors file"),
        (b"\xff" * 8, "is no whole safetensors file"),
        (raw({"x": {"dtype": "F32", "shape": [1 << 40, 1 << 40], "data_offsets": [0, 4]}}, bytes(4)), "no whole"),
        (raw({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, bytes(4)), "no whole"),
        (
            raw({"x": {"dtype": "F8_E5M2", "shape": [4], "data_offsets": [0, 4]}}, bytes(4)),
            "'F8_E5M2', which NumPy lacks",
        ),
        (raw({"__metadata__": {"a": 1}}), "no whole"),
        (raw({"__metadata__": {"tinygrad_mm.sha256": "0"}}), "is damaged: .*SHA-256"),
        (raw({"__metadata__": {"tinygrad_mm.checkpoint": "{}"}}), "is damaged: .*SHA-256 .* is missing"),
        (raw({"x": {"dtype": "F32", "shape": [1] * 70, "data_offsets": [0, 4]}}, bytes(4)), "no whole"),
        (raw({"x": {"dtype": "F32", "shape": [0, 1 << 62, 4], "data_offsets": [0, 0]}}), "no whole"),
    ],
)
def test_hostile_files(file, content, message):
    file.write_bytes(content)
    with pytest.raises(WeightsError, match=message) as caught:
        load(file)
    assert str(file) in str(caught.value)


# A file that an enemy, or an accident, has made of a model's weights: bytes changed anywhere, or a header that is valid
# JSON and tells lies. Nothing but numbers may come out of it.


def changed_bytes(draw, content):
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content)))
        content[at : at + draw(st.integers(0, 16))] = draw(st.binary(max_size=16))
    return bytes(content)


def cut(draw, content):
    return content[: draw(st.integers(0, len(content) - 1))]


def foreign(draw, content):
    """What other programs save under this name."""
    buffer = io.BytesIO()
    kind = draw(st.sampled_from(["pickle", "npz", "zip", "pickle behind a header"]))
    if kind == "npz":
        np.savez(buffer, weight=np.zeros((3, 2)))
    elif kind == "zip":  # as PyTorch saves
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(Hostile()))
    else:
        buffer.write(pickle.dumps(Hostile(), protocol=draw(st.integers(0, 5))))
        if kind == "pickle behind a header":
            return (
                raw({"weight": {"dtype": "U8", "shape": [buffer.tell()], "data_offsets": [0, buffer.tell()]}})
                + buffer.getvalue()
            )
    return buffer.getvalue()


lies = st.one_of(
    st.integers(-2, 70),
    st.integers(0, 2**64),
    st.lists(st.integers(-1, 2**63), max_size=3),
    st.sampled_from(
        ["F32", "F64", "BF16", "F8_E5M2", "BOOL", "I64", "U8", "O", "", "\0", "__reduce__", None, True, 1.5, {}]
    ),
)


def lying_header(draw, content):
    """One or two entries of the header replaced, renamed or removed; with or without the digest."""
    size = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]
    if draw(st.booleans()):
        del header["__metadata__"]
    for _ in range(draw(st.integers(1, 2))):
        name = draw(st.sampled_from(sorted(header)))
        what = draw(st.sampled_from(["rename", "remove", "copy", "replace", "dtype", "shape", "data_offsets"]))
        if what == "rename":
            header[draw(st.sampled_from(["x", "", "../x", "layers.0.weight", "layers.1.weight", "__class__"]))] = (
                header.pop(name)
            )
        elif what == "remove" and len(header) > 1:
            del header[name]
        elif what == "copy":
            header["copy"] = header[name]
        elif what == "replace" or not isinstance(header[name], dict):
            header[name] = copy.deepcopy(draw(lies))
        else:
            header[name][what] = copy.deepcopy(draw(lies))
    return raw(header, data)


def misfit(draw, content):
    """A sound file, digest and all, of some other model."""
    state = {name: array.copy() for name, array in target().state_dict().items()}
    name = draw(st.sampled_from(sorted(state)))
    what = draw(st.sampled_from(["dtype", "shape", "missing", "unexpected"]))
    if what == "dtype":
        state[name] = state[name].astype(draw(st.sampled_from([kind for kind in DTYPES if kind != "float32"])))
    elif what == "shape":
        state[name] = np.zeros(
            draw(hnp.array_shapes(min_dims=0, min_side=0).filter(lambda s: s != state[name].shape)), "f4"
        )
    elif what == "missing":
        del state[name]
    else:
        state[draw(st.sampled_from(["x", "", name + ".", "__class__", "forward", "training"]))] = np.zeros(3)
    return independent_bytes(state, {DIGEST: _digest(state, {})} if draw(st.booleans()) else None)


class Hostile:
    """Unpickled, it makes a file."""

    def __reduce__(self):
        return (os.mkdir, ("it-ran",))


def target():
    return Sequential(Dense(3, 2, "relu", rng=5), Dense(2, 2, rng=6))


FORBIDDEN = {
    "exec",
    "compile",
    "pickle.find_class",
    "marshal.loads",
    "os.system",
    "subprocess.Popen",
    "ctypes.dlopen",
    "os.mkdir",
}
watching, happened = [False], []
sys.addaudithook(lambda event, args: happened.append(event) if watching[0] and event in FORBIDDEN else None)


def test_the_watch_sees_a_pickle_that_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    watching[0] = True
    pickle.loads(pickle.dumps(Hostile()))
    watching[0] = False
    assert set(happened) >= {"pickle.find_class", "os.mkdir"}
    happened.clear()


@pytest.mark.parametrize("make", [changed_bytes, cut, foreign, lying_header, misfit], ids=lambda make: make.__name__)
@settings(max_examples=400)
@given(data=st.data())
def test_hostile_files_change_no_model_and_run_no_code(file, make, data):
    model = target()
    save(file, model)
    whole = file.read_bytes()
    content = make(data.draw, whole)
    file.write_bytes(content)
    model.layers[0].weight.data += 1.0  # so that loading the original would show
    before = model.state_dict()
    error = None
    watching[0] = True
    try:
        model.load_state_dict(load(file))
    except ValueError as caught:  # WeightsError among them; anything else fails the test
        error = str(caught)
    finally:
        watching[0] = False
    assert happened == []
    after = model.state_dict()
    if error is not None:
        assert same(after, before)
        assert str(file) in error or "this state does not fit, so nothing was changed" in error
    else:  # either the file says the same in other bytes, or it has lost its digest and fits
        assert make in (changed_bytes, lying_header)
        assert {n: (a.shape, a.dtype) for n, a in after.items()} == {n: (a.shape, a.dtype) for n, a in before.items()}
        if DIGEST in read_metadata_of(content):
            assert same(after, target().state_dict())


def read_metadata_of(content):
    size = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + size]).get("__metadata__") or {}


def test_no_module_of_the_package_reads_pickles():
    """The readers of Python objects that NumPy and Python have are not called anywhere."""
    found = []
    for path in Path(tinygrad_mm.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if {"pickle", "marshal", "shelve", "dill", "joblib", "cloudpickle", "_pickle"} & {
                n.split(".")[0] for n in names
            }:
                found.append(f"{path.name}:{node.lineno}")
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                found += [] if isinstance(node.value, ast.Constant) and node.value.value is False else [f"{path.name}"]
    assert found == []


def test_booleans_are_zero_or_one_whatever_the_bytes(file):
    file.write_bytes(raw({"x": {"dtype": "BOOL", "shape": [3], "data_offsets": [0, 3]}}, b"\0\x07\xff"))
    assert load(file)["x"].view(np.uint8).tolist() == [0, 1, 1]


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.safetensors does not exist; check the path"):
        load(tmp_path / "nothing.safetensors")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        load(tmp_path)


# ---------------------------------------------------------------------------------------------------------------------
# Writing
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tensors", "notes", "message"),
    [
        ({1: np.zeros(2)}, None, r"the name 1 is not text; .*str\(1\)"),
        ({"x": np.array(["a"])}, None, "x is <U1, which safetensors does not hold; convert it with astype"),
        ({"x": np.array([None])}, None, "x is object"),
        ({"x": np.zeros(2, np.complex64)}, None, "x is complex64"),
        ({"__metadata__": np.zeros(2)}, None, "is taken by the safetensors format"),
        ({"\ud800": np.zeros(2)}, None, "no safetensors form"),
        ({"x": np.zeros(2)}, {"epoch": 3}, r"not 'epoch': 3; use json\.dumps"),
        ({"x": np.zeros(2)}, {3: "epoch"}, "metadata are text by text"),
    ],
)
def test_what_the_format_cannot_hold(tmp_path, tensors, notes, message):
    path = tmp_path / "new.safetensors"
    with pytest.raises(WeightsError, match=message) as caught:
        save(path, tensors, notes)
    assert str(path) in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_only_models_and_dicts_are_saved(tmp_path):
    with pytest.raises(TypeError, match="a model or a dict of arrays, not list"):
        save(tmp_path / "x", [np.zeros(3)])


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, call, error):
    path = tmp_path / "old.safetensors"
    save(path, SAMPLE)

    def fail(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(type(error)) as caught:
            save(path, {"other": np.zeros(1000)})
    if isinstance(error, OSError):
        assert "could not be written (No space left on device)" in str(caught.value)
        assert str(path) in str(caught.value)
        assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == [path]
    assert same(load(path), SAMPLE)


def test_data_reach_the_disk_before_the_name(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, name=name, real=real: (calls.append(name), real(*args)))
    save(tmp_path / "x.safetensors", SAMPLE)
    assert calls[:2] == ["fsync", "replace"]


def test_unwritable_places(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for place, error in (("nowhere", FileNotFoundError), ("file", NotADirectoryError)):
        path = tmp_path / place / "x.safetensors"
        with pytest.raises(error, match=r"could not be written .*check the folder") as caught:
            save(path, SAMPLE)
        assert str(path) in str(caught.value)
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="could not be written"):
        save(tmp_path / "folder", SAMPLE)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.skipif(os.name != "posix", reason="permissions and links of POSIX")
def test_permissions_follow_the_umask_and_links_are_followed(tmp_path):
    before = os.umask(0o027)
    try:
        save(tmp_path / "real.safetensors", {})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "real.safetensors").stat().st_mode) == 0o640
    (tmp_path / "real.safetensors").chmod(0o600)
    link = tmp_path / "link.safetensors"
    link.symlink_to("real.safetensors")
    save(link, SAMPLE)
    assert link.is_symlink()
    assert same(load(tmp_path / "real.safetensors"), SAMPLE)
    assert stat.S_IMODE((tmp_path / "real.safetensors").stat().st_mode) == 0o600  # as before


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_a_killed_run_leaves_a_whole_file(tmp_path):
    path = tmp_path / "weights.safetensors"
    program = (
        "import sys, numpy as np\nfrom tinygrad_mm.weights import save\n"
        "for i in range(10**9): save(sys.argv[1], {'x': np.full(200_000, float(i))})"
    )
    for attempt in range(4):
        path.unlink(missing_ok=True)
        process = subprocess.Popen([sys.executable, "-c", program, str(path)])
        while not path.exists() and process.poll() is None:
            time.sleep(0.001)
        time.sleep(0.0007 * attempt)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.returncode == -signal.SIGKILL
        x = load(path)["x"]
        assert x.shape == (200_000,)
        assert np.all(x == x[0])
