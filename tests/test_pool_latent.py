"""Latent pools: NV-Embed's formula and the Perceiver's; the block they share with layers is in test_multilayer.py."""

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


def feed_forward(ff, norm, x):
    value, gate = ff[0](norm(x)).chunk(2, -1)
    return x + ff[1](value * functional.gelu(gate))


@torch.no_grad()
@pytest.mark.parametrize("head_dim", [None, 5])
def test_latent_attention_is_nv_embeds_block(head_dim):
    x, mask = drawn()
    pool = LatentAttentionPool(D, num_latents=4, num_heads=2, head_dim=head_dim).double()
    latents = pool.latent_norm(pool.latents).expand(2, -1, -1)
    met = functional.scaled_dot_product_attention(
        heads(pool.query(pool.norm(x))), heads(pool.key(latents)), heads(pool.value(latents))
    )
    h = feed_forward(pool.ff, pool.ff_norm, x + pool.out(met.transpose(1, 2).flatten(2)))
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
    reader = pool.reader
    query = heads(reader.to_q(reader.norm_latents(reader.latents)).expand(2, -1, -1))
    k, v = map(heads, reader.to_kv(reader.norm(x)).chunk(2, -1))
    met = functional.scaled_dot_product_attention(query, k, v, attn_mask=mask[:, None, None])
    z = reader.latents + reader.to_out(met.transpose(1, 2).flatten(2))
    z = feed_forward(reader.ff, reader.norm_ff, z)
    torch.testing.assert_close(pool(x, mask), z.mean(1) if mean else z.flatten(1))


@pytest.mark.parametrize("pool", [LatentAttentionPool, PerceiverPool])
def test_every_latent_learns_and_heads_must_fit(pool):
    x, mask = drawn()
    built = pool(D, num_latents=3).double()
    latents = built.latents if pool is LatentAttentionPool else built.reader.latents
    (slope,) = torch.autograd.grad(built(x, mask).square().sum(), latents)
    assert (slope.abs().sum(1) > 0).all()
    with pytest.raises(ValueError, match="dim 6 and num_heads 4"):
        pool(D, num_heads=4)
