"""GSP: the closed form against the transport plan it stands for, its limits, and the iteration that overflows."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.pooling.gsp import GSP, threshold, unit_ball

D, M = 5, 4


def drawn(n=6, seed=0):
    x = torch.randn(1, n, D, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return x, torch.ones(1, n, dtype=torch.bool)


def costs(pool, x):
    """c_ij = |N(omega_i) - N(x_j)|, by differences."""
    return torch.linalg.vector_norm(unit_ball(pool.prototypes)[:, None] - unit_ball(x[0])[None], dim=-1)


def plan(c, mu, gamma, steps=20000):
    """The transport problem by alternating scaling: columns of (pi, rho) sum to 1/n, pi has mass mu, rho 1 - mu."""
    k, n = torch.exp(-gamma * c), c.shape[1]
    u, v, residual = 1.0, torch.ones(n, dtype=c.dtype), 1.0
    for _ in range(steps):
        v = (1 / n) / (u * k.sum(0) + residual)
        u, residual = mu / (k.sum(0) * v).sum(), (1 - mu) / v.sum()
    return u * k * v


@pytest.mark.parametrize("mu", [0.1, 0.3, 0.8])
@torch.no_grad()
def test_the_weights_are_those_of_the_transport_plan(mu):
    x, mask = drawn()
    pool = GSP(D, M, mu=mu, gamma=3.0).double()
    pi = plan(costs(pool, x), mu, 3.0, steps=2000)
    torch.testing.assert_close(pi.sum(), torch.tensor(mu, dtype=x.dtype))
    w = 6 * pi.sum(0) / mu
    torch.testing.assert_close(pool.weights(x, mask)[0], w, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(pool(x, mask)[0], w @ x[0] / 6, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(pool.histogram(x, mask)[0], pi.sum(1) / mu, rtol=1e-6, atol=1e-8)


@settings(max_examples=15)
@given(
    n=st.integers(1, 40),
    mu=st.floats(0.01, 0.99),
    spread=st.sampled_from([0.1, 1.0, 10.0, 100.0, 1000.0]),
    seed=st.integers(0, 99),
)
def test_the_weights_sum_to_the_number_of_tokens(n, mu, spread, seed):
    logits = spread * torch.randn(1, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    t = threshold(logits, torch.ones(1, n, dtype=torch.bool), mu)
    assert torch.sigmoid(t[:, None] + logits).mean().item() == pytest.approx(mu, rel=1e-9)


@torch.no_grad()
def test_mu_to_one_and_gamma_to_zero_are_the_mean():
    x, mask = drawn()
    for pool in (GSP(D, M, mu=1 - 1e-9), GSP(D, M, gamma=0.0)):
        torch.testing.assert_close(pool.double()(x, mask), x.mean(1), rtol=1e-6, atol=1e-8)
    assert not torch.allclose(GSP(D, M).double()(x, mask), x.mean(1))


@torch.no_grad()
def test_a_small_mu_takes_the_tokens_at_the_prototypes():
    x, mask = drawn(4)
    pool = GSP(D, 1, mu=0.25, gamma=200.0).double()
    pool.prototypes.copy_(x[0, 2:3])
    torch.testing.assert_close(pool(x, mask), x[:, 2], rtol=1e-4, atol=1e-4)


def test_the_implicit_gradient_is_that_of_the_unrolled_solve():
    x, mask = drawn()
    x.requires_grad_()
    pool = GSP(D, M, mu=0.3, gamma=3.0).double()
    pi = plan(costs(pool, x), 0.3, 3.0, steps=400)
    want = (pi.sum(0) / 0.3) @ x[0]
    dy = torch.randn(D, dtype=x.dtype)
    got = torch.autograd.grad(pool(x, mask)[0], [x, pool.prototypes], dy)
    torch.testing.assert_close(got, torch.autograd.grad(want, [x, pool.prototypes], dy), rtol=1e-6, atol=1e-8)


def test_the_gradient_does_not_depend_on_the_number_of_steps():
    logits = torch.randn(1, 6, dtype=torch.float64, requires_grad=True)
    mask = torch.ones(1, 6, dtype=torch.bool)
    slopes = [torch.autograd.grad(threshold(logits, mask, 0.3, steps), logits)[0] for steps in (12, 40)]
    torch.testing.assert_close(*slopes)
    assert torch.autograd.gradcheck(lambda logits: threshold(logits, mask, 0.3), logits)
    torch.testing.assert_close(slopes[0].sum().item(), -1.0)  # logits + a shift t by -a


@torch.no_grad()
def test_the_naive_iteration_overflows_where_the_closed_form_does_not():
    """The official code scales exp(-gamma c) by about its inverse; float32 ends at e^88."""
    x, mask = drawn()
    pool = GSP(D, M, mu=0.3, gamma=200.0)
    k = torch.exp(-200.0 * costs(pool, x.float()))
    scale = 0.3 / (k.sum(0) / 6).sum()  # its first step
    naive = scale * k.sum(0) / (scale * k.sum(0) + 0.7)
    assert naive.isnan().any()
    weights = pool.weights(x.float(), mask)
    assert weights.isfinite().all()
    assert weights.sum().item() == pytest.approx(6, rel=1e-5)


def test_a_gradient_where_no_weight_can_move_is_zero_and_not_nan():
    logits = torch.tensor([[0.0, 0.0, -1e5, -1e5]], dtype=torch.float64, requires_grad=True)
    t = threshold(logits, torch.ones(1, 4, dtype=torch.bool), 0.5)
    (slope,) = torch.autograd.grad(torch.sigmoid(t[:, None] + logits).sum(), logits)
    assert slope.isfinite().all()
    assert slope.abs().max() < 1e-6


def test_tokens_on_a_prototype_have_a_finite_gradient():
    x, mask = drawn()
    pool = GSP(D, M).double()
    with torch.no_grad():
        pool.prototypes.copy_(x[0, :M])
    x.requires_grad_()
    assert torch.autograd.grad(pool(x, mask).sum(), x)[0].isfinite().all()


@pytest.mark.parametrize("wrong", [{"mu": 0.0}, {"mu": 1.0}, {"gamma": -1.0}])
def test_bad_scales_are_refused(wrong):
    with pytest.raises(ValueError, match="mu must be inside"):
        GSP(D, **wrong)


def test_the_implicit_gradient_is_differentiated_again():
    """The second derivative moves the slopes and t as well; a gradient that holds either is off by a tenth here."""
    mask = torch.tensor([[True] * 4, [True, False, True, True]])
    logits = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda logits: threshold(logits, mask, 0.4), logits)
    pool = GSP(3, num_prototypes=2, mu=0.4, gamma=3.0).double()
    x = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)

    def value(x, prototypes):
        return torch.func.functional_call(pool, {"prototypes": prototypes}, (x, mask))

    assert torch.autograd.gradgradcheck(value, (x, pool.prototypes))
