"""lab.geometry's neural collapse: definitions with explicit matrices, simplices, and what is refused."""

import math

import numpy as np
import pytest
import torch

from lab import geometry

NUMBERS = {"nc1": 0, "nc2_norms": 0, "nc2_angles": 0, "cdnv": 0, "nearest_centre": 1}  # at full collapse
LABELS = np.array([0, 1, 2, 2, 1, 0, 0, 1, 2, 3, 3, 3, 0, 0, 1, 2, 0, 3, 3, 1])


def rows(d=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(20, d, generator=generator, dtype=torch.float64)
    return x + 3 * torch.randn(4, d, generator=generator, dtype=torch.float64)[LABELS] + 5


def simplex(k, d, length=2.0):
    """k vectors of equal length at the widest equal angles, in d dimensions."""
    corners = torch.eye(k, dtype=torch.float64) - 1 / k
    return torch.nn.functional.pad(corners / corners.norm(dim=1, keepdim=True) * length, (0, d - k))


@pytest.mark.parametrize("d", [2, 6, 40])
def test_match_their_definitions_with_explicit_matrices(d):
    x = rows(d)
    v = x.numpy()
    mu = np.stack([v[c == LABELS].mean(0) for c in range(4)])
    m = mu - mu.mean(0)
    within = sum(np.outer(r, r) for r in v - mu[LABELS]) / len(v)
    between = m.T @ m / 4
    want = {"nc1": np.trace(within @ np.linalg.pinv(between, rcond=1e-10, hermitian=True)) / 4}
    lengths = np.linalg.norm(m, axis=1)
    want["nc2_norms"] = lengths.std() / lengths.mean()
    pairs = [(i, j) for i in range(4) for j in range(4) if i != j]
    want["nc2_angles"] = np.mean([abs(m[i] @ m[j] / lengths[i] / lengths[j] + 1 / 3) for i, j in pairs])
    variance = [((v[c == LABELS] - mu[c]) ** 2).sum(1).mean() for c in range(4)]
    want["cdnv"] = np.mean([(variance[i] + variance[j]) / 2 / ((mu[i] - mu[j]) ** 2).sum() for i, j in pairs])
    nearest = ((v[:, None] - mu) ** 2).sum(-1).argmin(1)
    want["nearest_centre"] = (nearest == LABELS).mean()
    for name, value in want.items():
        assert getattr(geometry, name)(x, LABELS).item() == pytest.approx(value, rel=1e-8), name
    w = np.random.default_rng(0).normal(size=(4, d))
    b = np.array([0.0, 1.0, -2.0, 0.5])
    nc3 = ((w / np.linalg.norm(w) - m / np.linalg.norm(m)) ** 2).sum()
    assert geometry.nc3(x, LABELS, weight=torch.tensor(w)).item() == pytest.approx(nc3)
    nc4 = ((v @ w.T + b).argmax(1) != nearest).mean()
    assert geometry.nc4(x, LABELS, weight=torch.tensor(w), bias=torch.tensor(b)).item() == pytest.approx(nc4)


def test_batches_equal_singles():
    x = torch.stack([rows(), rows(seed=1)])[:, None]
    for name in NUMBERS:
        number = getattr(geometry, name)
        singles = torch.stack([number(part[0], LABELS) for part in x])[:, None]
        torch.testing.assert_close(number(x, LABELS), singles)


@pytest.mark.parametrize("k", [2, 3, 5])
def test_a_simplex_of_points_is_full_collapse(k):
    corners = simplex(k, 8)
    labels = np.arange(k).repeat(6)
    x = (corners + 7)[labels]
    for name, value in NUMBERS.items():
        assert getattr(geometry, name)(x, labels).item() == pytest.approx(value, abs=1e-12), name
    assert geometry.nc3(x, labels, weight=5 * corners).item() == pytest.approx(0, abs=1e-12)
    assert geometry.nc3(x, labels, weight=-corners).item() == pytest.approx(4)
    assert geometry.nc4(x - 7, labels, weight=corners).item() == 0
    assert geometry.nc4(x - 7, labels, weight=corners.roll(1, 0)).item() == 1


def test_each_number_sees_its_own_departure():
    corners, labels = simplex(4, 8), np.arange(4).repeat(10)
    noise = torch.randn(40, 8, dtype=torch.float64)
    noise -= torch.stack([noise[labels == c].mean(0) for c in range(4)])[labels]  # the means stay
    spread = corners[labels] + 0.3 * noise
    assert geometry.nc1(spread, labels).item() > 0.01
    assert geometry.cdnv(spread, labels).item() > 0.01
    assert geometry.nc2_norms(spread, labels).item() == pytest.approx(0, abs=1e-9)
    assert geometry.nc2_angles(spread, labels).item() == pytest.approx(0, abs=1e-9)
    frame = torch.nn.functional.pad(torch.eye(4).double() * torch.tensor([1.0, 2, 3, 4])[:, None], (0, 4))
    longer = frame[labels]
    assert geometry.nc2_norms(longer, labels).item() > 0.1
    assert geometry.nc2_angles(longer, labels).item() > 0.05
    assert geometry.nc1(longer, labels).item() == 0
    # twice the noise is four times the variance, for both
    for name in ("nc1", "cdnv"):
        number = getattr(geometry, name)
        assert (number(corners[labels] + 0.6 * noise, labels) / number(spread, labels)).item() == pytest.approx(4)


def test_what_leaves_them_unchanged_and_what_does_not():
    x = rows()
    q = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
    order = torch.randperm(20)
    names = np.array(["d", "c", "b", "a"])[LABELS]  # other names in another order
    stretched = x * torch.logspace(0, 1, 6)
    for name in NUMBERS:
        number = getattr(geometry, name)
        torch.testing.assert_close(number(3 * x @ q + 11, LABELS), number(x, LABELS))
        torch.testing.assert_close(number(x[order], LABELS[order.numpy()]), number(x, LABELS))
        torch.testing.assert_close(number(x, names), number(x, LABELS))
        if name != "nearest_centre":
            assert abs(number(stretched, LABELS) - number(x, LABELS)) > 1e-3
    assert geometry.nearest_centre(x, LABELS) > geometry.nearest_centre(x, LABELS[torch.randperm(20).numpy()])
    w = torch.randn(4, 6, dtype=torch.float64)
    torch.testing.assert_close(geometry.nc4(x @ q, LABELS, weight=w @ q), geometry.nc4(x, LABELS, weight=w))
    torch.testing.assert_close(geometry.nc3(x @ q + 3, LABELS, weight=7 * w @ q), geometry.nc3(x, LABELS, weight=w))


def test_each_class_counts_once_where_sizes_differ():
    corners = simplex(3, 4)
    labels = np.array([0] * 50 + [1] * 5 + [2] * 2)
    x = corners[labels]
    assert geometry.nc2_norms(x, labels).item() == pytest.approx(0, abs=1e-12)
    around_all = corners - x.mean(0)  # the mean of all rows leans to the large class
    assert (around_all.norm(dim=1).std() / around_all.norm(dim=1).mean()).item() > 0.3


def test_degenerate_classes_say_so():
    labels = np.arange(2).repeat(4)
    point = torch.full((8, 3), 0.1)
    assert geometry.nc1(point, labels).isnan()
    assert geometry.nc2_norms(point, labels).isnan()
    assert geometry.nc2_angles(point, labels).isnan()
    assert geometry.cdnv(point, labels).isnan()
    assert geometry.nc3(point, labels, weight=torch.ones(2, 3)).isnan()
    same_means = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]]).repeat_interleave(1, 0)
    assert geometry.cdnv(same_means, [0, 0, 1, 1]).item() == math.inf
    single = geometry.cdnv(torch.randn(5, 3), [0, 1, 2, 3, 4])  # one row a class
    assert single.item() == 0


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (LABELS[:-1], r"one for each of the 20 rows; got shape \(19,\)"),
        (LABELS[:, None], r"one for each of the 20 rows; got shape \(20, 1\)"),
        ([None, *["a"] * 9, *["b"] * 10], r"1 labels are missing, the first in rows \[0\]"),
        ([math.nan, math.nan, *[1.0] * 9, *[2.0] * 9], r"2 labels are missing"),
        ([*["a"] * 9, math.nan, *["b"] * 10], r"1 labels are missing, the first in rows \[9\]"),
        (["a"] * 20, "at least two classes are needed; all 20 labels are 'a'"),
    ],
)
def test_labels_that_name_no_classes_are_refused(labels, says):
    for name in NUMBERS:
        with pytest.raises(ValueError, match=says):
            getattr(geometry, name)(rows(), labels)


def test_a_classifier_of_other_classes_is_refused():
    with pytest.raises(ValueError, match=r"= \[4, 6\].*got \[5, 6\]: an empty class has no mean"):
        geometry.nc3(rows(), LABELS, weight=torch.ones(5, 6))
    with pytest.raises(ValueError, match=r"bias of shape \[3\]"):
        geometry.nc4(rows(), LABELS, weight=torch.ones(4, 6), bias=torch.ones(3))
    with pytest.raises(ValueError, match="must be finite"):
        geometry.nc4(rows(), LABELS, weight=torch.full((4, 6), torch.nan))
    broken = rows()
    broken[3] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinite values in 1 of its rows"):
        geometry.nc1(broken, LABELS)


def test_right_angles_are_of_means_as_they_are():
    frame = torch.eye(4, 9, dtype=torch.float64) * torch.tensor([1.0, 2, 3, 40])[:, None]
    labels = np.arange(4).repeat(5)
    assert geometry.nc2_frame(frame[labels], labels).item() == pytest.approx(0, abs=1e-12)
    assert geometry.nc2_frame(frame[labels] + 1, labels).item() > 0.1
    assert geometry.nc2_frame(simplex(4, 9)[labels], labels).item() == pytest.approx(1 / 3)
    v = rows().numpy()
    units = np.stack([v[c == LABELS].mean(0) for c in range(4)])
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    want = np.mean([abs(units[i] @ units[j]) for i in range(4) for j in range(4) if i != j])
    assert geometry.nc2_frame(rows(), LABELS).item() == pytest.approx(want)
    both = geometry.nc2_frame(torch.stack([rows(), rows(seed=1)]), LABELS)
    assert both[1].item() == pytest.approx(geometry.nc2_frame(rows(seed=1), LABELS).item(), rel=1e-12)
    frame[0] = 0  # a class that vanished has no direction
    assert geometry.nc2_frame(frame[labels], labels).item() == 0


def test_three_corners_of_a_simplex_are_an_even_triangle_in_their_plane():
    corners = simplex(5, 9)[[3, 0, 4]]
    places = geometry.simplex_plane(corners, corners)
    middle = places - places.mean(0)
    assert middle[0, 0].item() == pytest.approx(0, abs=1e-12)
    assert middle[0, 1] > 0
    assert middle[1, 0] > 0
    sides = torch.pdist(middle)
    torch.testing.assert_close(sides, sides[0].expand(3))
    torch.testing.assert_close(sides, torch.pdist(corners))  # nothing is stretched


def test_what_leaves_the_plane_is_not_seen():
    corners, x = torch.randn(3, 6, dtype=torch.float64), rows()
    places = geometry.simplex_plane(x, corners)
    around = corners - corners.mean(0)
    basis = torch.linalg.qr(around[:2].T).Q  # of the same plane, another frame
    torch.testing.assert_close(torch.pdist(places), torch.pdist(x @ basis))
    away = torch.randn(6, dtype=torch.float64)
    away -= basis @ (basis.T @ away)
    torch.testing.assert_close(geometry.simplex_plane(x + away, corners), places)
    torch.testing.assert_close(geometry.simplex_plane(x, corners + away), places)
    torch.testing.assert_close(geometry.simplex_plane(x.float(), corners.float()), places, rtol=1e-4, atol=1e-4)


def test_no_plane_is_refused():
    with pytest.raises(ValueError, match=r"\[3, 6\]; got \[4, 6\]"):
        geometry.simplex_plane(rows(), torch.randn(4, 6))
    for corners in (torch.ones(3, 6), torch.arange(3.0)[:, None] * torch.ones(6)):
        with pytest.raises(ValueError, match="on one line"):
            geometry.simplex_plane(rows(), corners)
