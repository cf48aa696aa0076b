"""Bags: drawn by their witnesses, read by each pool, whole or sampled, and the loss that stands for the area."""

import jaxtyping
import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

import lab
from lab.data import bags
from lab.training import BAG_POOLS, SAMPLED_POOLS, AUCMargin, bag_reader, sampled_reader
from lab.training.sampled_bags import sample

pytestmark = pytest.mark.usefixtures("plain_torch")

QUIET = {"progress": False}


@pytest.fixture(scope="module")
def digits():
    return lab.data.digits()


# drawn


def test_a_bag_is_positive_by_its_witnesses_alone(digits):
    images, labels = digits
    drawn = bags.draw(images, labels, 9, bags=41, size=(5, 8), witnesses=(1, 3), seed=2)
    kinds = {row.numpy().tobytes(): int(label) for row, label in zip(images.flatten(1), labels, strict=True)}
    counts = set()
    for x, mask, label, witness in zip(drawn.x, drawn.mask, drawn.labels, drawn.witness, strict=True):
        n = int(mask.sum())
        assert mask[:n].all()
        assert not x[n:].any()
        nines = [kinds[row.numpy().tobytes()] == 9 for row in x[:n]]
        assert witness.tolist() == nines + [False] * (8 - n)
        assert (sum(nines) > 0) == bool(label)
        counts.add((n, sum(nines)))
    assert drawn.labels.tolist() == [1, 0] * 20 + [1]
    assert {n for n, _ in counts} == {5, 6, 7, 8}
    assert {k for _, k in counts} == {0, 1, 2, 3}
    assert torch.equal(drawn.x, bags.draw(images, labels, 9, bags=41, size=(5, 8), witnesses=(1, 3), seed=2).x)
    assert not torch.equal(drawn.x, bags.draw(images, labels, 9, bags=41, size=(5, 8), witnesses=(1, 3), seed=3).x)


@pytest.mark.parametrize(
    ("kind", "wrong", "says"),
    [
        (9, {"bags": 1}, "two bags or more"),
        (9, {"size": (8, 5)}, "got 10 bags"),
        (9, {"witnesses": (0, 1)}, "1 <= witnesses"),
        (9, {"size": (2, 5), "witnesses": (3, 3)}, "witnesses <= size"),
        (11, {}, "got 0 and 1797"),
    ],
)
def test_bags_that_cannot_be_drawn_are_refused(digits, kind, wrong, says):
    with pytest.raises(ValueError, match=says):
        bags.draw(*digits, kind, **{"bags": 10} | wrong)


# whole


@pytest.mark.parametrize("pool", BAG_POOLS)
def test_a_bag_reader_is_its_pool_and_a_seed_is_a_run(digits, pool):
    drawn = bags.draw(*digits, 0, bags=40, seed=1)
    how = {"dim": 8, "steps": 3, "batch": 16, "seed": 4} | QUIET
    made, again = (bag_reader(drawn, pool, **how) for _ in range(2))
    scores = made.scores(drawn)
    np.testing.assert_array_equal(scores, again.scores(drawn))
    n = int(drawn.mask[1].sum())
    encoded = made.net.encode(drawn.x[1:2, :n])
    pooled = {"mean": encoded.mean(1), "max": encoded.amax(1)}.get(pool)
    if pooled is None:
        pooled = made.net.pool(encoded, torch.ones(1, n, dtype=torch.bool))
    assert float(scores[1]) == pytest.approx(made.net.head(pooled).item(), abs=1e-5)


def test_a_bag_reader_finds_zeros(digits):
    images, labels = digits
    train, asked = (bags.draw(images[i::2], labels[i::2], 0, bags=200, seed=i) for i in (0, 1))
    made = bag_reader(train, "max", steps=80, **QUIET)
    assert roc_auc_score(asked.labels, made.scores(asked)) > 0.9
    with pytest.raises(ValueError, match="no pool 'min'"):
        bag_reader(train, "min", **QUIET)


# the area under the curve, and sampled bags


def test_at_its_best_the_loss_is_the_mean_square_over_pairs():
    h, labels = torch.rand(40).double().requires_grad_(), torch.arange(40) % 3 % 2
    loss = AUCMargin().double()
    positive, negative = h[labels == 1], h[labels == 0]
    with torch.no_grad():
        loss.a.copy_(positive.mean())
        loss.b.copy_(negative.mean())
        loss.alpha.copy_(1 + negative.mean() - positive.mean())
    pairs = (1 - (positive[:, None] - negative)).square().mean()
    got = loss(h, labels)
    torch.testing.assert_close(got, pairs)
    slopes = [torch.autograd.grad(value, h, retain_graph=True)[0] for value in (got, pairs)]
    torch.testing.assert_close(*slopes)
    for weight, slope in zip((loss.a, loss.b, loss.alpha), torch.autograd.grad(got, [*loss.parameters()]), strict=True):
        assert abs(float(slope)) < 1e-12, weight


def test_a_descent_finds_the_saddle():
    h, labels = torch.tensor([0.9, 0.7, 0.4, 0.1, 0.2]).double(), torch.tensor([1, 1, 0, 0, 0])
    for margin, alpha in ((1.0, 1 - (0.8 - 0.7 / 3)), (0.3, 0.0)):
        loss = AUCMargin(margin).double()
        optimiser = torch.optim.SGD(loss.parameters(), lr=0.1)
        for _ in range(300):
            optimiser.zero_grad()
            loss(h, labels).backward()
            optimiser.step()
        loss(h, labels)
        found = [x.item() for x in (loss.a, loss.b, loss.alpha)]
        assert found == pytest.approx([0.8, 0.7 / 3, alpha], abs=1e-6)


def test_what_has_no_area_is_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # which would refuse two lengths itself
    with pytest.raises(ValueError, match="margin must be positive"):
        AUCMargin(0)
    with pytest.raises(ValueError, match="one label for each score"):
        AUCMargin()(torch.zeros(3), torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match="got 0 and 3"):
        AUCMargin()(torch.zeros(3), torch.zeros(3, dtype=torch.long))


def test_a_sample_is_drawn_evenly_from_what_is_real():
    mask = torch.tensor([[True, False, True, True, True], [False, True, False, False, False]]).repeat(3000, 1)
    at = sample(mask, 2, torch.Generator().manual_seed(0))
    assert (at[:, 0] != at[:, 1]).all()
    assert mask[::2].gather(1, at[::2]).all()
    share = torch.bincount(at[::2].flatten(), minlength=5) / 3000
    torch.testing.assert_close(share, torch.tensor([0.5, 0, 0.5, 0.5, 0.5]), atol=0.05, rtol=0)
    assert (at[1::2, 0] == 1).all()
    assert sample(mask, 9, torch.Generator()).shape == (6000, 5)


@pytest.fixture(scope="module")
def large(digits):
    return bags.draw(*digits, 0, bags=40, size=(10, 12), witnesses=(2, 2), seed=1)


@pytest.mark.parametrize("pool", SAMPLED_POOLS)
def test_whole_bags_miss_nothing_and_samples_what_they_must(large, pool):
    made, again = (sampled_reader(large, pool, 3, dim=8, steps=4, batch=8, seed=2, **QUIET) for _ in range(2))
    whole = made.scores(large)
    np.testing.assert_array_equal(whole, again.scores(large))
    before = [buffer.clone() for buffer in made.net.pool.buffers()]
    np.testing.assert_allclose(made.missed(12, repeats=2), 0, atol=1e-6)
    first = [made.missed(3, gamma, repeats=1) for gamma in (0.1, 1.0)]
    np.testing.assert_array_equal(*first)  # a bag seen for the first time, whatever training left behind
    single = made.missed(1, repeats=120)
    assert single.shape == (120, 40)
    with torch.no_grad():
        each = made.net.head(made.net.encode(large.x))[..., 0].sigmoid().double()
    mean = ((each * large.mask).sum(1) / large.mask.sum(1)).numpy()
    np.testing.assert_allclose(single.mean(0), mean - whole, atol=5 * single.std() / 120**0.5 + 1e-6)
    moving = made.missed(1, 0.1, repeats=80)[30:]
    assert moving.std(0).max() < 0.5 * single.std(0).max()  # a running mean of scores
    assert abs(moving.mean()) <= abs(single.mean()) + 1e-4
    assert all(torch.equal(a, b) for a, b in zip(before, made.net.pool.buffers(), strict=True))
    assert made.net.pool.gamma == 0.3


@pytest.mark.parametrize("pool", SAMPLED_POOLS)
def test_a_step_keeps_what_it_sampled_whatever_the_bag(digits, large, pool):
    longer = bags.draw(*digits, 0, bags=40, size=(30, 30), witnesses=(2, 2), seed=1)
    small, big = (sampled_reader(b, pool, 3, dim=8, steps=1, batch=8, **QUIET) for b in (large, longer))
    kept = {n: big.kept(n, bags=10) for n in (3, 6, 12, 30)}
    assert kept[3] == small.kept(3, bags=10)
    assert kept[6] - kept[3] == pytest.approx((kept[12] - kept[6]) / 2, rel=0.05)
    assert kept[30] > 8 * kept[3]
    assert kept[3] >= 10 * 3 * 8 * 2  # two layers of the encoder


def test_a_sampled_reader_learns(digits):
    images, labels = digits
    how = {"bags": 100, "size": (16, 16), "witnesses": (3, 3)}
    train, asked = (bags.draw(images[i::2], labels[i::2], 0, seed=i, **how) for i in (0, 1))
    made = sampled_reader(train, sampled=4, steps=100, rate=1e-2, **QUIET)
    assert roc_auc_score(asked.labels, made.scores(asked)) > 0.9


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"pool": "mean"}, "a pool of"),
        ({"sampled": 0}, "a sample of 1 or more"),
        ({"batch": 7}, "half of the batch"),
        ({"batch": 64}, "20 positive and 20 negative"),
    ],
)
def test_what_cannot_be_sampled_is_refused(large, wrong, says):
    with pytest.raises(ValueError, match=says):
        sampled_reader(large, **wrong, **QUIET)
