"""What every pool of the set and token families promises of masks, layouts, types and gradients, one table for all."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.kernels import segment_pool, segment_torch
from lab.kernels.layout import keep
from lab.pooling import (
    attention,
    concat,
    generalized,
    gsp,
    hopfield,
    keyvalue,
    landmark,
    latent,
    midam,
    spans,
    splade,
    weighted,
)
from lab.pooling.description import built, described
from lab.pooling.functional import to_ragged

D = 4
POOLS = {
    "gem": lambda: generalized.GeM(D),
    "group_gem": lambda: generalized.GroupGeM(D, num_groups=2),
    "lse": lambda: generalized.LSEPool(D, trainable=True),
    "softmax": lambda: generalized.SoftmaxPool(D, beta=0.7, trainable=True),
    "gnp": lambda: generalized.GNP(D, p=2.5, q=0.3),
    "norm_weighted_mean": lambda: generalized.NormWeightedMeanPool(D),
    "multihead_attention": lambda: attention.MultiHeadAttentionPool(D, num_heads=2, num_queries=3),
    "gated_attention": lambda: attention.GatedAttentionPool(D, hidden=5, branches=2),
    "attsets": lambda: attention.AttSetsPool(D, num_outputs=2),
    "pma": lambda: attention.PMA(D, num_heads=2, num_seeds=2, layer_norm=True),
    "hopfield": lambda: hopfield.HopfieldPooling(D, num_heads=2, quantity=2, update_steps=2),
    "gsp": lambda: gsp.GSP(D, num_prototypes=3),
    "splade_max": lambda: splade.SPLADEPool(D),
    "splade_sum": lambda: splade.SPLADEPool(D, "sum"),
    "latent_attention": lambda: latent.LatentAttentionPool(D, num_latents=3, num_heads=2),
    "perceiver": lambda: latent.PerceiverPool(D, num_latents=3, num_heads=2),
    "landmark": lambda: landmark.LandmarkPool(D, chunk_size=3),
    "span_max": lambda: spans.SpanMaxPool(D),
    "sink_excluding_mean": lambda: weighted.SinkExcludingMeanPool(D, max_norm_ratio=2.0),
    "received_attention": lambda: Received(D),
    "concat": lambda: concat.ConcatPool(D, ("mean", generalized.GeM(D))),
    "midam_softmax": lambda: midam.MIDAMSoftmaxPool(D),
    "midam_attention": lambda: midam.MIDAMAttentionPool(D, hidden=5),
    "key_value": lambda: keyvalue.DiscreteKeyValueBottleneck(D, num_codebooks=2, num_keys=5, dim_key=3, dim_value=3),
}
ORDERED = {"landmark", "sink_excluding_mean"}  # these look at positions
NO_GRADIENT = {"key_value"}  # to its input
every_pool = pytest.mark.parametrize("name", POOLS)


class Received(weighted.ReceivedAttentionPool):
    """The pool that cannot do without a third argument, given one that only depends on the token."""

    def forward(self, x, mask):
        return super().forward(
            x, mask, keep(x, mask)[..., 0].abs() if mask.shape == x.shape[:-1] or x.ndim == 2 else None
        )


@pytest.fixture(autouse=True)
def plain_torch(monkeypatch):
    """The kernels have tests of their own; interpreted, each of these 32k tokens would take seconds."""
    monkeypatch.setattr(segment_pool, "apply", segment_torch.pool)


def test_every_family_has_its_pools_in_the_table():
    """A pool added to one of the files and not here would have no contract."""
    files = (attention, concat, generalized, gsp, hopfield, keyvalue, landmark, latent, midam, spans, splade, weighted)
    classes = {
        thing
        for file in files
        for thing in vars(file).values()
        if isinstance(thing, type) and issubclass(thing, torch.nn.Module) and thing.__module__ == file.__name__
    }
    helpers = {latent.GEGLU}
    listed = {type(build()) for build in POOLS.values()} - {Received} | {weighted.ReceivedAttentionPool}
    assert classes - helpers == listed


def drawn(B, T, seed, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(B, T, D, generator=g, dtype=dtype), torch.rand(B, T, generator=g) < 0.6


@every_pool
@settings(max_examples=10)
@given(B=st.integers(0, 3), T=st.integers(0, 9), seed=st.integers(0, 99))
def test_padded_and_ragged_give_the_same_numbers_and_gradients(name, B, T, seed):
    x, mask = drawn(B, T, seed)
    pool = POOLS[name]().double()
    x = x.masked_fill(~mask[..., None], torch.nan).requires_grad_()  # padding must never be read
    padded = pool(x, mask)
    assert padded.shape == (B, pool(x.new_zeros(1, 1, D), torch.ones(1, 1, dtype=torch.bool)).shape[1])
    flat, offsets = to_ragged(x.detach(), mask)
    flat.requires_grad_()
    ragged = pool(flat, offsets)
    torch.testing.assert_close(ragged, padded, rtol=1e-9, atol=1e-10)
    parameters = [p for p in pool.parameters() if p.requires_grad]
    if B and name not in NO_GRADIENT:
        dy = torch.randn(padded.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(1))
        want, *slopes = torch.autograd.grad(padded, [x, *parameters], dy, allow_unused=True, materialize_grads=True)
        got, *others = torch.autograd.grad(ragged, [flat, *parameters], dy, allow_unused=True, materialize_grads=True)
        torch.testing.assert_close(got, want[mask], rtol=1e-8, atol=1e-9)
        assert not want[~mask].any()
        torch.testing.assert_close(others, slopes, rtol=1e-8, atol=1e-9)


@every_pool
@settings(max_examples=10)
@given(T=st.integers(1, 12), extra=st.integers(1, 5), seed=st.integers(0, 99))
def test_where_the_padding_stands_does_not_matter(name, T, extra, seed):
    x = drawn(1, T, seed)[0]
    pool, real = POOLS[name]().double(), torch.ones(1, T, dtype=torch.bool)
    want = pool(x, real)
    padding, none = torch.full((1, extra, D), torch.inf, dtype=x.dtype), torch.zeros(1, extra, dtype=torch.bool)
    for order in ((padding, x), (x, padding), (x[:, : T // 2], padding, x[:, T // 2 :])):
        masks = [none if part is padding else real[:, : part.shape[1]] for part in order]
        torch.testing.assert_close(pool(torch.cat(order, 1), torch.cat(masks, 1)), want, rtol=1e-9, atol=1e-10)


@every_pool
def test_an_empty_row_is_zero_has_zero_gradient_and_touches_no_other_row(name):
    x, mask = drawn(3, 5, 0)
    mask[0], mask[1] = False, True
    x[0] = torch.nan
    x.requires_grad_(name not in NO_GRADIENT)
    pool = POOLS[name]().double()
    y = pool(x, mask)
    assert torch.equal(y[0], torch.zeros_like(y[0]))
    torch.testing.assert_close(y[1:], pool(x[1:], mask[1:]), rtol=1e-9, atol=1e-10)
    if name not in NO_GRADIENT:
        (grad,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
        assert torch.equal(grad[0], torch.zeros(5, D, dtype=x.dtype))
        assert grad.isfinite().all()
    for parameter in pool.parameters():
        if parameter.requires_grad:
            (alone,) = torch.autograd.grad(y[0].sum(), parameter, retain_graph=True, allow_unused=True)
            assert alone is None or torch.equal(alone, torch.zeros_like(parameter))


@every_pool
def test_gradients_are_those_of_the_values(name):
    x, mask = drawn(2, 4, 1)
    mask[0] = True
    pool = POOLS[name]().double()
    for p in pool.parameters():
        p.requires_grad_(p.numel() > 0)
    parameters = list(pool.parameters())
    x.requires_grad_(name not in NO_GRADIENT)

    def value(x, *given):
        return torch.func.functional_call(pool, dict(zip(dict(pool.named_parameters()), given, strict=True)), (x, mask))

    assert torch.autograd.gradcheck(value, (x, *parameters), atol=1e-6, fast_mode=True)


@every_pool
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_half_inputs_are_accumulated_in_float32_and_come_back_as_they_were(name, dtype):
    x, mask = drawn(3, 40, 2)
    x = x.to(dtype)
    pool = POOLS[name]()
    got = pool(x, mask)
    assert got.dtype == dtype
    want = pool.double()(x.double(), mask)
    # one rounding of the result, and float32 inside
    torch.testing.assert_close(got.double(), want, rtol=torch.finfo(dtype).eps, atol=2e-5)


@every_pool
def test_inputs_are_not_changed_and_need_not_be_contiguous(name):
    x, mask = drawn(2, 6, 3)
    turned = x.transpose(1, 2).contiguous().transpose(1, 2)
    copy, copied_mask = turned.clone(), mask.clone()
    pool = POOLS[name]().double()
    torch.testing.assert_close(pool(turned, mask), pool(x, mask))
    assert torch.equal(turned, copy)
    assert torch.equal(mask, copied_mask)


@pytest.mark.parametrize("name", POOLS.keys() - ORDERED)
def test_the_order_of_the_tokens_does_not_matter(name):
    x, mask = drawn(2, 7, 4)
    order = torch.randperm(7)
    pool = POOLS[name]().double()
    torch.testing.assert_close(pool(x[:, order], mask[:, order]), pool(x, mask), rtol=1e-9, atol=1e-10)


@every_pool
def test_every_pool_says_what_is_wrong_with_its_input(name):
    with pytest.raises((ValueError, TypeError), match=r"mask|offsets"):
        POOLS[name]()(torch.zeros(2, 3, D), torch.ones(2, 4, dtype=torch.bool))


@pytest.mark.parametrize(
    "name", ["gem", "group_gem", "lse", "softmax", "norm_weighted_mean", "splade_max", "landmark", "span_max"]
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_long_half_precision_rows_accumulate_in_float32(name, dtype):
    x = (1 + torch.rand(1, 32_768, D, generator=torch.Generator().manual_seed(0))).to(dtype)
    mask = torch.ones(1, 32_768, dtype=torch.bool)
    pool = POOLS[name]()
    got, want = pool(x, mask), pool.double()(x.double(), mask)
    torch.testing.assert_close(got.double(), want, rtol=torch.finfo(dtype).eps, atol=0)


@every_pool
def test_every_pool_keeps_what_it_was_built_with(name):
    """So that it can be written down and built again, as an export does."""
    pool = POOLS[name]()
    told = json.loads(json.dumps(described(pool)))
    again = built(told, trusted=True)
    again.load_state_dict(pool.state_dict())
    x, mask = drawn(2, 5, 6, torch.float32)
    assert torch.equal(again(x, mask), pool(x, mask))
