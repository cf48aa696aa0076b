"""lab.pooling.founding: how the founding paper feeds its pools, against the plain forms, and how they are repaired."""

import pytest
import torch
from torch import nn

from lab.pooling.founding import LastTokenOnly, MLPPool, PaddingToo, ResidualPool
from lab.pooling.interchange import TokenPooling
from lab.pooling.latent import PerceiverPool
from lab.pooling.token import LastPool, MeanPool

D = 6
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 0, 0, 0, 0], [0, 1, 1, 1, 0]], dtype=torch.bool)
PERCEIVER = {"num_latents": 3, "num_heads": 2}
POOLS = {
    "last token only": lambda: LastTokenOnly(PerceiverPool(D, **PERCEIVER, normalize=True), D),
    "residual": lambda: shaken(ResidualPool(MeanPool(D), PerceiverPool(D, **PERCEIVER), D)),
    "mlp": lambda: MLPPool(LastPool(D), D, 9),
    "padding too": lambda: PaddingToo(PerceiverPool(D, **PERCEIVER, normalize=True), D),
}
KEEP_THE_CONTRACT = [name for name in POOLS if name != "padding too"]


def shaken(pool):
    with torch.no_grad():
        for parameter in pool.parameters():
            parameter.add_(torch.rand_like(parameter) / 4)
    return pool


def perceived(pool, x):
    """softmax attention of the latents over the tokens of one text x [T, D], head by head, and the rest, in words."""
    reader = pool.reader
    norm = [nn.functional.layer_norm(v, (D,), n.weight, n.bias) for v, n in
            ((reader.latents, reader.norm_latents), (x, reader.norm))]  # fmt: skip
    q = norm[0] @ reader.to_q.weight.T
    k, v = (norm[1] @ reader.to_kv.weight.T).chunk(2, -1)
    size = reader.dim_head
    heads = [
        (q[:, at] @ k[:, at].T / size**0.5).softmax(-1) @ v[:, at]
        for at in (slice(i, i + size) for i in range(0, q.shape[1], size))
    ]
    z = reader.latents + torch.cat(heads, -1) @ reader.to_out.weight.T
    inner = nn.functional.layer_norm(z, (D,), reader.norm_ff.weight, reader.norm_ff.bias)
    value, gate = (inner @ reader.ff[0].weight.T + reader.ff[0].bias).chunk(2, -1)
    y = (z + (value * nn.functional.gelu(gate)) @ reader.ff[1].weight.T + reader.ff[1].bias).mean(0)
    return y / y.norm() if pool.normalize else y


def by_hand(name, pool, x, real):
    if name == "last token only":
        return perceived(pool.pool, x[real][-1:])
    if name == "padding too":
        return perceived(pool.pool, x)
    if name == "residual":
        return x[real].mean(0) + pool.out.weight @ perceived(pool.more, x[real])
    e = nn.functional.layer_norm(x[real][-1], (D,), pool.norm.weight, pool.norm.bias)
    y = pool.down.weight @ nn.functional.gelu(pool.up.weight @ e + pool.up.bias) + pool.down.bias
    return y / y.norm()


@pytest.mark.parametrize("name", POOLS)
def test_values_and_gradients_are_those_of_the_formula(name):
    pool, x = POOLS[name]().double(), torch.randn(4, 5, D, dtype=torch.float64, requires_grad=True)
    want = torch.stack([by_hand(name, pool, x[i], MASK[i]) if MASK[i].any() else x[i, 0] * 0 for i in range(4)])
    got = pool(x, MASK)
    weight = torch.randn_like(want)
    inputs = [x, *pool.parameters()]
    slopes = [torch.autograd.grad((y * weight).sum(), inputs, allow_unused=True) for y in (got, want)]
    torch.testing.assert_close(got, want)
    for one, other in zip(*slopes, strict=True):
        torch.testing.assert_close(*(torch.zeros(()) if g is None else g for g in (one, other)))


@pytest.mark.parametrize("name", KEEP_THE_CONTRACT)
def test_padding_is_never_read_and_empty_rows_are_zeros(name):
    pool, x = POOLS[name](), torch.randn(4, 5, D)
    want = pool(x, MASK)
    poisoned = x.masked_fill(~MASK[..., None], torch.nan).requires_grad_()
    got = pool(poisoned, MASK)
    torch.testing.assert_close(got, want, rtol=0, atol=0)
    assert torch.equal(got[2], torch.zeros(D))
    got.sum().backward()
    assert torch.equal(poisoned.grad[~MASK], torch.zeros_like(poisoned.grad[~MASK]))
    wider = nn.functional.pad(x, (0, 0, 2, 1)), nn.functional.pad(MASK, (2, 1))
    torch.testing.assert_close(pool(*wider), want, rtol=0, atol=1e-6)
    torch.testing.assert_close(pool(x.transpose(0, 1).contiguous().transpose(0, 1), MASK), want, rtol=0, atol=1e-6)


def test_padding_that_is_read_moves_the_embedding():
    """The fault of the paper's code, kept on purpose: the same texts, three pads more."""
    pool, x = POOLS["padding too"](), torch.randn(4, 5, D)
    far = pool(nn.functional.pad(x, (0, 0, 0, 3)), nn.functional.pad(MASK, (0, 3))) - pool(x, MASK)
    assert far[0].norm() > 0.01
    assert torch.equal(far[2], torch.zeros(D))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", POOLS)
def test_half_precision_is_near_the_exact_one(name, dtype):
    pool, x = POOLS[name]().to(dtype), torch.randn(4, 5, D).to(dtype)
    got = pool(x, MASK)
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), pool.double()(x.double(), MASK), rtol=0, atol=8 * torch.finfo(dtype).eps)


def test_one_key_leaves_the_queries_without_a_gradient():
    """Model 2 of the paper is an MLP of one token: softmax over one key is 1."""
    pool = LastTokenOnly(PerceiverPool(D, **PERCEIVER), D)
    pool(torch.randn(4, 5, D), MASK).square().sum().backward()
    reader = pool.pool.reader
    assert reader.to_q.weight.grad.abs().max() < 1e-7
    assert reader.to_kv.weight.grad.chunk(2)[0].abs().max() < 1e-7
    assert reader.to_kv.weight.grad.chunk(2)[1].abs().max() > 1e-3


def test_a_repaired_pool_starts_as_its_base_and_then_learns():
    x = torch.randn(4, 5, D)
    for base in (MeanPool(D), LastPool(D)):
        pool = ResidualPool(base, PerceiverPool(D, **PERCEIVER), D)
        assert torch.equal(pool(x, MASK), base(x, MASK))
        pool(x, MASK).square().sum().backward()
        assert pool.out.weight.grad.abs().max() > 1e-3


@pytest.mark.parametrize("name", POOLS)
def test_each_survives_saving(name, tmp_path):
    module, x = TokenPooling(POOLS[name](), dim=D), {"token_embeddings": torch.randn(4, 5, D), "attention_mask": MASK}
    module.save(str(tmp_path))
    again = TokenPooling.load(str(tmp_path))
    torch.testing.assert_close(again(dict(x))["sentence_embedding"], module(dict(x))["sentence_embedding"])


def test_sizes_that_are_none_are_refused():
    with pytest.raises(ValueError, match="at least 1; got 6, 0"):
        MLPPool(LastPool(D), D, 0)


@pytest.mark.parametrize("name", KEEP_THE_CONTRACT)
def test_ragged_texts_are_the_same_as_padded_ones(name):
    pool, x = POOLS[name](), torch.randn(4, 5, D)
    offsets = torch.nn.functional.pad(MASK.sum(1).cumsum(0), (1, 0))
    torch.testing.assert_close(pool(x[MASK], offsets), pool(x, MASK), rtol=0, atol=1e-6)
