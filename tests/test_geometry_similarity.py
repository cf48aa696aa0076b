"""lab.geometry's similarities of two spaces: definitions, what they are blind to, what they see, pairs of layers."""

import math
import threading

import numpy as np
import pytest
import torch
import xarray as xr
from scipy import stats
from scipy.spatial.distance import pdist

from lab import geometry
from lab.geometry import agreement, gram, pairs
from lab.geometry.abreast import abreast
from lab.geometry.layers import Layers

NAMES = {name: getattr(geometry, name) for name in geometry.SIMILARITIES}
DISTANCES = {"procrustes", "angular"}
EQUAL = {"procrustes": 0, "angular": 0, "mutual_knn": 1 - 10 / 59}


def pair(n=60, d=6, e=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64) * torch.linspace(0.5, 2, d)
    y = x[:, :e] + 0.8 * torch.randn(n, e, generator=generator, dtype=torch.float64)
    return x + 1, y - 2


def rotation(d):
    return torch.linalg.qr(torch.randn(d, d, dtype=torch.float64)).Q


def centred(x):
    return (x - x.mean(0)).numpy()


def hsic(k, l):  # noqa: E741
    n, one = len(k), np.ones(len(k))
    k, l = k - np.diag(np.diag(k)), l - np.diag(np.diag(l))  # noqa: E741
    middle = (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (one @ k @ l @ one)
    return (np.trace(k @ l) + middle) / (n * (n - 3))


@pytest.mark.parametrize(("fraction", "block"), [(0.4, 2**19), (0.8, 2**19), (0.4, 250)])
def test_rbf_cka_is_its_definition_on_gram_matrices(fraction, block, monkeypatch):
    monkeypatch.setattr("lab.geometry.distances.BLOCK", block)
    grams = []
    for side in pair():
        distance = torch.cdist(side, side).numpy()
        between = np.sort(distance[np.triu_indices(60, 1)])
        middle = between[(len(between) + 1) // 2 - 1]  # the lower of two in the middle
        grams.append(np.exp(-(distance**2) / (2 * (fraction * middle) ** 2)))
    k, l = grams  # noqa: E741
    want = hsic(k, l) / math.sqrt(hsic(k, k) * hsic(l, l))
    assert geometry.rbf_cka(*pair(), fraction) == pytest.approx(want, rel=1e-7)


def test_the_debiased_form_knows_strangers_where_the_biased_one_does_not():
    x, y = torch.randn(128, 200, dtype=torch.float64), torch.randn(128, 200, dtype=torch.float64)
    a, b = torch.from_numpy(centred(x)), torch.from_numpy(centred(y))
    biased = ((a.T @ b).norm() ** 2 / ((a.T @ a).norm() * (b.T @ b).norm())).item()
    assert biased > 0.5
    assert abs(geometry.linear_cka(x, y)) < 0.05
    assert abs(geometry.rbf_cka(x, y)) < 0.05


def test_debiased_batches_are_averaged_before_the_ratio():
    """ckatorch overwrites: the last batch alone. Averaged HSIC_1 of batches comes near the whole."""
    x, y = pair(n=600)
    parts = []
    for rows in torch.arange(600).split(60):
        k, l = (centred(side[rows]) for side in (x, y))  # noqa: E741
        k, l = k @ k.T, l @ l.T  # noqa: E741
        parts.append([hsic(k, l), hsic(k, k), hsic(l, l)])
    kl, kk, ll = np.mean(parts, axis=0)
    last = parts[-1][0] / math.sqrt(parts[-1][1] * parts[-1][2])
    whole = geometry.linear_cka(x, y)
    assert abs(kl / math.sqrt(kk * ll) - whole) < 0.01 < abs(last - whole)


@pytest.mark.parametrize("variance", [0.5, 0.9, 0.99, 1.0])
def test_svcca_is_its_definition_on_svds(variance):
    bases = []
    for side in pair():
        u, s, _ = np.linalg.svd(centred(side), full_matrices=False)
        share = np.cumsum(s**2) / np.sum(s**2)
        bases.append(u[:, : int((share < variance - 1e-12).sum()) + 1])
    want = np.linalg.svd(bases[0].T @ bases[1], compute_uv=False).mean()
    assert geometry.svcca(*pair(), variance) == pytest.approx(want, rel=1e-7)


@pytest.mark.parametrize("sizes", [(6, 4), (4, 6), (5, 5)])
def test_pwcca_is_its_definition_on_svds(sizes):
    x, y = pair(d=max(sizes), e=min(sizes))
    x, y = (x, y) if sizes[0] >= sizes[1] else (y, x)
    u, v = (np.linalg.svd(centred(side), full_matrices=False)[0] for side in (x, y))
    left, rho, _ = np.linalg.svd(u.T @ v, full_matrices=False)
    weight = np.abs((u @ left).T @ centred(x)).sum(1)
    assert geometry.pwcca(x, y) == pytest.approx((weight * rho).sum() / weight.sum(), rel=1e-7)
    assert geometry.pwcca(y, x) != pytest.approx(geometry.pwcca(x, y), rel=1e-6)


@pytest.mark.parametrize(("n", "d", "e"), [(60, 6, 4), (7, 12, 9), (9, 4, 30)])
def test_procrustes_is_what_the_best_rotation_leaves(n, d, e):
    x, y = torch.randn(n, d, dtype=torch.float64), torch.randn(n, e, dtype=torch.float64)
    a, b = centred(x), centred(y)
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    width = max(d, e)
    a, b = np.pad(a, ((0, 0), (0, width - d))), np.pad(b, ((0, 0), (0, width - e)))
    u, s, vt = np.linalg.svd(b.T @ a)
    assert geometry.procrustes(x, y) == pytest.approx(np.linalg.norm(a - b @ u @ vt), rel=1e-6)
    assert geometry.angular(x, y) == pytest.approx(math.acos(s.sum()), rel=1e-6)
    assert geometry.procrustes(x, y) == pytest.approx(2 * math.sin(geometry.angular(x, y) / 2))


@pytest.mark.parametrize("name", sorted(DISTANCES))
def test_the_distances_of_shapes_are_metrics(name):
    distance = NAMES[name]
    for seed in range(20):
        x, y, z = torch.randn(3, 20, 5, generator=torch.Generator().manual_seed(seed)).double()
        assert distance(x, z) <= distance(x, y) + distance(y, z) + 1e-9
        assert distance(x, y) == pytest.approx(distance(y, x))


@pytest.mark.parametrize("block", [2**19, 250])
def test_rsa_is_spearmans_with_ties(block, monkeypatch):
    monkeypatch.setattr("lab.geometry.distances.BLOCK", block)
    x, y = pair()
    x[40:50] = x[:10]  # equal distances by the hundred
    want = stats.spearmanr(pdist(x.numpy()), pdist(y.numpy())).statistic
    assert geometry.rsa(x, y) == pytest.approx(want, abs=1e-6)
    grid = torch.cartesian_prod(torch.arange(5.0), torch.arange(5.0))
    want = stats.spearmanr(pdist(grid.numpy()).round(6), pdist(y[:25].numpy())).statistic
    assert geometry.rsa(grid, y[:25]) == pytest.approx(want, abs=1e-6)


def near(x, k):
    units = torch.nn.functional.normalize(x, dim=1)
    return (units @ units.T).fill_diagonal_(-math.inf).topk(k, dim=1).indices


@pytest.mark.parametrize("k", [1, 10])
def test_mutual_neighbours_are_counted_above_chance(k):
    x, y = pair()
    shared = [len(set(a) & set(b)) for a, b in zip(near(x, k).tolist(), near(y, k).tolist(), strict=True)]
    assert geometry.mutual_knn(x, y, k) == pytest.approx(np.mean(shared) / k - k / 59)
    strangers = [geometry.mutual_knn(torch.randn(200, 5), torch.randn(200, 5)) for _ in range(10)]
    assert abs(np.mean(strangers)) < 0.005
    uncorrected = np.mean(strangers) + 10 / 199
    assert uncorrected > 0.04  # what is reported without it


def test_cknna_is_its_definition():
    x, y = pair()
    grams, masks = [], []
    for side in (x, y):
        units = torch.nn.functional.normalize(side, dim=1).numpy()
        h = np.eye(60) - 1 / 60
        grams.append(h @ units @ units.T @ h)
        masks.append(torch.zeros(60, 60).scatter_(1, near(side, 10), 1).numpy())
    (k, l), (m, w) = grams, masks  # noqa: E741
    want = (m * w * k * l).sum() / math.sqrt((m * k**2).sum() * (w * l**2).sum())
    assert geometry.cknna(x, y) == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_what_leaves_them_unchanged_and_what_does_not(name):
    number, (x, y) = NAMES[name], pair()
    equal, was = EQUAL.get(name, 1), number(x, y)
    assert number(x, x) == pytest.approx(equal, abs=1e-6)
    assert number(x @ rotation(6) * 3, x) == pytest.approx(equal, abs=1e-6)
    order = torch.randperm(60)
    assert number(x[order], y[order]) == pytest.approx(was, rel=1e-6)
    shuffled = number(x[order], y)
    less = was - shuffled if name not in DISTANCES else shuffled - was
    assert less > 0.05  # other examples meet
    assert (number(x + 4, y) == pytest.approx(was)) == (name not in {"mutual_knn", "cknna"})
    stretched = x @ torch.diag(torch.logspace(0, 2, 6).double())
    if name in {"svcca", "pwcca"}:  # the same directions, all kept
        assert geometry.svcca(stretched, x, 1.0) == pytest.approx(1)
        assert geometry.pwcca(stretched, x) == pytest.approx(1)
        assert geometry.svcca(stretched, y) != pytest.approx(geometry.svcca(x, y), rel=1e-3)
    else:
        assert abs(number(stretched, x) - equal) > 0.02
    if name != "pwcca":
        assert number(y, x) == pytest.approx(was)
    half = x.float(), y.float()
    assert number(*half) == pytest.approx(number(*(side.double() for side in half)), rel=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_a_point_has_no_likeness_and_bad_rows_are_refused(name):
    number, (x, y) = NAMES[name], pair()
    if name != "mutual_knn":
        assert math.isnan(number(x, torch.full((60, 3), 0.1)))
    for bad, says in (
        (y[:59], "the same rows, at least .*; got 60 and 59"),
        (torch.full_like(y, torch.nan), "NaN or infinite values in 60"),
    ):
        with pytest.raises(ValueError, match=says):
            number(x, bad)
    with pytest.raises(ValueError, match=r"at least|two less than the rows"):
        number(x[:1], y[:1])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda x, y: geometry.rbf_cka(x, y, 0.0), "fraction must be above 0"),
        (lambda x, y: geometry.svcca(x, y, 0.0), "above 0 and at most 1; got 0"),
        (lambda x, y: geometry.svcca(x[:6], y[:6], 1.0), r"keeps \d directions of 6 rows"),
        (lambda x, y: geometry.pwcca(x[:7], y[:7]), "keeps 6 directions of 7 rows"),
        (lambda x, y: geometry.mutual_knn(x, y, 59), "two less than the rows, 60; got 59"),
        (lambda x, y: geometry.rsa(x[0], y[0]), r"tensors \[rows, dim\]; got \(6,\)"),
    ],
)
def test_bad_settings_are_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call(*pair())


def states(layers, seed=0, examples=60):
    h = np.random.default_rng(seed).normal(size=(layers, 2, examples, 6)).astype(np.float32).cumsum(0)
    return xr.Dataset(
        {"h": (("layer", "pool", "example", "dim"), h)}, coords={"layer": range(layers), "pool": ["mean", "max"]}
    )


@pytest.mark.parametrize("hold", [0, 30_000, 2**30])
@pytest.mark.parametrize("name", NAMES)
def test_compare_is_each_number_of_each_pair(name, hold, monkeypatch):
    monkeypatch.setattr("lab.geometry.layers.HOLD", hold)
    one, two = states(3), states(2, seed=1)
    inside = geometry.compare(one, by=name, progress=False)
    between = geometry.compare(one, two, name, progress=False)
    assert inside.dims == between.dims == ("pool", "layer", "layer_")
    assert between.shape == (2, 3, 2)
    a, b, c = (torch.from_numpy(s.h.values[i, 1]) for s, i in ((one, 0), (one, 2), (two, 1)))
    assert inside.sel(pool="max", layer=0, layer_=2).item() == pytest.approx(NAMES[name](a, b), rel=1e-9)
    assert inside.sel(pool="max", layer=2, layer_=0).item() == pytest.approx(NAMES[name](b, a), rel=1e-9)
    assert between.sel(pool="max", layer=2, layer_=1).item() == pytest.approx(NAMES[name](b, c), rel=1e-9)


def alone(one, two=None):
    return {name: geometry.compare(one, two, name, progress=False) for name in NAMES}


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_names_asked_together_give_what_each_gives_alone(threads):
    one, two = states(3).assign(width=("layer", [6, 4, 6])), states(2, seed=1)
    before, apart = torch.get_num_threads(), (alone(one), alone(one, two))
    torch.set_num_threads(threads)
    try:
        found = [geometry.compare(one, other, list(NAMES), progress=False) for other in (None, two)]
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for together, want in zip(found, apart, strict=True):
        assert list(together) == list(NAMES)
        for name in NAMES:
            assert getattr(together, name).identical(together[name])  # no name hides behind one of xarray's own
            xr.testing.assert_allclose(together[name], want[name], rtol=1e-9)


def test_what_names_share_is_made_once(monkeypatch):
    made = []
    for name in ("eigh", "eigvalsh", "svd", "qr"):
        inner = getattr(torch.linalg, name)
        monkeypatch.setattr(torch.linalg, name, lambda x, *a, _n=name, _f=inner, **k: made.append(_n) or _f(x, *a, **k))
    one = states(3).isel(pool=[0])
    geometry.compare(one, by=list(NAMES), progress=False)
    # a basis for each layer; for each of six pairs one nuclear norm, svcca's correlations, pwcca's variates both ways
    assert {name: made.count(name) for name in made} == {"eigh": 3, "eigvalsh": 12, "svd": 6}


def test_a_side_lets_go_of_all_but_what_is_asked_for():
    x, _ = pair()
    side = pairs.Side(x).only([(pairs.coordinates,), (pairs.centred,), (gram.kernel, 0.4)])
    assert side.space is None
    assert side.nbytes == 8 * (60 * 6 + 60 * 59 // 2 + 60 + 1)  # the first two are one tensor; a number for HSIC_1
    with pytest.raises(AttributeError):
        side.part(agreement.near, 10)


def test_no_more_layers_are_kept_than_fit(monkeypatch):
    monkeypatch.setattr("lab.geometry.layers.HOLD", 2 * 8 * 60 * 6 + 100)
    read = Layers(states(3), 0, [(pairs.coordinates,)])
    for layer in range(len(read)):
        read.keep(layer)
    assert (list(read.kept), read.held) == ([0, 1], 2 * 8 * 60 * 6)
    assert read(1) is read.kept[1]
    want = torch.from_numpy(states(3).h.values[2, 0]).double()
    torch.testing.assert_close(read(2).part(pairs.coordinates), want - want.mean(0))


@pytest.mark.parametrize(("threads", "pieces", "inside"), [(2, 5, 1), (5, 2, 2), (3, 1, 3)])
def test_pieces_share_out_the_threads_and_give_them_back(threads, pieces, inside):
    side_by_side = threading.Barrier(min(threads, pieces))

    def work(i):
        if i < min(threads, pieces):
            side_by_side.wait(timeout=20)  # passed only by as many at once
        return i, torch.get_num_threads()

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert abreast(work, range(pieces)) == [(i, inside) for i in range(pieces)]
        large = abreast(lambda _: (threading.current_thread().name, torch.get_num_threads()), range(2), 2**30)
        assert large == [(threading.current_thread().name, threads)] * 2  # no room for two at once
        with pytest.raises(ZeroDivisionError):
            abreast(lambda i: 1 / i, range(pieces))
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_compare_refuses_what_cannot_be_compared():
    with pytest.raises(ValueError, match=r"no similarity 'cca'; there are \['linear_cka'"):
        geometry.compare(states(2), by="cca")
    with pytest.raises(ValueError, match=r"no similarity 'cca'; there are \['linear_cka'"):
        geometry.compare(states(2), by=["rsa", "cca"])
    with pytest.raises(ValueError, match=r"no similarity \[\]; there are"):
        geometry.compare(states(2), by=[])
    with pytest.raises(ValueError, match="same examples and pools; got 60 and 50"):
        geometry.compare(states(2), states(2, examples=50))
    with pytest.raises(ValueError, match="linear_cka needs at least 4 examples; got 3"):
        geometry.cka(states(2, examples=3))
