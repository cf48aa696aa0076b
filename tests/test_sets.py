"""Sets of numbers by their rules, pools that answer them, and what a Hopfield network recalls, by the definition."""

import math

import jaxtyping
import numpy as np
import pytest
import torch
from torch import nn

from lab.data import sets
from lab.pooling.recall import recall
from lab.training import SET_POOLS, set_reader
from lab.training.sums import SetReader, solve

pytestmark = pytest.mark.usefixtures("plain_torch")

QUIET = {"progress": False}


# numbers


@pytest.mark.parametrize("target", sets.TARGETS)
def test_a_set_is_asked_by_its_rule(target):
    drawn = sets.draw(target, 60, (2, 5), kinds=4, seed=3)
    rules = {"sum": sum, "mean": lambda x: sum(x) / len(x), "max": max, "norm": lambda x: math.hypot(*x)}
    for x, mask, answer in zip(drawn.x, drawn.mask, drawn.answers, strict=True):
        n = int(mask.sum())
        assert mask[:n].all()
        assert not x[n:].any()
        if target == "distinct":
            assert float(answer) == len(set(x[:n].argmax(1).tolist()))
        else:
            assert float(answer) == pytest.approx(rules[target](x[:n, 0].tolist()), rel=1e-5)
            assert (x[:n] > 0).all()
    assert set(drawn.mask.sum(1).tolist()) == {2, 3, 4, 5}


@pytest.mark.parametrize("wrong", [("median", 9, (2, 5)), ("sum", 0, (2, 5)), ("sum", 9, (5, 2)), ("sum", 9, (0, 2))])
def test_sets_that_cannot_be_drawn_are_refused(wrong):
    with pytest.raises(ValueError, match="needed are a target"):
        sets.draw(*wrong)


@pytest.mark.parametrize(("target", "pool"), [("sum", "sum"), ("mean", "mean"), ("max", "max"), ("distinct", "max")])
def test_the_right_fixed_pool_extrapolates_and_a_wrong_one_does_not(target, pool):
    far = sets.draw(target, 100, (64, 64), seed=9)
    assert float(set_reader(target, pool, **QUIET).missed(far).detach().abs().max()) < 1e-4
    for other in set(SET_POOLS) - {pool, "gnp"}:
        assert float(set_reader(target, other, **QUIET).missed(far).detach().abs().mean()) > 0.3


def test_no_head_misses_less_than_the_solved_one():
    seen = sets.draw("norm", 200, (2, 8), seed=1)
    made = SetReader(SET_POOLS["mean"](1), nn.Linear(1, 1))
    solve(made, seen)
    with torch.no_grad():
        least = float(made.missed(seen).square().mean())
        for weight in made.head.parameters():
            for by in (-0.02, 0.02):
                weight += by
                assert float(made.missed(seen).square().mean()) > least
                weight -= by


@pytest.mark.parametrize(("target", "p", "q"), [("sum", 1, 0), ("mean", 1, 1)])
def test_gnp_finds_the_exponents(target, p, q):
    made = set_reader(target, steps=120, **QUIET)
    assert made.pool.p.item() == pytest.approx(p, abs=0.1)
    assert made.pool.q.item() == pytest.approx(q, abs=0.1)
    far = sets.draw(target, 100, (64, 64), seed=9)
    assert float(made.missed(far).detach().abs().mean()) < 0.2


def test_a_set_reader_without_a_pool_is_refused():
    with pytest.raises(ValueError, match="no pool 'median'"):
        set_reader("sum", "median", **QUIET)


# recalled


def test_recall_is_its_definition_in_loops():
    x, q = torch.randn(7, 4).double(), torch.randn(3, 4).double()
    found = recall(x, q, [0, 0.7, 3], updates=2)
    for b, beta in enumerate((0, 0.7, 3)):
        for k in range(3):
            state, nearest, moved = q[k], x[(x @ q[k]).argmax()], math.nan
            for step in range(3):
                w = (beta * x @ state).softmax(0)
                one = found.isel(beta=b, step=step, query=k)
                np.testing.assert_allclose(one.state, state, atol=1e-12)
                assert float(one.error) == pytest.approx(float((state - nearest).norm()))
                assert float(one.patterns) == pytest.approx(math.exp(-float((w * w.log()).sum())))
                if beta:
                    energy = -(beta * x @ state).logsumexp(0) / beta + state @ state / 2
                    energy += math.log(7) / beta + x.square().sum(1).max() / 2
                    assert float(one.energy) == pytest.approx(float(energy))
                assert float(one.moved) == pytest.approx(moved, nan_ok=True)
                state, moved = w @ x, float((w @ x - state).norm())
    first, second = (x @ q.T).topk(2, dim=0).values
    np.testing.assert_allclose(found.separation, first - second)
    np.testing.assert_allclose(found.state.sel(beta=0).isel(step=1), x.mean(0).expand(3, 4), atol=1e-12)


def test_an_update_misses_exponentially_little_in_beta():
    x = nn.functional.normalize(torch.randn(30, 16).double(), dim=1)
    q, betas = x[::5] + 0.1 * torch.randn(6, 16).double(), [5, 20, 30, 40]
    found = recall(x, q, betas)
    missed, apart = found.error.isel(step=1).values, found.separation.values
    for beta, row in zip(betas, missed, strict=True):
        assert (row <= 2 * 29 * np.exp(-beta * apart)).all()
        assert (row > 1e-4 * np.exp(-beta * apart)).all()  # and not faster
    slopes = np.log(missed[3] / missed[1]) / 20
    np.testing.assert_allclose(slopes, -apart, rtol=0.1)


@pytest.mark.parametrize(
    "wrong", [{"stored": (1, 4)}, {"asked": (0, 4)}, {"asked": (2, 3)}, {"betas": []}, {"updates": 0}]
)
def test_what_cannot_be_recalled_is_refused(wrong, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # which would refuse two widths itself
    how = {"stored": (5, 4), "asked": (2, 4), "betas": [1.0], "updates": 1} | wrong
    with pytest.raises(ValueError, match="two patterns or more"):
        recall(torch.zeros(how["stored"]), torch.zeros(how["asked"]), how["betas"], updates=how["updates"])
