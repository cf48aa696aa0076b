"""lab.probes beyond the linear map: controls, description length, depth, shift, neighbours, pairs, graded ranks."""

import math
from itertools import permutations

import numpy as np
import pytest
import scipy.stats
import torch
import xarray as xr
from sklearn.metrics import ndcg_score
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from test_probes_linear import blobs, states

from lab import probes
from lab.probes.folds import stratified_folds


def typed(n=400, kinds=20, seed=0):
    """The label follows from one direction; the type is there too, as a one-hot, in layer 1 only."""
    draw = np.random.default_rng(seed)
    kind = draw.permutation(np.arange(n) % kinds)
    y = draw.permutation(np.arange(n) % 2)
    clear = np.c_[2 * y + 0.5 * draw.normal(size=n), draw.normal(size=(n, kinds))]
    both = clear.copy()
    both[:, 1:] += 6 * np.eye(kinds)[kind]
    return states(clear, both), y, kind


def test_selectivity_is_low_where_types_can_be_learned_by_heart():
    told, y, kind = typed()
    found = probes.selectivity(told, y, kind, controls=3, progress=False)
    np.testing.assert_allclose(found.selectivity, found.score - found.control)
    assert float(found.score.min()) > 0.85
    by_layer = found.selectivity.mean(["pool", "fold"])
    assert float(by_layer[0]) > 0.3
    assert float(by_layer[1]) < 0.15
    assert {"score", "control", "selectivity"} <= set(found.data_vars)  # no axis takes a variable's name
    assert found.control_correct.sizes == {"draw": 3, "layer": 2, "pool": 1, "example": 400}
    np.testing.assert_allclose(found.control_correct.mean(["draw", "example"]), found.control.mean("fold"), atol=1e-9)
    np.testing.assert_array_equal(found.prediction, probes.linear(told, y, progress=False).prediction)


def test_control_labels_are_of_types_and_as_frequent_as_labels():
    y, kind = np.array(["a"] * 300 + ["b"] * 100), np.arange(400) % 50
    drawn = probes.control_labels(y, kind, 40)
    for one in drawn:
        assert all(len(set(one[kind == k])) == 1 for k in range(50))
    assert np.mean([(one == "a").mean() for one in drawn]) == pytest.approx(0.75, abs=0.04)
    assert len({tuple(one) for one in drawn}) == 40
    assert probes.first_words(["Read a file", "", "read it"]) == ["read", "", "read"]


def test_selectivity_refuses():
    told, y, kind = typed(60, 6)
    for types, says in ((range(60), "none is shared"), (kind[:9], "one type for each"), ([None] * 60, "none missing")):
        with pytest.raises(ValueError, match=says):
            probes.selectivity(told, y, types, progress=False)
    with pytest.raises(ValueError, match="one control task or more"):
        probes.selectivity(told, y, kind, controls=0, progress=False)


def test_labels_cost_what_the_code_says():
    """One block end at half: the first half uniform, the second by the strongest penalty; by hand in float64."""
    x, y = blobs(40, 3)
    found = probes.description_length(states(x), y, ends=(0.5, 1.0), penalty=[1.0, 50.0], progress=False)
    order = np.random.default_rng(0).permutation(40)
    known, rest = order[:20], order[20:]
    x = x.astype(np.float32).astype(float)
    z = (x - x[known].mean(0)) / x[known].std(0)
    means = np.stack([z[known][y[known] == k].mean(0) for k in range(3)])
    within = sum((z[known][y[known] == k] - means[k]).T @ (z[known][y[known] == k] - means[k]) for k in range(3))
    precision = np.linalg.inv((within + 50 * np.eye(3)) / 20)
    far = z[rest][:, None] - means
    log = -0.5 * np.einsum("nkd,de,nke->nk", far, precision, far) + np.log(np.bincount(y[known]) / 20)
    p = np.exp(log - log.max(1, keepdims=True))
    p = (20 * p / p.sum(1, keepdims=True) + 1 / 3) / 21
    want = 20 * math.log2(3), -np.log2(p[np.arange(20), y[rest]]).sum()
    np.testing.assert_allclose(found.block_bits[0, 0], want, rtol=1e-9)
    np.testing.assert_allclose(found.bits[0, 0], sum(want))
    np.testing.assert_allclose(found.compression[0, 0], 40 * math.log2(3) / sum(want))


def test_the_penalty_of_a_block_is_chosen_by_the_blocks_before_it():
    x, y = blobs(200, 30, 3, gap=0.4)
    penalties = [0.1, 30.0, 3000.0]
    alone = np.stack(
        [probes.description_length(states(x), y, penalty=a, progress=False).block_bits[0, 0] for a in penalties]
    )
    together = probes.description_length(states(x), y, penalty=penalties, progress=False).block_bits[0, 0].values
    known = np.cumsum(alone, axis=1)
    # before any block is coded all are equal, and the strongest is taken
    chosen = [2, *(2 - int(known[::-1, i - 1].argmin()) for i in range(1, alone.shape[1]))]
    assert len(set(chosen)) > 1
    np.testing.assert_allclose(together, alone[chosen, range(alone.shape[1])])


def test_easy_labels_cost_few_bits_and_random_ones_about_all():
    x, y = blobs(600, 10, 4, gap=2.0)
    noise = np.random.default_rng(1).normal(size=(600, 10))
    hard = 0.25 * x + noise
    found = probes.description_length(states(x, hard, noise), y, progress=False)
    easy, middle, none = found.compression[:, 0].values
    assert easy > 4 > middle > 1.1 > none > 0.9
    assert found.block_end.values.tolist() == [1, 2, 5, 10, 19, 38, 75, 150, 300, 600]
    assert found.attrs["uniform_bits"] == 1200
    again = probes.description_length(states(x * 9 - 4), y, progress=False)
    assert again.bits[0, 0] == pytest.approx(float(found.bits[0, 0]), rel=1e-3)


@pytest.mark.parametrize("ends", [(), (0.5,), (0.5, 0.2, 1.0), (0.0, 1.0), (1.0,)])
def test_ends_that_do_not_rise_to_one_are_refused(ends):
    with pytest.raises(ValueError, match="ends"):
        probes.description_length(states(blobs()[0]), blobs()[1], ends=ends, progress=False)


def curve(accuracy, n=400):
    """correct[layer, example] with exactly these accuracies, the same examples right first."""
    right = np.arange(n) < np.round(np.array(accuracy)[:, None] * n)
    return xr.DataArray(right, dims=("layer", "example"), coords={"layer": range(len(accuracy))})


def test_marks_are_where_the_curve_passes_them():
    found = probes.depth(curve([0.25, 0.26, 0.5, 0.8, 0.8, 0.81, 0.8]), chance=0.25, draws=50)
    marks = {mark: float(found.estimate.sel(mark=mark)) for mark in found.mark.values}
    assert marks == {"jump": 2 / 6, "converge": 3 / 6, "half_rise": 3 / 6, "one_se": 3 / 6, "best": 5 / 6}
    assert found.attrs["layers"] == 7


def test_marks_that_are_not_there():
    flat = probes.depth(curve([0.5, 0.5, 0.5]), chance=0.5, draws=50)
    assert math.isnan(flat.estimate.sel(mark="jump"))
    assert math.isnan(flat.estimate.sel(mark="half_rise"))
    assert float(flat.share.sel(mark="jump")) == 0
    assert math.isnan(flat.low.sel(mark="jump"))
    assert float(flat.estimate.sel(mark="converge")) == 0
    restless = probes.depth(curve([0.2, 0.5, 0.3, 0.6]), chance=0.1, draws=50)
    assert float(restless.estimate.sel(mark="converge")) == 1
    nothing = probes.depth(curve([0.0, 0.0, 0.5]), chance=0.0, draws=20)
    assert float(nothing.estimate.sel(mark="jump")) == 1


def test_depth_intervals_hold_the_depth_of_the_truth():
    """Accuracies .3 .3 .6 .9 .9 .9 with 200 drawn examples: half the rise, 0.6, is at layer 2, but just so."""
    draw = np.random.default_rng(0)
    truth = np.array([0.3, 0.3, 0.7, 0.9, 0.9, 0.9])
    right = draw.random((6, 200, 40)) < truth[:, None, None]
    told = xr.DataArray(right, dims=("layer", "example", "trial"), coords={"layer": range(6)})
    found = probes.depth(told, chance=0.3, draws=200).sel(mark="half_rise")
    assert found.estimate.dims == ("trial",)
    held = (found.low <= 0.4 + 1e-9) & (found.high >= 0.4 - 1e-9)
    assert float(held.mean()) > 0.9
    assert float((found.estimate == 0.4).mean()) > 0.8


@pytest.mark.parametrize(
    ("correct", "arguments", "says"),
    [
        (curve([0.5, 0.6]).isel(example=0), {}, "needs the axes layer and example"),
        (curve([0.5]), {}, "two layers or more"),
        (curve([0.5, 0.6])[::-1], {}, "rising"),
        (curve([0.5, 0.6]).astype(float).where(lambda a: a > 2), {}, "some are NaN"),
        (curve([0.5, 0.6]), {"chance": 1.0}, r"chance in \[0, 1\)"),
    ],
)
def test_depth_refuses(correct, arguments, says):
    with pytest.raises(ValueError, match=says):
        probes.depth(correct, **{"chance": 0.5, **arguments})


def moving(n=300, seed=0, flip=True):
    """Layer 0 holds the label plainly; the last holds a shortcut, and more of it, that turns around away from home."""
    draw = np.random.default_rng(seed)
    y = draw.permutation(np.arange(n) % 2)
    honest = (2 * y - 1)[:, None] + draw.normal(size=(n, 3))
    shortcut = 3 * (2 * y - 1)[:, None] * (-1 if flip else 1) + draw.normal(size=(n, 3))
    return states(honest, 0.3 * honest + shortcut), y


def test_an_early_layer_holds_where_the_last_follows_a_shortcut():
    (home, y), (away, z) = moving(flip=False), moving(seed=1)
    found = probes.shifted(home, y, away, z, shots=10, progress=False)
    accuracy = found.accuracy[..., 0]
    assert float(accuracy.sel(protocol="home", layer=1)) > float(accuracy.sel(protocol="home", layer=0))
    assert float(accuracy.sel(protocol="zero_shot", layer=1)) < 0.1
    assert float(accuracy.sel(protocol="zero_shot", layer=0)) > 0.85
    assert float(accuracy.sel(protocol="few_shot", layer=1)) > 0.9
    assert float(found.sensitivity[1, 0]) > 0.8 > 0.2 > float(found.sensitivity[0, 0])
    assert found.chosen.sel(protocol="zero_shot").values.tolist() == [0]
    np.testing.assert_allclose(found.correct.mean("judged"), found.accuracy[1:].values)
    assert (found.attrs["shots"], found.attrs["n_judge"] + found.attrs["n_select"]) == (10, 280)


def test_the_shifts_numbers_are_of_the_examples_that_judge():
    (home, y), (away, z) = moving(flip=False), moving(seed=1)
    group = np.arange(300) % 3
    found = probes.shifted(home, y, away, z, away_groups=group, shots=10, penalty=5.0, progress=False)
    own = found.judged.values
    right = found.correct.sel(away_protocol="zero_shot", layer=0)[0].values
    np.testing.assert_allclose(
        found.worst_group.sel(away_protocol="zero_shot", layer=0), min(right[group[own] == g].mean() for g in range(3))
    )
    x, far = home.h[0, 0].values.astype(float), away.h[0, 0].values.astype(float)[own]
    z_far, z_home = (far - x.mean(0)) / x.std(0), (x - x.mean(0)) / x.std(0)
    means = np.stack([z_home[y == k].mean(0) for k in range(2)])
    within = sum((z_home[y == k] - means[k]).T @ (z_home[y == k] - means[k]) for k in range(2)) + 5 * np.eye(3)
    side = (z_far - means.mean(0)) @ np.linalg.solve(within, means[1] - means[0])
    assert ((side > 0) == z[own]).mean() == pytest.approx(right.mean())
    same = probes.shifted(home, y, home, y, shots=10, progress=False)
    assert float(abs(same.sensitivity).max()) < 0.05


def test_shifted_refuses():
    (home, y), (away, z) = moving(60, flip=False), moving(60, seed=1)
    with pytest.raises(ValueError, match="the same labels"):
        probes.shifted(home, y, away, z + 1, progress=False)
    with pytest.raises(ValueError, match="the same layers"):
        probes.shifted(home, y, away.assign_coords(layer=[0, 7]), z, progress=False)
    with pytest.raises(ValueError, match="'0' has 30 away, got shots=30"):
        probes.shifted(home, y, away, z, shots=30, progress=False)
    with pytest.raises(ValueError, match="away holds 60 examples; got labels"):
        probes.shifted(home, y, away, z[:4], progress=False)
    with pytest.raises(ValueError, match="two layers or more"):
        probes.shifted(home, y, away, z, layers=[1], shots=5, progress=False)


def test_neighbours_and_centroids_are_scikit_learns():
    x, y = blobs(200, 6, gap=0.8)
    x += 3
    near = probes.neighbours(states(x), y, k=1, progress=False)
    centre = probes.centroid(states(x), y, progress=False)
    x = x.astype(np.float32).astype(float)
    fold = stratified_folds(y, None, 5, 0, 200)
    for f in range(5):
        train, test = fold != f, fold == f
        peer = KNeighborsClassifier(1, metric="cosine", algorithm="brute").fit(x[train], y[train])
        assert np.array_equal(near.prediction[0, 0, test], peer.predict(x[test]))
        assert np.array_equal(centre.prediction[0, 0, test], NearestCentroid().fit(x[train], y[train]).predict(x[test]))
    assert near.score.dims == centre.score.dims == ("layer", "pool", "fold")


def test_votes_are_counted_and_the_nearer_side_breaks_a_tie():
    angle = np.array([0, 1, 2, 40, 41, 42, 90, 91, 92.0, 180]) * np.pi / 180
    x = np.c_[np.cos(angle), np.sin(angle)]
    y = np.array(["a", "a", "a", "b", "b", "b", "a", "b", "a", "b"])
    found = probes.neighbours(states(x), y, k=2, folds=3, progress=False)
    fold = found.held_out.values
    units = x.astype(np.float32).astype(float)
    for i in range(10):
        others = np.flatnonzero(fold != fold[i])
        cosine = units[others] @ units[i]
        best = others[np.argsort(-cosine)[:2]]
        want = y[best[0]]  # one vote each: the nearer; two: the same
        assert found.prediction[0, 0, i] == want
    with pytest.raises(ValueError, match="k must be from 1 to 6"):
        probes.neighbours(states(x), y, k=7, folds=3, progress=False)


def test_k_votes_are_a_majority():
    x, y = blobs(150, 5, gap=0.6)
    found = probes.neighbours(states(x), y, k=7, progress=False).prediction[0, 0].values
    fold = stratified_folds(y, None, 5, 0, 150)
    units = x.astype(np.float32).astype(float)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    cosine = np.where(fold[:, None] == fold, -2, units @ units.T)
    for i in range(150):
        near = np.argsort(-cosine[i])[:7]
        votes = np.bincount(y[near], minlength=3)
        assert votes[found[i]] == votes.max()


def test_similarity_is_scipys_spearman():
    draw = np.random.default_rng(0)
    a = draw.normal(size=(60, 5))
    b = a * draw.random((60, 1)) + 0.7 * draw.normal(size=(60, 5))
    gold = np.round(draw.random(60) * 5)
    found = probes.similarity(states(a, b), states(b, b), gold, draws=200)
    cosine = np.sum(a * b, 1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    np.testing.assert_allclose(found.cosine[0, 0], cosine, rtol=1e-5)
    want = scipy.stats.spearmanr(found.cosine[0, 0], gold).statistic
    assert float(found.spearman[0, 0]) == pytest.approx(want)
    assert float(found.low[0, 0]) < want < float(found.high[0, 0])
    assert math.isnan(found.spearman[1, 0])  # each with itself: cosines all 1
    perfect = probes.similarity(states(a), states(b), np.exp(cosine), draws=50)
    assert float(perfect.spearman[0, 0]) == pytest.approx(1)
    with pytest.raises(ValueError, match="1 missing"):
        probes.similarity(states(a), states(b), [*gold[:-1], np.nan])
    with pytest.raises(ValueError, match="both halves need"):
        probes.similarity(states(a), states(b[:-1]), gold)


def test_graded_ranks_are_scikit_learns_without_ties():
    draw = np.random.default_rng(0)
    q, d = draw.normal(size=(9, 4)), draw.normal(size=(20, 4))
    grades = draw.integers(0, 4, size=(9, 20)) * (draw.random((9, 20)) < 0.4)
    grades[3] = 0
    found = probes.graded_retrieval(states(q), states(d), grades, k=5)
    units = [one / np.linalg.norm(one, axis=1, keepdims=True) for one in (q, d)]
    cosine = units[0] @ units[1].T
    for i in range(9):
        got = found.isel(layer=0, pool=0, example=i)
        if i == 3:
            assert math.isnan(got.ndcg)
            continue
        assert float(got.ndcg) == pytest.approx(ndcg_score([2.0 ** grades[i] - 1], [cosine[i]], k=5))
        order = np.argsort(-cosine[i])
        ranks = 1 + np.flatnonzero(grades[i][order] > 0)
        assert float(got.reciprocal_rank) == pytest.approx(1 / ranks[0])
        assert float(got.recall) == pytest.approx((ranks <= 5).mean())


def test_one_answer_for_each_query_is_a_graded_ranking():
    draw = np.random.default_rng(1)
    q = draw.normal(size=(30, 4))
    d = 0.8 * q + draw.normal(size=(30, 4))
    one, graded = probes.retrieval(states(q), states(d)), probes.graded_retrieval(states(q), states(d), np.eye(30))
    np.testing.assert_allclose(one.ndcg_at_10, graded.ndcg)
    np.testing.assert_allclose(one.reciprocal_rank, graded.reciprocal_rank)
    np.testing.assert_array_equal(one.found_at_10, graded.recall)
    assert 0 < float(one.found_at_10.mean()) < 1


def test_retrieval_reads_each_layer_at_its_own_width_and_refuses_what_is_not_finite():
    draw = np.random.default_rng(2)
    q, d = draw.normal(size=(2, 20, 4))
    narrow = [np.c_[one[:, :2], np.full((20, 2), np.nan)] for one in (q, d)]
    both = [states(a, b).assign(width=("layer", [2, 4])) for a, b in zip(narrow, (q, d), strict=True)]
    found = probes.retrieval(*both)["rank"]
    np.testing.assert_array_equal(found[0], probes.retrieval(states(q[:, :2]), states(d[:, :2]))["rank"][0])
    np.testing.assert_array_equal(found[1], probes.retrieval(states(q), states(d))["rank"][0])
    with pytest.raises(ValueError, match="layer 0, pool mean has NaN"):
        probes.retrieval(states(narrow[0], q), states(narrow[1], d))


def test_equal_cosines_count_as_all_their_orders_do():
    """Four documents in one direction, two of them relevant: the mean over all 24 orders."""
    q, d = np.array([[1.0, 0.0]]), np.array([[1.0, 0], [2, 0], [3, 0], [4, 0], [-1, 0]])
    grades = np.array([[0.0, 2, 0, 1, 3]])
    found = probes.graded_retrieval(states(q), states(d), grades, k=3)
    worth = [1 / math.log2(1 + r) for r in (1, 2, 3)]
    gains = 2 ** grades[0] - 1
    orders = [(*order, 4) for order in permutations(range(4))]
    ideal = sum(g * w for g, w in zip(sorted(gains)[::-1], worth, strict=False))
    ndcg = np.mean([sum(gains[j] * w for j, w in zip(order, worth, strict=False)) / ideal for order in orders])
    recall = np.mean([sum(grades[0][j] > 0 for j in order[:3]) / 3 for order in orders])
    first = np.mean([1 + min(r for r, j in enumerate(order) if grades[0][j] > 0) for order in orders])
    got = found.isel(layer=0, pool=0, example=0)
    assert float(got.ndcg) == pytest.approx(ndcg)
    assert float(got.recall) == pytest.approx(recall)
    assert float(got.reciprocal_rank) == pytest.approx(1 / first)


def test_graded_retrieval_refuses():
    q, d = states(np.ones((3, 2))), states(np.ones((4, 2)))
    with pytest.raises(ValueError, match=r"relevance must be \[3, 4\]"):
        probes.graded_retrieval(q, d, np.ones((4, 3)))
    with pytest.raises(ValueError, match="0 or more"):
        probes.graded_retrieval(q, d, -np.ones((3, 4)))
    with pytest.raises(ValueError, match="k must be 1"):
        probes.graded_retrieval(q, d, np.ones((3, 4)), k=0)
    with pytest.raises(ValueError, match="same layers, pools and dim"):
        probes.graded_retrieval(q, states(np.ones((4, 3))), np.ones((3, 4)))


def rings(n=300, seed=0):
    draw = np.random.default_rng(seed)
    y = draw.permutation(np.arange(n) % 2)
    angle = draw.random(n) * 2 * np.pi
    radius = 1 + 1.5 * y + 0.1 * draw.normal(size=n)
    return np.c_[radius * np.cos(angle), radius * np.sin(angle)], y


def test_a_network_finds_rings_that_no_line_parts():
    x, y = rings()
    random_state = torch.random.get_rng_state()
    bent = probes.mlp(states(x), y, folds=3, epochs=60, rate=0.02, progress=False)
    assert float(bent.correct.mean()) > 0.95
    assert float(probes.linear(states(x), y, progress=False).correct.mean()) < 0.65
    again = probes.mlp(states(x), y, folds=3, epochs=60, rate=0.02, progress=False)
    assert bent.identical(again)
    assert torch.equal(torch.random.get_rng_state(), random_state)
    noise = probes.mlp(states(np.random.default_rng(0).normal(size=(300, 4))), y, folds=3, epochs=5, progress=False)
    assert abs(float(noise.correct.mean()) - 0.5) < 0.1


def sentences(n=150, seed=0):
    """One token of each text holds the label, marked by a constant in dim 0; the others shout labels at random."""
    draw = np.random.default_rng(seed)
    y = draw.permutation(np.arange(n) % 2)
    lengths = draw.integers(3, 9, size=n)
    owner = np.repeat(np.arange(n), lengths)
    h = draw.normal(size=(len(owner), 3)) * [0.1, 0.3, 0.1]
    h[:, 1] += draw.choice([-2, 2], size=len(owner))
    told = np.cumsum(lengths) - 1 - draw.integers(0, 3, size=n)
    h[told, 0] += 4
    h[told, 1] = 2 * (2 * y - 1)
    tokens = xr.Dataset(
        {"h": (("layer", "token", "dim"), h[None].astype(np.float32))},
        coords={"layer": [3], "example": ("token", owner)},
    )
    return tokens, y, told, owner


def test_attention_finds_the_token_that_knows():
    tokens, y, told, owner = sentences()
    found = probes.attentive(tokens, y, folds=3, epochs=150, rate=0.02, progress=False)
    assert float(found.correct.mean()) > 0.9
    mean = np.stack([tokens.h[0].values[owner == i].mean(0) for i in range(len(y))])
    assert float(probes.linear(states(mean), y, folds=3, progress=False).correct.mean()) < 0.85
    np.testing.assert_allclose(np.bincount(owner, found.weight[0]), 1, rtol=1e-4)
    assert float(found.weight[0, told].mean()) > 0.45  # of some five tokens in a text
    shuffled = np.random.default_rng(1).permutation(len(owner))
    other = probes.attentive(tokens.isel(token=shuffled), y, folds=3, epochs=2, progress=False)
    assert np.bincount(owner[shuffled], other.weight[0]) == pytest.approx(1, rel=1e-4)


def test_an_attentive_probe_reads_no_padding_and_bears_an_empty_row():
    probe = probes.AttentiveProbe(4, 3).double()
    torch.nn.init.normal_(probe.query)
    x = torch.randn(3, 5, 4, dtype=torch.double)
    mask = torch.tensor([[1, 1, 1, 0, 0], [0, 1, 1, 1, 1], [0, 0, 0, 0, 0]]).bool()
    poisoned = x.masked_fill(~mask[..., None], torch.nan).requires_grad_()
    y = probe(poisoned, mask)
    for row in range(2):
        real = x[row, mask[row]]
        weight = torch.softmax(real @ probe.query / 2, 0)
        torch.testing.assert_close(y[row], probe.linear(weight @ real))
    torch.testing.assert_close(y[2], probe.linear.bias)
    y.sum().backward()
    assert torch.isfinite(poisoned.grad).all()
    assert (poisoned.grad[~mask] == 0).all()
    assert torch.isfinite(probe.query.grad).all()


def test_trained_probes_refuse():
    x, y = rings(40)
    with pytest.raises(ValueError, match="needed are one epoch"):
        probes.mlp(states(x), y, epochs=0, progress=False)
    tokens, y, _, _ = sentences(30)
    with pytest.raises(ValueError, match="one label for each example that has tokens, 30; got 29"):
        probes.attentive(tokens, y[:-1], progress=False)
    with pytest.raises(ValueError, match=r"tokens need h\[layer, token, dim\]"):
        probes.attentive(tokens.drop_vars("example"), y, progress=False)
    with pytest.raises(ValueError, match="must be finite"):
        probes.attentive(tokens * np.nan, y)
