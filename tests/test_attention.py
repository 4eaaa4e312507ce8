"""Attention and positions: what masks, groups of heads, weights and caches mean; what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_mm as tg
from tinygrad_mm import functional, nn


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def attended(query, key, value, mask=None, scale=None):
    """Attention, one query at a time."""
    y = np.zeros((*query.shape[:-1], value.shape[-1]))
    for index in np.ndindex(query.shape[:-1]):
        *batch, head, _ = index
        group = head * key.shape[-3] // query.shape[-3]
        k, v = key[(*batch, group)], value[(*batch, group)]
        scores = k @ query[index] * (1 / np.sqrt(query.shape[-1]) if scale is None else scale)
        if mask is not None:
            row = np.broadcast_to(mask, (*query.shape[:-1], k.shape[0]))[index]
            scores = np.where(row, scores, -np.inf) if row.dtype == bool else scores + row
        if np.isfinite(scores).any():
            e = np.exp(scores - scores.max())
            y[index] = e / e.sum() @ v
    return y


@given(
    groups=st.integers(1, 3),
    per_group=st.integers(1, 3),
    kind=st.sampled_from(["none", "booleans", "numbers", "numbers for each head", "nowhere"]),
    scale=st.sampled_from([None, 0.3]),
    seed=st.integers(0, 99),
)
def test_attention_is_its_definition(groups, per_group, kind, scale, seed):
    heads = groups * per_group
    q, k, v = (
        normal(2, heads, 4, 6, seed=seed),
        normal(2, groups, 5, 6, seed=seed + 1),
        normal(2, groups, 5, 3, seed=seed + 2),
    )
    mask = {
        "none": None,
        "booleans": normal(2, 1, 4, 5, seed=seed) > 0,
        "numbers": normal(4, 5, seed=seed),
        "numbers for each head": normal(heads, 4, 5, seed=seed),
        "nowhere": np.where(np.arange(4)[:, None] == 1, -np.inf, normal(4, 5, seed=seed)),
    }[kind]
    tensors = [tg.Tensor(a, requires_grad=True) for a in (q, k, v)]
    y, weights = functional.scaled_dot_product_attention(*tensors, mask, scale=scale, return_weights=True)
    assert np.allclose(y.data, attended(q, k, v, mask, scale))
    assert weights.shape == (2, heads, 4, 5)
    rows = weights.data.sum(-1)
    assert np.all(np.isclose(rows, 1) | (rows == 0))
    (y * y).sum().backward()
    assert all(np.isfinite(t.grad).all() for t in tensors)


def test_groups_of_heads_are_pytorchs():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'tinygrad_mm[peers]'")
    arrays = [normal(2, h, 5, 4, seed=i).astype(np.float32) for i, h in enumerate((6, 2, 2))]
    xs = [tg.Tensor(a, requires_grad=True) for a in arrays]
    ts = [torch.tensor(a, requires_grad=True) for a in arrays]
    y = functional.scaled_dot_product_attention(*xs, causal=True)
    z = torch.nn.functional.scaled_dot_product_attention(*ts, is_causal=True, enable_gqa=True)
    np.testing.assert_allclose(y.data, z.detach().numpy(), atol=1e-5)
    (y * y).sum().backward()
    (z * z).sum().backward()
    for x, t in zip(xs, ts, strict=True):
        np.testing.assert_allclose(x.grad, t.grad.numpy(), rtol=1e-5, atol=1e-5)


MODELS = {
    "MultiHeadAttention": lambda: nn.MultiHeadAttention(8, 4, rng=0, key_value_heads=2, rotary=True),
    "TransformerEncoderLayer": lambda: nn.TransformerEncoderLayer(8, 2, dropout=0.5, rng=0).eval(),
    "TransformerEncoder": lambda: nn.TransformerEncoder(3, 8, 2, norm_first=True, rng=0, rotary=True).eval(),
}


@pytest.mark.parametrize("name", [*MODELS, "TransformerDecoder"])
@given(cuts=st.lists(st.integers(1, 11), unique=True).map(sorted), masked=st.booleans())
def test_a_cache_changes_nothing(name, cuts, masked):
    """A sequence in any pieces gives what the whole sequence gives."""
    x, memory = normal(2, 12, 8).astype(np.float32), normal(2, 5, 8, seed=1).astype(np.float32)
    if name == "TransformerDecoder":
        decoder = nn.TransformerDecoder(2, 8, 2, rng=0).eval()
        model = lambda part, **options: decoder(part, memory, **options)
        layers = decoder.layers
    else:
        model = MODELS[name]()
        layers = getattr(model, "layers", None)
    bias = normal(12, 12, seed=2).astype(np.float32) if masked else None
    cache = {"cache": nn.KeyValueCache()} if layers is None else {"caches": [nn.KeyValueCache() for _ in layers]}
    with tg.no_grad():
        whole = model(x, mask=bias, causal=True)
        parts = []
        for start, stop in zip([0, *cuts], [*cuts, 12], strict=True):
            mask = None if bias is None else bias[start:stop, :stop]
            parts.append(model(x[:, start:stop], mask=mask, causal=True, **cache))
    assert np.allclose(np.concatenate(parts, axis=1).data, whole.data, atol=1e-5)


def test_a_cache_projects_the_memory_once_and_follows_a_beam():
    x, memory = normal(3, 6, 8).astype(np.float32), normal(3, 5, 8, seed=1).astype(np.float32)
    decoder = nn.TransformerDecoder(2, 8, 2, rng=0).eval()
    caches = [nn.KeyValueCache() for _ in decoder.layers]
    chosen = np.array([2, 0, 0])
    projected = []
    for layer in decoder.layers:
        attention = layer.cross_attention
        attention._project = lambda x, i, project=attention._project: projected.append(i) or project(x, i)
    with tg.no_grad():
        decoder(x[:, :4], memory, caches=caches)
        for cache in caches:
            cache.select(chosen)
        last = decoder(x[chosen, 4:5], memory[chosen], caches=caches)
        assert projected == [0, 1, 2] * 2 + [0, 0]
        whole = decoder(np.concatenate([x[chosen, :4], x[chosen, 4:5]], axis=1), memory[chosen])
    assert [len(cache) for cache in caches] == [5, 5]
    assert [len(cache.memory) for cache in caches] == [5, 5]
    assert np.allclose(last.data[:, 0], whole.data[:, 4], atol=1e-5)


def test_rotary_products_depend_on_the_distance():
    q, k = normal(1, 6), normal(1, 6, seed=1)
    products = [(functional.rotary(q, 3 + s) @ functional.rotary(k, s).T).item() for s in range(5)]
    assert np.allclose(products, products[0])
    assert not np.isclose(products[0], (functional.rotary(q, 4) @ functional.rotary(k, 0).T).item())
    x = normal(2, 4, 6)
    assert np.allclose((functional.rotary(x) ** 2).sum(-1), (x**2).sum(-1))
    assert np.allclose(functional.rotary(x)[:, 2:], functional.rotary(x[:, 2:], 2))
    assert functional.rotary(x.astype(np.float32)).dtype == np.float32


def test_positions():
    table = functional.sinusoids(7, 5)
    for p in range(7):
        for i in range(5):
            angle = p / 10000 ** ((i - i % 2) / 5)
            assert np.isclose(table[p, i], np.cos(angle) if i % 2 else np.sin(angle))
    x = normal(2, 7, 5).astype(np.float32)
    for layer in (nn.SinusoidalPositions(5), nn.LearnedPositions(9, 5, rng=0)):
        whole = layer(x).data
        assert whole.dtype == np.float32
        assert np.allclose(whole[:, 3:], layer(x[:, 3:], start=3).data)


def test_dropout_of_weights():
    layer = nn.MultiHeadAttention(8, 2, dropout=0.9, rng=0)
    x = normal(2, 5, 8).astype(np.float32)
    assert not np.allclose(layer(x).data, layer(x).data)
    layer.eval()
    assert np.array_equal(layer(x).data, layer(x).data)
    assert [path for path, _ in layer.named_generators()] == ["rng"]


def test_sequence_mask():
    lengths = np.array([[0, 2], [3, 1]])
    mask = functional.sequence_mask(lengths, 3)
    assert mask.shape == (2, 2, 3)
    assert np.array_equal(mask.sum(-1), lengths)
    assert np.array_equal(np.sort(mask, axis=-1)[..., ::-1], mask)


def test_what_is_refused():
    x = np.zeros((2, 5, 8), np.float32)
    layer = nn.MultiHeadAttention(8, 2, rng=0)
    with pytest.raises(ValueError, match="do not divide into key_value_heads=3"):
        nn.MultiHeadAttention(8, 4, key_value_heads=3)
    with pytest.raises(ValueError, match="between 0 and 1"):
        nn.MultiHeadAttention(8, 4, dropout=2)
    with pytest.raises(TypeError, match=r"mask.astype\(bool\) or mask.astype\(np.float32\)"):
        layer(x, mask=np.zeros((5, 5)))
    with pytest.raises(ValueError, match=r"mask has shape \(4, 5\)"):
        layer(x, mask=np.zeros((4, 5), bool))
    with pytest.raises(RuntimeError, match=r"with tg.no_grad\(\)"):
        layer(x, cache=nn.KeyValueCache())
    with tg.no_grad():
        cache = nn.KeyValueCache()
        layer(x, causal=True, cache=cache)
        with pytest.raises(ValueError, match="begin with a new cache"):
            layer(x[:1], causal=True, cache=cache)
        assert len(cache) == 5
        with pytest.raises(TypeError, match="call eagerly"):
            tg.compile(lambda x: layer(x, causal=True, cache=cache).detach())(x)
    with pytest.raises(ValueError, match=r"caches=\[nn.KeyValueCache\(\) for _ in model.layers\]"):
        nn.TransformerEncoder(2, 8, 2, rng=0)(x, caches=[])
    with pytest.raises(ValueError, match="do not make pairs"):
        functional.rotary(np.zeros((3, 5)))
    positions = nn.LearnedPositions(4, 8, rng=0)
    with pytest.raises(ValueError, match=r"did you mean LearnedPositions\(5, 8\)\?"):
        positions(x)
    with pytest.raises(ValueError, match=r"it needs \(..., positions, 8\)"):
        positions(x[..., :7])
    with pytest.raises(TypeError, match=r"astype\(np.float32\)"):
        positions(x[:, :4].astype(np.float64))
    with pytest.raises(ValueError, match="layers=0 must be a positive integer"):
        nn.TransformerEncoder(0, 8, 2)
