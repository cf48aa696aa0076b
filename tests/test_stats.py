"""lab.stats: intervals that hold what they promise."""

import numpy as np
import pytest
import xarray as xr

from lab import stats


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """500 experiments of 60 draws from N(0, 1) and an exponential, each one cell of the array."""
    generator = np.random.default_rng(0)
    draws = np.stack([generator.normal(size=(500, 60)), generator.exponential(size=(500, 60)) - 1])
    table = stats.bootstrap(xr.DataArray(draws, dims=("kind", "trial", "example")), draws=500, level=0.9)
    covered = ((table.low <= 0) & (table.high >= 0)).mean("trial").values
    assert np.all(np.abs(covered - [0.89, 0.87]) < 0.04)  # a percentile interval is a little short at n = 60
    assert np.all(table.low < table.estimate)
    assert np.all(table.estimate < table.high)


def test_the_estimate_is_the_mean_and_the_width_that_of_theory():
    x = xr.DataArray(np.random.default_rng(1).normal(3, 2, size=(2, 4000)), dims=("pool", "example"))
    table = stats.bootstrap(x, draws=4000)
    np.testing.assert_allclose(table.estimate, x.mean("example"))
    np.testing.assert_allclose(table.high - table.low, 2 * 1.96 * x.std("example", ddof=1) / 4000**0.5, rtol=0.06)
    assert (table.attrs["n"], table.attrs["level"]) == (4000, 0.95)


def test_pairs_are_resampled_together():
    """A difference that is the same in every example is certain, however much the examples vary."""
    a = xr.DataArray(np.random.default_rng(2).normal(size=100), dims="example")
    both = xr.concat([a, a + 0.1], "pool")
    table = stats.bootstrap(both)
    np.testing.assert_allclose(table.low[1] - table.low[0], 0.1)
    gap = stats.bootstrap(both[1] - both[0])
    np.testing.assert_allclose([gap.low, gap.high], 0.1)


def test_same_seed_same_interval_and_booleans_count():
    found = xr.DataArray(np.arange(50) % 5 == 0, dims="example")
    assert float(stats.bootstrap(found).estimate) == pytest.approx(0.2)
    values = xr.DataArray(np.random.default_rng(3).normal(size=50), dims="example")
    one, two, other = (stats.bootstrap(values, seed=seed) for seed in (0, 0, 1))
    assert one.identical(two)
    assert not one.identical(other)


@pytest.mark.parametrize(
    ("samples", "arguments", "says"),
    [
        ([1.0, 2.0], {"along": "fold"}, "no axis 'fold'; there are"),
        ([1.0], {}, "got 1 samples"),
        ([1.0, np.nan], {}, "1 of 2 samples are NaN"),
        ([1.0, 2.0], {"level": 95.0}, "level=95.0"),
        ([1.0, 2.0], {"draws": 0}, "draws=0"),
    ],
)
def test_refusals(samples, arguments, says):
    with pytest.raises(ValueError, match=says):
        stats.bootstrap(xr.DataArray(samples, dims="example"), **arguments)


def test_best_names_the_cell_that_holds_the_most():
    scores = xr.DataArray(
        [[0.1, 0.5], [0.7, 0.2]], dims=("layer", "pool"), coords={"layer": [3, 4], "pool": ["mean", "max"]}
    )
    assert stats.best(scores) == {"layer": 4, "pool": "mean"}
    assert float(scores.sel(**stats.best(scores))) == 0.7
    with pytest.raises(ValueError, match=r"nothing to choose from in scores of shape \(0, 2\)"):
        stats.best(scores[:0])


@pytest.mark.parametrize(
    ("numbers", "says"),
    [
        ((0.03, 0.01, 0.05), "+0.030 [+0.010, +0.050], a difference"),
        ((-0.03, -0.05, -0.01), "-0.030 [-0.050, -0.010], a difference"),
        ((0.03, -0.01, 0.05), "+0.030 [-0.010, +0.050], no difference that these examples can show"),
    ],
)
def test_a_difference_in_words_says_whether_zero_is_left_out(numbers, says):
    assert stats.in_words(xr.Dataset(dict(zip(("estimate", "low", "high"), numbers, strict=True)))) == says
