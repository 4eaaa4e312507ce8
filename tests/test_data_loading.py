"""What happens to examples on their way into a batch: samplers, collating, transforms, workers; random images."""

from __future__ import annotations

import gc
import json
import threading
from concurrent import futures

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_mm as tg
from tinygrad_mm.data import DataLoader, StratifiedSampler, SubsetSampler, WeightedSampler, augment

# ---------------------------------------------------------------------------------------------------------------------
# Samplers
# ---------------------------------------------------------------------------------------------------------------------


def epoch(loader):
    return np.concatenate(list(loader)).tolist()


def test_weights_are_how_often_an_example_comes():
    weights = np.array([0.0, 1.0, 2.0, 5.0])
    counts = np.bincount(WeightedSampler(weights, 40_000)(np.random.default_rng(0)), minlength=4)
    assert counts[0] == 0
    assert np.abs(counts / 40_000 - weights / 8).max() < 0.01  # four standard deviations


def test_without_replacement_no_example_comes_twice():
    order = WeightedSampler([1.0, 0.0, 3.0, 2.0], 3, replacement=False)(np.random.default_rng(0))
    assert sorted(order.tolist()) == [0, 2, 3]


@settings(max_examples=30)
@given(counts=st.lists(st.integers(1, 30), min_size=1, max_size=4), seed=st.integers(0, 9))
def test_labels_are_spread_evenly(counts, seed):
    """In every prefix of the epoch each label has its share, but for less than one example at either end."""
    labels = np.repeat(np.arange(len(counts)), counts)
    order = StratifiedSampler(labels)(np.random.default_rng(seed))
    assert sorted(order.tolist()) == list(range(len(labels)))
    places = np.arange(1, len(order) + 1)
    for label, count in enumerate(counts):
        seen = np.cumsum(labels[order] == label)
        assert np.abs(seen - places * count / len(order)).max() <= 1 + len(counts)


def test_an_epoch_is_as_long_as_its_sampler():
    loader = DataLoader(np.arange(10), 4, sampler=SubsetSampler([1, 5, 7, 8, 9]), rng=0)
    assert len(loader) == 2
    assert [len(batch) for batch in loader] == [4, 1]
    first, second = epoch(loader), epoch(loader)
    assert sorted(first) == sorted(second) == [1, 5, 7, 8, 9]
    assert len({tuple(epoch(loader)) for _ in range(5)}) > 1


def test_a_function_is_a_sampler():
    assert epoch(DataLoader(np.arange(4), 3, sampler=lambda rng: [3, 0, 2, 1])) == [3, 0, 2, 1]
    with pytest.raises(ValueError, match=r"gave an array of shape \(3,\).*not 4 indices"):
        epoch(DataLoader(np.arange(4), 3, sampler=lambda rng: [3, 0, 2]))
    for bad in ([0, 1, 2, 4], [-1, 0, 1, 2]):
        with pytest.raises(IndexError, match="4 examples"):
            epoch(DataLoader(np.arange(4), 3, sampler=lambda rng, bad=bad: bad))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: WeightedSampler([0.0, 0.0]), ValueError, "2 examples cannot be drawn from 0"),
        (lambda: WeightedSampler([1.0, -1.0]), ValueError, "0 or more"),
        (lambda: WeightedSampler([1.0, np.nan]), ValueError, "finite"),
        (lambda: WeightedSampler([1.0, 0.0], 2, replacement=False), ValueError, "from 1 of positive weight without"),
        (lambda: SubsetSampler([True, False]), ValueError, "np.flatnonzero"),
        (lambda: SubsetSampler([]), ValueError, "list of integers"),
        (lambda: StratifiedSampler(np.zeros((2, 2))), ValueError, "one for each example"),
        (lambda: DataLoader([1], 1, True, sampler=SubsetSampler([0])), ValueError, "and so does shuffle="),
        (lambda: DataLoader([[1]], 1, buckets=1, sampler=SubsetSampler([0])), ValueError, "and so does buckets="),
        (lambda: DataLoader([[1]], 1, buckets=1, collate=list), ValueError, "collate="),
        (lambda: DataLoader([1], 1, sampler=[0]), TypeError, r"SubsetSampler\(indices\)"),
        (lambda: DataLoader([1], 1, transform=3), TypeError, "transform= takes a function, not a int"),
        (lambda: DataLoader([1], 1, workers=0), ValueError, "workers=0 must be a positive number"),
        (lambda: DataLoader([1], 1, workers=True), ValueError, "workers=True"),
    ],
)
def test_options_that_cannot_be(make, error, message):
    with pytest.raises(error, match=message):
        make()


# ---------------------------------------------------------------------------------------------------------------------
# Transforms, collating, workers
# ---------------------------------------------------------------------------------------------------------------------


def noisy(batch, rng):
    return batch + rng.standard_normal(batch.shape)


def test_examples_are_collated():
    def longest(examples):
        return max(map(len, examples))

    assert list(DataLoader(["a", "bcd", "ef"], 2, collate=longest)) == [3, 2]

    def pairs(examples):
        return [(int(x), int(y)) for x, y in examples]

    columns = np.arange(3), np.arange(3) * 10
    assert list(DataLoader(columns, 2, collate=pairs)) == [[(0, 0), (1, 10)], [(2, 20)]]


def test_each_batch_of_each_epoch_has_numbers_of_its_own():
    loader = DataLoader(np.zeros((4, 1)), 2, transform=noisy, rng=0)
    found = [x for _ in range(2) for batch in loader for x in batch.ravel().tolist()]
    assert len(set(found)) == 8
    again = DataLoader(np.zeros((4, 1)), 2, transform=noisy, rng=0)
    assert [x for _ in range(2) for batch in again for x in batch.ravel().tolist()] == found


def test_without_a_transform_nothing_more_is_drawn():
    order = np.random.default_rng(3).permutation(7)
    assert epoch(DataLoader(np.arange(7), 2, True, 3)) == order.tolist()


@pytest.mark.parametrize("kind", ["one", "threads", "executor"])
@pytest.mark.parametrize("listed", [False, True])
def test_whoever_makes_a_batch_it_is_the_same(kind, listed):
    data = [np.full(2, float(i)) for i in range(11)] if listed else np.arange(22.0).reshape(11, 2)
    options = {"batch_size": 3, "transform": noisy, "rng": 5, "sampler": WeightedSampler(np.arange(11) + 1)}
    plain = DataLoader(data, **options)
    expected = [batch for _ in range(2) for batch in plain]
    with futures.ThreadPoolExecutor(2) as executor:
        workers = {"one": 1, "threads": 3, "executor": executor}[kind]
        ours = DataLoader(data, **options, prefetch=2, workers=workers)
        found = [batch for _ in range(2) for batch in ours]
        assert executor.submit(int, 3).result() == 3  # it is left as it was
    np.testing.assert_array_equal(np.concatenate(found), np.concatenate(expected))


def test_processes_make_the_same_batches():
    loky = pytest.importorskip("joblib.externals.loky")
    data = np.arange(8.0).reshape(8, 1)
    expected = list(DataLoader(data, 2, True, 1, transform=noisy))
    with loky.ProcessPoolExecutor(1) as executor:
        found = list(DataLoader(data, 2, True, 1, transform=noisy, workers=executor, prefetch=2))
    np.testing.assert_array_equal(np.stack(found), np.stack(expected))


@settings(max_examples=30)
@given(taken=st.integers(0, 9), workers=st.integers(1, 2), drawn=st.integers(0, 2))
def test_a_resumed_run_gets_the_batches_it_would_have_got(taken, workers, drawn):
    def loader(seed):
        sampler = WeightedSampler(np.arange(7) + 1)
        return DataLoader(np.arange(7.0), 2, sampler=sampler, transform=noisy, rng=seed, workers=workers)

    def some(loader, count):
        found = []
        while len(found) < count:
            for batch in loader:
                loader.rng.random(drawn)
                found.append(batch.tolist())
                if len(found) == count:
                    break
        return found

    expected = some(loader(5), taken + 6)
    first, second = loader(5), loader(6)
    start = some(first, taken)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert start + some(second, 6) == expected


def test_a_state_of_a_loader_without_a_transform_does_not_fit():
    with pytest.raises(ValueError, match="make it with the same data and options"):
        DataLoader(np.arange(4), 2, transform=noisy).load_state_dict(DataLoader(np.arange(4), 2).state_dict())


def test_an_error_comes_with_its_batch_and_no_thread_stays():
    def refused(batch, rng):
        if batch[0] == 4:
            raise OSError("no")
        return batch

    batches = iter(DataLoader(np.arange(8), 2, transform=refused, workers=3))
    assert [next(batches).tolist() for _ in range(2)] == [[0, 1], [2, 3]]
    with pytest.raises(OSError, match="no"):
        next(batches)
    gc.collect()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("DataLoader")]


def test_fit_trains_on_augmented_batches():
    def shifted(batch, rng):
        return augment.shift(batch["x"], rng, most=1), batch["y"]

    images = np.random.default_rng(0).random((12, 1, 4, 4), np.float32)
    loader = DataLoader(
        {"x": images, "y": np.arange(12) % 2}, 4, sampler=StratifiedSampler(np.arange(12) % 2), transform=shifted, rng=0
    )
    model = tg.nn.Sequential(tg.nn.Flatten(), tg.nn.Dense(16, 2, rng=0))
    history = tg.fit(
        model, loader, tg.cross_entropy, tg.optim.SGD(model.parameters(), 0.1), epochs=2, progress=False, compile=False
    )
    assert len(history["loss"]) == 2


# ---------------------------------------------------------------------------------------------------------------------
# Random images
# ---------------------------------------------------------------------------------------------------------------------

IMAGES = np.random.default_rng(1).random((5, 2, 6, 7))
CHANGES = {
    "shift": lambda x, rng: augment.shift(x, rng, 2),
    "flip": augment.flip,
    "rotate": lambda x, rng: augment.rotate(x, rng, 30),
    "crop": lambda x, rng: augment.crop(x, rng, (5, 6), padding=1),
    "noise": augment.noise,
}
every_change = pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)


@every_change
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_seed_repeats_images_and_leaves_the_given_ones(change, dtype):
    images = IMAGES.astype(dtype)
    before = images.copy()
    first, second, other = change(images, 3), change(images, np.random.default_rng(3)), change(images, 4)
    assert np.array_equal(images, before)
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)
    assert first.dtype == dtype
    assert not np.shares_memory(first, images)


@every_change
def test_all_channels_of_an_image_change_alike_and_each_image_by_itself(change):
    twice = np.repeat(IMAGES[:1, :1], 2, axis=1).repeat(40, axis=0)
    changed = change(twice, 0)
    if change is not augment.noise:
        assert np.array_equal(changed[:, 0], changed[:, 1])
    assert len({image.tobytes() for image in changed}) > 1
    if change is not augment.noise:  # without an axis of channels, with two of them
        assert np.array_equal(change(twice[:, 0], 0), changed[:, 0])
        assert np.array_equal(change(twice[:, :, None], 0), changed[:, :, None])


def test_shifts_are_all_equally_likely_and_exact():
    image = np.arange(1, 10).reshape(1, 3, 3)
    changed = augment.shift(image.repeat(2000, 0), 0, most=1, fill=-1)
    kinds, counts = np.unique(changed.reshape(2000, -1), axis=0, return_counts=True)
    expected = set()
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            moved = np.full((5, 5), -1)
            moved[1 + down : 4 + down, 1 + right : 4 + right] = image[0]
            expected.add(tuple(moved[1:4, 1:4].ravel().tolist()))
    assert set(map(tuple, kinds.tolist())) == expected
    assert np.abs(counts - 2000 / 9).max() < 4.5 * np.sqrt(2000 / 9)


def test_crops_are_windows_of_the_padded_image():
    image = np.arange(12).reshape(1, 3, 4)
    changed = augment.crop(image.repeat(500, 0), 0, (2, 3), padding=1, fill=-1)
    padded = np.pad(image[0], 1, constant_values=-1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2, 3)).reshape(-1, 6)
    assert set(map(tuple, changed.reshape(500, -1).tolist())) == set(map(tuple, windows.tolist()))


def test_flips_happen_as_often_as_they_should():
    changed = augment.flip(IMAGES[:1].repeat(2000, 0), 0, axis=-2, probability=0.25)
    flipped = (changed == np.flip(IMAGES[:1], -2)).all(axis=(1, 2, 3))
    assert ((changed == IMAGES[:1]).all(axis=(1, 2, 3)) == ~flipped).all()
    assert abs(flipped.mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 2000)


def test_rotations_are_those_of_scipy():
    ndimage = pytest.importorskip("scipy.ndimage")
    angles = np.random.default_rng(7).uniform(-40, 40, len(IMAGES))
    changed = augment.rotate(IMAGES, 7, degrees=40, fill=0.5)
    for image, angle, ours in zip(IMAGES, angles, changed, strict=True):
        turned = ndimage.rotate(image, angle, (2, 1), reshape=False, order=1, mode="grid-constant", cval=0.5)
        np.testing.assert_allclose(ours, turned, atol=1e-12)


def test_a_quarter_turn_moves_every_pixel_to_its_place(monkeypatch):
    class Quarter(np.random.Generator):
        def uniform(self, *arguments):
            return np.full(arguments[-1], 90.0)

    image = np.arange(16, dtype=np.uint8).reshape(1, 4, 4)
    turned = augment.rotate(image, Quarter(np.random.PCG64(0)), 90)
    assert np.array_equal(turned, np.rot90(image, axes=(1, 2)))
    assert turned.dtype == np.uint8


def test_noise_has_the_standard_deviation_asked_for():
    drawn = augment.noise(np.zeros((100, 10, 10), np.float32), 0, 0.3)
    assert abs(drawn.std() - 0.3) < 0.01
    assert abs(drawn.mean()) < 0.015


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: augment.shift(np.zeros((2, 2)), 0), ValueError, "no batch of images"),
        (lambda: augment.shift(IMAGES, 0, -1), ValueError, "most=-1 must be an integer, 0 or more"),
        (lambda: augment.shift(IMAGES, 0, 1.5), ValueError, "most=1.5"),
        (lambda: augment.crop(IMAGES, 0, 8), ValueError, "no window of images"),
        (lambda: augment.crop(IMAGES, 0, 0), ValueError, "no window of images"),
        (lambda: augment.crop(IMAGES, 0, 3, padding=-1), ValueError, "padding=-1"),
        (lambda: augment.flip(IMAGES, 0, axis=1), ValueError, "axis=1 is none of the last two"),
        (lambda: augment.flip(IMAGES, 0, axis=-5), ValueError, "axis=-5"),
        (lambda: augment.flip(IMAGES, 0, probability=1.5), ValueError, "not between 0 and 1"),
        (lambda: augment.noise(np.zeros((2, 2, 2), np.uint8), 0), TypeError, "divide them first"),
    ],
)
def test_images_that_cannot_be_changed_so(call, error, message):
    with pytest.raises(error, match=message):
        call()
