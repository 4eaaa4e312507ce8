"""Every rule, every property: one table of operations (`table/`) drives all the tests of this file.

For each row: the forward value is NumPy's; gradients agree with numeric differentiation, of first and second order,
for each argument alone and all together; broadcast arguments get gradients of their own shape; float32 stays float32 in
every step, also beside Python numbers and NumPy scalars; 0-d, empty and non-contiguous arguments are what NumPy makes
of them, its exceptions included.
"""

from __future__ import annotations

import inspect
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import strategies as my
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import first_derivative, floating, is_of_the_library, leaves, projected, second_derivative, units_apart
from table import ROWS
from table.row import Row

import tinygrad_mm as tg
from tinygrad_mm.graph import RULES, Monitor, entered, name_of, select

RULED = [
    fun for fun, rule in RULES.items() if (rule.each or rule.composite or any(rule.vjps)) and is_of_the_library(fun)
]

every_row = pytest.mark.parametrize("row", ROWS, ids=repr)


class Watch(Monitor):
    """A monitor of the engine that keeps count of which rules ran, and the dtypes of all they made."""

    def __init__(self) -> None:
        self.forward: Counter[Any] = Counter()
        self.backward: Counter[Any] = Counter()
        self.wrong: list[str] = []

    def result(self, tensor: Any, fun: Any, args: Any, kwargs: Any) -> None:
        self.forward[fun] += 1
        for value in tensor.value if isinstance(tensor.value, tuple) else [tensor.value]:
            if value.dtype == np.float64:
                self.wrong.append(f"the forward value of {name_of(fun)}")

    def contribution(self, vertex: Any, i: int, c: Any) -> None:
        self.backward[vertex.node.fun, i] += 1
        argument = vertex.node.args[i].value
        if not isinstance(argument, tuple) and c.dtype != argument.dtype:  # a selection has a tuple as its argument
            self.wrong.append(f"the gradient of {name_of(vertex.node.fun)} for argument {i}: {c.dtype}")


@contextmanager
def expansion_counted(fun: Any) -> Any:
    """Count how often the expression of a composite is used."""
    rule, used = RULES[fun], []
    expression = rule.composite

    def counted(*args: Any, **kwargs: Any) -> Any:
        used.append(1)
        assert expression is not None
        return expression(*args, **kwargs)

    if expression is not None:
        rule.composite = counted
    try:
        yield used
    finally:
        rule.composite = expression


def tensors(arrays: list[np.ndarray]) -> list[tg.Tensor]:
    return [tg.Tensor(a, requires_grad=True) for a in arrays]


def assert_same(ours: Any, expected: Any, ulps: int = 0, size: float = 0.0) -> None:
    """The same structure, Tensors in place of arrays, of the same dtype, shape and value: bit for bit if ulps is 0."""
    if isinstance(expected, (tuple, list)):
        assert type(ours) is type(expected)
        assert len(ours) == len(expected)
        for one, other in zip(ours, expected, strict=True):
            assert_same(one, other, ulps, size)
        return
    assert isinstance(ours, tg.Tensor), f"{type(ours)} instead of a Tensor"
    expected = np.asarray(expected)
    assert ours.dtype == expected.dtype
    assert ours.shape == expected.shape
    if ulps and expected.dtype.kind == "f":
        assert units_apart(ours.detach().data, expected, size) <= ulps
    else:
        np.testing.assert_array_equal(ours.detach().data, expected, strict=True)
        if expected.dtype.kind == "f":
            np.testing.assert_array_equal(np.signbit(ours.detach().data), np.signbit(expected))


def all_gradients(outputs: list[Any], weights: list[Any], xs: list[Any], create_graph: bool = False) -> list[Any]:
    """The gradients of sum(weight * output), zeros where an argument has no influence."""
    pairs = [(y, w) for y, w in zip(outputs, weights, strict=True) if y.requires_grad]
    if not pairs:
        return [tg.Tensor(np.zeros_like(x.data)) for x in xs]
    found = tg.gradients(
        [y for y, _ in pairs], xs, gradient=[w for _, w in pairs], create_graph=create_graph, allow_unused=True
    )
    return [tg.Tensor(np.zeros_like(x.data)) if g is None else g for g, x in zip(found, xs, strict=True)]


def dot(gradients: list[Any], direction: list[np.ndarray]) -> tuple[float, float]:
    """sum(gradient * direction), and the sum of the absolute terms: the scale on which to judge a difference."""
    terms = [np.asarray(g.detach().data, np.float64) * v for g, v in zip(gradients, direction, strict=True)]
    return float(sum(np.sum(t) for t in terms)), float(sum(np.sum(np.abs(t)) for t in terms))


def check_gradients(row: Row, case: my.Case, arrays: list[np.ndarray], order: int = 2) -> None:
    """Gradients of a random projection of the result against central differences in float64."""
    rng = case.rng()

    def call(*xs: Any) -> Any:
        return row.call(*xs, **case.options)

    xs = tensors(arrays)
    outputs = floating(call(*xs))
    weights = [np.asarray(rng.uniform(0.5, 1.5, y.shape) * rng.choice([-1, 1], y.shape), y.dtype) for y in outputs]
    first = all_gradients(outputs, weights, xs, create_graph=True)
    for x, g in zip(xs, first, strict=True):
        assert isinstance(g, tg.Tensor)
        assert (g.shape, g.dtype) == (x.shape, x.dtype)

    exact = [a.astype(np.float64) for a in arrays]

    def oracle(*xs: Any) -> Any:
        return row.oracle(*xs, **case.options)

    f = projected(oracle, weights)
    h = case.step
    v, u = ([rng.uniform(-1, 1, a.shape) for a in arrays] for _ in range(2))
    size = sum(
        float(np.sum(np.abs(w) * (1 + np.abs(y)))) for w, y in zip(weights, floating(oracle(*exact)), strict=True)
    )
    low = any(a.dtype == np.float32 for a in arrays)
    relative = 2e-4 if low else 1e-6
    none = [np.zeros_like(d) for d in v]
    for i in range(len(xs)):  # each argument's gradient, out of the pass for all together
        alone = [*none[:i], v[i], *none[i + 1 :]]
        numeric = first_derivative(f, exact, alone, h)
        analytic, scale = dot(first, alone)
        allowed = relative * (scale + abs(numeric)) + 1e-14 * size / h + row.tolerance + (1e-5 * size if low else 0)
        assert abs(numeric - analytic) <= allowed, f"argument {i}: numeric {numeric}, analytic {analytic}"
        # and out of a pass of its own on plain arrays, which the other arguments are too
        x = tg.Tensor(arrays[i], requires_grad=True)
        ys = floating(call(*arrays[:i], x, *arrays[i + 1 :]))
        (g,) = all_gradients([y if isinstance(y, tg.Tensor) else tg.Tensor(y) for y in ys], weights, [x])
        np.testing.assert_allclose(g.data, first[i].detach().data, rtol=1e-4 if low else 1e-12, atol=1e-6 * low)
    if order == 2:
        second = all_gradients(first, [np.asarray(d, a.dtype) for d, a in zip(u, arrays, strict=True)], xs)
        numeric = second_derivative(f, exact, v, u, h)
        analytic, scale = dot(second, v)
        allowed = 10 * relative * (scale + abs(numeric)) + 1e-14 * size / h**2 + row.tolerance
        assert abs(numeric - analytic) <= allowed, f"second order: numeric {numeric}, analytic {analytic}"


# ---------------------------------------------------------------------------------------------------------------------
# The table is complete
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fun", RULED, ids=name_of)
@settings(max_examples=3, derandomize=True)
@given(data=st.data())
def test_every_rule_is_reached_by_its_rows(fun: Callable[..., Any], data: st.DataObject) -> None:
    """Each function has rows, and they use its expression and the rule of each of its arguments."""
    rows = [row for row in ROWS if row.fun is fun]
    assert rows, f"{name_of(fun)} has a rule but no row in tests/table"
    rule, watch = RULES[fun], Watch()
    vjps = [None if vjp is None or "unknown" in vjp.__code__.co_names else vjp for vjp in rule.vjps]  # those raise
    if isinstance(fun, np.ufunc) and sum(vjp is not None for vjp in vjps) > 1:
        assert any(row.broadcasts for row in rows), f"no row of {name_of(fun)} broadcasts its arguments"
    assert any(list(my.empty_shapes(row)) for row in rows), f"no row of {name_of(fun)} has empty arguments"
    with expansion_counted(fun) as expanded, entered(monitor=watch):
        for row in rows:
            case = data.draw(my.cases(row, my.shapes(row)))
            xs = tensors(case.arrays)
            outputs = floating(row.call(*xs, **case.options))
            first = all_gradients(outputs, [np.ones_like(y.data) for y in outputs], xs, create_graph=True)
            all_gradients(first, [np.ones_like(g.data) for g in first], xs)
    if rule.composite is not None:
        assert expanded, f"no row of {name_of(fun)} uses its expression"
    if rule.each is not None:
        assert watch.backward[fun, 0]
        assert watch.backward[fun, 1]
    for i, vjp in enumerate(vjps):
        if vjp is not None:
            reached = watch.forward if fun is select else watch.backward  # the loop itself carries selections back
            assert reached[fun if fun is select else (fun, i)], f"no row of {name_of(fun)} differentiates argument {i}"


# ---------------------------------------------------------------------------------------------------------------------
# The properties of every row
# ---------------------------------------------------------------------------------------------------------------------


@every_row
@settings(max_examples=8)
@given(data=st.data())
def test_forward_equals_numpy(row: Row, data: st.DataObject) -> None:
    case = data.draw(my.cases(row, my.shapes(row)))
    for dtype in my.FLOATS:
        arrays = [a.astype(dtype) for a in case.arrays]
        expected = row.oracle(*arrays, **case.options)
        assert_same(row.call(*tensors(arrays), **case.options), expected, row.ulps, row.size(arrays))


@every_row
@settings(max_examples=8)
@given(data=st.data())
def test_gradients_of_both_orders(row: Row, data: st.DataObject) -> None:
    case = data.draw(my.cases(row, my.shapes(row)))
    check_gradients(row, case, case.arrays)


@every_row
@settings(max_examples=1)
@given(data=st.data())
def test_the_rules_are_closed(row: Row, data: st.DataObject) -> None:
    """Rules use only functions that have rules: the third derivative exists and has the right shape and dtype."""
    case = data.draw(my.cases(row, my.shapes(row, least=2)))
    xs = tensors([a.astype(np.float32) for a in case.arrays])
    found = floating(row.call(*xs, **case.options))
    for _ in range(3):
        found = all_gradients(found, [np.ones(g.shape, g.dtype) for g in found], xs, create_graph=True)
        assert [(g.shape, g.dtype) for g in found] == [(x.shape, x.dtype) for x in xs]


BROADCAST = [[(3, 1), (1, 2)], [(2,), (3, 2)], [(3, 2), (2,)], [(), (2,)], [(2,), ()], [(1, 2), (2, 1, 1)]]


@pytest.mark.parametrize("row", [row for row in ROWS if row.broadcasts], ids=repr)
@settings(max_examples=2)
@given(data=st.data())
def test_broadcasting_both_ways(row: Row, data: st.DataObject) -> None:
    lengths = dict.fromkeys(my.names(row), 2)
    for pair in BROADCAST:
        dots = iter([*pair, *[(1,)] * len(row.shapes)])
        shapes = my.fill(row, lengths, [next(dots) if "..." in law.split() else () for law in row.shapes], ())
        case = data.draw(my.cases(row, st.just(shapes)))
        expected = row.oracle(*case.arrays, **case.options)
        assert_same(row.call(*tensors(case.arrays), **case.options), expected, row.ulps, row.size(case.arrays))
        check_gradients(row, case, case.arrays, order=1)


@every_row
@settings(max_examples=4)
@given(data=st.data())
def test_float32_stays_float32(row: Row, data: st.DataObject) -> None:
    """In every recorded step, forward and backward, of both orders: no cast at the end hides a detour."""
    case = data.draw(my.cases(row, my.shapes(row)))
    arrays = [a.astype(np.float32) for a in case.arrays]
    watch = Watch()
    with entered(monitor=watch):
        for order in (1, 2):  # the rules on arrays, then on Tensors
            xs = tensors(arrays)
            outputs = floating(row.call(*xs, **case.options))
            weights = [np.ones(y.shape, y.dtype) for y in outputs]
            first = all_gradients(outputs, weights, xs, create_graph=order == 2)
            if order == 2:
                first += all_gradients(first, [np.ones(g.shape, g.dtype) for g in first], xs)
            assert [g.dtype for g in first] == [np.float32] * len(first)
    if not row.promotes:
        assert not watch.wrong, f"float64 in {watch.wrong}"
    check_gradients(row, case, arrays, order=1)


def scalars(row: Row, i: int) -> list[Any]:
    """Numbers in the domain of an argument: a Python float, a NumPy one, and an int where there is one."""
    low, high = row.domains[i]
    middle = low + 0.625 * (high - low)
    whole = [n for n in range(int(np.ceil(low)), int(np.ceil(high))) if n > low and n]
    return [middle, np.float64(middle), np.float32(middle), *whole[-1:]]


@pytest.mark.parametrize("row", [row for row in ROWS if row.elementwise], ids=repr)
@settings(max_examples=2)
@given(data=st.data())
def test_scalars_are_weak(row: Row, data: st.DataObject) -> None:
    """A Python number or a NumPy scalar beside a float32 Tensor leaves it float32, forward and backward."""
    case = data.draw(my.cases(row, st.just([(3,)] * len(row.shapes))))
    arrays = [a.astype(np.float32) for a in case.arrays]
    for i in range(len(arrays)):
        for number in scalars(row, i):
            watch, xs = Watch(), tensors(arrays)
            xs[i] = number
            plain = [float(number) if k == i else a for k, a in enumerate(arrays)]
            expected = leaves(row.oracle(*plain, **case.options))
            with entered(monitor=watch):
                y = row.call(*xs, **case.options)
                for one, other in zip(leaves(y), expected, strict=True):
                    assert one.dtype == (np.asarray(other).dtype if row.promotes else np.float32)
                    np.testing.assert_allclose(getattr(one, "value", one), other, rtol=1e-6)
                others = [x for x in xs if isinstance(x, tg.Tensor)]
                outputs = [o for o in floating(y) if isinstance(o, tg.Tensor)]
                first = all_gradients(outputs, [np.ones_like(o.data) for o in outputs], others, create_graph=True)
                all_gradients(first, [np.ones_like(o.data) for o in first], others)
            if not row.promotes:
                assert not watch.wrong, f"with {number!r}: {watch.wrong}"


def check_judgement(row: Row, case: my.Case, declared: tuple[type[Exception], ...]) -> type[Exception] | None:
    """NumPy's answer, be it a value or an exception that the row declares, is ours too; so are gradients' shapes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy warns of means of nothing
        try:
            expected = row.oracle(*case.arrays, **case.options)
        except Exception as error:
            kind = type(error)
        else:
            kind = None
        if kind is not None:
            assert kind in declared, f"NumPy raises {kind.__name__}, which the row does not declare"
            with pytest.raises(kind):
                row.call(*tensors(case.arrays), **case.options)
            return kind
        xs = tensors(case.arrays)
        ours = row.call(*xs, **case.options)
        assert_same(ours, expected, row.ulps, row.size(case.arrays))
        outputs = floating(ours)
        first = all_gradients(outputs, [np.ones_like(y.data) for y in outputs], xs, create_graph=True)
        second = all_gradients(first, [np.ones_like(g.data) for g in first], xs)
        assert [g.shape for g in first] == [g.shape for g in second] == [x.shape for x in xs]
    return None


@every_row
def test_arguments_without_axes(row: Row) -> None:
    raised = []

    @settings(max_examples=3)
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        case = data.draw(my.cases(row, st.just([()] * len(row.shapes))))
        raised.append(check_judgement(row, case, (row.zero_d,) if row.zero_d else ()))
        if raised[-1] is None:
            check_gradients(row, case, case.arrays)

    check()
    assert row.zero_d in raised, f"the row declares {row.zero_d} for 0-d arguments, but NumPy accepts them"


@pytest.mark.parametrize("row", [row for row in ROWS if list(my.empty_shapes(row))], ids=repr)
def test_empty_arguments(row: Row) -> None:
    raised: set[Any] = set()

    @settings(max_examples=2)
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        for shapes in my.empty_shapes(row):
            case = data.draw(my.cases(row, st.just(shapes)))
            raised.add(check_judgement(row, case, row.empty))

    check()
    if my.constant(row):
        assert raised >= set(row.empty), f"the row declares {row.empty} for empty arguments, but NumPy accepts them"


@every_row
@settings(max_examples=2)
@given(data=st.data())
def test_arguments_that_are_not_contiguous(row: Row, data: st.DataObject) -> None:
    case = data.draw(my.cases(row, my.shapes(row, least=2)))
    for arrays in zip(*map(my.layouts, case.arrays), strict=True):
        expected = row.oracle(*arrays, **case.options)
        assert_same(row.call(*tensors(list(arrays)), **case.options), expected, row.ulps, row.size(arrays))
        check_gradients(row, case, list(arrays), order=1)


def signature(fun: Callable[..., Any]) -> inspect.Signature | None:
    """A function's signature, where it tells: those of ufuncs, and in NumPy 2.0 of other compiled functions, do not."""
    try:
        return None if isinstance(fun, np.ufunc) else inspect.signature(fun)
    except ValueError:
        return None


NAMED = [fun for fun in RULED if (getattr(fun, "__module__", None) or "").startswith("numpy") and signature(fun)]
RENAMED = {"newshape": "shape"}  # since NumPy 2.1
DEPRECATED = {np.corrcoef: {"bias", "ddof"}}  # gone since NumPy 2.4


@pytest.mark.parametrize("fun", NAMED, ids=name_of)
def test_rules_name_parameters_as_numpy_does(fun: Callable[..., Any]) -> None:
    """So that arguments may be given by name: every name of a rule is NumPy's; an expression knows all of NumPy's."""
    theirs = [RENAMED.get(name, name) for name in inspect.signature(fun).parameters]
    rule = RULES[fun]
    if fun is not np.where:  # whose arguments have no names
        assert list(rule.names) == [name for name in theirs if name in rule.names]
    if rule.composite is not None:
        kinds = {p.name: p.kind for p in inspect.signature(rule.composite).parameters.values()}
        if inspect.Parameter.VAR_KEYWORD not in kinds.values():
            assert set(theirs) - set(kinds) <= {"out", "kwargs", "varargs", "device", "interpolation"} | DEPRECATED.get(
                fun, set()
            )
