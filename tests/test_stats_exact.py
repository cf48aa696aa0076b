"""lab.stats: exact tests against scipy and against every pattern of signs, Holm against its closure, effects, power."""

from itertools import chain, combinations, product

import numpy as np
import pytest
import scipy.stats
import xarray as xr

from lab import stats


def pairs(values):
    return xr.DataArray(np.asarray(values, float), dims="seed")


def by_hand(values, statistic):
    """The share of all patterns of signs whose |statistic| is at least that seen."""
    seen = abs(statistic(np.asarray(values)))
    every = [abs(statistic(np.abs(values) * signs)) for signs in product([1, -1], repeat=len(values))]
    return np.mean([other >= seen - 1e-9 for other in every])


SAMPLES = {
    "plain": [0.3, -0.1, 0.7, 0.2, 0.5, -0.4],
    "ties": [1, 1, -1, 2, 2, 2, -3],
    "zeros": [0, 0, 1, 2, -1, 3],
    "more zeros": [0, 0, 0, 1, 2, -3, 4],
    "two": [1, 2],
    "one sided": [1, 2, 3, 4, 5],
    "all zero": [0, 0, 0],
    "tenths": [0.1, 0.2, 0.3, -0.3, -0.2, 0.1],
}


@pytest.mark.parametrize("values", SAMPLES.values(), ids=SAMPLES)
def test_sign_flips_are_all_looked_through(values):
    found = stats.sign_flip(pairs(values))
    assert float(found.p) == pytest.approx(by_hand(values, np.mean))
    assert float(found.statistic) == pytest.approx(np.mean(values))
    assert found.attrs["method"].startswith("exact")


@pytest.mark.parametrize("values", SAMPLES.values(), ids=SAMPLES)
def test_signed_ranks_with_ties_and_zeros_are_all_looked_through(values):
    def ranked(x):
        real = x[x != 0]
        return (scipy.stats.rankdata(np.abs(real)) * np.sign(real)).sum()

    assert float(stats.wilcoxon(pairs(values)).p) == pytest.approx(by_hand(np.array(values, float), ranked))


@pytest.mark.parametrize("n", [2, 5, 9, 16, 40])
def test_both_are_scipys_where_there_are_no_ties(n):
    values = np.random.default_rng(n).normal(0.4, 1, size=n)
    exact = scipy.stats.wilcoxon(values, method="exact")
    assert float(stats.wilcoxon(pairs(values)).p) == pytest.approx(exact.pvalue, rel=1e-9)
    if n <= 16:
        peer = scipy.stats.permutation_test(
            (values,), lambda x, axis: np.mean(x, axis=axis), permutation_type="samples", n_resamples=np.inf,
            vectorized=True,
        )  # fmt: skip
        assert float(stats.sign_flip(pairs(values)).p) == pytest.approx(peer.pvalue, rel=1e-9)


@pytest.mark.parametrize("test", stats.TESTS.values(), ids=stats.TESTS)
def test_the_attainable_p_is_attained_and_never_undercut(test):
    for values in ([1, 2, 4, 8, 16], [1, 1, 1], [0, 0, 3, 1], [5, 7]):
        best = test(pairs(values))  # all on one side: nothing could be further out
        assert float(best.p) == pytest.approx(float(best.attainable))
    assert float(test(pairs([1, 2, 4, 8, 16])).attainable) == 1 / 16
    every = xr.DataArray(list(product([1, -1], repeat=5)), dims=("pattern", "seed")) * pairs([1, 2, 4, 8, 16])
    found = test(every)
    assert float((found.p - found.attainable).min()) == pytest.approx(0)
    assert float(test(pairs([0, 0])).p) == float(test(pairs([0, 0])).attainable) == 1


@pytest.mark.parametrize("test", stats.TESTS.values(), ids=stats.TESTS)
def test_p_is_no_smaller_than_it_says_when_nothing_is_there(test):
    """4,000 experiments of 8 pairs without an effect: p <= alpha at most alpha often, nearly so at attainable ones."""
    nothing = xr.DataArray(np.random.default_rng(0).normal(size=(4000, 8)), dims=("trial", "seed"))
    p = test(nothing).p
    for alpha in (2 / 128, 0.05, 0.25):
        assert float((p <= alpha).mean()) < alpha + 3 * (alpha / 4000) ** 0.5
    assert float((p <= 2 / 128).mean()) > 0.008
    assert float((test(nothing + 2).p <= 0.05).mean()) > 0.9


def test_beyond_the_exact_reach_patterns_are_drawn_and_said():
    values = np.random.default_rng(1).normal(0.3, 1, size=24)
    drawn = stats.sign_flip(pairs(values), draws=20_000)
    assert drawn.attrs["method"] == "sampled, 20000 patterns of signs"
    assert float(drawn.attainable) == 1 / 20_001
    peer = scipy.stats.permutation_test(
        (values,), lambda x, axis: np.mean(x, axis=axis), permutation_type="samples", n_resamples=20_000,
        vectorized=True, rng=np.random.default_rng(5),
    )  # fmt: skip
    assert float(drawn.p) == pytest.approx(peer.pvalue, abs=0.012)
    many = np.random.default_rng(2).normal(0.12, 1, size=300)
    ranked = stats.wilcoxon(pairs(many), draws=20_000)
    assert ranked.attrs["method"].startswith("sampled")
    assert float(ranked.p) == pytest.approx(scipy.stats.wilcoxon(many, method="asymptotic").pvalue, abs=0.012)
    assert float(stats.sign_flip(pairs(np.ones(30)), draws=99).p) == 0.01  # never 0


@pytest.mark.parametrize("test", stats.TESTS.values(), ids=stats.TESTS)
def test_tests_refuse(test):
    with pytest.raises(ValueError, match="1 of 3 samples are NaN"):
        test(pairs([1, np.nan, 2]))
    with pytest.raises(ValueError, match="got 1 samples along 'seed'"):
        test(pairs([1]))
    with pytest.raises(ValueError, match="no axis 'run'"):
        test(pairs([1, 2]), "run")
    with pytest.raises(ValueError, match="draws must be 1 or more"):
        test(pairs([1, 2]), draws=0)


def test_holm_is_the_closure_of_bonferroni():
    """p'_i is the largest of the Bonferroni p of all sets of hypotheses that hold i: the closed test."""
    generator = np.random.default_rng(0)
    for m in (1, 2, 5, 7):
        p = generator.random(m).round(1) ** 2  # with ties, zeros and ones
        sets = chain.from_iterable(combinations(range(m), size) for size in range(1, m + 1))
        want = np.zeros(m)
        for some in sets:
            bonferroni = min(1, len(some) * min(p[i] for i in some))
            for i in some:
                want[i] = max(want[i], bonferroni)
        np.testing.assert_allclose(stats.holm(xr.DataArray(p, dims="design")), want)


def test_holm_keeps_families_apart_and_leaves_out_what_was_not_tested():
    p = xr.DataArray([[0.01, 0.04, np.nan], [0.03, 0.02, 0.5]], dims=("layer", "design"))
    np.testing.assert_allclose(stats.holm(p, ["design"]), [[0.02, 0.04, np.nan], [0.06, 0.06, 0.5]])
    np.testing.assert_allclose(stats.holm(p), [[0.05, 0.09, np.nan], [0.09, 0.08, 0.5]])
    assert stats.holm(p.T, ["design"]).dims == ("design", "layer")
    with pytest.raises(ValueError, match="no axis 'pool'"):
        stats.holm(p, ["pool"])
    with pytest.raises(ValueError, match=r"lie in \[0, 1\]"):
        stats.holm(p + 1)


def test_effect_sizes_by_hand():
    values = [3.0, 1.0, -2.0, 0.0]
    assert float(stats.cohen_dz(pairs(values))) == pytest.approx(0.5 / np.std(values, ddof=1))
    assert float(stats.rank_biserial(pairs(values))) == pytest.approx((3 + 1 - 2) / 6)
    assert float(stats.rank_biserial(pairs([0, 0, 5, -1]))) == pytest.approx(1 / 3)
    a, b = [1, 2, 3], [2, 2, 0, 5]
    want = np.mean([np.sign(x - y) for x in a for y in b])
    assert float(stats.cliffs_delta(pairs(a), pairs(b))) == pytest.approx(want)
    assert float(stats.cliffs_delta(pairs(b), pairs(a))) == pytest.approx(-want)


def test_effects_know_scale_and_sign_and_their_limits():
    values = pairs(np.random.default_rng(3).normal(1, 1, 12))
    for effect in (stats.cohen_dz, stats.rank_biserial):
        assert float(effect(7 * values)) == pytest.approx(float(effect(values)))
        assert float(effect(-values)) == pytest.approx(-float(effect(values)))
        assert float(effect(pairs([0, 0]))) == 0
    assert float(stats.cohen_dz(pairs([0.1] * 3 + [0.3 - 0.2]))) == np.inf
    assert float(stats.cohen_dz(pairs([-1, -1]))) == -np.inf
    assert float(stats.cohen_dz(values + 1)) > float(stats.cohen_dz(values))
    assert float(stats.rank_biserial(pairs([1, 2, 3]))) == 1
    assert float(stats.cliffs_delta(pairs([4, 5]), pairs([1, 2, 3]))) == 1
    grid = xr.DataArray(np.arange(12.0).reshape(3, 4), dims=("layer", "seed"))
    assert stats.rank_biserial(grid).dims == stats.cliffs_delta(grid, grid).dims == ("layer",)


def test_power_is_that_of_theory():
    """Flips of normal differences see about what Student's t sees; its power has a formula."""
    pilot = pairs([0.2, 1.8, 1.0, 0.4, 1.6])
    dz = float(stats.cohen_dz(pilot))
    found = stats.power(pilot, sizes=(4, 6, 8, 12), trials=1500)
    assert found.attrs["dz"] == pytest.approx(dz)
    assert float(found.power.sel(size=4)) == 0  # 2 / 16 is the best that four pairs can give
    for n in (8, 12):
        far = scipy.stats.t.ppf(0.975, n - 1)
        theory = scipy.stats.nct.sf(far, n - 1, dz * n**0.5) + scipy.stats.nct.cdf(-far, n - 1, dz * n**0.5)
        assert float(found.power.sel(size=n)) == pytest.approx(theory, abs=0.04)
    assert float(found.power.sel(size=6)) < 0.8 < float(found.power.sel(size=8))
    assert found.attrs["needed"] == 8
    small = stats.power(pilot - 0.9, sizes=(4, 8), trials=200)
    assert small.attrs["needed"] == 0
    nothing = stats.power(pairs([1, -1, 2, -2]), sizes=(8,), trials=1500)
    assert nothing.power.item() < 0.05 + 3 * nothing.error.item()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"sizes": (1, 5)}, "sizes need 2 or more"),
        ({"sizes": ()}, "sizes need 2 or more"),
        ({"alpha": 5.0}, "alpha and want lie in"),
        ({"test": "t"}, "no test 't'; there are"),
        ({"along": "run"}, "no axis 'run'"),
    ],
)
def test_power_refuses(arguments, says):
    with pytest.raises(ValueError, match=says):
        stats.power(pairs([1, 2, 3]), **arguments)
    with pytest.raises(ValueError, match="a pilot has one axis"):
        stats.power(xr.DataArray(np.ones((2, 2)), dims=("seed", "design")))


def test_settling_is_that_of_theory():
    """Above 0 or below the margin by a t interval: both have the power of a one-sided t test, which has a formula."""
    pilot = pairs([0.2, 1.8, 1.0, 0.4, 1.6])
    mean, spread, margin = float(pilot.mean()), float(pilot.std(ddof=1)), 1.5
    share = {}
    for n in range(3, 40):
        far = scipy.stats.t.ppf(0.975, n - 1)
        above = scipy.stats.nct.sf(far, n - 1, mean * n**0.5 / spread)
        share[n] = above + scipy.stats.nct.cdf(-far, n - 1, (mean - margin) * n**0.5 / spread)
    want = next(n for n, each in share.items() if each >= 0.8)
    found = stats.settling(pilot, margin=margin, sizes=range(3, 40), trials=100_000)
    assert abs(found - want) <= 1
    # with what does not shrink it takes more, and at last no number is enough
    assert stats.settling(pilot, margin=margin, beside=0.95, sizes=range(3, 400)) > found
    assert stats.settling(pilot, margin=margin, beside=2.1) == 0
    # no difference: a test never sees it, the interval gets below the margin
    level = pilot - pilot.mean()
    assert stats.power(level, sizes=(8, 100), trials=100).attrs["needed"] == 0
    assert 3 < stats.settling(level, margin=0.5) <= 100


@pytest.mark.parametrize(
    "arguments",
    [{"margin": 0.0}, {"margin": 1.0, "beside": -1.0}, {"margin": 1.0, "sizes": ()}, {"margin": 1.0, "level": 95.0}],
)
def test_settling_refuses(arguments):
    with pytest.raises(ValueError, match="needed are a positive margin"):
        stats.settling(pairs([1, 2, 3]), **arguments)
    with pytest.raises(ValueError, match="a pilot has one axis"):
        stats.settling(xr.DataArray(np.ones((2, 2)), dims=("seed", "design")), margin=1.0)


def scores(effect=0.05, noise=0.02, seeds=6):
    draw = np.random.default_rng(0).normal
    base = draw(size=(1, seeds, 1, 1)) + draw(size=(1, 1, 3, 20))
    values = 0.5 + base + noise * draw(size=(3, seeds, 3, 20))
    values[1] += effect
    coords = {"design": ["mean", "max", "<last>"]}
    return xr.DataArray(values, dims=("design", "seed", "dataset", "example"), coords=coords)


def test_compare_puts_all_of_it_in_one_table():
    table = stats.compare(scores(), draws=300)
    by_seed = scores().mean(["dataset", "example"])
    gap = by_seed - by_seed.sel(design="mean")
    np.testing.assert_allclose(table.difference, gap.mean("seed"), atol=1e-12)
    np.testing.assert_allclose(table.estimate, by_seed.mean("seed"))
    told = stats.sign_flip(gap[1:], "seed")
    np.testing.assert_allclose(table.p[1:], told.p)
    np.testing.assert_allclose(table.holm[1:], stats.holm(told.p))
    np.testing.assert_allclose(table.attainable[1:], 2 / 2**6)
    np.testing.assert_allclose(table.dz[1:], stats.cohen_dz(gap[1:]))
    assert table[["p", "holm", "attainable", "dz", "rank_biserial"]].isel(design=0).isnull().to_array().all()
    # the designs swing together, so their difference is known far better than either
    assert float((table.difference_high - table.difference_low)[1]) < 0.1 * float((table.high - table.low)[1])
    assert bool((table.difference_low[1] > 0) & (table.difference_low[2] < 0) & (table.difference_high[2] > 0))
    attrs = {
        "baseline": "mean",
        "unit": "seed",
        "pairs": 6,
        "tests": 2,
        "order": "nested seed x nested dataset > example",
    }
    assert {name: table.attrs[name] for name in attrs} == attrs
    assert "max" in table.to_dataframe().index


def test_compare_by_another_baseline_unit_and_family():
    grid = xr.concat([scores(), scores(0.0)], xr.Variable("layer", [3, 4]))
    table = stats.compare(grid, baseline="max", unit="dataset", family=["design"], test="wilcoxon", draws=20)
    assert table.attrs["pairs"] == 3
    assert table.attrs["family"] == "design"
    assert table.holm.sel(design="max").isnull().all()
    np.testing.assert_allclose(table.holm, stats.holm(table.p, ["design"]))
    assert float(table.difference.sel(layer=3, design="mean")) < -0.03
    assert abs(float(table.difference.sel(layer=4, design="mean"))) < 0.03
    whole = stats.compare(grid, baseline="max", unit="dataset", test="wilcoxon", draws=20)
    assert whole.attrs["tests"] == 4
    assert float((whole.holm - table.holm).max()) >= 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"baseline": "median"}, "the baseline must be one of"),
        ({"along": "pool"}, "no axis 'pool'"),
        ({"unit": "fold"}, "unit must be one of"),
        ({"test": "t"}, "test one of"),
        ({"order": ("seed", "design")}, "it cannot be drawn as well"),
        ({"order": ("run",)}, "no axis 'run'"),
    ],
)
def test_compare_refuses(arguments, says):
    with pytest.raises(ValueError, match=says):
        stats.compare(scores(), **arguments)


def test_compare_refuses_scores_that_cannot_be_told_apart():
    with pytest.raises(ValueError, match="got 1 samples along 'design'"):
        stats.compare(scores()[:1])
    with pytest.raises(ValueError, match="needs labels"):
        stats.compare(scores().drop_vars("design"))
    with pytest.raises(ValueError, match="name the axes to draw"):
        stats.compare(scores().mean(["seed", "dataset", "example"]))
    broken = scores()
    broken[0, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="1 of 1080 samples are NaN"):
        stats.compare(broken)
