"""The Jacobian of one operation: by finite differences of that operation alone, and as a picture read back as XML."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_mm as tg
from tinygrad_mm.explorer import JacobianPicture

SVG = "{http://www.w3.org/2000/svg}"


def differences(f: Any, arrays: list[np.ndarray], place: int) -> np.ndarray:
    """Central differences of every element of f by every element of one argument."""
    x = arrays[place]
    columns = []
    for index in np.ndindex(x.shape):
        h = np.zeros_like(x)
        h[index] = 1e-6
        up, down = ([*arrays[:place], x + s * h, *arrays[place + 1 :]] for s in (1, -1))
        columns.append((np.asarray(f(*up)) - np.asarray(f(*down))) / 2e-6)
    y = np.asarray(f(*arrays))
    return np.stack(columns, axis=-1).reshape(y.shape + x.shape) if columns else np.zeros(y.shape + x.shape)


CASES = {
    "multiply": (np.multiply, [(2, 3), (3,)]),
    "broadcast add": (np.add, [(2, 1), (3,)]),
    "matmul": (np.matmul, [(2, 3), (3, 2)]),
    "stack of matmuls": (np.matmul, [(2, 2, 3), (3, 2)]),
    "sum": (lambda x: np.sum(x, axis=0), [(2, 3)]),
    "number": (np.sin, [()]),
    "softmax": (tg.softmax, [(2, 3)]),
    "transpose": (np.transpose, [(2, 3)]),
    "index": (lambda x: x[1, [0, 0, 2]], [(2, 3)]),
    "concatenate": (lambda a, b: np.concatenate([a, b]), [(2,), (3,)]),
    "einsum": (lambda a, b: np.einsum("ij,kj->ik", a, b), [(2, 3), (2, 3)]),
    "empty": (np.exp, [(0, 2)]),
}


@pytest.mark.parametrize("name", CASES)
@given(seed=st.integers(0, 2**32 - 1))
def test_every_argument_against_finite_differences(name, seed):
    f, shapes = CASES[name]
    arrays = [np.random.default_rng(seed).uniform(0.5, 2, shape) for shape in shapes]
    inputs = [tg.Tensor(a, requires_grad=True) for a in arrays]
    y = f(*inputs)
    for i, x in enumerate(inputs):
        expected = differences(f, arrays, i)
        by_tensor = tg.local_jacobian(y, x)
        assert by_tensor.shape == y.shape + x.shape
        np.testing.assert_allclose(by_tensor, expected, rtol=1e-6, atol=1e-8)
        if name != "index":
            np.testing.assert_array_equal(tg.local_jacobian(y, i), by_tensor)


def test_it_is_local_and_touches_nothing():
    x = tg.Tensor(np.array([0.5, 1.0]), requires_grad=True)
    h = np.exp(x * 5)
    y = np.sum(h * x)
    product = y.node.args[0]
    np.testing.assert_array_equal(tg.local_jacobian(product, h), np.diag(x.data))
    np.testing.assert_array_equal(tg.local_jacobian(product, x), np.diag(h.data))  # not by way of h
    assert x.grad is None
    y.backward()
    assert x.grad is not None


def test_an_argument_that_stands_twice_counts_twice():
    x = tg.Tensor(np.array([2.0, 3.0]), requires_grad=True)
    np.testing.assert_array_equal(tg.local_jacobian(x * x, x), np.diag([4.0, 6.0]))
    np.testing.assert_array_equal(tg.local_jacobian(x * x, 1), np.diag([2.0, 3.0]))


def test_one_of_several_results():
    a = np.array([[2.0, 1.0], [0.5, 3.0]])
    x = tg.Tensor(a, requires_grad=True)
    q, r = np.linalg.qr(x)
    np.testing.assert_allclose(tg.local_jacobian(q, x), differences(lambda a: np.linalg.qr(a)[0], [a], 0), atol=1e-7)
    np.testing.assert_allclose(tg.local_jacobian(r), differences(lambda a: np.linalg.qr(a)[1], [a], 0), atol=1e-7)


def test_constants_dtypes_and_stopped_gradients():
    x = tg.Tensor([1.0, 2.0], requires_grad=True)
    c = np.array([3.0, 4.0], np.float32)
    y = x * c
    np.testing.assert_array_equal(tg.local_jacobian(y, 1), np.diag([1.0, 2.0]))  # the constant's own
    assert tg.local_jacobian(y).dtype == np.float32
    np.testing.assert_array_equal(tg.local_jacobian(np.sign(x)), np.zeros((2, 2)))
    np.testing.assert_array_equal(tg.local_jacobian(x > 1, x), np.zeros((2, 2)))


def test_mistakes_raise():
    x, other = (tg.Tensor([1.0, 2.0], requires_grad=True) for _ in range(2))
    y = np.exp(x)
    with pytest.raises(TypeError, match="ndarray"):
        tg.local_jacobian(np.ones(2))  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="it is a leaf"):
        tg.local_jacobian(x)
    with pytest.raises(ValueError, match="no argument of this exp"):
        tg.local_jacobian(y, other)
    with pytest.raises(IndexError, match=r"argument=1 of exp is no array; its arrays are at \[0\]"):
        tg.local_jacobian(y, 1)
    with pytest.raises(TypeError, match="int64"):
        tg.local_jacobian(x * np.array([1, 2]), 1)
    big = tg.Tensor(np.ones(10_000, np.float32), requires_grad=True)
    with pytest.raises(ValueError, match="100,000,000 elements"):
        tg.local_jacobian(np.exp(big))
    np.sum(y).backward()
    with pytest.raises(RuntimeError, match="retain_graph=True"):
        tg.local_jacobian(y)


# ---------------------------------------------------------------------------------------------------------------------
# The picture
# ---------------------------------------------------------------------------------------------------------------------


def words(picture: JacobianPicture) -> list[str]:
    return [text.text or "" for text in ET.fromstring(picture._repr_svg_()).iter(f"{SVG}text")]


def cells(picture: JacobianPicture) -> list[str]:
    """The colours of the squares with a border, row by row."""
    return re.findall(r'border="1" color="#e4e7eb" bgcolor="(#\w+)"', picture.source)


def test_the_picture_shows_numbers_names_and_colours():
    x = tg.Tensor(np.array([1.0, -0.5]), requires_grad=True)
    y = x * x
    picture = tg.draw_jacobian(y, x)
    np.testing.assert_array_equal(picture.array, np.diag([2.0, -1.0]))
    shown = words(picture)
    assert "∂y / ∂x" in shown
    assert [word for word in shown if word in ("2", "-1", "0")].count("0") >= 2
    assert {"2", "-1", "-2"} <= set(shown)  # the numbers, and the ends of the scale
    assert cells(picture) == ["#d55e00", "#ffffff", "#ffffff", "#80b8d8"]
    assert repr(picture) == '<JacobianPicture of 2 x 2: save("jacobian.svg") writes it, .array is the Jacobian>'


def test_a_large_jacobian_shows_the_largest_of_each_block():
    x = tg.Tensor(np.linspace(-1, 1, 200), requires_grad=True)
    y = x * -np.arange(200.0)
    y.name = "scaled"
    picture = tg.draw_jacobian(y)
    shown = cells(picture)
    assert len(shown) == 50 * 50
    diagonal = shown[:: 50 + 1]
    assert len(diagonal) == 50
    assert diagonal[-1] == "#0072b2"
    assert set(shown) - set(diagonal) == {"#ffffff"}
    greens = [int(colour[3:5], 16) for colour in diagonal]
    assert greens == sorted(greens, reverse=True)
    text = " ".join(words(picture))
    assert "a square is 4 x 4 elements" in text
    assert "scaled" in text


def test_what_is_not_finite_is_black():
    x = tg.Tensor(np.array([0.0, 1.0]), requires_grad=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        picture = tg.draw_jacobian(np.log(x), x)
    assert cells(picture)[0] == "#000000"
    assert "not finite" in words(picture)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 3, 2)])
def test_every_shape_has_a_picture(shape):
    x = tg.Tensor(np.ones(shape), requires_grad=True)
    assert words(tg.draw_jacobian(np.exp(x)))
    assert words(tg.draw_jacobian(np.sum(x)))


@given(st.text(max_size=20))
def test_any_name_is_escaped(name):
    x = tg.Tensor(1.0, requires_grad=True)
    x.name = name + '<b>"&\\N</b>'
    picture = tg.draw_jacobian(np.exp(x))
    assert "<b>&quot;" not in picture.source
    ET.fromstring(picture._repr_svg_())


def test_it_is_saved_in_every_form(tmp_path):
    x = tg.Tensor(np.array([1.0, 2.0]), requires_grad=True)
    picture = tg.draw_jacobian(x * 3)
    assert picture.save(tmp_path / "j.svg").read_bytes().lstrip().startswith(b"<?xml")
    assert picture.save(str(tmp_path / "j.png")).read_bytes().startswith(b"\x89PNG")
    assert picture.save(tmp_path / "j.dot").read_text("utf-8") == picture.source
    with pytest.raises(ValueError, match=r"\.svg, \.png, \.pdf, \.dot"):
        picture.save(tmp_path / "j.gif")
