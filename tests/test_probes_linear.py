"""lab.probes, linear: scikit-learn's numbers, float64 definitions, nested choice, streams, and what is refused."""

import sys

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from sklearn.datasets import load_digits
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from lab import probes
from lab.probes.cells import checked_cells
from lab.probes.fits import discriminant, ridge
from lab.probes.folds import multilabel_folds, plain_folds, stratified_folds, stratified_splits
from lab.probes.linear import classified
from lab.probes.logistic import logistic
from lab.probes.nested import FITS, held_out, wrong
from lab.probes.sums import gather


def states(*h):
    """h [pool][example, dim] in one layer each -> captured states [layer, pool = 1, example, dim]."""
    h = np.stack(h)[:, None].astype(np.float32)
    coords = {"layer": range(len(h)), "pool": ["mean"], "example": range(h.shape[2])}
    return xr.Dataset({"h": (("layer", "pool", "example", "dim"), h)}, coords=coords)


def blobs(n=150, dim=8, classes=3, gap=1.0, seed=0):
    generator = np.random.default_rng(seed)
    y = generator.permutation(np.arange(n) % classes)
    return gap * generator.normal(size=(classes, dim))[y] + generator.normal(size=(n, dim)), y


def told_by(peer, x, y, seed=0):
    """What scikit-learn says of each example, over the same folds."""
    said = np.empty(len(y), dtype=y.dtype)
    with threadpool_limits(1, "blas"):
        for train, test in stratified_splits(y, None, 5, seed, len(y)):
            said[test] = make_pipeline(StandardScaler(), peer).fit(x[train], y[train]).predict(x[test])
    return said


@pytest.mark.parametrize(("n", "dim"), [(150, 8), (60, 90)], ids=["n > d", "n < d"])
@pytest.mark.parametrize("penalty", [0.3, 30.0])
def test_ridge_is_scikit_learns_classifier(n, dim, penalty):
    x, y = blobs(n, dim)
    found = probes.linear(states(x * 50 + 900), y, fit="ridge", penalty=penalty, progress=False)
    x = (x * 50 + 900).astype(np.float32).astype(float)
    assert np.array_equal(found.prediction[0, 0], told_by(RidgeClassifier(alpha=penalty), x, y))


def test_discriminant_is_scikit_learns_where_classes_are_of_one_size():
    """Its shrinkage s makes (1 - s) C + s tr(C) / d I; ours adds a / n: a = n s t / (1 - s) up to a common factor."""
    x, y = blobs(150, 8)
    train = slice(0, 120)
    order = np.argsort(np.arange(150) // 50 * 0 + y, kind="stable").reshape(3, 50).T.ravel()  # classes take turns
    x, y = x[order], y[order]
    z = (x[train] - x[train].mean(0)) / x[train].std(0)
    peer = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.3).fit(z, y[train])
    within = np.mean([np.cov(z[y[train] == k].T, bias=True) for k in range(3)], axis=0)
    penalty = 120 * 0.3 * np.trace(within) / 8 / 0.7
    cells = checked_cells(states(x))
    one_hot = torch.eye(3, dtype=torch.double)[y]
    cell = cells.cell((0, 0))
    sums = gather(cell, one_hot, torch.arange(150) // 120, 2)
    weights, bias = discriminant(sums.part(0), [penalty])
    ours = (cell.kept[120:] @ weights[0] + bias[0]).numpy()
    theirs = peer.decision_function((x[120:] - x[train].mean(0)) / x[train].std(0))
    # log odds, theirs with a covariance 1 - s times ours
    gaps = (ours - ours[:, :1]) * np.array(1 / 0.7), theirs - theirs[:, :1]
    np.testing.assert_allclose(gaps[0], gaps[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_fits_are_their_formulas(seed):
    """Against the textbook in float64, rows and columns written out; unequal classes, a constant column, n < d."""
    generator = np.random.default_rng(seed)
    n, dim = [(40, 5), (12, 20), (200, 3)][seed]
    x = generator.normal(size=(n, dim)) * generator.uniform(0.1, 9, dim) + generator.normal(size=dim)
    x[:, 1] = 7.0
    x = x.astype(np.float32).astype(float)
    y = np.r_[np.zeros(n // 2), np.ones(n // 4), np.full(n - n // 2 - n // 4, 2)].astype(int)
    one_hot = np.eye(3)[y]
    spread = x.std(0)
    z = np.where(spread > 0, (x - x.mean(0)) / np.where(spread > 0, spread, 1), 0)
    cell = checked_cells(states(x)).cell((0, 0))
    sums = gather(cell, torch.as_tensor(one_hot), torch.zeros(n, dtype=int), 1).total()
    penalties = (0.5, 20.0) if seed else (0.1, 0.5, 1.0, 3.0, 20.0, 100.0, 1e4, 1e6)  # by factors, by eigenvectors
    for a, weights, bias in zip(penalties, *ridge(sums, penalties), strict=True):
        w = np.linalg.solve(z.T @ z + a * np.eye(dim), z.T @ (one_hot - one_hot.mean(0)))
        np.testing.assert_allclose(cell.kept @ weights + bias, z @ w + one_hot.mean(0), atol=1e-9)
    means = np.stack([z[y == k].mean(0) for k in range(3)])
    within = sum((z[y == k] - means[k]).T @ (z[y == k] - means[k]) for k in range(3))
    for a, weights, bias in zip(penalties, *discriminant(sums, penalties), strict=True):
        precision = np.linalg.inv((within + a * np.eye(dim)) / n)
        far = z[:, None] - means
        density = -0.5 * np.einsum("nkd,de,nke->nk", far, precision, far) + np.log(one_hot.mean(0))
        density += 0.5 * np.einsum("nd,de,ne->n", z, precision, z)[:, None]  # what all classes share
        np.testing.assert_allclose(cell.kept @ weights + bias, density, atol=1e-8)


def test_as_accurate_as_logistic_regression():
    """On real images, half of whose columns hardly vary, paired over the same folds: within half a point."""
    x, y = load_digits(return_X_y=True)
    ours = probes.linear(states(x), y, progress=False)
    best = max((told_by(LogisticRegression(C=c, max_iter=1000), x, y) == y).mean() for c in (0.01, 0.1, 1.0))
    assert float(ours.correct.mean()) > best - 0.02  # pixels are no Gaussians: the price there
    exact = probes.linear(states(x), y, fit="logistic", penalty=[1.0, 10.0, 100.0], progress=False)
    assert float(exact.correct.mean()) == pytest.approx(best, abs=0.005)
    text_like, labels = blobs(600, 40, 6, gap=0.35)
    ours = probes.linear(states(text_like), labels, progress=False).correct.mean().item()
    theirs = [
        (told_by(LogisticRegression(C=c, max_iter=1000), text_like, labels) == labels).mean()
        for c in (0.001, 0.01, 0.1)
    ]
    assert ours > max(theirs) - 0.005


@pytest.mark.parametrize(("n", "dim"), [(150, 8), (60, 90)], ids=["n > d", "n < d"])
@pytest.mark.parametrize("penalty", [0.5, 30.0])
def test_logistic_is_scikit_learns(n, dim, penalty):
    x, y = blobs(n, dim)
    y[y == 2] = np.where(np.arange((y == 2).sum()) < 6, 2, 1)  # unequal classes
    x = (3 + 5 * x).astype(np.float32).astype(float)
    one_hot = torch.eye(3, dtype=torch.double)[y]
    weights, bias = logistic(torch.as_tensor(x), one_hot, [penalty, 1000.0])
    scale = StandardScaler().fit(x)
    peer = LogisticRegression(C=1 / penalty, max_iter=10_000, tol=1e-9).fit(scale.transform(x), y)
    ours = (torch.as_tensor(x) @ weights[0] + bias[0]).softmax(-1).numpy()
    np.testing.assert_allclose(ours, peer.predict_proba(scale.transform(x)), atol=3e-3)
    lost = [-np.log(p[np.arange(n), y]).sum() for p in (ours, peer.predict_proba(scale.transform(x)))]
    size = [np.square(weights[0].numpy() * scale.scale_[:, None]).sum(), np.square(peer.coef_).sum()]
    objective = [a + penalty / 2 * b for a, b in zip(lost, size, strict=True)]
    assert objective[0] == pytest.approx(objective[1], rel=5e-4)


def test_logistic_says_when_it_did_not_settle_and_leaves_out_what_it_never_saw(monkeypatch):
    x, y = blobs(60, 5)
    one_hot = torch.eye(4, dtype=torch.double)[y]
    weights, bias = logistic(torch.as_tensor(x), one_hot, [10.0])
    assert bias[0, 3] == -torch.inf
    assert torch.isfinite(weights).all()
    monkeypatch.setattr(sys.modules["lab.probes.logistic"], "STEPS", 2)
    with pytest.warns(RuntimeWarning, match="did not settle at penalties 0.001"):
        logistic(torch.as_tensor(x), one_hot, [0.001])


def test_the_discriminant_sees_a_class_between_two_others_and_ridge_does_not():
    generator = np.random.default_rng(0)
    y = np.arange(150) % 3
    x = np.c_[y + 0.1 * generator.normal(size=150), generator.normal(size=(150, 3))]
    told = {fit: probes.linear(states(x), y, fit=fit, penalty=1.0, progress=False).correct[0, 0] for fit in FITS}
    assert told["discriminant"].mean() > 0.95
    assert told["ridge"].values[y == 1].mean() < 0.75


def test_any_affine_change_of_columns_is_nothing_to_a_probe_and_a_lost_column_is():
    x, y = blobs(gap=0.5)
    moved = x * np.logspace(-3, 3, 8) + np.arange(8) * 10
    plain, other, cut = (
        probes.linear(states(one), y, penalty=5.0, progress=False).prediction.values for one in (x, moved, x[:, :2])
    )
    assert (plain != other).mean() < 0.02  # float32 states: a far-off column has lost digits
    assert (plain != cut).mean() > 0.1


@pytest.mark.parametrize("fit", FITS)
def test_choosing_inside_the_folds_is_what_it_says(fit):
    """The same by loops: for each fold, each other fold told by what saw neither."""
    x, y = blobs(90, 30, 3, gap=0.4, seed=4)
    fold = stratified_folds(y, None, 4, 0, 90)
    penalties = [0.01, 3.0, 100.0, 4000.0]
    one_hot = torch.eye(3, dtype=torch.double)[y]
    cell = checked_cells(states(x)).cell((0, 0))

    def mistakes(train, test, penalty):
        part = torch.full((90,), -1)
        part[torch.as_tensor(train)] = 0
        weights, bias = FITS[fit](cell, one_hot, part, 1)((), [penalty])
        said = (cell.kept[torch.as_tensor(test)] @ weights[0] + bias[0]).argmax(-1).numpy()
        return (said != y[test]).sum(), said

    said, chosen = np.empty(90, dtype=int), []
    for f in range(4):
        others = [g for g in range(4) if g != f]
        lost = [sum(mistakes((fold != f) & (fold != g), fold == g, a)[0] for g in others) for a in penalties]
        chosen.append(max(a for a, one in zip(penalties, lost, strict=True) if one == min(lost)))
        said[fold == f] = mistakes(fold != f, fold == f, chosen[-1])[1]
    told_fold = torch.as_tensor(fold)
    outputs, best = held_out(cell, one_hot, told_fold, 4, FITS[fit](cell, one_hot, told_fold, 4), penalties, wrong)
    assert best.tolist() == chosen
    assert np.array_equal(outputs.argmax(-1).numpy(), said)
    assert len(set(chosen)) > 1 or chosen[0] not in (penalties[0], penalties[-1])


def test_labels_of_the_held_out_fold_have_no_say_in_it():
    """Give one fold other labels: what is predicted there does not move, nor does its penalty."""
    x, y = blobs(100, 20, 2, gap=0.5)
    fold = np.arange(100) % 5
    cells = checked_cells(states(x))
    other = y.copy()
    other[fold == 2] = 1 - other[fold == 2]
    one, two = (
        classified(cells, labels, np.arange(2), fold, "discriminant", (1.0, 100.0, 1e4), None) for labels in (y, other)
    )
    here = fold == 2
    assert np.array_equal(one.prediction[0, 0, here], two.prediction[0, 0, here])
    assert one.penalty[0, 0, 2] == two.penalty[0, 0, 2]
    assert not np.array_equal(one.prediction[0, 0, ~here], two.prediction[0, 0, ~here])


def test_two_folds_leave_none_to_choose_in():
    x, y = blobs()
    found = probes.linear(states(x), y, folds=2, progress=False)
    assert set(found.penalty.values.ravel()) == {100.0}
    assert found.identical(probes.linear(states(x), y, folds=2, penalty=100.0, progress=False))
    assert len(probes.linear(states(x), y, folds=3, progress=False).attrs["penalties"]) == 10


def test_noise_is_told_at_chance_and_penalties_keep_it_from_worse():
    draw = np.random.default_rng(0)
    found = probes.linear(states(draw.normal(size=(300, 250))), draw.integers(0, 3, 300), progress=False)
    assert abs(float(found.correct.mean()) - 1 / 3) < 3 * (2 / 9 / 300) ** 0.5


@pytest.mark.parametrize("fit", FITS)
def test_a_stream_in_blocks_is_the_same_as_memory(fit):
    x, y = blobs(130, 6, seed=3)
    whole = states(x, 1e4 + x)
    fold = stratified_folds(y, None, 5, 0, 130)
    one, other = (
        classified(checked_cells(whole, held=held), y, np.arange(3), fold, fit, (1.0, 10.0, 1000.0), None)
        for held in (2**27, 8 * 6 * 7)
    )
    assert checked_cells(whole, held=8 * 6 * 7).cell((0, 0)).kept is None
    assert one.identical(other)


def test_regression_streams_from_a_zarr_store(tmp_path):
    x, _ = blobs(90, 5)
    memory = states(x, x**2).assign_coords(pool=[0])
    memory.to_zarr(tmp_path / "s.zarr", zarr_format=3, consolidated=False)
    store = xr.open_zarr(tmp_path / "s.zarr", chunks=None, consolidated=False)
    y = x @ np.arange(5.0)
    assert probes.regression(store, y, progress=False).identical(probes.regression(memory, y, progress=False))


def test_regression_is_scikit_learns_ridge():
    x, _ = blobs(120, 9)
    draw = np.random.default_rng(1)
    y = 3 + x[:, :2] * [5, 0.01] + draw.normal(size=(120, 2)) * [5, 0.01]
    found = probes.regression(states(x), y, names=["large", "small"], penalty=12.0, progress=False)
    x = x.astype(np.float32).astype(float)
    fold = found.held_out.values
    want = np.empty_like(y)
    for f in range(5):
        peer = make_pipeline(StandardScaler(), Ridge(alpha=12.0)).fit(x[fold != f], y[fold != f])
        want[fold == f] = peer.predict(x[fold == f])
        score = 1 - ((want - y)[fold == f] ** 2).sum(0) / ((y - y[fold == f].mean(0))[fold == f] ** 2).sum(0)
        np.testing.assert_allclose(found.score[0, 0, :, f], score, rtol=1e-6)
    np.testing.assert_allclose(found.prediction[0, 0], want, rtol=1e-6)
    assert found.score.dims == ("layer", "pool", "target", "fold")
    assert found.target.values.tolist() == ["large", "small"]


def test_a_linear_target_is_read_whole_and_noise_is_not():
    x, _ = blobs(200, 6)
    draw = np.random.default_rng(0)
    found = probes.regression(states(x), np.c_[x @ draw.normal(size=6), draw.normal(size=200)], progress=False)
    mean = found.score.mean("fold")[0, 0].values
    assert mean[0] > 0.99
    assert -0.15 < mean[1] < 0.1


def test_multilabel_is_ridge_and_the_area_under_scikit_learns_curve():
    x, _ = blobs(160, 10)
    draw = np.random.default_rng(2)
    told = x[:, :3] + 0.5 * draw.normal(size=(160, 3))
    y = (told > [np.quantile(told[:, c], share) for c, share in enumerate((0.5, 0.7, 0.9))]).astype(int)
    found = probes.multilabel(states(x), y, names=["a", "b", "rare"], penalty=10.0, progress=False)
    x = x.astype(np.float32).astype(float)
    fold = found.held_out.values
    for f in range(5):
        here = fold == f
        peer = make_pipeline(StandardScaler(), Ridge(alpha=10.0)).fit(x[~here], 2 * y[~here] - 1)
        np.testing.assert_allclose(found.prediction[0, 0, here], peer.predict(x[here]), rtol=1e-6, atol=1e-9)
        areas = [roc_auc_score(y[here, c], found.prediction[0, 0, here, c]) for c in range(3)]
        np.testing.assert_allclose(found.score[0, 0, :, f], areas)
    noise = probes.multilabel(states(draw.normal(size=(160, 10))), y, progress=False).score.mean("fold")
    assert float(abs(noise - 0.5).max()) < 0.2
    assert float(found.score.mean("fold").min()) > 0.75


def test_folds_spread_labels_and_keep_groups():
    draw = np.random.default_rng(0)
    y = (draw.random((200, 4)) < [0.5, 0.2, 0.12, 0.9]).astype(int)
    fold = multilabel_folds(y, list("abcd"), None, 5, 0)
    each = np.stack([y[fold == f].sum(0) for f in range(5)])
    assert np.ptp(each, axis=0).max() <= 3
    assert np.ptp(np.bincount(fold)) <= 12
    groups = draw.integers(0, 60, 200)
    for fold in (multilabel_folds(y, list("abcd"), groups, 5, 0), plain_folds(groups, 5, 0, 200)):
        assert max(len(set(fold[groups == g])) for g in set(groups)) == 1
        assert np.ptp(np.bincount(fold)) <= 16
    assert np.bincount(plain_folds(None, 5, 0, 23)).tolist() == sorted([5, 5, 5, 4, 4], reverse=True)
    assert not np.array_equal(plain_folds(None, 5, 0, 23), plain_folds(None, 5, 1, 23))


def test_layers_of_their_own_width_and_chosen_layers():
    x, y = blobs(60, 6)
    both = states(np.c_[x[:, :3], np.full((60, 3), np.nan)], x).assign(width=("layer", [3, 6]))
    found = probes.linear(both, y, progress=False)
    alone = probes.linear(states(x[:, :3]), y, progress=False)
    np.testing.assert_array_equal(found.prediction[0], alone.prediction[0])
    last = probes.linear(both, y, layers=[1], progress=False)
    assert last.layer.values.tolist() == [1]
    np.testing.assert_array_equal(found.prediction[1], last.prediction[0])


def test_a_class_that_a_group_hides_is_not_named_unseen():
    sums_of = gather(
        checked_cells(states(blobs(20, 3)[0])).cell((0, 0)), torch.eye(3, dtype=torch.double)[torch.arange(20) % 2],
        torch.zeros(20, dtype=int), 1,
    ).total()  # fmt: skip
    weights, bias = discriminant(sums_of, [1.0])
    assert bias[0, 2] == -torch.inf
    assert weights[0, :, 2].abs().max() == 0
    assert torch.isfinite(weights).all()


@pytest.mark.parametrize(
    ("labels", "arguments", "says"),
    [
        (["a"] * 30, {}, "two labels or more to tell apart; all are 'a'"),
        (["a", None] * 15, {}, r"15 labels are missing, the first at \[1, 3, 5\]"),
        ([0.0, np.nan] * 15, {}, "15 labels are missing"),
        (["a", np.nan, "b"] * 10, {}, r"10 labels are missing, the first at \[1, 4, 7\]"),
        (pd.Series(["a", None, "b"] * 10, dtype="str"), {}, "10 labels are missing"),
        ([0, 1] * 15, {"groups": ["m", *"xy", None, np.nan] * 6}, r"12 groups are missing, the first at \[3, 4, 8\]"),
        ([0, 1] * 15, {"layers": [0, 7]}, r"layers must be some of \[0\]; got \[7\]"),
        ([0, 1] * 15, {"layers": []}, "got none"),
        ([0, 1] * 15, {"fit": "svm"}, "fit must be one of"),
        ([0, 1] * 15, {"penalty": 0.0}, "penalties must be positive"),
        ([0, 1] * 15, {"penalty": []}, "penalties must be positive"),
        ([0, 1] * 15, {"folds": 2, "penalty": [1.0, 2.0]}, "needs 3 folds or more; got 2"),
        ([0, 1] * 14, {}, "states hold 30 examples"),
        ([0, 1, 2] * 2 + [0, 1] * 12, {"folds": 5}, "'2' has 2"),
    ],
)
def test_linear_refuses_before_it_fits(labels, arguments, says, monkeypatch):
    def fitted(*_):
        raise AssertionError("fitted before the labels were known to do")

    monkeypatch.setattr(sys.modules["lab.probes.linear"], "held_out", fitted)
    with pytest.raises(ValueError, match=says):
        probes.linear(states(blobs(30, 4)[0]), labels, progress=False, **arguments)


def test_states_that_no_probe_can_read_are_refused_before_any_fit(monkeypatch):
    x, y = blobs(30, 4)
    bad = x.copy()
    bad[[4, 9], 2] = [np.nan, np.inf]
    monkeypatch.setattr(sys.modules["lab.probes.linear"], "held_out", None)
    with pytest.raises(ValueError, match="layer 1, pool mean has NaN or infinity in 2 examples, the first at 4"):
        probes.linear(states(x, bad), y, progress=False)
    with pytest.raises(ValueError, match="states need h with the axes"):
        probes.linear(states(x).isel(pool=0), y, progress=False)
    with pytest.raises(ValueError, match="states need h with the axes"):
        probes.linear(xr.Dataset(), y, progress=False)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda s: probes.regression(s, np.arange(9.0)), r"states hold 30 examples; got targets of the shape \(9, 1\)"),
        (lambda s: probes.regression(s, [np.nan] + [1.0, 2.0] * 14 + [3.0]), "1 targets are missing or infinite"),
        (lambda s: probes.regression(s, np.ones(30)), "does not in fold 0"),
        (lambda s: probes.regression(s, np.arange(30.0), names=["a", "b"]), "got 2 names for 1 targets"),
        (lambda s: probes.regression(s, np.arange(30.0), groups=[0, 1] * 15), "as many groups; got 2"),
        (lambda s: probes.multilabel(s, np.zeros(30)), r"got the shape \(30,\)"),
        (lambda s: probes.multilabel(s, np.full((30, 2), 0.5)), r"got also \[0.5, 0.5, 0.5\]"),
        (lambda s: probes.multilabel(s, np.eye(30)[:, :2]), "0 has 1 with and 29 without"),
        (lambda s: probes.multilabel(s, np.eye(29)), r"states hold 30 examples; got targets of the shape \(29, 29\)"),
    ],
)
def test_regression_and_multilabel_refuse(call, says):
    with pytest.raises(ValueError, match=says):
        call(states(blobs(30, 4)[0]))
