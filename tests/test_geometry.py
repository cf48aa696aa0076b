"""lab.geometry: each number against its definition, what leaves it unchanged, and what must change it."""

import numpy as np
import pytest
import torch
import xarray as xr

from lab import geometry


def pairwise_anisotropy(x):
    u = x / x.norm(dim=-1, keepdim=True)
    cosines = u @ u.T
    return (cosines.sum() - cosines.diagonal().sum()) / (len(x) * (len(x) - 1))


def entropy_rank(x):
    values = torch.linalg.svdvals(x)
    share = values[values > 0] / values.sum()
    return torch.exp(-(share * share.log()).sum())


def rotation(d):
    return torch.linalg.qr(torch.randn(d, d, dtype=torch.float64)).Q


@pytest.mark.parametrize("shape", [(30, 7), (7, 30), (12, 12)])
def test_match_their_definitions_in_float64(shape):
    x = torch.randn(shape, dtype=torch.float64) + 0.3
    torch.testing.assert_close(geometry.anisotropy(x), pairwise_anisotropy(x))
    torch.testing.assert_close(geometry.effective_rank(x), entropy_rank(x), rtol=1e-7, atol=0)


def test_batches_equal_singles():
    x = torch.randn(2, 3, 30, 8)
    for metric in geometry.METRICS.values():
        singles = torch.stack([metric(part) for part in x.flatten(0, 1)]).view(2, 3)
        torch.testing.assert_close(metric(x), singles, equal_nan=True)


def test_limits():
    line = torch.arange(1.0, 9.0)[:, None] * torch.randn(1, 6)
    assert geometry.anisotropy(line).item() == pytest.approx(1)
    assert geometry.effective_rank(line).item() == pytest.approx(1, abs=1e-4)
    q = rotation(8)
    assert geometry.effective_rank(q).item() == pytest.approx(8)
    assert geometry.anisotropy(q).item() == pytest.approx(0, abs=1e-12)
    assert geometry.anisotropy(torch.tensor([[1.0, 0], [-1.0, 0]])).item() == pytest.approx(-1)
    zeros = torch.zeros(4, 3)
    assert geometry.effective_rank(zeros).item() == 0
    assert geometry.anisotropy(zeros).item() == 0
    wide = torch.randn(2000, 32)
    assert abs(geometry.anisotropy(wide).item()) < 0.01  # independent directions: expectation 0


# what sees a shift of all rows; what sees each row scaled by itself
SHIFT = {"anisotropy", "uniformity", "effective_rank", "rankme", "stable_rank", "matrix_entropy"}
COSINES = {"anisotropy", "uniformity"}


@pytest.mark.parametrize("name", [name for name in geometry.METRICS if name != "duplicates"])
def test_what_leaves_them_unchanged_and_what_does_not(name):
    metric = geometry.METRICS[name]
    x = torch.randn(60, 8, dtype=torch.float64) * torch.linspace(0.2, 2, 8) + 0.5
    was = metric(x)
    torch.testing.assert_close(metric(3 * x @ rotation(8)), was)
    torch.testing.assert_close(metric(x[torch.randperm(60)]), was)
    if name in SHIFT:
        assert abs(metric(x + 5) - was) > 0.05
    else:
        torch.testing.assert_close(metric(x + 5), was)
    scaled = x * torch.logspace(-1, 1, 60).double()[:, None]
    if name in COSINES:
        torch.testing.assert_close(metric(scaled), was)
    else:
        assert abs(metric(scaled) - was) > 1e-4
    assert abs(metric(x * torch.logspace(0, 2, 8)) - was) > 1e-4  # a stretch of single axes is seen by all


def test_half_precision_is_measured_in_float64():
    x = torch.randn(50, 8).half()
    for metric in geometry.METRICS.values():
        torch.testing.assert_close(metric(x), metric(x.double()), equal_nan=True)


def test_rows_that_are_no_space_are_refused_by_every_number():
    broken = torch.randn(30, 4)
    broken[7, 2] = torch.nan
    broken[9] = torch.inf
    for metric in geometry.METRICS.values():
        with pytest.raises(ValueError, match="NaN or infinite values in 2 of its rows"):
            metric(broken)
        with pytest.raises(ValueError, match=r"at least one of each; got x of shape \(0, 4\)"):
            metric(broken[:0])
    with pytest.raises(TypeError, match=r"x must be a tensor.*got ndarray"):
        geometry.Space(np.zeros((3, 3)))


@pytest.mark.parametrize("n", [1, 2])
def test_few_rows_say_how_many_are_needed(n):
    x = torch.randn(n, 4)
    for name, rows in geometry.panel.NEEDS.items():
        with pytest.raises(ValueError, match=f"got x of shape \\({n}, 4\\)"):
            geometry.METRICS[name](torch.randn(n, 4))
        assert geometry.METRICS[name](torch.randn(rows, 4)).isfinite() or name in {"hubness", "two_nn"}
    if n == 1:
        for name in ("anisotropy", "uniformity", "isoscore", "duplicates"):
            with pytest.raises(ValueError, match="at least two rows"):
                geometry.METRICS[name](x)


def test_non_contiguous_rows_are_read_as_they_stand():
    x = torch.randn(8, 90)[:, ::3].T
    for metric in geometry.METRICS.values():
        torch.testing.assert_close(metric(x), metric(x.contiguous()), equal_nan=True)


def states(h):
    dims = ("layer", "pool", "example", "dim")
    return xr.Dataset({"h": (dims, h)}, coords={"layer": range(h.shape[0]), "pool": ["mean", "max"]})


def test_measure_labels_every_number():
    h = np.random.default_rng(0).normal(size=(3, 2, 30, 6)).astype(np.float32)
    space = geometry.measure(states(h))
    assert set(space) == set(geometry.METRICS)
    for name, metric in geometry.METRICS.items():
        assert space[name].dims == ("layer", "pool")
        want = metric(torch.from_numpy(h[2, 1])).item()
        assert space[name].sel(layer=2, pool="max").item() == pytest.approx(want, nan_ok=True)
    few = geometry.measure(states(h[:, :, :10]))
    assert {name for name in few if few[name].isnull().all()} >= {"hubness", "antihubs", "levina_bickel"}
    assert few["two_nn"].notnull().all()
    with pytest.raises(ValueError, match="at least two examples; got 1"):
        geometry.measure(states(h[:, :, :1]))
    with pytest.raises(ValueError, match=r"at least two rows; got x of shape \(1, 4\)"):
        geometry.anisotropy(torch.zeros(1, 4))


def test_measure_with_labels_adds_what_they_tell_and_shares_one_search(monkeypatch):
    h = np.random.default_rng(0).normal(size=(2, 2, 30, 6)).astype(np.float32)
    labels = ["a", "b", "c"] * 10
    searches = []
    search = geometry.nearest.nearest
    monkeypatch.setattr("lab.geometry.space.nearest", lambda x, k: searches.append(k) or search(x, k))
    space = geometry.measure(states(h), labels)
    assert searches == [20] * 4
    assert set(space) == set(geometry.METRICS) | set(geometry.COLLAPSE)
    for name, metric in geometry.COLLAPSE.items():
        assert space[name].sel(layer=1, pool="mean").item() == pytest.approx(
            metric(torch.from_numpy(h[1, 0]), labels).item()
        )


def test_measure_names_the_space_that_is_not_finite_and_reads_each_layer_at_its_width():
    h = np.random.default_rng(0).normal(size=(2, 2, 30, 6)).astype(np.float32)
    h[1, :, :, 4:] = np.nan
    with pytest.raises(ValueError, match="layer 1, pool mean: x has NaN or infinite values in 30"):
        geometry.measure(states(h))
    space = geometry.measure(states(h).assign(width=("layer", [6, 4])))
    want = geometry.effective_rank(torch.from_numpy(h[1, 1, :, :4])).item()
    assert space.effective_rank.sel(layer=1, pool="max").item() == pytest.approx(want)


def test_a_map_keeps_what_is_flat_and_says_how_far_it_can_be_trusted():
    generator = np.random.default_rng(0)
    flat = np.pad(generator.normal(size=(60, 2)), ((0, 0), (0, 5))).astype(np.float32)
    xy = geometry.project(flat, neighbours=8)
    distances = [np.linalg.norm(a[:, None] - a[None], axis=-1) for a in (flat, xy.values)]
    np.testing.assert_allclose(*distances, atol=1e-5)
    assert xy.attrs["method"] == "pca"
    trust = {}
    for name, x in {"flat": flat, "round": generator.normal(size=(60, 40)).astype(np.float32)}.items():
        trust[name] = geometry.project(x, neighbours=8).attrs["trustworthiness"]
    assert trust["flat"] > 0.8 > trust["round"] > 0.4


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"method": "mds"}, r"no projection 'mds'; there are \['pca', 'tsne', 'umap'\]"),
        ({"neighbours": 5}, "below half the 10 rows; got 5"),
        ({"neighbours": 1}, "from 2 to below"),
    ],
)
def test_project_refuses(arguments, says):
    with pytest.raises(ValueError, match=says):
        geometry.project(np.eye(10, dtype=np.float32), **{"neighbours": 3, **arguments})


def test_umap_is_the_same_for_the_same_seed_and_keeps_neighbourhoods():
    generator = np.random.default_rng(0)
    centres = np.eye(3, 8) * 20
    x = (centres[np.arange(90) % 3] + generator.normal(size=(90, 8))).astype(np.float32)
    one, two = (geometry.project(x, "umap", neighbours=10, seed=1) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    assert one.attrs["trustworthiness"] > 0.8
    gaps = np.linalg.norm(one.values[:, None] - one.values[None], axis=-1)
    same = np.arange(90)[:, None] % 3 == np.arange(90)[None] % 3
    assert np.median(gaps[same]) < np.median(gaps[~same]) / 3
