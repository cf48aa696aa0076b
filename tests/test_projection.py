"""Planted features and projection heads: what is drawn, what the heads are, what training is for."""

import numpy as np
import pytest
import torch
from torch.nn import functional

import lab
from lab.data.tasks import PlantedFeatures
from lab.training import HEADS, projected
from lab.training.projection import Projected, info_nce


def test_examples_are_their_features_and_noise():
    task = PlantedFeatures(noise=0.0)
    drawn = task.draw(500, seed=3)
    u = task.directions
    torch.testing.assert_close(u @ u.T, torch.eye(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(drawn.clean, (drawn.signs * torch.tensor(task.strengths)) @ u)
    assert set(drawn.signs.unique().tolist()) == {-1.0, 1.0}
    assert torch.equal(drawn.one, task.draw(500, seed=3).one)
    assert not torch.equal(drawn.one, task.draw(500, seed=4).one)
    noisy = PlantedFeatures(noise=0.5).draw(4000, seed=3)
    for view in (noisy.one, noisy.two, noisy.clean):
        rest = view - view @ u.T @ u
        assert rest.square().sum(1).mean().item() == pytest.approx(0.25 * 28, rel=0.05)
    assert (noisy.one - noisy.two).abs().min() > 0  # each view has its own noise


def test_augmentations_spoil_what_they_are_said_to():
    task = PlantedFeatures(strengths=(1.0, 2.0, 0.5), disrupted=(0.0, 0.5, 1.0), noise=0.0)
    drawn = task.draw(8000, seed=0)
    for view in (drawn.one, drawn.two):
        kept = ((view @ task.directions.T).sign() == drawn.signs).double().mean(0)
        torch.testing.assert_close(kept, torch.tensor([1.0, 0.75, 0.5]).double(), atol=0.02, rtol=0)
    agree = ((drawn.one @ task.directions.T).sign() == (drawn.two @ task.directions.T).sign()).double().mean(0)
    torch.testing.assert_close(agree, torch.tensor([1.0, 0.625, 0.5]).double(), atol=0.02, rtol=0)


@pytest.mark.parametrize(
    "wrong",
    [{"strengths": (1.0,)}, {"dim": 3}, {"noise": -1.0}, {"strengths": (1.0, 1.0, 1.0, 0.0)},
     {"disrupted": (0.0, 0.0, 0.0, 1.2)}],
)  # fmt: skip
def test_features_that_cannot_be_planted_are_refused(wrong):
    with pytest.raises(ValueError, match="got"):
        PlantedFeatures(**wrong)


@pytest.mark.parametrize("head", HEADS)
def test_a_head_stands_on_the_encoder(head):
    net, x = Projected(32, dim=5, head=head, decay=0.5), torch.randn(7, 32)
    before, behind = net(x)
    torch.testing.assert_close(before, net.encoder(x))
    learned = sum(p.numel() for p in net.parameters()) - sum(p.numel() for p in net.encoder.parameters())
    match head:
        case "none":
            assert torch.equal(before, behind)
            assert learned == 0
        case "diagonal":
            torch.testing.assert_close(behind, before * torch.tensor([1, 0.5, 0.25, 0.125, 0.0625]))
            assert learned == 0
        case "linear":
            torch.testing.assert_close(net.head(2 * before), 2 * behind)
            assert learned == 25
        case "mlp":
            assert not torch.allclose(net.head(2 * before), 2 * behind)
            assert learned == 60


def test_info_nce_is_its_formula():
    one, two = torch.randn(6, 4), torch.randn(6, 4)
    a, b = (functional.normalize(part.double(), dim=1).numpy() for part in (one, two))
    e = np.exp(a @ b.T / 0.3)
    want = -np.mean([np.log(e[i, i] / e[i].sum()) + np.log(e[i, i] / e[:, i].sum()) for i in range(6)]) / 2
    assert info_nce(one, two, 0.3).item() == pytest.approx(want, rel=1e-5)


def test_training_finds_what_views_share_and_drops_what_they_do_not():
    task = PlantedFeatures(strengths=(1.0, 1.0), disrupted=(0.0, 1.0), dim=8)
    run = projected(task, "none", dim=4, hidden=16, steps=80, batch=128, rate=5e-3, progress=False)
    assert run.losses[-20:].mean() < 0.9 * run.losses[0]  # five steps on, half of it is learned
    shared, spoilt = run.weights().sel(layer=1).values
    assert shared > 0.7
    assert spoilt < 0.3
    again, other = (projected(task, "none", dim=4, hidden=16, steps=3, seed=s, progress=False) for s in (0, 1))
    assert not np.array_equal(again.losses, other.losses)
    assert np.array_equal(again.losses, projected(task, "none", dim=4, hidden=16, steps=3, progress=False).losses)


def test_states_go_on_to_the_probes():
    run = projected(PlantedFeatures(), "diagonal", steps=2, batch=16, progress=False)
    states = run.states(80)
    before, behind = states.h.values[:, 0]
    np.testing.assert_allclose(behind, before * 0.7 ** np.arange(16), rtol=1e-5)
    scores = lab.probes.neighbours(states, states.sign.isel(feature=0).values, k=3, folds=2, progress=False)
    assert scores.score.dims == ("layer", "pool", "fold")


def test_weights_are_distances_of_means_over_the_spread():
    run = projected(PlantedFeatures(), "mlp", steps=2, batch=16, progress=False)
    states = run.states(3000)
    for layer in (0, 1):
        h, sign = states.h.values[layer, 0], states.sign.values
        spread = np.sqrt(((h - h.mean(0)) ** 2).sum(1).mean())
        for k, weight in enumerate(run.weights(3000).sel(layer=layer).values):
            gap = h[sign[:, k] > 0].mean(0) - h[sign[:, k] < 0].mean(0)
            assert weight == pytest.approx(np.linalg.norm(gap) / 2 / spread, rel=0.02)  # signs are nearly even


@pytest.mark.parametrize(
    ("head", "options"), [("diag", {}), ("diagonal", {"decay": 0.0}), ("none", {"steps": 0}), ("none", {"batch": 1})]
)
def test_a_run_that_is_none_is_refused(head, options):
    with pytest.raises(ValueError, match=r"no head|got"):
        projected(PlantedFeatures(), head, **options)
