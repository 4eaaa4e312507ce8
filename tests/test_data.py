"""Reading IDX files, whole and damaged, and batches from arrays, structures of arrays and sequences."""

from __future__ import annotations

import gc
import gzip
import hashlib
import json
import math
import pickle
import re
import struct
import threading
import time
import zipfile
from collections import namedtuple
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tinygrad_mm.data import DataLoader, read_csv, read_idx, read_idx_folder, read_npz, train_test_split
from tinygrad_mm.tensor import Tensor

MNIST = Path(__file__).parents[1] / "examples" / "data" / "mnist"
NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")

# ---------------------------------------------------------------------------------------------------------------------
# IDX
# ---------------------------------------------------------------------------------------------------------------------

CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def idx(array):
    """The bytes of an IDX file, written element by element from the description of the format."""
    kind = array.dtype.str[1:]
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, CODES[kind], array.ndim, *array.shape)
    letter = {"u1": "B", "i1": "b", "i2": "h", "i4": "i", "f4": "f", "f8": "d"}[kind]
    return head + b"".join(struct.pack(f">{letter}", x) for x in array.ravel().tolist())


def write(folder, data, name="some-idx-file"):
    path = Path(folder, name)
    path.write_bytes(data)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("idx")


arrays = st.sampled_from(sorted(CODES)).flatmap(
    lambda kind: hnp.arrays(np.dtype(kind), hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4))
)


@settings(max_examples=200)
@given(array=arrays, compressed=st.booleans())
def test_every_type_and_rank_comes_back(folder, array, compressed):
    data = idx(array)
    read = read_idx(write(folder, gzip.compress(data, mtime=0) if compressed else data))
    assert read.dtype == array.dtype
    assert read.dtype.isnative
    assert read.shape == array.shape
    assert read.tobytes() == array.tobytes()  # bytes, so that nan equals nan
    assert read.flags.writeable


def test_read_in_pieces(folder):
    array = np.random.default_rng(0).integers(0, 256, (3, 1000, 1000), np.uint8)
    data = bytes([0, 0, 8, 3]) + struct.pack(">3I", *array.shape) + array.tobytes()
    assert np.array_equal(read_idx(write(folder, data)), array)
    with pytest.raises(ValueError, match="goes on after the 3000000 bytes"):
        read_idx(write(folder, data + b"\0"))


SAMPLE = idx(np.arange(12, dtype=np.int16).reshape(3, 4))


@pytest.mark.parametrize("data", [SAMPLE, gzip.compress(SAMPLE, mtime=0)], ids=["plain", "gzip"])
def test_truncated_at_every_byte(folder, data):
    for length in range(len(data)):
        path = write(folder, data[:length])
        with pytest.raises(ValueError, match=rf"(?s){re.escape(str(path))}.*Fetch the file again"):
            read_idx(path)


@settings(max_examples=300)
@given(at=st.integers(0, len(gzip.compress(SAMPLE, mtime=0)) - 1), bits=st.integers(1, 255))
def test_a_damaged_gzip_file_is_noticed(folder, at, bits):
    data = bytearray(gzip.compress(SAMPLE, mtime=0))
    data[at] ^= bits
    path = write(folder, bytes(data))
    try:
        array = read_idx(path)
    except ValueError as error:
        message = str(error)
        array = None
    if array is None:
        assert str(path) in message
    else:  # a byte of gzip's header that means nothing to the data, such as the time
        assert array.tolist() == np.arange(12).reshape(3, 4).tolist()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"no IDX file: it starts with b''"),
        (b"<!DOCTYPE html>", r"no IDX file: it starts with b'<!DO'"),
        (b"\1\0\x08\1\0\0\0\0", "no IDX file"),
        (b"\0\1\x08\1\0\0\0\0", "no IDX file"),
        (b"\0\0\x0a\1\0\0\0\0", r"element type 0x0a is unknown to IDX \(0x08 uint8, .*0x0e float64\)"),
        (b"\0\0\x08\x02\0\0\0\1", r"truncated: 4 of the 8 bytes that give its shape"),
        (b"\0\0\x08\x41" + b"\0\0\0\1" * 65 + b"x", "65 axes, more than the 64"),
        (b"\0\0\x08\1\0\0\0\2x", r"truncated: 1 of 2 bytes of a uint8 array \(2,\)"),
        (b"\0\0\x08\1\0\0\0\2xyz", r"goes on after the 2 bytes of its uint8 array \(2,\)"),
        (b"\0\0\x0e\4" + b"\xff\xff\xff\xff" * 4 + b"x", "truncated: 1 of"),  # and no attempt at 2**131 bytes
        (b"\0\0\x08\4" + b"\0\0\0\0" + b"\xff\xff\xff\xff" * 3, "which NumPy cannot hold"),
        (gzip.compress(SAMPLE, mtime=0) + gzip.compress(b"x", mtime=0), "goes on after the 24 bytes"),
        (gzip.compress(SAMPLE, mtime=0) + b"x", "gzip stream is damaged"),
    ],
)
def test_damaged_files(folder, data, message):
    path = write(folder, data)
    with pytest.raises(ValueError, match=message) as caught:
        read_idx(path)
    assert str(caught.value).startswith(str(path))


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing-here does not exist; check the path"):
        read_idx(tmp_path / "nothing-here")
    with pytest.raises(IsADirectoryError, match="read_idx_folder"):
        read_idx(tmp_path)


def small_set(folder, **changed):
    content = {
        NAMES[0]: np.zeros((5, 4, 3), np.uint8),
        NAMES[1]: np.arange(5, dtype=np.uint8),
        NAMES[2]: np.ones((2, 4, 3), np.uint8),
        NAMES[3]: np.arange(2, dtype=np.uint8),
    }
    content.update({NAMES[int(key[1:])]: array for key, array in changed.items()})
    for name, array in content.items():
        write(folder, idx(array), name)
    return folder


def test_folder_with_plain_compressed_and_dotted_names(tmp_path):
    small_set(tmp_path)
    (train, train_labels), (test, test_labels) = read_idx_folder(tmp_path)
    for name in NAMES[:2]:
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress((tmp_path / name).read_bytes()))
        (tmp_path / name).unlink()
    (tmp_path / NAMES[2]).rename(tmp_path / "t10k-images.idx3-ubyte")
    again = read_idx_folder(str(tmp_path))
    assert train.shape == (5, 4, 3)
    assert test.shape == (2, 4, 3)
    assert train_labels.tolist() == [0, 1, 2, 3, 4]
    assert test_labels.tolist() == [0, 1]
    assert np.array_equal(again[0][0], train)
    assert np.array_equal(again[0][1], train_labels)
    assert np.array_equal(again[1][0], test)
    assert np.array_equal(again[1][1], test_labels)


def test_folder_lists_everything_that_is_missing(tmp_path):
    small_set(tmp_path)
    (tmp_path / NAMES[1]).unlink()
    (tmp_path / NAMES[2]).unlink()
    with pytest.raises(FileNotFoundError, match=f"lacks {NAMES[1]}, {NAMES[2]} \\(plain or .gz\\)"):
        read_idx_folder(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere is no folder; name one that holds"):
        read_idx_folder(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="is no folder"):
        read_idx_folder(tmp_path / NAMES[0])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"_1": np.arange(4, dtype=np.uint8)}, f"5 images in {NAMES[0]}, but 4 labels in {NAMES[1]}"),
        ({"_3": np.arange(9, dtype=np.uint8)}, f"2 images in {NAMES[2]}, but 9 labels in {NAMES[3]}"),
        ({"_0": np.arange(5, dtype=np.uint8)}, "were the files exchanged"),
        ({"_1": np.zeros((5, 4, 3), np.uint8)}, "were the files exchanged"),
        ({"_1": np.zeros(5, np.float32)}, "labels are integers"),
        ({"_2": np.zeros((2, 3, 4), np.uint8)}, r"training images have shape \(4, 3\), test images \(3, 4\)"),
        ({"_2": np.zeros((0, 4, 3), np.uint8), "_3": np.zeros(0, np.uint8)}, f"{NAMES[2]} holds no images"),
    ],
)
def test_folder_of_files_that_do_not_belong_together(tmp_path, changed, message):
    small_set(tmp_path, **changed)
    with pytest.raises(ValueError, match=message) as caught:
        read_idx_folder(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_carried_mnist_is_the_original():
    """The files have the checksums that their README gives; the counts of digits are those of the database."""
    listed = dict(re.findall(r"\| `(\S+\.gz)` .* `([0-9a-f]{64})` \|", (MNIST / "README.md").read_text("utf-8")))
    assert sorted(listed) == sorted(f"{name}.gz" for name in NAMES)
    for name, checksum in listed.items():
        assert hashlib.sha256(gzip.decompress((MNIST / name).read_bytes())).hexdigest() == checksum
    (train, train_labels), (test, test_labels) = read_idx_folder(MNIST)
    assert (train.shape, train.dtype) == ((60000, 28, 28), np.uint8)
    assert (test.shape, test.dtype) == ((10000, 28, 28), np.uint8)
    assert np.bincount(train_labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(test_labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


# ---------------------------------------------------------------------------------------------------------------------
# Batches
# ---------------------------------------------------------------------------------------------------------------------

sizes = st.integers(1, 40)


@settings(max_examples=100)
@given(n=sizes, batch_size=sizes, shuffle=st.booleans(), drop_last=st.booleans(), seed=st.integers(0, 9))
def test_an_epoch_has_every_example_once(n, batch_size, shuffle, drop_last, seed):
    if drop_last and batch_size > n:
        with pytest.raises(ValueError, match=f"{n} examples give no batch of {batch_size} with drop_last"):
            DataLoader(np.arange(n), batch_size, drop_last=True)
        return
    x, y = np.arange(2 * n).reshape(n, 2), np.arange(n) + 0.5
    loader = DataLoader((x, y), batch_size, shuffle, seed, drop_last)
    rng = np.random.default_rng(seed)  # what the loader promises to draw: one permutation an epoch
    for _ in range(2):
        batches = list(loader)
        order = rng.permutation(n) if shuffle else np.arange(n)
        kept = n // batch_size * batch_size if drop_last else n
        assert len(batches) == len(loader) == -(-kept // batch_size)
        assert [len(b[1]) for b in batches] == [batch_size] * (n // batch_size) + [n % batch_size] * (
            kept % batch_size > 0
        )
        assert np.array_equal(np.concatenate([b[0] for b in batches]), x[order[:kept]])
        assert np.array_equal(np.concatenate([b[1] for b in batches]), y[order[:kept]])
        assert all(b[0].dtype == x.dtype and b[1].dtype == y.dtype for b in batches)


def test_epochs_are_shuffled_anew_and_a_seed_repeats_them():
    def epochs(rng):
        loader = DataLoader(np.arange(100), 7, shuffle=True, rng=rng)
        return [np.concatenate(list(loader)).tolist() for _ in range(3)]

    first = epochs(0)
    assert len({tuple(order) for order in first}) == 3
    assert epochs(0) == first == epochs(np.random.default_rng(0))
    assert epochs(1) != first
    assert epochs(None) != epochs(None)


def test_a_generator_is_shared_not_copied():
    rng = np.random.default_rng(5)
    loader = DataLoader(np.arange(9), 9, shuffle=True, rng=rng)
    assert loader.rng is rng
    same = np.random.default_rng(5)
    assert next(iter(loader)).tolist() == same.permutation(9).tolist()
    assert rng.random() == same.random()


def test_iterators_of_one_loader_do_not_disturb_each_other():
    loader = DataLoader(np.arange(10), 3, shuffle=True, rng=3)
    first, second = iter(loader), iter(loader)
    mixed = [next(it).tolist() for it in (second, first, second, first, first, second, second, first)]
    rng = np.random.default_rng(3)
    orders = [rng.permutation(10).tolist() for _ in range(2)]
    assert [x for i in (1, 3, 4, 7) for x in mixed[i]] == orders[0]
    assert [x for i in (0, 2, 5, 6) for x in mixed[i]] == orders[1]


def test_unshuffled_batches_are_views():
    x = np.zeros((10, 3))
    assert all(np.shares_memory(batch, x) for batch in DataLoader(x, 4))
    assert not any(np.shares_memory(batch, x) for batch in DataLoader(x, 4, shuffle=True, rng=0))


Pair = namedtuple("Pair", "image label")
IMAGES, LABELS = np.arange(15.0, dtype=np.float32).reshape(5, 3), np.array([3, 1, 4, 1, 5], np.uint8)


class Squares:
    """Something with a length and items, and nothing else of a list."""

    def __len__(self):
        return 5

    def __getitem__(self, i):
        if not isinstance(i, int):
            raise TypeError(f"index {i!r}")
        return {"x": np.full(2, i), "both": (i, float(i * i))}


def test_structures_of_arrays():
    (array,) = DataLoader(IMAGES, 5)
    assert np.array_equal(array, IMAGES)
    first, _ = DataLoader(Pair(IMAGES, LABELS), 3)
    assert isinstance(first, Pair)
    assert first.label.tolist() == [3, 1, 4]
    first, _ = DataLoader({"x": {"image": IMAGES}, "y": (LABELS, [1.0, 2.0, 3.0, 4.0, 5.0])}, 3)
    assert np.array_equal(first["x"]["image"], IMAGES[:3])
    assert first["y"][0].tolist() == [3, 1, 4]
    assert first["y"][1].dtype == np.float32
    first, _ = DataLoader((Tensor(IMAGES), LABELS), 3)
    assert type(first[0]) is np.ndarray


def test_sequences_of_examples():
    loader = DataLoader(Squares(), 2, shuffle=True, rng=1)
    order = np.random.default_rng(1).permutation(5)
    batches = list(loader)
    assert [len(b["x"]) for b in batches] == [2, 2, 1]
    assert np.concatenate([b["x"] for b in batches])[:, 1].tolist() == order.tolist()
    numbers, squares = zip(*(b["both"] for b in batches), strict=True)
    assert np.concatenate(numbers).tolist() == order.tolist()
    assert np.concatenate(squares).tolist() == (order**2).tolist()
    assert squares[0].dtype == np.float32

    first, _ = DataLoader([Pair(image, label) for image, label in zip(IMAGES, LABELS, strict=True)], 3)
    assert isinstance(first, Pair)
    assert np.array_equal(first.image, IMAGES[:3])
    assert (first.label.tolist(), first.label.dtype) == ([3, 1, 4], np.uint8)
    first, _ = DataLoader([Tensor(image) for image in IMAGES], 3)
    assert type(first) is np.ndarray
    assert np.array_equal(first, IMAGES[:3])


@pytest.mark.parametrize("batch_size", [0, -1, True, 2.0, "3", None])
def test_bad_batch_sizes(batch_size):
    with pytest.raises(ValueError, match=f"batch_size={batch_size!r} must be a positive integer"):
        DataLoader(IMAGES, batch_size)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ((IMAGES, LABELS[:4]), ValueError, r"shapes \[\(5, 3\), \(4,\)\] differ in length"),
        ({"x": IMAGES, "y": np.array(3)}, ValueError, "array without axes"),
        (np.zeros((0, 3)), ValueError, "0 examples give no batch"),
        ([], ValueError, "0 examples give no batch"),
        ((), ValueError, "no arrays"),
        ({}, ValueError, "no arrays"),
        ((x for x in IMAGES), TypeError, r"generator has no length .*list\(\.\.\.\)"),
        (3, TypeError, "int has no length"),
        ((Tensor(IMAGES, requires_grad=True), LABELS), TypeError, r"detach\(\)"),
    ],
)
def test_bad_data(data, error, message):
    with pytest.raises(error, match=message):
        DataLoader(data, 2)


def test_examples_that_do_not_stack():
    with pytest.raises(ValueError, match=r"shapes \[\(2,\), \(3,\)\] do not stack to a batch; pad or crop"):
        next(iter(DataLoader([np.zeros(3), np.zeros(2)], 2)))
    for examples in ([(1, 2), (1, 2, 3)], [{"x": 1}, {"y": 1}], [{"x": 1}, (1,)], [1, (1,)]):
        with pytest.raises(ValueError, match="examples differ in structure"):
            next(iter(DataLoader(examples, 2)))


def test_repr():
    assert repr(DataLoader(IMAGES, 2, True, 0, True)) == "DataLoader(5 examples, 2 batches of 2, shuffled, drop_last)"


# ---------------------------------------------------------------------------------------------------------------------
# Batches ahead
# ---------------------------------------------------------------------------------------------------------------------


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("DataLoader")]


@settings(max_examples=50)
@given(n=sizes, batch_size=sizes, prefetch=st.integers(1, 4), shuffle=st.booleans())
def test_prefetched_batches_are_the_same(n, batch_size, prefetch, shuffle):
    data = [(i, float(i)) for i in range(n)]
    for examples in (data, np.arange(2 * n).reshape(n, 2)):
        plain, ahead = (DataLoader(examples, batch_size, shuffle, 0, prefetch=p) for p in (0, prefetch))
        for _ in range(2):
            for a, b in zip(plain, ahead, strict=True):
                assert np.array_equal(a, b)
    assert threads() == []


class Watched:
    """Examples that say when they were read, and may refuse."""

    def __init__(self, refused=None):
        self.read, self.refused = [], refused

    def __len__(self):
        return 12

    def __getitem__(self, i):
        if i == self.refused:
            raise OSError(f"example {i} cannot be read")
        self.read.append(i)
        return i


def test_no_more_than_the_prefetched_batches_are_read_ahead():
    data = Watched()
    for taken, _ in enumerate(DataLoader(data, 2, prefetch=2), start=1):
        time.sleep(0.002)
        assert taken * 2 <= len(data.read) <= (taken + 2) * 2
    assert data.read == list(range(12))


def test_an_error_comes_with_the_batch_it_belongs_to():
    batches = iter(DataLoader(Watched(refused=7), 2, prefetch=3))
    assert [next(batches).tolist() for _ in range(3)] == [[0, 1], [2, 3], [4, 5]]
    with pytest.raises(OSError, match="example 7 cannot be read"):
        next(batches)
    assert threads() == []


@pytest.mark.parametrize("how", ["close", "delete", "break", "raise"])
def test_an_abandoned_iteration_leaves_no_thread(how):
    data = Watched()
    if how in ("close", "delete"):
        batches = iter(DataLoader(data, 1, prefetch=3))
        next(batches)
        assert len(threads()) == 1
        if how == "close":
            batches.close()
        del batches
    else:
        with suppress(KeyError):
            for _ in DataLoader(data, 1, prefetch=3):
                if how == "break":
                    break
                raise KeyError
    gc.collect()
    assert threads() == []
    assert len(data.read) <= 5


# ---------------------------------------------------------------------------------------------------------------------
# Going on in the middle
# ---------------------------------------------------------------------------------------------------------------------


@settings(max_examples=100)
@given(
    taken=st.integers(0, 12),
    shuffle=st.booleans(),
    drop_last=st.booleans(),
    prefetch=st.integers(0, 2),
    draws=st.integers(0, 2),
)
def test_another_loader_goes_on_with_the_next_batch(taken, shuffle, drop_last, prefetch, draws):
    """`taken` batches are taken over several epochs; others draw from the generator between them."""

    def loader(seed):
        return DataLoader(np.arange(11), 3, shuffle, seed, drop_last, prefetch)

    def some(loader, count):
        found = []
        while len(found) < count:
            for batch in loader:
                loader.rng.random(draws)
                found.append(batch.tolist())
                if len(found) == count:
                    break
        return found

    whole = loader(5)
    expected = some(whole, taken + 10)
    first, second = loader(5), loader(6)
    start = some(first, taken)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert start + some(second, 10) == expected
    if shuffle or draws:
        assert second.rng.random() == whole.rng.random()


def test_the_position_is_that_of_the_epoch_begun_last():
    loader = DataLoader(np.arange(6), 2)
    assert (loader.state_dict()["start"], loader.state_dict()["given"]) == (None, 0)
    first, second = iter(loader), iter(loader)
    next(first), next(first), next(second)
    assert loader.state_dict()["given"] == 1
    assert len(list(first)) == 1
    assert loader.state_dict()["given"] == 1
    assert len(list(second)) == 2
    assert (loader.state_dict()["start"], loader.state_dict()["given"]) == (None, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"made": {"examples": 7}}, "make it with the same data and options"),
        ({"given": 4}, "4 batches cannot have been given of 3"),
        ({"given": -1}, "-1 batches"),
        ({"given": True}, "True batches"),
        ({"given": "1"}, "'1' batches"),
        ({"rng": {"bit_generator": "MT19937"}}, "PCG64"),
        ({"rng": None}, "does not fit its generator"),
        ({"start": {"bit_generator": "PCG64", "state": {"state": "x"}}}, "does not fit its generator"),
        ({"more": 1}, "no state of a DataLoader"),
    ],
)
def test_states_that_do_not_fit_change_nothing(change, message):
    loader = DataLoader(np.arange(6), 2, True, 0)
    before = loader.state_dict()
    with pytest.raises(ValueError, match=message):
        loader.load_state_dict({**before, **change})
    assert loader.state_dict() == before
    with pytest.raises(ValueError, match="no state of a DataLoader"):
        loader.load_state_dict([])


# ---------------------------------------------------------------------------------------------------------------------
# Tables
# ---------------------------------------------------------------------------------------------------------------------

numbers = st.floats(allow_nan=False, width=32)


@settings(max_examples=100)
@given(
    table=hnp.arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 4)), elements=numbers),
    delimiter=st.sampled_from([",", ";", "\t"]),
    header=st.integers(0, 2),
    mark=st.booleans(),
    quoted=st.booleans(),
    packed=st.booleans(),
)
def test_csv_tables_come_back(folder, table, delimiter, header, mark, quoted, packed):
    lines = [delimiter.join("# name" for _ in table[0])] * header
    lines += [delimiter.join(f'"{x!r}"' if quoted else repr(x) for x in row) for row in table.tolist()]
    text = ("\ufeff" if mark else "") + "\r\n".join(lines)
    path = write(
        folder, gzip.compress(text.encode(), mtime=0) if packed else text.encode(), "table.csv" + ".gz" * packed
    )
    read = read_csv(path, delimiter=delimiter, header=header)
    assert read.dtype == np.float32
    assert read.shape == table.shape
    assert read.tolist() == table.tolist()


def test_csv_columns_missing_fields_and_text(folder):
    path = write(folder, b'1,,x\n , 4.5,"a ""b"", c"\n')
    assert read_csv(path, columns=[1, 0], missing=-1, dtype=np.float64).tolist() == [[-1, 1], [4.5, -1]]
    assert np.isnan(read_csv(path, columns=[0], missing=math.nan)[1, 0])
    assert read_csv(path, columns=[2], dtype=str).tolist() == [["x"], ['a "b", c']]


fields = st.one_of(
    st.integers(-(2**63), 2**63).map(str),
    st.floats(allow_nan=False).map(repr),
    st.sampled_from(["9007199254740993", "1_0", "0x10", "nan", "inf", "True", " 7 ", "٣", "1e3", "x", 'a"b', "a,b"]),
)


def outcome(call):
    """The type and elements of what a call returns, or that it raises."""
    try:
        table = call()
    except ValueError:
        return "ValueError"
    return table.dtype, table.shape, table.tobytes()


@settings(max_examples=200)
@given(
    table=st.integers(1, 3).flatmap(lambda n: st.lists(st.lists(fields, min_size=n, max_size=n), min_size=1)),
    dtype=st.sampled_from([np.int64, np.int8, np.uint64, np.float32, np.float64, bool]),
)
def test_csv_fields_mean_the_same_whether_or_not_some_may_be_missing(folder, table, dtype):
    lines = [",".join('"{}"'.format(field.replace('"', '""')) for field in row) for row in table]
    path = write(folder, "\n".join(lines).encode(), "fields.csv")
    plain = outcome(lambda: read_csv(path, dtype=dtype))
    assert outcome(lambda: read_csv(path, dtype=dtype, missing=1)) == plain


@pytest.mark.parametrize(("missing", "dtype"), [(0.5, np.int64), (math.nan, np.int32), (300, np.uint8), (2, bool)])
def test_csv_fills_only_with_what_the_dtype_holds(folder, missing, dtype):
    path = write(folder, b"1,\n", "gap.csv")
    with pytest.raises(ValueError, match=f"missing={missing!r} is no {np.dtype(dtype)} number"):
        read_csv(path, missing=missing, dtype=dtype)
    assert read_csv(path, missing=missing, dtype=np.float64)[0, 0] == 1


def test_csv_fills_text(folder):
    path = write(folder, b"a,,longer\n", "text.csv")
    assert read_csv(path, missing="unknown", dtype=str).tolist() == [["a", "unknown", "longer"]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,b\n1,2\n", r"could not convert string 'a' to float32 at row 0, column 1.*header=1"),
        (b"1,2\n1,\n", r"could not convert string '' .* at row 1, column 2.*missing="),
        (b"1,2\n1,2,3\n", r"number of columns changed from 2 to 3 at row 2"),
        (b"", "there are no data below 0 lines"),
        (b"\n\n", "there are no data"),
        (b"1,2\n\xff,3\n", "can't decode byte 0xff"),
        (b"\0\1\2", "could not convert"),
    ],
)
def test_csv_files_that_are_no_tables(folder, content, message):
    path = write(folder, content)
    with pytest.raises(ValueError, match=f"(?s){message}") as caught:
        read_csv(path)
    assert str(caught.value).startswith(str(path))


def test_csv_damaged_gzip_and_wrong_columns(folder):
    path = write(folder, gzip.compress(b"1,2\n" * 100, mtime=0)[:-9], "cut.csv.gz")
    with pytest.raises(ValueError, match=r"cut\.csv\.gz: "):
        read_csv(path)
    with pytest.raises(ValueError, match="column"):
        read_csv(write(folder, b"1,2\n"), columns=[2])


NPZ = {"a": np.arange(6.0).reshape(2, 3), "b": np.array(7), "none": np.zeros((0, 2), np.uint8)}


@pytest.mark.parametrize("write_npz", [np.savez, np.savez_compressed])
def test_npz_arrays_come_back(tmp_path, write_npz):
    write_npz(tmp_path / "x.npz", **NPZ)
    read = read_npz(tmp_path / "x.npz")
    assert {name: (a.dtype, a.tolist()) for name, a in read.items()} == {
        name: (a.dtype, a.tolist()) for name, a in NPZ.items()
    }


def test_npz_runs_no_code(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "it ran",))

    np.savez(tmp_path / "x.npz", a=np.array([Hostile()], object))
    with pytest.raises(ValueError, match=r"x\.npz cannot be read as \.npz .*allow_pickle=False"):
        read_npz(tmp_path / "x.npz")
    (tmp_path / "y.npz").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(ValueError, match=r"y\.npz cannot be read"):
        read_npz(tmp_path / "y.npz")
    np.save(tmp_path / "z.npy", np.arange(3))
    with pytest.raises(ValueError, match=r"one array without a name.*np\.load"):
        read_npz(tmp_path / "z.npy")
    assert not (tmp_path / "it ran").exists()


def npy(descr, shape, data=b""):
    """The bytes of an .npy file whose header says what it likes."""
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("notes.txt", b"not an array", "its member 'notes.txt' is no array"),
        ("empty.npy", b"", "is no array"),
        ("wide.npy", npy("<U0", (10**15,)), "announces 0 bytes of <U0"),  # no bytes at all, and hours to read
        ("void.npy", npy("|V0", (10**15,)), "announces 0 bytes"),
        ("long.npy", npy("<f8", (10**15,), bytes(16)), "announces 8000000000000000 bytes .* but holds 16"),
        ("short.npy", npy("<f8", (1,), bytes(16)), "announces 8 bytes .* but holds 16"),
    ],
)
def test_npz_members_that_are_not_what_they_say(tmp_path, name, content, message):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("sound.npy", npy("<f8", (2,), bytes(16)))
        archive.writestr(name, content)
    with pytest.raises(ValueError, match=rf"(?s)x\.npz cannot be read as \.npz .*{message}"):
        read_npz(tmp_path / "x.npz")


@settings(max_examples=300)
@given(data=st.data(), compressed=st.booleans())
def test_damaged_npz_files_are_refused_or_read(folder, data, compressed):
    path = Path(folder, "damaged.npz")
    (np.savez_compressed if compressed else np.savez)(path, **NPZ)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content)))
        content[at : at + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    path.write_bytes(content)
    read = {}
    with suppress(ValueError):  # any other error fails the test
        read = read_npz(path)
    assert all(type(array) is np.ndarray for array in read.values())


@pytest.mark.parametrize("reader", [read_csv, read_npz])
def test_tables_that_are_not_there(tmp_path, reader):
    with pytest.raises(FileNotFoundError, match="nothing-here does not exist"):
        reader(tmp_path / "nothing-here")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        reader("http://localhost/table")  # and no attempt to fetch it
    with pytest.raises(IsADirectoryError, match="is a folder"):
        reader(tmp_path)


# ---------------------------------------------------------------------------------------------------------------------
# Training and test examples
# ---------------------------------------------------------------------------------------------------------------------


@settings(max_examples=100)
@given(n=st.integers(2, 40), size=st.one_of(st.floats(0.01, 0.99), st.integers(1, 39)), seed=st.integers(0, 9))
def test_a_split_has_every_example_once(n, size, seed):
    tests = math.ceil(n * size) if isinstance(size, float) else size
    x, y = np.arange(2 * n).reshape(n, 2), [str(i) for i in range(n)]
    if tests >= n:
        with pytest.raises(ValueError, match="leaves one part empty"):
            train_test_split(x, y, test_size=size, rng=seed)
        return
    x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=size, rng=seed)
    assert (len(x_train), len(x_test)) == (n - tests, tests)
    assert sorted([*y_train.tolist(), *y_test.tolist()], key=int) == y
    for a, b in ((x_train, y_train), (x_test, y_test)):
        assert (a[:, 1] - 1).tolist() == [2 * int(i) for i in b]
    again = train_test_split(x, test_size=size, rng=np.random.default_rng(seed))
    assert np.array_equal(again[0], x_train)
    assert np.array_equal(again[1], x_test)


@settings(max_examples=100)
@given(counts=st.lists(st.integers(2, 30), min_size=1, max_size=4), size=st.floats(0.1, 0.9), seed=st.integers(0, 9))
def test_a_stratified_split_keeps_the_proportions(counts, size, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    n, tests = len(labels), math.ceil(len(labels) * size)
    if tests >= n or min(tests, n - tests) < len(counts):
        with pytest.raises(ValueError, match=r"leaves one part empty|cannot be spread"):
            train_test_split(labels, test_size=size, rng=seed, stratify=labels)
        return
    x = np.arange(n)
    train, test, x_train, x_test = train_test_split(labels, x, test_size=size, rng=seed, stratify=labels)
    assert len(test) == tests
    assert sorted([*x_train, *x_test]) == x.tolist()
    assert np.array_equal(labels[x_test], test)
    assert np.array_equal(labels[x_train], train)
    for i, count in enumerate(counts):
        assert abs(np.count_nonzero(test == i) - count * tests / n) < 1


def test_a_split_is_drawn_at_random_within_each_label():
    labels = np.repeat([0, 1], 50)
    drawn = [train_test_split(np.arange(100), rng=seed, stratify=labels)[1] for seed in range(20)]
    assert len({tuple(sorted(test)) for test in drawn}) == 20
    assert any(np.any(np.diff(labels[test]) < 0) for test in drawn)  # the labels are mixed, not one after another


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ((), {}, "give at least one"),
        ((np.zeros(3), np.zeros(4)), {}, r"shapes \[\(3,\), \(4,\)\]"),
        ((np.array(3),), {}, "give at least one"),
        ((np.zeros(4),), {"stratify": np.zeros(3)}, r"shapes \[\(4,\), \(3,\)\]"),
        ((np.zeros(4),), {"stratify": np.zeros((4, 1))}, "one label per example"),
        ((np.zeros(4),), {"stratify": np.array([0, 0, 0, 1])}, r"the rarest \(1\) on 1 of 4 examples"),
        ((np.zeros(4),), {"test_size": 0.0}, "leaves one part empty"),
        ((np.zeros(4),), {"test_size": 1.0}, "leaves one part empty"),
        ((np.zeros(4),), {"test_size": True}, "leaves one part empty"),
        ((np.zeros(4),), {"test_size": -1}, "leaves one part empty"),
        ((np.zeros(1),), {}, "leaves one part empty"),
    ],
)
def test_splits_that_cannot_be(arrays, options, message):
    with pytest.raises(ValueError, match=message):
        train_test_split(*arrays, rng=0, **options)
