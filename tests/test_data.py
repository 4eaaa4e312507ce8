"""Reading IDX files, whole and damaged, and batches from arrays, structures of arrays and sequences."""

from __future__ import annotations

import gzip
import hashlib
import re
import struct
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tinygrad_mm.data import DataLoader, read_idx, read_idx_folder
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
    read = read_idx(write(folder, gzip.compress(data) if compressed else data))
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


@pytest.mark.parametrize("data", [SAMPLE, gzip.compress(SAMPLE)], ids=["plain", "gzip"])
def test_truncated_at_every_byte(folder, data):
    for length in range(len(data)):
        path = write(folder, data[:length])
        with pytest.raises(ValueError, match=rf"(?s){re.escape(str(path))}.*Fetch the file again"):
            read_idx(path)


@settings(max_examples=300)
@given(at=st.integers(0, len(gzip.compress(SAMPLE)) - 1), bits=st.integers(1, 255))
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
        (gzip.compress(SAMPLE) + gzip.compress(b"x"), "goes on after the 24 bytes"),
        (gzip.compress(SAMPLE) + b"x", "gzip stream is damaged"),
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
