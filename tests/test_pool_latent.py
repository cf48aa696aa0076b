"""Latent pools: NV-Embed's formula, the Perceiver's, and what goes wrong with one key or without a key mask."""

import pytest
import torch
from torch.nn import functional

from lab.pooling.latent import LatentAttentionPool, PerceiverPool

D = 6


def drawn():
    x = torch.randn(2, 5, D, dtype=torch.float64)
    return x, torch.tensor([[1, 1, 0, 1, 0], [0, 1, 1, 1, 1]]).bool()


def heads(x):
    return x.unflatten(-1, (2, -1)).transpose(-2, -3)


def feed_forward(pool, x):
    value, gate = pool.ff[0](pool.ff_norm(x)).chunk(2, -1)
    return x + pool.ff[1](value * functional.gelu(gate))


@torch.no_grad()
@pytest.mark.parametrize("head_dim", [None, 5])
def test_latent_attention_is_nv_embeds_block(head_dim):
    x, mask = drawn()
    pool = LatentAttentionPool(D, num_latents=4, num_heads=2, head_dim=head_dim).double()
    latents = pool.latent_norm(pool.latents).expand(2, -1, -1)
    met = functional.scaled_dot_product_attention(
        heads(pool.query(pool.norm(x))), heads(pool.key(latents)), heads(pool.value(latents))
    )
    h = feed_forward(pool, x + pool.out(met.transpose(1, 2).flatten(2)))
    want = torch.stack([row[real].mean(0) for row, real in zip(h, mask, strict=True)])
    torch.testing.assert_close(pool(x, mask), want)


@torch.no_grad()
def test_latents_may_change_places():
    x, mask = drawn()
    pool = LatentAttentionPool(D, num_latents=4, num_heads=2).double()
    before = pool(x, mask)
    pool.latents.copy_(pool.latents[[2, 0, 3, 1]])
    torch.testing.assert_close(pool(x, mask), before)


@torch.no_grad()
@pytest.mark.parametrize("mean", [True, False])
def test_perceiver_is_its_formula(mean):
    x, mask = drawn()
    pool = PerceiverPool(D, num_latents=3, num_heads=2, head_dim=5, mean=mean).double()
    tokens, latents = pool.norm(x), pool.latent_norm(pool.latents).expand(2, -1, -1)
    met = functional.scaled_dot_product_attention(
        heads(pool.query(latents)), heads(pool.key(tokens)), heads(pool.value(tokens)), attn_mask=mask[:, None, None]
    )
    z = feed_forward(pool, pool.latents + pool.out(met.transpose(1, 2).flatten(2)))
    torch.testing.assert_close(pool(x, mask), z.mean(1) if mean else z.flatten(1))


def test_more_padding_moves_the_unmasked_block_and_not_ours():
    """The code of the last-layer trainable pooling passes no key mask."""
    x, mask = drawn()
    pool = PerceiverPool(D, num_latents=3).double()
    longer = torch.cat([x, torch.zeros(2, 3, D)], 1)
    padded = torch.cat([mask, torch.zeros(2, 3, dtype=torch.bool)], 1)
    torch.testing.assert_close(pool(longer, padded), pool(x, mask))
    everything = torch.ones_like(padded)
    assert not torch.allclose(pool(longer, everything), pool(x, everything[:, :5]), atol=1e-4)


def test_one_key_gives_queries_and_keys_no_gradient():
    """A softmax over one token is 1, whatever the scores: such a pool learns no attention."""
    pool = PerceiverPool(D, num_latents=3).double()
    one, two = (pool(torch.randn(1, n, D, dtype=torch.float64), torch.ones(1, n, dtype=torch.bool)) for n in (1, 2))
    asking = [pool.query.weight, pool.key.weight]
    for slope in torch.autograd.grad(one.square().sum(), asking):
        assert slope.abs().max() < 1e-12
    for slope in torch.autograd.grad(two.square().sum(), asking):
        assert slope.abs().max() > 1e-6


@pytest.mark.parametrize("pool", [LatentAttentionPool, PerceiverPool])
def test_every_latent_learns_and_heads_must_fit(pool):
    x, mask = drawn()
    built = pool(D, num_latents=3).double()
    (slope,) = torch.autograd.grad(built(x, mask).square().sum(), built.latents)
    assert (slope.abs().sum(1) > 0).all()
    with pytest.raises(ValueError, match="dim 6 and num_heads 4"):
        pool(D, num_heads=4)
