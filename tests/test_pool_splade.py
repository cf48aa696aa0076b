"""SPLADE: the transform after the maximum is the transform before it."""

import pytest
import torch

from lab.pooling.splade import SPLADEPool


def drawn():
    return torch.randn(2, 5, 7, dtype=torch.float64), torch.tensor([[1, 1, 0, 1, 0], [0, 1, 1, 1, 1]]).bool()


@pytest.mark.parametrize("strategy", ["max", "sum"])
def test_both_strategies_are_their_formula(strategy):
    x, mask = drawn()
    each = torch.log(1 + x.relu()) * mask[..., None]
    want = each.amax(1) if strategy == "max" else each.sum(1)
    torch.testing.assert_close(SPLADEPool(7, strategy)(x, mask), want)


def test_the_gradient_of_the_maximum_is_the_same_too():
    x, mask = drawn()
    x.requires_grad_()
    each = torch.log(1 + x.relu()).masked_fill(~mask[..., None], 0).amax(1)
    got, want = (torch.autograd.grad(y.sum(), x)[0] for y in (SPLADEPool()(x, mask), each))
    # where no logit is positive the plain form shares a gradient of zero
    torch.testing.assert_close(got, want)


def test_small_logits_keep_their_digits():
    """log(1 + z) has lost them: 1 + 1e-7 is 1 + 1.19e-7 in float32, and 1 in float16."""
    x = torch.full((1, 2, 1), 1e-7)
    assert torch.log(1 + x).max().item() == pytest.approx(1.19e-7, rel=1e-2)
    for strategy, want in (("max", 1e-7), ("sum", 2e-7)):
        y = SPLADEPool(pooling_strategy=strategy)(x, torch.ones(1, 2, dtype=torch.bool))
        assert y.item() == pytest.approx(want, rel=1e-4, abs=0)


def test_an_unknown_strategy_is_refused():
    with pytest.raises(ValueError, match="'max' or 'sum'; got 'mean'"):
        SPLADEPool(7, "mean")
