"""Dynamic token pooling: groups and their spreading by the definition, causal, and the stated surrogate gradient."""

import math

import pytest
import torch

from lab.pooling.dynamic import BoundaryPredictor, downsample, entropy_spikes, prior_loss, upsample

D = 3


def by_hand(x, ends, null, mask):
    """Row by row, token by token."""
    rows = []
    for tokens, stops, real in zip(x, ends, mask, strict=True):
        groups, run = [null], []
        for token, stop in zip(tokens[real], stops[real], strict=True):
            run.append(token)
            if stop:
                groups.append(torch.stack(run).mean(0))
                run = []
        rows.append(torch.stack(groups))
    return rows


def drawn(B=3, T=11):
    x = torch.randn(B, T, D, dtype=torch.float64)
    mask = torch.ones(B, T, dtype=torch.bool)
    if B > 1:
        mask[1, :4] = False  # padding in front
        mask[2, 7:] = False  # and behind
    return x, torch.rand(B, T) < 0.4, torch.randn(D, dtype=torch.float64), mask


def test_the_published_example():
    x = torch.arange(8.0)[None, :, None]
    ends = torch.tensor([[0, 0, 1, 0, 1, 0, 0, 1]]).bool()
    groups, real = downsample(x, ends, torch.tensor([-7.0]))
    assert groups[0, :, 0].tolist() == [-7, 1, 3.5, 6]
    assert real.all()
    assert upsample(groups, ends)[0, :, 0].tolist() == [-7, -7, 1, 1, 3.5, 3.5, 3.5, 6]


def test_groups_are_the_means_of_their_runs():
    x, ends, null, mask = drawn()
    poisoned = x.masked_fill(~mask[..., None], torch.nan)
    groups, real = downsample(poisoned, ends, null, mask)
    for row, here, want in zip(groups, real, by_hand(x, ends, null, mask), strict=True):
        torch.testing.assert_close(row[here], want)
        assert not row[~here].any()


def test_without_an_end_there_is_the_null_group_alone():
    x, _, null, _ = drawn()
    ends = torch.zeros(x.shape[:2])
    groups, real = downsample(x, ends, null)
    assert groups.shape == (3, 1, D)
    assert real.all()
    assert torch.equal(upsample(groups, ends), null.expand(x.shape))


def test_an_end_at_every_token_is_the_identity():
    x, _, null, _ = drawn()
    ends = torch.ones(x.shape[:2])
    groups, _ = downsample(x, ends, null)
    assert torch.equal(groups[:, 1:], x)
    assert torch.equal(upsample(groups, ends), x)


def test_an_empty_row_and_no_tokens():
    x, ends, null, mask = drawn()
    mask[0] = False
    x = x.masked_fill(~mask[..., None], torch.nan).requires_grad_()
    groups, real = downsample(x, ends, null, mask)
    assert real[0].tolist() == [True] + [False] * (groups.shape[1] - 1)
    y = upsample(groups, ends, mask)
    assert not y[~mask].any()
    y.sum().backward()
    assert torch.isfinite(x.grad).all()
    assert not x.grad[~mask].any()
    groups, real = downsample(x[:, :0], ends[:, :0], null)
    assert groups.shape == (3, 1, D)


def test_no_token_sees_what_comes_after_it():
    x, ends, null, _ = drawn(B=1, T=9)
    y = upsample(downsample(x, ends, null)[0], ends)
    for t in range(9):
        later, other = x.clone(), ends.clone()
        later[:, t + 1 :], other[:, t + 1 :] = 9.0, ~ends[:, t + 1 :]
        torch.testing.assert_close(upsample(downsample(later, other, null)[0], other)[:, : t + 1], y[:, : t + 1])


def test_the_gradient_of_the_ends_is_the_surrogate():
    """dy_s / dc_t = -(x_t - y_s) / n_s for t in s, c_t the ends before t; spread by w_t = 1 - c_t at each token."""
    x, hard, null, _ = drawn(B=1, T=8)
    hard[0, [2, 5]] = True
    ends = hard.double().requires_grad_()
    groups, _ = downsample(x, ends, null)
    dy = torch.randn_like(groups)
    (got,) = torch.autograd.grad((groups * dy).sum(), ends)
    run, want = (hard.cumsum(1) - hard.long())[0], torch.zeros(8, dtype=torch.float64)
    for t in range(8):
        s = int(run[t]) + 1
        if s < groups.shape[1]:
            slope = -(x[0, t] - groups[0, s]) @ dy[0, s] / (run == run[t]).sum()
            want[:t] += slope  # every end before t is in c_t
    torch.testing.assert_close(got[0], want)
    fixed = groups.detach()
    up = torch.randn(1, 8, D, dtype=torch.float64)
    (got,) = torch.autograd.grad((upsample(fixed, ends) * up).sum(), ends)
    spread = upsample(fixed, hard)
    want = torch.tensor([-(spread[0, t:] * up[0, t:]).sum() for t in range(8)], dtype=torch.float64)
    torch.testing.assert_close(got[0], want)


def test_the_gradient_of_the_tokens_is_that_of_the_means():
    x, ends, null, mask = drawn(B=3, T=11)
    x.requires_grad_()
    null.requires_grad_()
    groups, real = downsample(x, ends, null, mask)
    weights = torch.randn_like(groups)
    got = torch.autograd.grad((groups * weights)[real].sum(), (x, null))
    rows = by_hand(x, ends, null, mask)
    total = sum((row * weights[b, : len(row)]).sum() for b, row in enumerate(rows))
    for one, want in zip(got, torch.autograd.grad(total, (x, null)), strict=True):
        torch.testing.assert_close(one, want)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_counts_past_what_it_can_hold(dtype):
    """2,051 groups: neither type has that number; the means are rounded once."""
    x = torch.randn(1, 4102, D).to(dtype)
    ends = torch.arange(4102)[None] % 2 == 1
    null = torch.zeros(D, dtype=dtype)
    groups, _ = downsample(x, ends, null)
    assert groups.shape == (1, 2052, D)
    assert groups.dtype == dtype
    want = x.double().unflatten(1, (-1, 2)).mean(2)
    torch.testing.assert_close(groups[:, 1:].double(), want, rtol=torch.finfo(dtype).eps, atol=1e-7)
    assert torch.equal(upsample(groups, ends)[:, 1::2], groups[:, 1:])


def test_spikes_are_higher_than_the_two_before():
    entropy = torch.tensor([[3.0, 1, 2, 2, 4, 5, 1, 3]])
    assert entropy_spikes(entropy)[0].int().tolist() == [0, 0, 0, 0, 1, 1, 0, 0]
    assert entropy_spikes(entropy, 1)[0].int().tolist() == [0, 0, 1, 0, 1, 1, 0, 1]
    with pytest.raises(ValueError, match="window 1 or more"):
        entropy_spikes(entropy, 0)


def test_the_prior_is_a_binomial():
    ends = (torch.rand(4, 20, dtype=torch.float64) < 0.5).double().requires_grad_()
    k = ends.sum(1).long().tolist()
    want = [-math.log(math.comb(20, n) * 0.2**n * 0.8 ** (20 - n)) / 20 for n in k]
    loss = prior_loss(ends, 0.2)
    assert loss.item() == pytest.approx(sum(want) / 4)
    loss.backward()
    assert (ends.grad[torch.tensor(k) > 6] > 0).all()  # fewer ends, please
    with pytest.raises(ValueError, match=r"prior must be in \(0, 1\)"):
        prior_loss(ends, 1.0)


def test_a_predictor_draws_in_training_and_cuts_in_evaluation():
    predictor, x = BoundaryPredictor(D), torch.randn(64, 50, D)
    with torch.no_grad():
        predictor.score[-1].weight.mul_(3)
    hard, p = predictor(x)
    assert set(hard.unique().tolist()) <= {0.0, 1.0}
    # P(relaxed draw > 1/2) = p, whatever the temperature
    assert hard.mean().item() == pytest.approx(p.mean().item(), abs=0.03)
    assert not torch.equal(hard, predictor(x)[0])
    hard.sum().backward()
    assert predictor.score[0].weight.grad.abs().sum() > 0
    predictor.eval()
    assert torch.equal(predictor(x)[0], (p > 0.5).float())
    with pytest.raises(ValueError, match="temperature must be positive"):
        BoundaryPredictor(D, temperature=0)


def test_bad_input_is_refused():
    x, ends, null, mask = drawn()
    with pytest.raises(ValueError, match="one for each token"):
        downsample(x, ends[:, 1:], null)
    with pytest.raises(ValueError, match="0 or 1 at every real token"):
        downsample(x, torch.full(x.shape[:2], 0.5), null)
    with pytest.raises(ValueError, match="the width of x"):
        downsample(x, ends, null[1:])
    with pytest.raises(ValueError, match="mask must be bool"):
        downsample(x, ends, null, mask.long())
    with pytest.raises(ValueError, match="groups beside the first"):
        upsample(x[:, :1], torch.ones(3, 11))
