"""States too large, or too small, for their squares to fit into float32: bfloat16 holds what a square does not."""

import pytest
import torch

from lab.kernels import segment_torch
from lab.pooling import LAYER_POOLS, POOLS
from lab.pooling.functional import segment_pool
from lab.pooling.layers import with_inverse_rms
from lab.pooling.length import length

pytestmark = pytest.mark.usefixtures("plain_torch")
LARGE = [1e20, 1e30, 1e37]
MASK = torch.tensor([[True] * 6, [False, True, True, False, True, False]])


def drawn(scale, *shape):
    return (scale * torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).float()


def value_and_gradient(function, x):
    x = x.detach().requires_grad_()
    y = function(x)
    return y.detach(), torch.autograd.grad(y, x, torch.ones_like(y))[0]


@pytest.mark.parametrize("scale", LARGE)
@pytest.mark.parametrize("name", ["gsp", "norm_weighted_mean", "sink_excluding_mean"])
def test_token_pools_of_large_states_are_those_of_float64(name, scale):
    pool = POOLS[name](8, **({"max_norm_ratio": 1.2} if name == "sink_excluding_mean" else {}))
    x = drawn(scale, 2, 6, 8)
    y, slope = value_and_gradient(lambda x: pool(x, MASK), x)
    want, exact = value_and_gradient(lambda x: pool.double()(x, MASK), x.double())
    torch.testing.assert_close(y.double(), want, rtol=1e-4, atol=1e-5 * scale)
    torch.testing.assert_close(slope.double(), exact, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("scale", LARGE)
@pytest.mark.parametrize("name", ["router", "pair", "multilayer_residual"])
def test_layer_pools_of_large_states_are_those_of_float64(name, scale):
    torch.manual_seed(0)
    pool, h = LAYER_POOLS[name](8, 4), drawn(scale, 4, 3, 8)
    with torch.no_grad():  # away from where the weights of a layer do not depend on it
        for parameter in pool.parameters():
            parameter.add_(torch.randn_like(parameter))
    y, slope = value_and_gradient(pool, h)
    want, exact = value_and_gradient(pool.double(), h.double())
    torch.testing.assert_close(y.double(), want, rtol=1e-4, atol=1e-5 * scale)
    torch.testing.assert_close(slope.double(), exact, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("scale", [1e-37, 1e-25, 1.0, *LARGE])
def test_lengths_and_their_gradients(scale):
    """Near 0 float32's own square vanishes, which is far below what any pool reads of a length."""
    x = drawn(scale, 2, 6, 8)
    norm, slope = value_and_gradient(length, x)
    if scale >= 1:
        torch.testing.assert_close(norm, torch.linalg.vector_norm(x.double(), dim=-1), rtol=1e-6, atol=0)
        torch.testing.assert_close(slope, (x.double() / norm[..., None]).float())
        torch.testing.assert_close(
            torch.mul(*with_inverse_rms(x, 1e-6)).double(), 8**0.5 * x.double() / norm[..., None], rtol=1e-5, atol=0
        )
    assert norm.isfinite().all()
    assert slope.isfinite().all()


@pytest.mark.parametrize("scale", [1e-38, 1e-25, 1e-12, 1.0, *LARGE])
@pytest.mark.parametrize("mask", [MASK, torch.ones(2, 6, dtype=torch.bool)], ids=["padded", "full"])
def test_the_deviation_of_large_and_small_states_is_that_of_float64(mask, scale):
    x = drawn(scale, 2, 6, 3)
    x[..., 0] = 3 * scale  # no deviation at all, beside those that have one
    y, slope = value_and_gradient(lambda x: segment_pool(x, mask, "std"), x)
    want, exact = value_and_gradient(lambda x: segment_pool(x, mask, "std"), x.double() / scale)
    torch.testing.assert_close(y.double() / scale, want, rtol=1e-5, atol=0)
    torch.testing.assert_close(slope.double(), exact, rtol=1e-4, atol=1e-6)
    assert not y[:, 0].any()


def test_equal_tokens_do_not_send_the_deviation_the_longer_way(monkeypatch):
    ways = []
    once = segment_torch._deviation
    monkeypatch.setattr(segment_torch, "_deviation", lambda *given: ways.append(given) or once(*given))
    x = drawn(1.0, 2, 6, 3)
    x[..., 0] = 0.1  # equal: its variance is 0, and no square underflowed
    x[1, 0, 2] = 7.0  # a token of padding
    y = segment_pool(x, MASK, "std")
    assert len(ways) == 1
    assert not y[:, 0].any()
    x[..., 1] *= 1e-25  # here one does
    segment_pool(x, MASK, "std")
    assert len(ways) == 3
