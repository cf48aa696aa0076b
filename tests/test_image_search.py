"""A search among cluttered images: the canvases, the loss and the descriptors, the order found and its reranking."""

import math

import jaxtyping
import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

import lab
from lab.probes import average_precision, refined_search, reordered, search, search_cost
from lab.training import SEARCH_POOLS, image_search
from lab.training.image_search import ImageSearch, arcface

pytestmark = pytest.mark.usefixtures("plain_torch")

SHORT = {"dim": 8, "steps": 2, "batch": 8, "progress": False}


@pytest.fixture
def unchecked(monkeypatch):
    """As for a user: the types in the signatures, which stand in tests alone, would answer first."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(scope="module")
def digits():
    images, labels = lab.data.digits()
    return images[:600], labels[:600]


@pytest.fixture(scope="module")
def task(digits):
    return lab.data.image_task(*digits, queries=20, database=60, seed=2)


# canvases


def test_an_image_stands_in_its_box_and_clutter_does_not_touch_it(digits):
    images = digits[0][:40]
    canvases, kinds = lab.data.cluttered(images, noise=0.0, seed=3)
    assert canvases.shape == (40, 1, 16, 16)
    assert kinds.dtype == torch.int8
    corners = set()
    for i in range(40):
        rows, columns = (torch.nonzero((kinds[i] == 1).any(axis))[:, 0] for axis in (1, 0))
        assert len(rows) == len(columns) == 8
        box = np.s_[rows[0] : rows[0] + 8, columns[0] : columns[0] + 8]
        assert torch.equal(canvases[i, 0][box], images[i, 0])
        assert (kinds[i][box] == 1).all()
        outside = kinds[i] != 1
        assert torch.equal(canvases[i, 0][outside] > 0, kinds[i][outside] == 2)
        corners.add((int(rows[0]), int(columns[0])))
    assert len(corners) > 20
    assert (kinds == 2).any((1, 2)).float().mean() > 0.9


def test_pieces_are_cut_from_other_images(digits):
    """Image i alone is of the value (i + 1) / 10, so every piece says where it is from."""
    images = torch.ones(5, 1, 8, 8) * torch.arange(1, 6)[:, None, None, None] / 10
    canvases, kinds = lab.data.cluttered(images, noise=0.0, pieces=2, seed=1)
    for i in range(5):
        values = {round(10 * float(v)) for v in canvases[i, 0][kinds[i] == 2]}
        assert values
        assert values <= set(range(1, 6)) - {i + 1}
    assert not (lab.data.cluttered(images, pieces=0)[1] == 2).any()
    many = lab.data.cluttered(images[torch.arange(60) % 5], pieces=1)[1]
    assert ((many == 2).sum((1, 2)) == 16).all()  # none of it lies under the image's box


def test_noise_is_half_normal_and_a_seed_is_a_draw(digits):
    dark = torch.zeros(200, 1, 8, 8)
    noisy = lab.data.cluttered(dark, noise=0.1, seed=1)[0]
    assert float(noisy.mean()) == pytest.approx(0.1 * math.sqrt(2 / math.pi), rel=0.03)
    assert noisy.min() >= 0
    one, again, other = (lab.data.cluttered(digits[0][:5], seed=s)[0] for s in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"side": 14}, "on a side of 15 or more; got size=4, side=14"),
        ({"size": 9}, "size is from 1 to 8"),
        ({"pieces": -1}, "0 or more; got -1"),
        ({"noise": -0.1}, "0 or more"),
    ],
)
def test_canvases_that_cannot_be_are_refused(digits, change, says):
    with pytest.raises(ValueError, match=says):
        lab.data.cluttered(digits[0][:5], **change)
    with pytest.raises(ValueError, match=r"\[N >= 2, 1, h, w\]; got \(1, 1, 8, 8\)"):
        lab.data.cluttered(digits[0][:1])


def test_no_image_stands_in_two_parts_of_a_task(task):
    parts = [task.images]
    for gallery in (task.tuning, task.held_out, task.unseen):
        parts += [gallery.queries, gallery.database]
    rows = torch.cat(parts).flatten(1)
    assert len(rows.unique(dim=0)) == len(rows)  # noise makes every canvas its own
    assert task.labels.unique().tolist() == list(range(12))
    assert [len(part) for part in parts[1:]] == [10, 30, 20, 60, 20, 60]


def test_unseen_classes_are_not_those_learnt_and_relevance_is_the_class(digits, task):
    held, unseen = set(task.held_out.labels.tolist()), set(task.unseen.labels.tolist())
    assert not held & unseen
    assert held | unseen <= set(range(20))
    for gallery in (task.tuning, task.held_out, task.unseen):
        assert gallery.relevant.any(1).all()
        assert gallery.kinds.shape == (len(gallery.queries), 16, 16)
    images, labels = digits
    plain = lab.data.image_task(images, labels, queries=20, database=60, seed=2, noise=0.0, pieces=0)
    for i in range(20):  # the box holds a digit of the label, turned where the label says so
        shown = plain.unseen.queries[i, 0][plain.unseen.kinds[i] == 1].reshape(8, 8)
        label = int(plain.unseen.labels[i])
        same = images[labels == label % 10, 0]
        same = same.rot90(1, (1, 2)) if label >= 10 else same
        assert (same == shown).all((1, 2)).any()


def test_tasks_that_cannot_be_are_refused(digits):
    images, labels = digits
    with pytest.raises(ValueError, match="ask for fewer queries"):
        lab.data.image_task(images, labels, queries=200, database=400)
    with pytest.raises(ValueError, match="from 2 to 18 of 20 classes; got 19"):
        lab.data.image_task(images, labels, learnt=19)
    with pytest.raises(ValueError, match="each from 0 to C - 1"):
        lab.data.image_task(images, labels + 1)


# the order found


def test_an_order_is_by_cosine_and_equal_ones_stand_as_they_stood():
    q = torch.tensor([[1.0, 0.0]])
    d = torch.tensor([[0.0, 3.0], [5.0, 5.0], [0.1, 0.0], [2.0, 2.0]])
    assert search(q, d).tolist() == [[2, 1, 3, 0]]


def test_reordering_moves_the_top_alone():
    order = torch.tensor([[4, 2, 0, 1, 3]])
    assert reordered(order, torch.tensor([[0.1, 0.9, 0.5]])).tolist() == [[2, 0, 4, 1, 3]]


def test_average_precision_by_hand():
    order = torch.tensor([[2, 0, 1, 3], [0, 1, 2, 3]])
    relevant = torch.tensor([[False, True, True, False], [True, True, False, False]])
    assert average_precision(order, relevant).tolist() == pytest.approx([(1 / 1 + 2 / 3) / 2, 1.0])
    with pytest.raises(ValueError, match="1 queries without"):
        average_precision(order, relevant & torch.tensor([[True], [False]]))


def test_shapes_that_do_not_fit_are_refused(unchecked):
    with pytest.raises(ValueError, match=r"of one width; got \(2, 3\), \(4, 5\)"):
        search(torch.ones(2, 3), torch.ones(4, 5))
    order = torch.tensor([[2, 0, 1, 3]])
    with pytest.raises(ValueError, match=r"must both be.*got \(1, 4\) and \(1, 2\)"):
        average_precision(order, torch.ones(1, 2, dtype=torch.bool))


def by_loops(queries, database, top, neighbours, beta):
    """The formula of `refined_search`, one query and one place at a time."""
    queries, database = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries, database))
    orders = []
    for q in queries:
        order = np.argsort(-(database @ q), kind="stable")
        found = database[order[:top]]
        refined = []
        for j, g in enumerate(found):
            alike = found @ g
            alike[j] = np.inf
            near = np.argsort(-alike)[1 : neighbours + 1]
            pull = beta * (found[near] @ g)
            refined.append((g + (pull[:, None] * found[near]).sum(0)) / (1 + pull.sum()))
        refined = np.array(refined)
        first = refined @ q
        wide = refined[np.argsort(-first)[: neighbours + 1]].max(0)
        score = (first + refined @ wide) / 2
        orders.append(np.concatenate([order[:top][np.argsort(-score)], order[top:]]))
    return np.array(orders)


@pytest.mark.parametrize(("top", "neighbours", "beta"), [(12, 3, 0.15), (30, 9, 1.0), (5, 0, 0.15), (20, 4, 0.0)])
def test_a_refined_search_is_its_formula(top, neighbours, beta):
    q, d = torch.randn(6, 5).double(), torch.randn(30, 5).double()
    got = refined_search(q, d, top=top, neighbours=neighbours, beta=beta)
    np.testing.assert_array_equal(got.numpy(), by_loops(q.numpy(), d.numpy(), top, neighbours, beta))
    assert torch.equal(got[:, top:], search(q, d)[:, top:])
    assert not torch.equal(got, search(q, d))


def test_refining_draws_a_cluster_together():
    """A query at the edge of its class finds a stranger first; the class's other members tell it apart."""
    turn = torch.tensor([0.0, 20.0, 24.0, 28.0, 32.0, -19.0, 120.0, 200.0]).deg2rad()
    points = torch.stack([turn.cos(), turn.sin()], 1)
    relevant = torch.tensor([[True, True, True, True, False, False, False]])
    before = average_precision(search(points[:1], points[1:]), relevant)
    after = average_precision(refined_search(points[:1], points[1:], top=7, neighbours=2, beta=1.0), relevant)
    assert float(before) < 1
    assert float(after) == 1


@pytest.mark.parametrize("change", [{"top": 0}, {"top": 31}, {"top": 5, "neighbours": 5}, {"top": 5, "beta": -1.0}])
def test_a_search_that_cannot_be_refined_so_is_refused(change):
    with pytest.raises(ValueError, match="top is from 1 to 30"):
        refined_search(torch.randn(2, 5), torch.randn(30, 5), **{"neighbours": 2} | change)


def test_the_cost_is_what_runs():
    """Counted as the products run; the first search's are its own."""
    from torch.utils.flop_counter import FlopCounterMode

    q, d, counter = torch.randn(1, 8), torch.randn(40, 8), FlopCounterMode(display=False)
    with counter:
        refined_search(q, d, top=10, neighbours=3)
    cost = search_cost(40, 8, top=10, neighbours=3, places=6)
    assert cost["search"] == 320
    # the mean of neighbours runs here as a dense product of M x M weights, not over K + 1 of them
    dense = 10 * 10 * 8 - 10 * 4 * 8
    assert counter.get_total_flops() // 2 == cost["search"] + cost["refined"] + dense
    assert cost["local"] == 10 * 36 * 8


# the network


def test_arcface_is_its_definition_and_a_margin_of_0_is_softmax():
    theta = torch.rand(6, 4).double() * 2 + 0.2
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    moved = theta + 0.3 * torch.nn.functional.one_hot(labels, 4)
    want = torch.nn.functional.cross_entropy(10 * moved.cos(), labels)
    torch.testing.assert_close(arcface(theta.cos(), labels, margin=0.3, scale=10.0), want)
    flat = torch.nn.functional.cross_entropy(10 * theta.cos(), labels)
    torch.testing.assert_close(arcface(theta.cos(), labels, margin=0.0, scale=10.0), flat)
    at_one = torch.ones(1, 2, requires_grad=True)
    arcface(at_one, torch.tensor([0])).backward()
    assert torch.isfinite(at_one.grad).all()


@pytest.mark.parametrize("pool", SEARCH_POOLS)
def test_a_network_is_its_pool_and_a_seed_is_a_run(task, pool):
    made, again, other = (image_search(task.images, task.labels, pool, seed=s, **SHORT) for s in (3, 3, 4))
    x = task.unseen.queries
    found = made.describe(x)
    assert torch.equal(found, again.describe(x))
    assert not torch.equal(found, other.describe(x))
    maps = made.maps(x)
    assert maps.shape == (20, 8, 8, 8)
    pooled = maps.mean((2, 3))
    if pool == "gem":
        pooled = (maps.clamp(min=1e-6) ** 3).mean((2, 3)) ** (1 / 3)
        torch.testing.assert_close(made.describe_anew(x), found, rtol=1e-4, atol=1e-5)
    if pool == "gsp":
        weights = made.weights(x)
        torch.testing.assert_close(weights.mean((1, 2)), torch.ones(20))
        pooled = (maps * weights[:, None]).mean((2, 3))
        assert made.pool.gsp.prototypes.grad.abs().max() > 0
    want = normalize(made.fc(normalize(pooled, dim=1)), dim=1)
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-5)


def test_pooling_anew_is_the_formula(task):
    made = image_search(task.images, task.labels, "gem", **SHORT)
    x = task.unseen.queries[:4]

    def one(images, p, regional):
        maps = made.maps(images)
        if regional:
            around = torch.nn.functional.pad(maps.clamp(min=1e-6), [2] * 4, mode="reflect").unfold(2, 5, 1)
            maps = (maps + (around.unfold(3, 5, 1) ** 2.5).mean((-1, -2)) ** 0.4) / 2
        return made.fc(normalize((maps.clamp(min=1e-6) ** p).mean((2, 3)) ** (1 / p), dim=1))

    small = torch.nn.functional.interpolate(x, (11, 11), mode="bilinear")
    sized = torch.stack([one(small, 4.6, True), one(x, 4.6, True)])
    low = sized.amin((0, 2), keepdim=True)
    want = ((sized - low) ** 10).mean(0) ** 0.1 + low[0]
    got = made.describe_anew(x, p=4.6, regional=True, scales=(0.7071, 1.0), over_scales=10.0)
    torch.testing.assert_close(got, normalize(want, dim=1), rtol=1e-3, atol=1e-4)
    plain = made.describe_anew(x, scales=(0.7071, 1.0))
    torch.testing.assert_close(plain, normalize(one(small, 3, False) + one(x, 3, False), dim=1), rtol=1e-3, atol=1e-4)


def test_a_place_sees_eleven_pixels():
    net = ImageSearch("mean", 2, 8, 0.3, 20.0).eval()
    x = torch.randn(1, 1, 32, 32, requires_grad=True)
    net.layers(x)[0, :, 8, 8].sin().sum().backward()
    rows = torch.nonzero(x.grad[0, 0].abs().sum(1))[:, 0]
    assert int(rows.max() - rows.min()) + 1 <= 11
    assert int(rows.max() - rows.min()) + 1 >= 9  # a ReLU may hide an edge


def test_a_search_learns(digits):
    task = lab.data.image_task(*digits, queries=30, database=80, pieces=0, noise=0.0, seed=1)
    made = image_search(task.images, task.labels, "mean", dim=16, steps=40, progress=False)
    at = task.held_out
    found = average_precision(search(made.describe(at.queries), made.describe(at.database)), at.relevant).mean()
    assert found > 2 * at.relevant.double().mean()


def test_what_does_not_fit_is_refused(task):
    with pytest.raises(ValueError, match="no pool 'max'; there are"):
        image_search(task.images, task.labels, "max", **SHORT)
    with pytest.raises(ValueError, match=r"from 0 to C - 1, two kinds or more.*return_inverse"):
        image_search(task.images, task.labels + 1, **SHORT)
    with pytest.raises(ValueError, match="weights are those of the pool"):
        image_search(task.images, task.labels, "mean", **SHORT).weights(task.images[:2])
