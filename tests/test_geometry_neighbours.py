"""lab.geometry's neighbours: the search against all distances, dimensions of known clouds, copies, hubs."""

import math

import numpy as np
import pytest
import torch

from lab import geometry
from lab.geometry.nearest import nearest


def cloud(n, d, wide=None, seed=0):
    """n Gaussian points of d dimensions, turned into `wide` of them."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    if wide is None:
        return x
    return x @ torch.linalg.qr(torch.randn(wide, d, generator=generator, dtype=torch.float64)).Q.T


def all_distances(x):
    square = (x[:, None] - x[None]).square().sum(-1).fill_diagonal_(math.inf)
    return square.sqrt().sort(dim=1)


@pytest.mark.parametrize("block", [1, 90, 2**19])
def test_the_search_finds_what_all_distances_show(block, monkeypatch):
    monkeypatch.setattr("lab.geometry.nearest.BLOCK", block)
    x = torch.stack([cloud(31, 5), 100 + cloud(31, 5, seed=1)])
    distance, index = nearest(x, 7)
    for part, d, i in zip(x, distance, index, strict=True):
        want = all_distances(part)
        torch.testing.assert_close(d, want.values[:, :7], rtol=1e-9, atol=0)
        assert torch.equal(i, want.indices[:, :7])


def test_copies_are_at_distance_zero_and_nobody_is_its_own_neighbour():
    x = (1000 + cloud(40, 30)).float()
    x[20:30] = x[:10]
    x[30] = x[31] + 1e-4  # near, no copy
    distance, index = geometry.Space(x).nearest(3)
    assert not (index == torch.arange(40)[:, None]).any()
    assert torch.equal(index[:10, 0], torch.arange(20, 30))
    assert (distance[:10, 0] == 0).all()
    want = (x[30].double() - x[31].double()).norm()
    assert distance[30, 0].item() == pytest.approx(want.item(), rel=1e-9)
    assert geometry.duplicates(x).item() == 20 / 40
    assert geometry.duplicates(torch.ones(9, 3)).item() == 1
    # dropping the first of a list as the row itself, as resi does, takes another copy's place for some rows
    first = torch.cdist(x[:30].double(), x[:30].double()).argsort(dim=1, stable=True)[:, 0]
    assert (first != torch.arange(30)).any()


def mu_of(x):
    near = all_distances(x).values
    return (near[:, 1] / near[:, 0]).sort().values.numpy()


@pytest.mark.parametrize("discard", [0.0, 0.1, 0.5])
def test_two_nn_is_the_slope_through_the_origin(discard):
    x = cloud(120, 4, wide=9)
    mu = mu_of(x)
    kept = min(math.floor(120 * (1 - discard)), 119)
    rise = -np.log(1 - np.arange(1, kept + 1) / 120)
    run = np.log(mu[:kept])
    assert geometry.two_nn(x, discard).item() == pytest.approx((rise @ run) / (run @ run), rel=1e-9)
    assert geometry.two_nn_mle(x).item() == pytest.approx(119 / np.log(mu).sum(), rel=1e-9)


@pytest.mark.parametrize("k", [3, 20])
def test_levina_bickel_is_the_likelihood_of_all_rows(k):
    x = cloud(80, 4, wide=9)
    t = all_distances(x).values[:, :k].numpy()
    inverse = np.log(t[:, -1:] / t[:, :-1]).sum(1) / (k - 1)
    assert geometry.levina_bickel(x, k).item() == pytest.approx(1 / inverse.mean(), rel=1e-9)


@pytest.mark.parametrize("d", [1, 2, 3])  # more, and the edges of the cube count
def test_known_dimensions_are_found_whatever_the_width(d):
    x = torch.rand(1500, d, dtype=torch.float64)
    wide = torch.nn.functional.pad(x, (0, 12 - d)) @ torch.linalg.qr(torch.randn(12, 12).double()).Q
    for number in (geometry.two_nn, geometry.two_nn_mle, geometry.levina_bickel):
        assert number(wide).item() == pytest.approx(d, rel=0.12)
        assert number(wide).item() == pytest.approx(number(x).item(), rel=1e-6)


def test_the_aggregate_over_rows_wants_k_minus_one():
    """On a circle, where there is no edge: averaging 1/d with 1/(k-2) reads (k-2)/(k-1) of the dimension."""
    angle = torch.rand(4000, dtype=torch.float64) * 2 * math.pi
    circle = torch.stack([angle.cos(), angle.sin()], dim=1)
    found = geometry.levina_bickel(circle, 5).item()
    assert found == pytest.approx(1, abs=0.03)
    assert found * 3 / 4 < 0.8


def test_a_curved_surface_has_its_own_dimension_and_a_high_one_is_read_low():
    sphere = torch.nn.functional.normalize(cloud(1500, 3), dim=1)
    assert geometry.two_nn(sphere).item() == pytest.approx(2, abs=0.25)
    assert geometry.levina_bickel(sphere).item() == pytest.approx(2, abs=0.25)
    assert 18 < geometry.two_nn(cloud(1500, 40)).item() < 36


def test_copies_leave_the_dimension_standing():
    x = cloud(400, 3)
    plain = [f(x).item() for f in (geometry.two_nn, geometry.two_nn_mle, geometry.levina_bickel)]
    doubled = torch.cat([x, x[:40]])
    found = [f(doubled).item() for f in (geometry.two_nn, geometry.two_nn_mle, geometry.levina_bickel)]
    assert found == pytest.approx(plain, rel=0.15)
    # scikit-dimension's MLE lets ln(T_k / 0) in, and the whole is 0
    t = all_distances(doubled).values[:, :20]
    assert 1 / (t[:, -1:] / t[:, :-1]).log().mean(1).mean() == 0
    for number in (geometry.two_nn, geometry.two_nn_mle, geometry.levina_bickel):
        assert number(torch.cat([x, x])).isnan()  # nobody is left
        assert number(torch.ones(30, 4)).isnan()


def test_hubness_is_the_skewness_of_popularity():
    x = cloud(60, 5)
    counts = np.zeros(60)
    for row in all_distances(x).indices[:, :10].numpy():
        counts[row] += 1
    want = ((counts - counts.mean()) ** 3).mean() / counts.std() ** 3
    assert geometry.hubness(x).item() == pytest.approx(want)
    assert geometry.antihubs(x, k=2).item() == pytest.approx(
        np.mean(np.bincount(all_distances(x).indices[:, :2].flatten().numpy(), minlength=60) == 0)
    )


def test_hubs_come_with_dimensions_and_not_on_a_ring():
    angle = torch.arange(100.0) * 2 * math.pi / 100
    ring = torch.stack([angle.cos(), angle.sin()], dim=1)
    assert geometry.antihubs(ring, k=2).item() == 0
    assert geometry.hubness(ring, k=2).isnan()  # all equally popular
    few, many = cloud(800, 3), cloud(800, 200)
    assert geometry.hubness(many).item() > 2 > 0.5 > abs(geometry.hubness(few).item())
    assert geometry.antihubs(many).item() > 0.05 > geometry.antihubs(few).item()
    assert geometry.hubness(many[:11]).isnan()  # everybody is everybody's neighbour


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda x: geometry.two_nn(x, 1.0), "from 0 to below 1; got 1"),
        (lambda x: geometry.levina_bickel(x, 2), "k must be at least 3; got 2"),
        (lambda x: geometry.hubness(x, 0), "k must be at least 1; got 0"),
        (lambda x: geometry.hubness(x, 30), r"30 neighbours needs at least 31 rows; got x of shape \(30, 3\)"),
        (lambda x: geometry.two_nn(x[:2]), "a second neighbour needs at least three rows"),
    ],
)
def test_bad_settings_are_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call(torch.randn(30, 3))
