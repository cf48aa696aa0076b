"""MIDAM: the running estimates against their definition without logarithms, the exact limits, the official overflow."""

import pytest
import torch

from lab.pooling.midam import MIDAMAttentionPool, MIDAMSoftmaxPool

D = 3
INDEX = torch.tensor([2, 0])


def drawn(seed=0, T=5):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(2, T, D, generator=g, dtype=torch.float64)
    mask = torch.rand(2, T, generator=g) < 0.7
    mask[:, 0] = True
    return x, mask


def exact_lse(x, mask, tau):
    return torch.stack([tau * (row[real] / tau).exp().mean(0).log() for row, real in zip(x, mask, strict=True)])


def test_the_full_bag_with_gamma_one_is_the_exact_log_mean_exp():
    x, mask = drawn()
    pool = MIDAMSoftmaxPool(D, num_bags=3, tau=0.5, gamma=1.0).double()
    for _ in range(2):
        torch.testing.assert_close(pool(x, mask, INDEX), exact_lse(x, mask, 0.5))
    torch.testing.assert_close(pool(x, mask), exact_lse(x, mask, 0.5))


def test_tau_goes_from_the_maximum_to_the_mean():
    x, mask = drawn()
    rows = [row[real] for row, real in zip(x, mask, strict=True)]
    low, high = (MIDAMSoftmaxPool(D, tau=tau).double()(x, mask) for tau in (1e-5, 1e5))
    torch.testing.assert_close(low, torch.stack([row.amax(0) for row in rows]), rtol=0, atol=1e-4)
    torch.testing.assert_close(high, torch.stack([row.mean(0) for row in rows]), rtol=0, atol=1e-4)
    middle = MIDAMSoftmaxPool(D, tau=0.3).double()(x, mask)
    assert (low + 1e-4 >= middle).all()
    assert (middle >= high - 1e-4).all()


def test_the_running_estimate_and_its_gradient_are_those_of_the_definition():
    pool = MIDAMSoftmaxPool(D, num_bags=3, tau=0.5, gamma=0.3).double()
    s = None
    for seed in range(4):
        x, mask = drawn(seed)
        x.requires_grad_()
        sample = torch.stack([(row[real] / 0.5).exp().mean(0) for row, real in zip(x, mask, strict=True)])
        s = sample.detach() if s is None else 0.7 * s + 0.3 * sample.detach()
        h = pool(x, mask, INDEX)
        torch.testing.assert_close(h, 0.5 * s.log())
        got, want = torch.autograd.grad(h.sum(), x)[0], torch.autograd.grad((0.5 * sample / s).sum(), x)[0]
        torch.testing.assert_close(got, want)
    torch.testing.assert_close(pool.log_s[INDEX], s.log())
    assert pool.log_s[1].isneginf().all()  # never seen


def test_the_official_exponential_overflows_from_nine_on():
    x, mask = torch.full((1, 2, 1), 20.0), torch.ones(1, 2, dtype=torch.bool)
    assert (x / 0.1).exp().mean().isinf()
    pool = MIDAMSoftmaxPool(1, tau=0.1)
    for _ in range(2):
        assert pool(x, mask, torch.tensor([0])).item() == pytest.approx(20)
    assert pool(x.half(), mask, torch.tensor([0])).item() == pytest.approx(20)


def test_attention_with_gamma_one_is_exact_attention():
    x, mask = drawn()
    pool = MIDAMAttentionPool(D, num_bags=3, hidden=4, gamma=1.0).double()
    for _ in range(2):
        torch.testing.assert_close(pool(x, mask, INDEX), pool.attention(x, mask))


def test_the_running_attention_and_its_gradient_are_those_of_the_definition():
    pool = MIDAMAttentionPool(D, num_bags=3, hidden=4, gamma=0.3).double()
    numerator = denominator = None
    for seed in range(4):
        x, mask = drawn(seed)
        x.requires_grad_()
        e = pool.attention.scores(x).exp() * mask[..., None]
        n = mask.sum(1, keepdim=True)
        num, den = (e * x).sum(1) / n, e.sum(1) / n
        if numerator is None:
            numerator, denominator = num.detach(), den.detach()
        else:
            numerator, denominator = 0.7 * numerator + 0.3 * num.detach(), 0.7 * denominator + 0.3 * den.detach()
        y = pool(x, mask, INDEX)
        torch.testing.assert_close(y, numerator / denominator)
        surrogate = num / denominator - numerator / denominator**2 * den
        wanted = [x, *pool.attention.v.parameters()]
        torch.testing.assert_close(
            torch.autograd.grad(y.sum(), wanted, retain_graph=True), torch.autograd.grad(surrogate.sum(), wanted)
        )


@pytest.mark.parametrize("kind", [MIDAMSoftmaxPool, MIDAMAttentionPool])
def test_only_bags_that_were_seen_in_training_move(kind):
    x, mask = drawn()
    mask[1] = False
    pool = kind(D, num_bags=3).double()
    before = {name: value.clone() for name, value in pool.named_buffers()}
    pool(x, mask)
    pool.eval()(x, mask, INDEX)
    assert all(torch.equal(value, before[name]) for name, value in pool.named_buffers())
    assert not pool.train()(x, mask, INDEX)[1].any()
    for name, value in pool.named_buffers():
        assert [torch.equal(value[b], before[name][b]) for b in range(3)] == [True, True, False]


@pytest.mark.parametrize("kind", [MIDAMSoftmaxPool, MIDAMAttentionPool])
@pytest.mark.parametrize(
    ("index", "says"), [([0, 3], "got 0 to 3"), ([-1, 0], "got -1"), ([1, 1], "twice"), ([0], r"\(2,\)")]
)
def test_a_wrong_index_is_refused(kind, index, says):
    x, mask = drawn()
    with pytest.raises(ValueError, match=says):
        kind(D, num_bags=3).double()(x, mask, torch.tensor(index))


def test_bad_scales_are_refused():
    with pytest.raises(ValueError, match="gamma must be in"):
        MIDAMSoftmaxPool(D, gamma=0.0)
    with pytest.raises(ValueError, match="tau must be positive"):
        MIDAMSoftmaxPool(D, tau=0.0)
