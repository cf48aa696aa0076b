"""Hopfield pooling: retrieval from the tokens, its limits in beta, its energy, and the official code's empty bag."""

import pytest
import torch
from torch.nn import functional

from lab.pooling.hopfield import HopfieldPooling

D = 6


def drawn(T=7):
    x = torch.randn(3, T, D, dtype=torch.float64)
    mask = torch.rand(3, T) < 0.7
    mask[:, 0] = True
    return x, mask


@torch.no_grad()
def test_without_updates_it_is_attention_with_a_learned_query():
    x, mask = drawn()
    pool = HopfieldPooling(D, num_heads=2, quantity=3).double()
    torch.nn.init.normal_(pool.state)
    stored = pool.stored_norm(x)
    q = pool.query(pool.state_norm(pool.state)).expand(3, -1, -1)
    split = [part.unflatten(-1, (2, -1)).transpose(1, 2) for part in (q, pool.key(stored), pool.value(stored))]
    met = functional.scaled_dot_product_attention(*split, attn_mask=mask[:, None, None])
    torch.testing.assert_close(pool(x, mask), pool.out(met.transpose(1, 2).flatten(2)).flatten(1))


@torch.no_grad()
def test_each_update_is_one_softmax_over_the_keys():
    x, mask = drawn()
    pool = HopfieldPooling(D, update_steps=2, static=True, beta=0.7).double()
    torch.nn.init.normal_(pool.state)
    for b in range(3):
        row, q = x[b][mask[b]], pool.state[0]
        states = [q]
        for _ in range(3):  # two updates, and the association that reads the values
            states.append((0.7 * row @ states[-1]).softmax(0) @ row)
        torch.testing.assert_close(pool(x, mask)[b], states[-1])
        torch.testing.assert_close(torch.stack(pool.trajectory(x, mask))[:, b, 0, 0], torch.stack(states[:3]))


@torch.no_grad()
def test_beta_zero_retrieves_the_mean_and_a_large_beta_the_nearest_pattern():
    x = functional.normalize(torch.randn(1, 5, D, dtype=torch.float64), dim=-1)  # nearest = largest product
    mask = torch.ones(1, 5, dtype=torch.bool)
    cold, hot = (HopfieldPooling(D, static=True, beta=beta).double() for beta in (1e4, 0.0))
    cold.state.copy_(x[0, 3] + 0.1 * torch.randn(D))
    torch.testing.assert_close(cold(x, mask), x[:, 3])
    torch.testing.assert_close(hot(x, mask), x.mean(1))


@torch.no_grad()
def test_well_separated_patterns_are_fixed_points_reached_in_one_update():
    x, mask = 4 * torch.eye(D, dtype=torch.float64)[None], torch.ones(1, D, dtype=torch.bool)
    pool = HopfieldPooling(D, static=True, beta=2.0, update_steps=3).double()
    pool.state.copy_(x[0, 2] + 0.3 * torch.randn(D))
    states = pool.trajectory(x, mask)
    for state in states[1:]:
        torch.testing.assert_close(state[0, 0, 0], x[0, 2], rtol=0, atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("static", [True, False])
def test_the_energy_is_never_negative_and_never_rises(static):
    x, mask = drawn()
    pool = HopfieldPooling(
        D, num_heads=1 if static else 2, quantity=2, static=static, beta=0.8, update_steps=6
    ).double()
    torch.nn.init.normal_(pool.state, std=3)
    energy = pool.energy(x, mask)
    assert energy.shape == (3, 7, pool.num_heads, 2)
    assert (energy >= -1e-12).all()
    assert (energy.diff(dim=1) <= 1e-12).all()
    assert (energy[:, 0] > energy[:, -1] + 1e-3).any()


@torch.no_grad()
def test_the_energy_is_its_formula():
    x, mask = drawn()
    pool = HopfieldPooling(D, static=True, beta=0.8).double()
    torch.nn.init.normal_(pool.state)
    row, q = x[1][mask[1]], pool.state[0]
    n, largest = torch.tensor(float(len(row))), row.square().sum(-1).max()
    want = -(0.8 * row @ q).logsumexp(0) / 0.8 + q @ q / 2 + n.log() / 0.8 + largest / 2
    torch.testing.assert_close(pool.energy(x, mask)[1, 0, 0, 0], want)


def test_a_fully_masked_bag_is_zero_where_the_official_softmax_is_nan():
    x, mask = drawn()
    mask[1] = False
    assert torch.zeros(7).masked_fill(~mask[1], -torch.inf).softmax(0).isnan().all()
    pool = HopfieldPooling(D, num_heads=2, update_steps=2).double()
    y = pool(x, mask)
    assert y.isfinite().all()
    assert not y[1].any()
    assert pool.energy(x, mask).isfinite().all()
    assert torch.cat([g.flatten() for g in torch.autograd.grad(y.sum(), [*pool.parameters()])]).isfinite().all()


@pytest.mark.parametrize("wrong", [{"beta": -1.0}, {"beta": float("inf")}, {"update_steps": -1}])
def test_scales_without_meaning_are_refused(wrong):
    with pytest.raises(ValueError, match=r"must be 0 or more.*; got"):
        HopfieldPooling(D, **wrong)


def test_the_energy_at_beta_zero_is_refused():
    with pytest.raises(ValueError, match="beta = 0"):
        HopfieldPooling(D, beta=0.0).energy(*(t.float() if t.is_floating_point() else t for t in drawn()))
