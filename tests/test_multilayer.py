"""lab.pooling.multilayer: the founding paper's pool against its formulas, its blind spots, and the repair."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lab.pooling.latent import LatentReader, PerceiverPool
from lab.pooling.layers import LayerMean
from lab.pooling.multilayer import MultiLayerPool, MultiLayerResidualPool

SIZES = {"latents": 3, "heads": 2, "dim_head": 5}
faithful = partial(MultiLayerPool, **SIZES)
repaired = partial(MultiLayerResidualPool, **SIZES)
last_layer = partial(PerceiverPool, num_latents=3, num_heads=2, head_dim=5, normalize=True)


def affine_norm(x, layer):
    return (x - x.mean(-1, keepdim=True)) / (
        x.var(-1, keepdim=True, correction=0) + layer.eps
    ).sqrt() * layer.weight + layer.bias


def defined(reader, x):
    """LatentReader on one row x [K, D], a loop over heads and latents straight from the formula."""
    q = reader.to_q(affine_norm(reader.latents, reader.norm_latents))
    k, v = reader.to_kv(affine_norm(x, reader.norm)).chunk(2, -1)
    d, out = reader.dim_head, []
    for latent in range(len(reader.latents)):
        heads = []
        for head in range(reader.heads):
            part = slice(head * d, (head + 1) * d)
            scores = [math.exp((q[latent, part] @ key[part]).item() / math.sqrt(d)) for key in k]
            heads.append(sum(s / sum(scores) * value[part] for s, value in zip(scores, v, strict=True)))
        y = reader.latents[latent] + reader.to_out.weight @ torch.cat(heads)
        inner = reader.ff[0].weight @ affine_norm(y, reader.norm_ff) + reader.ff[0].bias
        half = len(inner) // 2
        gate = inner[half:] * (1 + torch.erf(inner[half:] / math.sqrt(2))) / 2
        out.append(y + reader.ff[1].weight @ (inner[:half] * gate) + reader.ff[1].bias)
    return sum(out) / len(out)


def shaken(pool):
    """Every parameter away from its start; in float64."""
    pool = pool.double()
    with torch.no_grad():
        for parameter in pool.parameters():
            parameter.add_(torch.randn_like(parameter) / 3)
    return pool


# K below, at and above the 3 latents: both orders of the product
@given(L=st.integers(1, 5), B=st.integers(0, 3), seed=st.integers(0, 99))
def test_faithful_equals_its_definition(L, B, seed):
    torch.manual_seed(seed)
    pool, h = shaken(faithful(4, L)), torch.randn(L, B, 4, dtype=torch.float64)
    got = pool(h)
    assert got.shape == (B, 4)
    for b in range(B):
        e = defined(pool.reader, h[:, b] + pool.layer_embedding)
        torch.testing.assert_close(got[b], e / e.square().sum().sqrt(), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(pool(h[:, b]), got[b], rtol=1e-12, atol=1e-12)


@given(L=st.integers(1, 5), baseline=st.sampled_from(["last", "mean"]), seed=st.integers(0, 99))
def test_repaired_equals_its_definition(L, baseline, seed):
    torch.manual_seed(seed)
    pool, h = shaken(repaired(4, L, baseline=baseline)), torch.randn(L, 2, 4, dtype=torch.float64)
    for b in range(2):
        x = h[:, b] / (h[:, b].square().mean(-1, keepdim=True) + 1e-6).sqrt() * pool.gain + pool.layer_embedding
        base = h[-1, b] if baseline == "last" else sum(h[:, b]) / L
        torch.testing.assert_close(pool(h)[b], base + pool.out.weight @ defined(pool.reader, x), rtol=1e-10, atol=1e-10)


@given(B=st.integers(1, 3), T=st.integers(0, 6), seed=st.integers(0, 99))
def test_last_layer_pool_equals_its_definition_and_reads_no_padding(B, T, seed):
    torch.manual_seed(seed)
    pool, x = shaken(last_layer(4)), torch.randn(B, T, 4, dtype=torch.float64)
    mask = torch.rand(B, T) < 0.6
    x[~mask] = torch.nan
    x.requires_grad_()
    got = pool(x, mask)
    for b in range(B):
        e = defined(pool.reader, x[b][mask[b]]) if mask[b].any() else torch.zeros(4, dtype=torch.float64)
        torch.testing.assert_close(got[b], e / e.square().sum().sqrt().clamp(min=1e-12), rtol=1e-10, atol=1e-10)
    got.sum().backward()
    assert not x.grad[~mask].any()
    assert all(parameter.grad.isfinite().all() for parameter in pool.parameters())
    offsets = torch.nn.functional.pad(mask.sum(1).cumsum(0), (1, 0))
    torch.testing.assert_close(pool(x.detach()[mask], offsets), got.detach())


def test_both_orders_of_the_product_agree():
    """The same 4 keys, asked by 3 latents (attention first) and, the latents doubled, by 6 (W_o first)."""
    few = LatentReader(8, 3, 2, 5).double()
    many = LatentReader(8, 6, 2, 5).double()
    many.load_state_dict(few.state_dict() | {"latents": few.latents.repeat(2, 1)})
    x, mask = torch.randn(2, 4, 8, dtype=torch.float64), torch.tensor([[True] * 4, [True, False, True, False]])
    torch.testing.assert_close(many(x, mask), few(x, mask), rtol=1e-12, atol=1e-12)


def test_attention_rows_sum_to_one_and_are_zero_where_hidden():
    reader = LatentReader(8, 3, 2, 5)
    mask = torch.tensor([[True, False, True], [False] * 3])
    weights = reader.attention(torch.randn(2, 3, 8), mask)
    torch.testing.assert_close(weights[0].sum(-1), torch.ones(2, 3))
    assert not weights[0, ..., 1].any()
    assert not weights[1].any()


def test_parameter_counts_are_those_of_the_paper():
    """1.278 billion at d = 4096 with 32 layers, of which attention 1.074 and feed-forward 0.201; 0.245 at 896."""
    with torch.device("meta"):
        large, small, last = MultiLayerPool(4096, 32), MultiLayerPool(896, 24), PerceiverPool(4096, 768, 32, 2048)
        frugal = MultiLayerResidualPool(4096, 32)
    assert round(size(large) / 1e9, 3) == 1.278
    assert round(size(small) / 1e9, 3) == 0.245
    assert round(sum(size(getattr(large.reader, name)) for name in ("to_q", "to_kv", "to_out")) / 1e9, 3) == 1.074
    assert round(size(large.reader.ff) / 1e9, 3) == 0.201
    assert size(large) - size(last) == 32 * 4096
    assert size(frugal) < size(large) / 4


def size(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("build", [faithful, repaired, partial(repaired, baseline="mean")])
def test_without_layer_embedding_the_order_of_layers_is_invisible_and_with_it_not(build):
    h, order = torch.randn(5, 3, 4, dtype=torch.float64), torch.tensor([2, 0, 3, 1, 4])  # the last stays: a baseline
    pool = shaken(build(4, 5))
    if hasattr(pool, "gain"):
        pool.gain.data[:] = pool.gain.data[0]
    assert not torch.allclose(pool(h), pool(h[order]))
    pool.layer_embedding.data.zero_()
    torch.testing.assert_close(pool(h), pool(h[order]), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_repaired_starts_as_its_baseline_bit_for_bit(dtype):
    h = (100 * torch.randn(5, 3, 64)).to(dtype)
    assert torch.equal(MultiLayerResidualPool(64, 5)(h), h[-1])
    assert torch.equal(MultiLayerResidualPool(64, 5, baseline="mean")(h), LayerMean(64, 5)(h))
    mask = torch.tensor([True, True, False, True, False])
    assert torch.equal(MultiLayerResidualPool(64, 5)(h, mask), h[3])
    assert torch.equal(MultiLayerResidualPool(64, 5, baseline="mean")(h, mask), LayerMean(64, 5)(h, mask))


def test_faithful_starts_nowhere_near_a_baseline():
    """At step 0 the paper's embedding is mostly the latents' mean: texts are all but equal, whatever they say."""
    h = torch.randn(5, 16, 64)
    e = MultiLayerPool(64, 5, latents=8, heads=2, dim_head=16)(h)
    cosines = (e @ e.T)[~torch.eye(16, dtype=torch.bool)]
    assert cosines.min() > 0.8  # those of the texts themselves are around 0
    assert (torch.nn.functional.normalize(h[-1], dim=-1) * e).sum(-1).abs().max() < 0.5


def test_repaired_learns_from_the_second_step_on():
    """The zero output has a gradient at once; the reader behind it has none until the output has moved."""
    pool, h = repaired(4, 3), torch.randn(3, 8, 4)
    pool(h).square().sum().backward()
    assert pool.out.weight.grad.abs().sum() > 0
    assert not pool.reader.to_q.weight.grad.any()
    torch.optim.SGD(pool.parameters(), 0.1).step()
    pool.zero_grad()
    pool(h).square().sum().backward()
    assert pool.reader.to_q.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("build", [faithful, repaired, partial(repaired, baseline="mean")])
def test_gradients_reach_every_parameter_and_are_those_of_finite_differences(build):
    pool, h = shaken(build(4, 3)), torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True)
    pool(h).square().sum().backward()
    (pool(h) * torch.randn(2, 4)).sum().backward()  # a sum of squares of unit vectors is constant
    assert [key for key, parameter in pool.named_parameters() if not (parameter.grad != 0).any()] == []
    torch.autograd.gradcheck(pool, (h,))
    names, values = zip(*pool.named_parameters(), strict=True)
    torch.autograd.gradcheck(
        lambda *given: torch.func.functional_call(pool, dict(zip(names, given, strict=True)), (h.detach(),)),
        values,
        fast_mode=True,
    )


@pytest.mark.parametrize("build", [faithful, repaired, partial(repaired, baseline="mean")])
def test_a_hidden_layer_never_leaks(build):
    pool, h = shaken(build(4, 4)), torch.randn(4, 2, 4, dtype=torch.float64)
    mask = torch.tensor([True, False, True, True])
    want = pool(h, mask)
    for poison in (torch.nan, torch.inf, 7.0):
        poisoned = h.clone()
        poisoned[1] = poison
        poisoned.requires_grad_()
        got = pool(poisoned, mask)
        assert torch.equal(got, want)
        pool.zero_grad()
        got.sum().backward()
        assert not poisoned.grad[1].any()
        assert all(parameter.grad.isfinite().all() for parameter in pool.parameters())
    assert not torch.allclose(pool(h), want)
    # hiding a layer is leaving it out
    fewer = build(4, 3).double()
    kept = {
        key: value[mask] if value.shape == (4, 4) and key in ("gain", "layer_embedding") else value
        for key, value in pool.state_dict().items()
    }
    fewer.load_state_dict(kept)
    torch.testing.assert_close(fewer(h[mask]), want)


def test_repaired_ignores_the_scale_of_a_layer_and_faithful_does_not():
    h, scale = torch.randn(4, 3, 8, dtype=torch.float64), torch.ones(4, 1, 1, dtype=torch.float64)
    scale[1] = 100
    pool = shaken(repaired(8, 4))  # its baseline is the last layer, which keeps its scale
    torch.testing.assert_close(pool(scale * h), pool(h), rtol=1e-4, atol=1e-5)  # but for the norm's eps
    pool = shaken(faithful(8, 4))
    assert not torch.allclose(pool(scale * h), pool(h), rtol=1e-2, atol=1e-2)


def test_faithful_is_normalised_unless_told():
    h = torch.randn(3, 2, 4)
    torch.testing.assert_close(faithful(4, 3)(h).norm(dim=-1), torch.ones(2))
    pool = faithful(4, 3, normalize=False)
    assert (pool(h).norm(dim=-1) - 1).abs().min() > 1e-3
    pool.normalize = True
    torch.testing.assert_close(pool(h), torch.nn.functional.normalize(faithful_of(pool)(h), dim=-1))


def faithful_of(pool):
    bare = faithful(pool.dim, pool.num_layers, normalize=False)
    bare.load_state_dict(pool.state_dict())
    return bare


def test_with_one_key_the_attention_of_the_causal_last_layer_pool_is_idle():
    """Model 2 of the paper: softmax over the one last token is 1, so queries learn nothing; with two tokens they do."""
    pool = last_layer(4)
    for tokens, idle in ((1, True), (2, False)):
        pool.zero_grad()
        x = torch.randn(3, tokens, 4)
        (pool(x, torch.ones(3, tokens, dtype=torch.bool)) * torch.randn(3, 4)).sum().backward()
        moved = pool.reader.to_q.weight.grad.abs().sum() > 1e-6
        assert moved.item() != idle


def test_without_its_mask_more_padding_would_move_the_embedding():
    """Model 4 of the paper masks nothing; ours does. The same tokens, three zeros more."""
    pool, x = last_layer(8), torch.randn(1, 4, 8)
    longer, mask = torch.nn.functional.pad(x, (0, 0, 0, 3)), torch.arange(7)[None] < 4
    everything = torch.ones(1, 7, dtype=torch.bool)
    want = pool(x, torch.ones(1, 4, dtype=torch.bool))
    torch.testing.assert_close(pool(longer, mask), want)
    assert (pool(longer, everything) - want).abs().max() > 1e-4


def test_a_text_without_tokens():
    """Zeros by the repaired and the last-layer pool; a finite constant by the faithful one. Others are not touched."""
    h = torch.randn(3, 3, 4, dtype=torch.float64)
    h[:, 1] = 0
    for build in (repaired, partial(repaired, baseline="mean")):
        pool, leaf = shaken(build(4, 3)), h.clone().requires_grad_()
        got = pool(leaf)
        assert not got[1].any()
        torch.testing.assert_close(got[[0, 2]], pool(h[:, [0, 2]]))
        got.sum().backward()
        assert leaf.grad.isfinite().all()
    pool = shaken(faithful(4, 3))
    constant = pool(torch.zeros(3, 4, dtype=torch.float64))
    assert constant.isfinite().all()
    assert constant.any()
    torch.testing.assert_close(pool(h)[1], constant)


@pytest.mark.parametrize("build", [faithful, repaired])
def test_half_parameters_work_too(build):
    pool, h = build(16, 5).bfloat16(), torch.randn(5, 3, 16).bfloat16()
    got = pool(h, torch.tensor([True, True, False, True, True]))
    assert got.dtype == torch.bfloat16
    assert got.isfinite().all()


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: MultiLayerResidualPool(4, 3, baseline="cls"), "'last'.*or 'mean'.*got 'cls'"),
        (lambda: MultiLayerPool(4, 3, latents=0), "latents must be 1 or more; got 0"),
        (lambda: MultiLayerPool(4, 0), "num_layers must be 1 or more; got 0"),
        (lambda: faithful(4, 3)(torch.zeros(4, 2, 4)), "built for 3"),
        (lambda: repaired(4, 3)(torch.zeros(2, 2, 4)), "built for 3"),
        (lambda: faithful(4, 3)(torch.zeros(3, 4), torch.zeros(3, dtype=torch.bool)), "hides every layer"),
    ],
)
def test_bad_input_is_refused(build, says):
    with pytest.raises(ValueError, match=says):
        build()
