"""Attention with learned scores: against torch's own attention, the formulas, and the limits that make them a mean."""

import pytest
import torch
from torch.nn import functional

from lab.pooling.attention import PMA, AttSetsPool, GatedAttentionPool, MultiHeadAttentionPool

D = 6


def drawn(seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(3, 7, D, generator=g, dtype=torch.float64)
    mask = torch.rand(3, 7, generator=g) < 0.7
    mask[:, 0] = True
    return x, mask


def mean(x, mask):
    return torch.stack([row[real].mean(0) for row, real in zip(x, mask, strict=True)])


def heads(x, num_heads):
    return x.unflatten(-1, (num_heads, -1)).transpose(-2, -3)


@torch.no_grad()
def test_multi_head_attention_equals_that_of_torch():
    """nn.MultiheadAttention with the projected query handed over: identity for W_q, our rows for the rest."""
    x, mask = drawn()
    pool = MultiHeadAttentionPool(D, num_heads=2, num_queries=3).double()
    pool.value.bias.normal_()
    pool.out.bias.normal_()
    peer = torch.nn.MultiheadAttention(D, 2, batch_first=True, dtype=torch.float64)
    peer.in_proj_weight.copy_(torch.cat([torch.eye(D), pool.key.weight, pool.value.weight]))
    peer.in_proj_bias.copy_(torch.cat([torch.zeros(2 * D), pool.value.bias]))
    peer.out_proj.load_state_dict(pool.out.state_dict())
    query = pool.query.flatten(1).expand(3, -1, -1)
    want = peer(query, x, x, key_padding_mask=~mask)[0]  # theirs is True = ignore
    torch.testing.assert_close(pool(x, mask), want.flatten(1))


@torch.no_grad()
def test_a_bias_on_the_keys_would_change_nothing():
    x, _ = drawn()
    q, k = torch.randn(1, 3, 1, D, dtype=x.dtype), x[:, None]
    bias = torch.randn(D, dtype=x.dtype)
    torch.testing.assert_close(
        functional.scaled_dot_product_attention(q, k + bias, k), functional.scaled_dot_product_attention(q, k, k)
    )


@pytest.mark.parametrize("layer_norm", [False, True])
@torch.no_grad()
def test_pma_is_the_official_block(layer_norm):
    x, mask = drawn()
    pool = PMA(D, num_heads=2, num_seeds=3, layer_norm=layer_norm).double()
    q, k, v = pool.query(pool.seeds).expand(3, -1, -1), pool.key(x), pool.value(x)
    met = functional.scaled_dot_product_attention(
        heads(q, 2), heads(k, 2), heads(v, 2), attn_mask=mask[:, None, None], scale=D**-0.5
    )
    o = pool.norm[0](q + met.transpose(1, 2).flatten(2))
    torch.testing.assert_close(pool(x, mask), pool.norm[1](o + pool.out(o).relu()).flatten(1))


@torch.no_grad()
def test_the_scale_of_pma_is_an_argument_and_the_three_flavours_differ():
    x, mask = drawn()
    official = PMA(D, num_heads=2).double()
    of_a_head = PMA(D, num_heads=2, scale=(D / 2) ** -0.5).double()
    of_a_head.load_state_dict(official.state_dict())
    assert official.scale == pytest.approx(D**-0.5)
    assert not torch.allclose(official(x, mask), of_a_head(x, mask))


@torch.no_grad()
def test_pma_with_blind_keys_adds_the_mean_of_the_values():
    x, mask = drawn()
    pool = PMA(D, num_heads=2).double()
    pool.key.weight.zero_()
    o = pool.query(pool.seeds) + mean(pool.value(x), mask)
    torch.testing.assert_close(pool(x, mask), o + pool.out(o).relu())


@torch.no_grad()
@pytest.mark.parametrize("gated", [True, False])
def test_gated_attention_is_its_formula(gated):
    x, mask = drawn()
    pool = GatedAttentionPool(D, hidden=5, branches=2, gated=gated).double()
    got = pool(x, mask).unflatten(1, (2, D))
    for b in range(3):
        row = x[b][mask[b]]
        h = torch.tanh(row @ pool.v.weight.T + pool.v.bias)
        if gated:
            h = h * torch.sigmoid(row @ pool.u.weight.T + pool.u.bias)
        a = (h @ pool.w.weight.T + pool.w.bias).softmax(0)
        torch.testing.assert_close(a.sum(0), torch.ones(2, dtype=x.dtype))
        torch.testing.assert_close(got[b], a.T @ row)


@torch.no_grad()
def test_gated_attention_without_a_score_is_the_mean():
    x, mask = drawn()
    pool = GatedAttentionPool(D, hidden=5).double()
    pool.w.weight.zero_()
    torch.testing.assert_close(pool(x, mask), mean(x, mask))


@torch.no_grad()
def test_a_closed_gate_is_half_a_score_of_plain_attention():
    """U = 0 and no bias: sigmoid is 1/2, so w counts half."""
    x, mask = drawn()
    gated, plain = GatedAttentionPool(D, hidden=5).double(), GatedAttentionPool(D, hidden=5, gated=False).double()
    gated.u.weight.zero_()
    gated.u.bias.zero_()
    plain.v.load_state_dict(gated.v.state_dict())
    plain.w.weight.copy_(gated.w.weight / 2)
    torch.testing.assert_close(gated(x, mask), plain(x, mask))


@torch.no_grad()
def test_attsets_is_its_formula_and_stays_between_the_extrema():
    x, mask = drawn()
    pool = AttSetsPool(D, num_outputs=2).double()
    got = pool(x, mask).unflatten(1, (2, D))
    for b in range(3):
        row = x[b][mask[b]]
        scores = (row @ pool.score.weight.T).unflatten(1, (2, D))
        torch.testing.assert_close(got[b], (scores.softmax(0) * row[:, None]).sum(0))
        assert (got[b] >= row.amin(0)).all()
        assert (got[b] <= row.amax(0)).all()


@torch.no_grad()
def test_attsets_without_scores_is_the_mean_and_of_one_token_the_identity():
    x, mask = drawn()
    pool = AttSetsPool(D).double()
    torch.testing.assert_close(pool(x[:, :1], mask[:, :1]), x[:, 0])
    pool.score.weight.zero_()
    torch.testing.assert_close(pool(x, mask), mean(x, mask))


@pytest.mark.parametrize("pool", [MultiHeadAttentionPool, PMA])
def test_heads_must_divide_the_width(pool):
    with pytest.raises(ValueError, match="dim 6 and num_heads 4"):
        pool(D, num_heads=4)


@torch.no_grad()
@pytest.mark.parametrize("pool", [MultiHeadAttentionPool, PMA, AttSetsPool, GatedAttentionPool])
def test_parameters_in_half_precision_work_and_large_scores_do_not_overflow(pool):
    x, mask = drawn()
    built = pool(D).to(torch.bfloat16)
    for layer in built.modules():
        if isinstance(layer, torch.nn.Linear):
            layer.weight.mul_(100)
    y = built(x.to(torch.bfloat16) * 100, mask)
    assert y.dtype == torch.bfloat16
    assert y.isfinite().all()
