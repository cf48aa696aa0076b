"""The best chosen where it is not judged, and whether two rankings agree, against known answers."""

import numpy as np
import pytest
import xarray as xr
from scipy.stats import kendalltau

from lab import stats


def scores(rows, **axes):
    return xr.DataArray(np.array(rows, float), axes, dims=list(axes))


def test_each_seed_judges_what_the_others_chose():
    table = scores([[9, 0, 1], [1, 4, 3]], pool=["a", "b"], seed=[5, 6, 7])
    best = stats.best_elsewhere(table, "pool")  # others' means: seed 5 a .5, b 3.5; 6 a 5, b 2; 7 a 4.5, b 2.5
    assert best.dims == ("seed",)
    assert best.seed.values.tolist() == [5, 6, 7]
    assert best.values.tolist() == [1, 0, 1]
    assert stats.best_elsewhere(table, "pool", least=True).values.tolist() == [9, 4, 3]


def test_the_choice_among_noise_is_worth_nothing():
    noise = scores(np.random.default_rng(0).normal(size=(30, 400)), pool=range(30), seed=range(400))
    assert abs(float(stats.best_elsewhere(noise, "pool").mean())) < 0.15
    assert float(noise.max("pool").mean()) > 1.5  # what choosing on the same seed would have said


def test_axes_that_stay_choose_for_themselves():
    table = scores(np.random.default_rng(1).normal(size=(3, 4, 2)), pool=list("abc"), seed=range(4), size=[8, 16])
    both = stats.best_elsewhere(table, "pool")
    for size in (8, 16):
        alone = stats.best_elsewhere(table.sel(size=size), "pool")
        np.testing.assert_array_equal(both.sel(size=size), alone)


def test_rankings_agree_as_kendall_has_it():
    draw = np.random.default_rng(2)
    one = scores(draw.normal(size=(7, 3)), word=list("abcdefg"), seed=range(3))
    other = scores(draw.normal(size=7), word=list("abcdefg"))
    found = stats.ranks_agree(one, other, "word")
    assert found.dims == ("seed",)
    np.testing.assert_allclose(found, [kendalltau(one[:, i], other).statistic for i in range(3)])
    assert float(stats.ranks_agree(other, 2 * other + 1, "word")) == 1
    assert float(stats.ranks_agree(other, -other, "word")) == -1


def test_ties_tell_nothing():
    one = scores([1, 1, 2], word=list("abc"))
    assert float(stats.ranks_agree(one, scores([1, 2, 3], word=list("abc")), "word")) == pytest.approx(2 / 3)
    assert float(stats.ranks_agree(one, scores([4, 4, 4], word=list("abc")), "word")) == 0


def test_entries_are_matched_by_name():
    one, other = scores([1, 2, 3], word=list("abc")), scores([3, 2, 1], word=list("cba"))
    with pytest.raises(ValueError, match="cannot align"):
        stats.ranks_agree(one, other, "word")
    assert float(stats.ranks_agree(one, other.sel(word=list("abc")), "word")) == 1


def test_what_cannot_be_chosen_from_is_refused():
    table = scores([[9, 0], [1, 4]], pool=["a", "b"], seed=[5, 6])
    with pytest.raises(ValueError, match="no axis 'word'"):
        stats.best_elsewhere(table, "word")
    with pytest.raises(ValueError, match="got 1 samples along 'seed'"):
        stats.best_elsewhere(table.isel(seed=[0]), "pool")
    with pytest.raises(ValueError, match="are NaN"):
        stats.ranks_agree(table.where(table > 0), table, "pool")
