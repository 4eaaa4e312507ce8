"""Weights that other libraries have written: bfloat16 in safetensors files, and PyTorch's own files."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_mm as tg


def file_of(path, dtype, shape, content):
    header = json.dumps({"x": {"dtype": dtype, "shape": shape, "data_offsets": [0, len(content)]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + content)
    return path


@given(st.lists(st.integers(0, 2**16 - 1), min_size=1, max_size=20))
def test_a_bfloat16_is_a_float32_without_the_last_sixteen_bits(tmp_path_factory, bits):
    path = file_of(tmp_path_factory.mktemp("weights") / "x", "BF16", [len(bits)], np.array(bits, "<u2").tobytes())
    found = tg.load(path)["x"]
    assert found.dtype == np.float32
    assert (found.view(np.uint32) == np.array(bits, np.uint32) << 16).all()


def test_numbers_of_bfloat16(tmp_path):
    bits = np.array([[0x3F80, 0xC000], [0x7F80, 0x0001]], "<u2")  # 1, -2, infinity, the smallest number
    found = tg.load(file_of(tmp_path / "x", "BF16", [2, 2], bits.tobytes()))["x"]
    assert found.tolist() == [[1.0, -2.0], [np.inf, 2.0**-133]]
    assert found.flags.writeable


def test_pytorch_writes_the_same_bfloat16(tmp_path):
    torch = pytest.importorskip("torch")
    save_file = pytest.importorskip("safetensors.torch").save_file
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    save_file({"x": x.to(torch.bfloat16)}, tmp_path / "x.safetensors")
    found = tg.load(tmp_path / "x.safetensors")["x"]
    assert np.array_equal(found, x.to(torch.bfloat16).to(torch.float32).numpy())


CONVERT = r"torch\.save.*safetensors\.torch\.save_file\(torch\.load\(.*weights_only=True\), '.*model\.safetensors'\)"


def test_a_file_of_pytorchs_says_how_to_convert_it(tmp_path):
    torch = pytest.importorskip("torch")
    for zipped in (True, False):
        torch.save({"x": torch.ones(2)}, tmp_path / "model.pt", _use_new_zipfile_serialization=zipped)
        with pytest.raises(tg.weights.WeightsError, match=CONVERT):
            tg.load(tmp_path / "model.pt")


def test_a_pickle_is_never_opened(tmp_path):
    (tmp_path / "model.pt").write_bytes(pickle.dumps({"x": np.ones(2)}))
    with pytest.raises(tg.weights.WeightsError, match=CONVERT):
        tg.load(tmp_path / "model.pt")


def test_other_archives_are_no_pickles(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.ones(2))
    with pytest.raises(tg.weights.WeightsError, match="no whole safetensors file"):
        tg.load(tmp_path / "x.npz")
