"""lab.pooling.layers and layers_routed: float64 definitions, limits that are theorems, and their converses."""

import itertools
import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lab.pooling import layers
from lab.pooling.layers import (
    ConcatProject,
    DimensionMix,
    FirstLastMean,
    LayerMax,
    LayerMean,
    LayerPick,
    SoftmaxMix,
    WeightedLayerMix,
)
from lab.pooling.layers_routed import AttentiveLayerFusion, GatedLayerRouter, LayerPair


def rms(x):
    return x / (x.square().mean() + 1e-6).sqrt()


def norm(x, eps=1e-5):
    return (x - x.mean()) / (x.var(correction=0) + eps).sqrt()


def softmax(scores):
    exponentials = [math.exp(s) for s in scores]
    return [e / sum(exponentials) for e in exponentials]


def gelu(x):
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def router(pool, h):
    z = [rms(x) for x in h]
    scores = [
        (pool.score @ ((pool.see.weight @ x).tanh() * (pool.gate.weight @ x).sigmoid()) + pool.bias[i]).item()
        for i, x in enumerate(z)
    ]
    return sum(w * x for w, x in zip(softmax(scores), h, strict=True))


def fusion(pool, h):  # [L, P, D]: one query, head by head, over all L P vectors
    width = pool.dim // pool.heads
    read = [
        pool.to_kv.weight @ (pool.gain[i, j] * norm(h[i, j], pool.eps))
        for i, j in itertools.product(*map(range, h.shape[:2]))
    ]
    heads = []
    for head in range(pool.heads):
        part = slice(head * width, (head + 1) * width)
        scores = [(pool.query[part] @ kv[: pool.dim][part] / math.sqrt(width)).item() for kv in read]
        heads.append(sum(w * kv[pool.dim :][part] for w, kv in zip(softmax(scores), read, strict=True)))
    return pool.to_out.weight @ torch.cat(heads)


def pair(pool, h):
    x, width = [h[pool.align], h[pool.uniform]], pool.dim // pool.heads
    for block in pool.blocks:
        qkv = [(block["qkv"].weight @ rms(v)).view(3, pool.heads, width) for v in x]
        after = []
        for v, (q, _, _) in zip(x, qkv, strict=True):
            seen = []
            for head in range(pool.heads):
                w = softmax([(q[head] @ k[head] / math.sqrt(width)).item() for _, k, _ in qkv])
                seen.append(w[0] * qkv[0][2][head] + w[1] * qkv[1][2][head])
            v = v + block["out"].weight @ torch.cat(seen)
            after.append(v + block["down"].weight @ gelu(block["up"].weight @ rms(v)))
        x = after
    return (x[0] + x[1]) / 2


# how to build it, and one text's vectors of the layers [L, D] in float64 -> [D']
POOLS = {
    "pick": (partial(LayerPick, layer=1), lambda _, h: h[1]),
    "pick last": (LayerPick, lambda _, h: h[len(h) - 1]),
    "mean": (LayerMean, lambda _, h: sum(h) / len(h)),
    "range mean": (partial(LayerMean, start=1, stop=3), lambda _, h: sum(h[1:3]) / len(h[1:3])),
    "first-last": (FirstLastMean, lambda _, h: (h[0] + h[-1]) / 2),
    "max": (LayerMax, lambda _, h: torch.tensor([max(column) for column in h.T.tolist()], dtype=h.dtype)),
    "softmax mix": (
        SoftmaxMix,
        lambda pool, h: pool.gamma * sum(w * x for w, x in zip(softmax(pool.scores.tolist()), h, strict=True)),
    ),
    "softmax mix, normed": (
        partial(SoftmaxMix, norm=True),
        lambda pool, h: pool.gamma * sum(w * norm(x) for w, x in zip(softmax(pool.scores.tolist()), h, strict=True)),
    ),
    "dimension mix": (
        DimensionMix,
        lambda pool, h: torch.stack(
            [
                sum(w * x[d] for w, x in zip(softmax(pool.scores[:, d].tolist()), h, strict=True))
                for d in range(len(h[0]))
            ]
        ),
    ),
    "weighted": (
        partial(WeightedLayerMix, start=1),
        lambda pool, h: sum(w * x for w, x in zip(pool.layer_weights, h[1:], strict=True)) / sum(pool.layer_weights),
    ),
    "concat": (partial(ConcatProject, out_dim=3), lambda pool, h: pool.project.weight @ torch.cat(list(h))),
    "router": (partial(GatedLayerRouter, hidden_dim=5), router),
    "pair": (partial(LayerPair, heads=2), pair),
}
every_pool = pytest.mark.parametrize("name", POOLS)
# weights are 0 or more and sum to 1, so equal layers give themselves
CONVEX = [name for name in POOLS if name not in {"softmax mix", "softmax mix, normed", "concat", "pair"}]
MASKED = ["mean", "max", "softmax mix", "softmax mix, normed", "dimension mix", "concat", "router"]


def perturbed(pool):
    """Parameters anywhere but at their start, where much is zero; in float64."""
    pool = pool.double()
    with torch.no_grad():
        for parameter in pool.parameters():
            parameter.add_(torch.rand_like(parameter) / 2 + 0.1)
    return pool


@every_pool
@given(L=st.integers(2, 5), B=st.integers(0, 3), D=st.sampled_from([2, 4, 6]), seed=st.integers(0, 99))
def test_equals_the_definition(name, L, B, D, seed):
    torch.manual_seed(seed)
    build, definition = POOLS[name]
    pool, h = perturbed(build(D, L)), torch.randn(L, B, D, dtype=torch.float64)
    got = pool(h)
    for b in range(B):
        torch.testing.assert_close(got[b], definition(pool, h[:, b]), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(pool(h[:, b]), got[b], rtol=1e-12, atol=1e-12)  # a batch is its rows
    assert got.shape[:-1] == (B,)


@given(L=st.integers(1, 4), P=st.integers(1, 3), heads=st.sampled_from([1, 2]), seed=st.integers(0, 99))
def test_fusion_equals_its_definition(L, P, heads, seed):
    torch.manual_seed(seed)
    pool = perturbed(AttentiveLayerFusion(4, L, summaries=P, heads=heads))
    h = torch.randn(L, P, 3, 4, dtype=torch.float64)
    got, weights = pool(h), pool.attention(h)
    for b in range(3):
        torch.testing.assert_close(got[b], fusion(pool, h[:, :, b]), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(weights.sum((0, 1)), torch.ones(3, heads, dtype=torch.float64))


@every_pool
def test_gradients_reach_the_input_and_every_parameter(name):
    pool = perturbed(POOLS[name][0](4, 3))
    h = torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True)
    pool(h).square().sum().backward()
    assert h.grad.abs().sum() > 0
    assert [key for key, parameter in pool.named_parameters() if not (parameter.grad != 0).any()] == []


@pytest.mark.parametrize("name", CONVEX)
def test_equal_layers_give_themselves(name):
    pool, one = perturbed(POOLS[name][0](4, 5)), torch.randn(3, 4, dtype=torch.float64)
    torch.testing.assert_close(pool(one.expand(5, 3, 4)), one)


def test_the_first_of_equal_layers_has_the_gradient_of_the_maximum():
    h = torch.tensor([[0.0], [1.0], [1.0]], requires_grad=True)
    (slope,) = torch.autograd.grad(LayerMax(1, 3)(h).sum(), h)
    assert slope.tolist() == [[0], [1], [0]]


@pytest.mark.parametrize("pool", [LayerMean(2, 4), LayerMean(2, 4, start=1), FirstLastMean(2, 4)], ids=repr)
def test_means_of_half_layers_do_not_overflow(pool):
    h = torch.full((4, 3, 2), 60_000.0, dtype=torch.float16)
    assert torch.equal(pool(h), h[0])


@pytest.mark.parametrize("first", range(4))
def test_first_last_means_from_each_layer(first):
    h = torch.randn(4, 3, 2, dtype=torch.float64)
    torch.testing.assert_close(FirstLastMean(2, 4, first)(h), (h[first] + h[3]) / 2)


def test_equal_layers_do_not_give_themselves_where_the_mix_is_not_convex():
    one = torch.randn(3, 4, dtype=torch.float64)
    for name in ("softmax mix", "softmax mix, normed", "pair"):
        assert not torch.allclose(perturbed(POOLS[name][0](4, 5))(one.expand(5, 3, 4)), one)


def test_mixes_start_as_the_mean():
    h = torch.randn(5, 3, 4)
    for build in (SoftmaxMix, DimensionMix, WeightedLayerMix, GatedLayerRouter):
        torch.testing.assert_close(build(4, 5)(h), h.mean(0))
    # and the pair as the mean of its two, bit for bit
    assert torch.equal(LayerPair(4, 5, align=1)(h), torch.stack([h[1], h[-1]], -2).mean(-2))


def test_one_hot_weights_pick_a_layer_bit_for_bit():
    h = torch.randn(4, 3, 6)
    for layer in range(4):
        assert torch.equal(layers.mix(h, torch.eye(4)[layer]), h[layer])
        mixed, per_dimension, weighted = SoftmaxMix(6, 4), DimensionMix(6, 4), WeightedLayerMix(6, 4)
        with torch.no_grad():
            mixed.scores[layer], per_dimension.scores[layer] = 200, 200  # exp(-200) is 0 in float32
            weighted.layer_weights.copy_(torch.eye(4)[layer])
        for pool in (mixed, per_dimension, weighted, LayerPick(6, 4, layer), LayerPick(6, 4, layer - 4)):
            assert torch.equal(pool(h), h[layer])


def test_gamma_scales_and_the_norm_makes_the_scale_of_a_layer_irrelevant():
    h = torch.randn(3, 2, 8, dtype=torch.float64)
    scaled = h * torch.tensor([1.0, 100.0, 1.0], dtype=torch.float64)[:, None, None]
    for norm in (False, True):
        pool = perturbed(SoftmaxMix(8, 3, norm=norm))
        once = pool(h)
        same = torch.allclose(once, pool(scaled), rtol=1e-3)
        assert same == norm
        pool.gamma.data *= 3
        torch.testing.assert_close(pool(h), 3 * once)


def test_the_router_sees_direction_not_scale():
    pool, h = perturbed(GatedLayerRouter(8, 3)), torch.randn(3, 2, 8, dtype=torch.float64)
    torch.testing.assert_close(pool.weights(h * 1000), pool.weights(h), rtol=1e-4, atol=1e-6)
    assert not torch.allclose(pool.weights(h), pool.weights(h)[:, :1])  # texts differ in their weights


def test_weighted_mix_may_explode_and_the_softmax_mix_may_not():
    h = torch.rand(2, 1, 4)
    weighted = WeightedLayerMix(4, 2)
    weighted.layer_weights.data = torch.tensor([1.0, -0.9999])
    assert weighted(h).abs().max() > 100
    mixed = SoftmaxMix(4, 2)
    mixed.scores.data = torch.tensor([1.0, -0.9999])
    assert mixed(h).abs().max() <= h.max()


@pytest.mark.parametrize("name", sorted(set(MASKED) - {"concat"}))
def test_hiding_a_layer_is_leaving_it_out(name):
    if name == "dimension mix":
        smaller, scores = DimensionMix(4, 2).double(), torch.randn(3, 4, dtype=torch.float64)
    else:
        smaller, scores = POOLS[name][0](4, 2).double(), torch.randn(3, dtype=torch.float64)
    larger, h = POOLS[name][0](4, 3).double(), torch.randn(3, 2, 4, dtype=torch.float64)
    for key in ("scores", "bias"):
        if hasattr(larger, key):
            getattr(larger, key).data, getattr(smaller, key).data = scores, scores[[0, 2]]
    mask = torch.tensor([True, False, True])
    torch.testing.assert_close(larger(h, mask), smaller(h[[0, 2]]))


def test_a_mask_over_the_whole_range_leaves_zeros():
    h = torch.full((3, 1, 2), torch.nan)
    h[0] = 1
    assert torch.equal(LayerMean(2, 3, start=1)(h, torch.tensor([True, False, False])), torch.zeros(1, 2))


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: LayerPick(4, 3, layer=3), "0 to 2.*got 3"),
        (lambda: LayerMean(4, 3, start=3), "none; widen"),
        (lambda: FirstLastMean(4, 3, first=3), "got 3"),
        (lambda: WeightedLayerMix(4, 3, start=3), "got 3"),
        (lambda: AttentiveLayerFusion(4, 3, heads=3), "divide dim 4"),
        (lambda: LayerPair(4, 3, align=5), r"no layer \[5\]"),
        (lambda: LayerPair(4, 3, heads=3), "divide dim 4"),
        (lambda: SoftmaxMix(0, 3), "dim must be 1 or more; got 0"),
        (lambda: LayerMax(4, 0), "num_layers must be 1 or more; got 0"),
        (lambda: LayerMean(4, 3)(torch.zeros(4, 2, 4)), "4 layers first.*built for 3.*embedding output"),
        (lambda: AttentiveLayerFusion(4, 3)(torch.zeros(3, 5, 4)), "3 layers, 2 summaries.*summaries="),
        (lambda: LayerMean(4, 3)(torch.zeros(3, 4), torch.zeros(3, dtype=torch.bool)), "hides every layer"),
        (lambda: layers.check_layers(torch.zeros(3), 3), "layers, ..., dim"),
        (lambda: layers.check_layers(torch.zeros(3, 4).long(), 3), "float type.*int64"),
        (lambda: layers.check_layers(torch.zeros(3, 4), 3, torch.ones(2, dtype=torch.bool)), r"\(3,\).*got \(2,\)"),
    ],
)
def test_bad_input_is_refused(build, says):
    with pytest.raises(ValueError, match=says):
        build()


def test_a_layer_mask_of_numbers_is_refused():
    with pytest.raises(TypeError, match="bool"):
        layers.check_layers(torch.zeros(3, 4), 3, torch.ones(3))
