"""lab.pooling: every pool against a definition in float64 written from its formula, and the mask contract."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lab.pooling import POOLS, functional, token

# one row of real tokens [n, D] in float64 -> [D]
DEFINITIONS = {
    "first": lambda row: row[0],
    "last": lambda row: row[-1],
    "mean": lambda row: row.sum(0) / len(row),
    "max": lambda row: row.max(0).values,
    "min": lambda row: row.min(0).values,
    "sqrt_mean": lambda row: row.sum(0) / math.sqrt(len(row)),
    "position_mean": lambda row: sum((t + 1) * x for t, x in enumerate(row)) / sum(range(1, len(row) + 1)),
}
every_pool = pytest.mark.parametrize("name", DEFINITIONS)


def drawn(B, T, D, seed):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(B, T, D, generator=g), torch.rand(B, T, generator=g) < 0.6


def test_every_pool_has_a_definition():
    """The pools of lab/pooling/token.py; the other files have tests of their own."""
    ours = {thing for thing in vars(token).values() if isinstance(thing, type) and thing.__module__ == token.__name__}
    assert {POOLS[name] for name in DEFINITIONS} == ours - {token.LinearPool}


@every_pool
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@given(B=st.integers(1, 4), T=st.integers(0, 40), D=st.integers(1, 9), seed=st.integers(0, 99))
def test_value_and_gradient_match_the_definition(name, dtype, B, T, D, seed):
    x, mask = drawn(B, T, D, seed)
    x = x.to(dtype).masked_fill(~mask[..., None], torch.nan)  # padding must never be read
    exact = x.double().requires_grad_()
    rows = [DEFINITIONS[name](exact[b][mask[b]]) if mask[b].any() else exact.new_zeros(D) for b in range(B)]
    want = torch.stack(rows)
    ours = x.clone().requires_grad_()
    got = POOLS[name](D)(ours, mask)
    assert got.dtype == dtype
    eps = torch.finfo(dtype).eps
    atol = 8 * torch.finfo(torch.promote_types(dtype, torch.float32)).eps * 4
    torch.testing.assert_close(got.double(), want, rtol=eps, atol=atol)
    if mask.any():
        dy = torch.randn(B, D, generator=torch.Generator().manual_seed(1)).to(dtype)
        (grad,) = torch.autograd.grad(got, ours, dy)
        (exact_grad,) = torch.autograd.grad(want, exact, dy.double())
        # the maximum of half-precision values may be shared by several tokens; which of them gets the gradient is free
        if name in {"max", "min"}:
            grad, exact_grad = grad.double().sum(1), exact_grad.sum(1)
        torch.testing.assert_close(grad.double(), exact_grad, rtol=4 * eps, atol=4 * atol)


@every_pool
def test_one_token_is_its_own_pool(name):
    x = torch.randn(2, 1, 5)
    torch.testing.assert_close(POOLS[name](5)(x, torch.ones(2, 1, dtype=torch.bool)), x[:, 0])


@pytest.mark.parametrize(
    ("x", "mask", "error", "says"),
    [
        (torch.zeros(2, 3, 4), torch.ones(2, 3), TypeError, "mask must be bool.*attention_mask.bool"),
        (torch.zeros(2, 3, 4), torch.ones(2, 4, dtype=torch.bool), ValueError, r"mask must be \(2, 3\).*\(2, 4\)"),
        (torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool), ValueError, "batch, tokens, dim"),
        (torch.zeros(2, 3, 4).long(), torch.ones(2, 3, dtype=torch.bool), ValueError, "float type.*int64"),
    ],
    ids=["float mask", "mask shape", "rank", "integers"],
)
def test_bad_input_is_refused(x, mask, error, says):
    """Asked of the check itself: inside tests the shape types would answer first."""
    with pytest.raises(error, match=says):
        functional.check(x, mask)


@every_pool
def test_every_pool_checks_its_input_once(name, monkeypatch):
    seen = []
    for where in (token, functional):
        monkeypatch.setattr(where, "check", lambda *given: seen.append(given))
    x, mask = drawn(1, 2, 3, 0)
    POOLS[name](3)(x, mask)
    assert seen == [(x, mask)]


def test_several_weightings_share_one_read():
    x, mask = drawn(3, 7, 4, 5)
    pools = [POOLS[name](4) for name in ("first", "mean", "last")]
    together = functional.weighted_sum(x, torch.stack([pool.weights(mask) for pool in pools], 1), mask)
    for i, pool in enumerate(pools):
        torch.testing.assert_close(together[:, i], pool(x, mask))
