"""Faults found in released forms of these normalizers: each is written down here, fails, and ours does not."""

import entmax
import pytest
import torch
from formulas import FORMULAS, by_formula
from torch.nn import functional

from lab.attention import NORMALIZERS
from lab.attention.exponential import ENTROPY_POLYNOMIAL
from lab.attention.pointwise import balanced_slopes

HIDDEN = torch.zeros(1, 4, dtype=torch.bool)


def exact(name, scores):
    return by_formula(FORMULAS[name], scores[None, None], torch.ones_like(scores, dtype=torch.bool))[0, 0]


def gradient(function, scores):
    scores = scores.clone().requires_grad_()
    (function(scores) * torch.arange(1.0, scores.shape[-1] + 1, dtype=scores.dtype)).sum().backward()
    return scores.grad


def test_softmax_over_nothing_is_nan_as_it_is_written():
    scores = torch.randn(1, 4)
    assert scores.masked_fill(~HIDDEN, -torch.inf).softmax(-1).isnan().all()
    assert (NORMALIZERS["softmax"](scores, HIDDEN) == 0).all()
    assert (gradient(lambda s: NORMALIZERS["softmax"](s, HIDDEN), scores) == 0).all()


def test_softmax1_with_an_unshifted_one():
    scores = torch.tensor([[2.0, 1.0, 0.5, 1.5]], dtype=torch.float64)
    shifted = (scores - scores.max()).exp()
    wrong = shifted / (1 + shifted.sum())
    assert (wrong - exact("softmax1", scores)).abs().max() > 0.1
    torch.testing.assert_close(NORMALIZERS["softmax1"](scores), exact("softmax1", scores))


def test_softmax1_with_an_exponential_that_overflows():
    scores = torch.tensor([[-92.0, -95.0, -100.0, -93.0]])

    def written(s):
        top = s.amax(-1, keepdim=True)
        shifted = (s - top).exp()
        return shifted / ((-top).exp() + shifted.sum(-1, keepdim=True))

    assert (written(scores) == 0).all()
    assert gradient(written, scores).isnan().any()
    assert (NORMALIZERS["softmax1"](scores) > 0).all()
    assert gradient(NORMALIZERS["softmax1"], scores).isfinite().all()


def written_softpick(s, eps=1e-8):
    top = s.amax(-1, keepdim=True)
    difference = (s - top).exp() - (-top).exp()
    return difference.relu() / (difference.abs().sum(-1, keepdim=True) + eps)


def test_softpick_of_low_rows():
    scores = torch.tensor([[-90.0, -95.0, -100.0, -93.0]])
    assert gradient(written_softpick, scores).isnan().any()
    assert (gradient(NORMALIZERS["softpick"], scores) == 0).all()
    assert (NORMALIZERS["softpick"](scores) == 0).all()


def test_softpick_over_nothing():
    scores = torch.randn(1, 4)
    assert written_softpick(scores.masked_fill(~HIDDEN, -torch.inf)).isnan().all()
    assert (NORMALIZERS["softpick"](scores, HIDDEN) == 0).all()


def test_softpick_near_zero_keeps_its_digits():
    scores = torch.tensor([[1.3e-6, -0.7e-6, 2.1e-6, 0.4e-6]])
    want = exact("softpick", scores)
    top = scores.max()
    cancelled = (scores - top).exp() - (-top).exp()
    wrong = cancelled.relu() / (cancelled.abs().sum() + 1e-6)
    assert (wrong - want).abs().max() > 1e-3
    assert (NORMALIZERS["softpick"](scores) - want).abs().max() < 1e-6


def test_softpick_sends_a_gradient_to_negative_scores():
    scores = torch.tensor([[0.5, -1.0, 2.0, -0.3]], dtype=torch.float64)
    assert (gradient(NORMALIZERS["softpick"], scores).abs() > 1e-3).all()
    assert (NORMALIZERS["softpick"](scores)[scores < 0] == 0).all()


def test_sigmoid_without_its_bias_sums_to_half_the_length():
    scores = torch.zeros(1, 400)
    assert scores.sigmoid().sum() == pytest.approx(200)
    assert NORMALIZERS["sigmoid"](scores).sum() == pytest.approx(1, abs=0.01)
    assert NORMALIZERS["sigmoid"](scores, bias=0.0).sum() == pytest.approx(200)


def test_normalized_sigmoid_of_low_rows():
    scores = torch.tensor([[-120.0, -121.0, -119.0, -120.0]])
    wrong = scores.sigmoid() / scores.sigmoid().sum()
    assert wrong.isnan().all()
    torch.testing.assert_close(NORMALIZERS["sigmoid_normalized"](scores).double(), exact("sigmoid_normalized", scores))


@pytest.mark.parametrize("name", ["sparsemax", "entmax15"])
def test_peers_sparse_rows_over_nothing(name):
    scores = torch.randn(1, 4)
    with pytest.raises(RuntimeError):
        getattr(entmax, name)(scores.masked_fill(~HIDDEN, -torch.inf))
    bisect = entmax.entmax_bisect(scores.masked_fill(~HIDDEN, -torch.inf), alpha=1.5)
    assert bisect.isnan().all()
    assert (NORMALIZERS[name](scores, HIDDEN) == 0).all()
    assert (gradient(lambda s: NORMALIZERS[name](s, HIDDEN), scores) == 0).all()


def test_peers_bisection_loses_its_digits_at_large_scores():
    scores = torch.tensor([[1e4, 1e4 - 0.25, 1e4 - 0.5, 1e4 - 1]])
    want = exact("sparsemax", scores)
    assert (entmax.entmax_bisect(scores, alpha=2.0) - want).abs().max() > 2e-5
    assert (NORMALIZERS["entmax"](scores, alpha=2.0) - want).abs().max() < 1e-6
    assert (NORMALIZERS["sparsemax"](scores) - want).abs().max() < 1e-6


def test_peers_module_ignores_its_number_of_steps():
    scores = torch.randn(3, 20)
    coarse, fine = (entmax.SparsemaxBisect(n_iter=n)(scores) for n in (2, 50))
    assert torch.equal(coarse, fine)


def test_gradient_of_alpha_next_to_one():
    scores = torch.tensor([[0.3, -0.7, 1.9, 0.9, 0.1]])

    def slope(function, alpha, dtype):
        alpha = torch.tensor([[alpha]], dtype=dtype, requires_grad=True)
        return torch.autograd.grad(function(scores.to(dtype), alpha)[0, 2], alpha)[0].item()

    def ours(s, alpha):
        return NORMALIZERS["entmax"](s, alpha=alpha)

    def peers(s, alpha):
        return entmax.entmax_bisect(s, alpha=alpha, n_iter=100)

    step = 1e-4  # the difference quotient's error is step^2 / 6 times a third derivative of order 1
    p = [NORMALIZERS["entmax"](scores.double(), alpha=1.0002 + d)[0, 2].item() for d in (-step, step)]
    want = (p[1] - p[0]) / (2 * step)
    assert abs(slope(peers, 1.0002, torch.float32) - want) > 0.5 * abs(want)
    assert slope(ours, 1.0002, torch.float32) == pytest.approx(want, rel=0.01)
    assert slope(ours, 1.0002, torch.float64) == pytest.approx(want, rel=1e-4)


def test_the_first_row_of_lssa_is_its_only_key():
    one = torch.tensor([[True, False, False]])
    assert torch.equal(NORMALIZERS["lssa"](torch.tensor([[-7.0, 3.0, 1.0]]), one), one.float())
    assert torch.equal(NORMALIZERS["lssar"](torch.tensor([[-7.0, 3.0, 1.0]]), one), one.float())


@pytest.mark.parametrize(("dtype", "n", "power"), [(torch.float32, 400, 15.0), (torch.float16, 50, 3.0)], ids=str)
def test_reweighting_that_overflows(dtype, n, power):
    scores = torch.full((1, n), -20.0, dtype=dtype)
    scores[0, 3] = 5
    share = NORMALIZERS["lssa"](scores)
    raised = (n * share - 1).relu() ** power
    assert (raised / raised.sum()).isnan().any()
    got = NORMALIZERS["lssar"](scores, power=power)
    assert got[0, 3] == 1
    assert gradient(lambda s: NORMALIZERS["lssar"](s, power=power), scores).isfinite().all()


@pytest.mark.parametrize("n", [4, 7, 49])
def test_reweighting_of_equal_keys(n):
    scores = torch.full((1, n), 0.7, dtype=torch.float64)
    share = functional.softplus(scores) / functional.softplus(scores).sum()
    over = (n * share - 1).relu() ** 3
    wrong = over / over.sum()
    # rounding decides: 0 / 0, or a row made of what rounding left
    assert wrong.isnan().all() or (wrong.sum() == pytest.approx(1))
    assert (NORMALIZERS["lssar"](scores) == 0).all()
    assert gradient(NORMALIZERS["lssar"], scores).isfinite().all()


def written_self_adjust(s):
    low, high = s.amin(-1, keepdim=True).clamp(max=0), s.amax(-1, keepdim=True).clamp(min=0)
    return (s - low) / (high - low) * s.softmax(-1)


def test_self_adjust_of_zeros_and_of_masked_scores():
    zeros, hidden = torch.zeros(1, 4), torch.tensor([[True, True, True, False]])
    scores = torch.tensor([[0.5, 1.0, 2.0, 9.0]])
    assert written_self_adjust(zeros).isnan().all()
    assert written_self_adjust(scores.masked_fill(~hidden, -torch.inf)).isnan().any()
    ours = NORMALIZERS["self_adjust_normalized"]
    assert (ours(zeros) == 0).all()
    assert gradient(ours, zeros).isfinite().all()
    torch.testing.assert_close(ours(scores, hidden)[:, :3], written_self_adjust(scores[:, :3]))


def test_a_convolution_over_minus_infinity():
    scores, causal = torch.randn(1, 2, 5, 5), torch.ones(5, 5, dtype=torch.bool).tril()
    kernel = torch.rand(2, 2, 3)
    padded = functional.pad(scores.masked_fill(~causal, -torch.inf), (1, 1, 1, 0))
    assert not functional.conv2d(padded, kernel[:, None], groups=2).isfinite()[..., causal].all()
    weights = NORMALIZERS["mta"](scores, causal, kernel=kernel)
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 2, 5))
    later = scores.clone()
    later[..., 3] += 5  # a key of tomorrow, and a query of tomorrow
    later[..., 4, :] += 5
    moved = NORMALIZERS["mta"](later, causal, kernel=kernel)
    assert torch.equal(moved[..., :3, :], weights[..., :3, :])
    assert (moved[..., 3, :] - weights[..., 3, :]).abs().max() > 0.1


def test_slopes_are_balanced():
    assert balanced_slopes(8) == [-0.5, -0.25, -0.125, -0.0625, 0.5, 0.25, 0.125, 0.0625]
    far = NORMALIZERS["swat"](torch.zeros(1, 2, 1, 200))[0, :, 0, 0]
    assert far[0] < 1e-30  # looks near
    assert far[1] == 1  # a positive slope is saturated at a distance
    near = NORMALIZERS["swat"](torch.zeros(1, 2, 1, 200), window=50)
    assert (near[..., :150] == 0).all()
    assert (near[..., 150:] > 0).all()


def test_the_temperature_is_off_at_long_context():
    """beta is above 1 for entropies of .85 to 5.94 nats, at most 2.42; of more keys, as by an order of its own, not."""
    entropy = torch.linspace(0, 8, 8001, dtype=torch.float64)
    beta = sum(c * entropy**k for k, c in zip((4, 3, 2, 1, 0), ENTROPY_POLYNOMIAL, strict=True))
    above = entropy[(beta > 1) & (entropy > 0.5)]
    assert (above.min().item(), above.max().item()) == pytest.approx((0.85, 5.94), abs=0.01)
    assert (beta.max().item(), entropy[beta.argmax()].item()) == pytest.approx((2.42, 4.41), abs=0.01)
    reversed_order = sum(c * 3.0**k for k, c in enumerate(ENTROPY_POLYNOMIAL))
    assert reversed_order < 0  # the port that reads the coefficients lowest first is always off there
    for n, sharper in {40: True, 2000: False}.items():
        scores = torch.zeros(n, dtype=torch.float64)
        scores[0] = 0.5
        moved = NORMALIZERS["adaptive_temperature"](scores)[0] / scores.softmax(-1)[0]
        assert (moved > 1.2) == sharper


def test_a_length_that_is_subtracted_does_nothing():
    scores, n = torch.randn(3, 30, dtype=torch.float64), 30.0
    assert ((scores - 0.43 * torch.tensor(n).log()).softmax(-1) - scores.softmax(-1)).abs().max() < 1e-15
    assert (NORMALIZERS["ssmax"](scores) - scores.softmax(-1)).abs().max() > 1e-2


def test_a_sink_is_a_factor_on_softmax():
    """A kernel that gives the log-sum-exp needs no more: weights times sigma(lse - sink); dropping the sink differs."""
    scores, sink = torch.randn(2, 3, 5, dtype=torch.float64), torch.tensor([[[0.7]], [[-2.0]]])
    factor = (scores.logsumexp(-1, keepdim=True) - sink).sigmoid()
    got = NORMALIZERS["softmax"](scores, sink=sink)
    torch.testing.assert_close(got, scores.softmax(-1) * factor)
    assert (got - scores.softmax(-1)).abs().max() > 1e-2
    assert NORMALIZERS["softmax"](scores.float() + 200, sink=sink.float()).isfinite().all()
    assert NORMALIZERS["softmax"](scores.float() - 200, sink=sink.float()).isfinite().all()


def test_stablemax_at_one():
    def written(s):
        terms = torch.where(s < 0, 1 / (1 - s + 1e-30), s + 1)
        return terms / terms.sum(-1, keepdim=True)

    scores = torch.tensor([[1.0, 0.0, -2.0, 1.0]])
    assert gradient(written, scores).isnan().any()
    assert gradient(NORMALIZERS["stablemax"], scores).isfinite().all()
    torch.testing.assert_close(NORMALIZERS["stablemax"](scores), written(scores))
    assert NORMALIZERS["stablemax"](torch.tensor([-10.0, 0.0]))[0] == pytest.approx(1 / 12)  # a heavy tail


def test_relu_divides_by_the_keys_that_a_row_sees():
    causal = torch.ones(6, 6, dtype=torch.bool).tril()
    weights = NORMALIZERS["relu"](torch.ones(6, 6), causal)
    torch.testing.assert_close(weights.sum(-1), torch.ones(6))
    by_length = (torch.ones(6, 6) * causal).relu().sum(-1) / 6
    assert by_length[0] == pytest.approx(1 / 6)
