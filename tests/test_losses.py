"""lab.training.losses as functions of embeddings: against float64 definitions, limits, invariances, ties, faults."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lab.training.losses import LOSSES
from lab.training.losses.agreement import generation_agreement, joined, mean_log_probability
from lab.training.losses.centroid import CentroidTriplet, centroid_triplet
from lab.training.losses.contrast import Batch, InfoNCE, infonce, similarities, unit
from lab.training.losses.coupled import selection, unlabelled_weight
from lab.training.losses.focal import Focal, focal
from lab.training.losses.hyperspherical import NormalizedSoftmax, normalized_softmax
from lab.training.losses.layers import coordinate_agreement, of_columns, score_agreement
from lab.training.losses.mixing import Mixing, hardest, mix_list, mix_pair, negative_rows
from lab.training.losses.positive_aware import (
    PositiveAware,
    fixed_limit,
    margin_limit,
    mine,
    no_limit,
    share_limit,
)


def columns(B=4, D=6, N=1, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(B, D, generator=g, dtype=torch.float64).to(dtype).requires_grad_() for _ in range(2 + N)]


def cosine(a, b):
    a, b = a.tolist(), b.tolist()
    return math.fsum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(
        math.fsum(x * x for x in a) * math.fsum(y * y for y in b)
    )


def nce_by_hand(parts, scale, in_batch):
    """Query by query and candidate by candidate, in Python numbers."""
    query, *documents = parts
    losses = []
    for i, q in enumerate(query):
        others = [d[j] for d in documents for j in range(len(q_rows(d))) if in_batch or j == i]
        own = scale * cosine(q, documents[0][i])
        losses.append(math.log(math.fsum(math.exp(scale * cosine(q, d)) for d in others)) - own)
    return losses


def q_rows(column):
    return column.tolist()


# InfoNCE


@given(B=st.integers(1, 5), D=st.integers(1, 7), N=st.integers(1, 3), in_batch=st.booleans(), seed=st.integers(0, 99))
def test_infonce_is_its_definition(B, D, N, in_batch, seed):
    parts = columns(B, D, N, seed)
    got = infonce(*similarities(parts, in_batch=in_batch), scale=7.0)
    assert got.tolist() == pytest.approx(nce_by_hand(parts, 7.0, in_batch), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("in_batch", [True, False])
@pytest.mark.parametrize("of", [InfoNCE, partial(Focal, gamma=0.0)], ids=["infonce", "focal at gamma 0"])
def test_infonce_gradient(of, in_batch):
    parts = columns(3, 4, 2)
    loss = of(nn.Identity(), scale=3.0, in_batch=in_batch)
    assert torch.autograd.gradcheck(lambda *x: loss.of(Batch(x)), parts)


def test_infonce_is_sentence_transformers_ranking_loss():
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    peer = MultipleNegativesRankingLoss(nn.Identity(), scale=20.0)
    for N in (0, 1, 2):
        parts = columns(5, 8, N, seed=N)
        ours, theirs = InfoNCE(nn.Identity()).of(Batch(parts)), peer.compute_loss_from_embeddings(parts, None)
        assert ours.item() == pytest.approx(theirs.item(), rel=1e-12)
        for a, b in zip(torch.autograd.grad(ours, parts), torch.autograd.grad(theirs, parts), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_one_negative_is_a_logistic_loss():
    positive, negative = torch.tensor([0.3], dtype=torch.float64), torch.tensor([[0.1]], dtype=torch.float64)
    assert infonce(positive, negative, scale=5.0).item() == pytest.approx(math.log1p(math.exp(-1.0)), rel=1e-14)


def test_equal_rows_share_the_softmax():
    row = torch.randn(1, 5, dtype=torch.float64).expand(4, 5)
    assert InfoNCE(nn.Identity()).of(Batch([row, row, row])).item() == pytest.approx(math.log(8))  # 1 of 4 + 4


def test_what_is_left_out_moves_nothing():
    positive = torch.randn(3, dtype=torch.float64, requires_grad=True)
    negative = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    keep = torch.tensor([[True, False, True, False], [False] * 4, [True] * 4])
    loss = infonce(positive, negative, keep=keep)
    same = infonce(positive, negative, weight=keep.double())
    assert torch.equal(loss, same)
    assert loss[1].item() == 0
    assert loss[0].item() == pytest.approx(infonce(positive[:1], negative[:1, [0, 2]])[0].item(), rel=1e-14)
    for gradient in torch.autograd.grad(loss.sum(), (positive, negative), retain_graph=True):
        assert gradient.isfinite().all()
        assert (gradient[1] == 0).all()
    assert (torch.autograd.grad(same.sum(), negative)[0][~keep] == 0).all()
    counts = keep.double().requires_grad_()
    assert torch.autograd.grad(infonce(positive, negative, weight=counts).sum(), counts)[0].isfinite().all()


def test_weight_counts_a_negative_so_many_times():
    positive, negative = torch.randn(1, dtype=torch.float64), torch.randn(1, 2, dtype=torch.float64)
    twice = infonce(positive, negative[:, [0, 1, 1]])
    torch.testing.assert_close(infonce(positive, negative, weight=torch.tensor([[1.0, 2.0]]).double()), twice)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["in_batch_or_own", "focal", "positive_aware"])
def test_half_precision_is_the_float64_loss_of_the_rounded_embeddings(dtype, name):
    parts = columns(6, 16, 1, dtype=dtype)
    exact = [part.detach().double().requires_grad_() for part in parts]
    loss = LOSSES[name](nn.Identity(), scale=20.0)
    ours, theirs = loss.of(Batch(parts)), loss.of(Batch(exact))
    assert ours.dtype == torch.float32
    bound = 64 * torch.finfo(torch.float32).eps  # 20 times a cosine of 16 products, and a logarithm
    assert ours.item() == pytest.approx(theirs.item(), rel=bound)
    for a, b in zip(torch.autograd.grad(ours, parts), torch.autograd.grad(theirs, exact), strict=True):
        scale = b.abs().max().item()
        torch.testing.assert_close(a.double(), b, rtol=torch.finfo(dtype).eps, atol=1e-5 * scale)


def test_zero_embeddings_have_no_gradient_and_nan_is_not_hidden():
    parts = columns(3, 4, 1)
    with torch.no_grad():
        parts[0][1] = 0
    loss = InfoNCE(nn.Identity()).of(Batch(parts))
    gradient = torch.autograd.grad(loss, parts)
    assert (gradient[0][1] == 0).all()
    assert all(g.isfinite().all() for g in gradient)
    assert unit(torch.tensor([[math.nan, 1.0]])).isnan().any()


@pytest.mark.parametrize("in_batch", [True, False])
def test_lengths_do_not_count(in_batch):
    parts = columns()
    longer = [part * (i + 2.0) for i, part in enumerate(parts)]
    for name in ("in_batch_or_own", "focal", "positive_aware"):
        loss = LOSSES[name](nn.Identity(), in_batch=in_batch)
        assert loss.of(Batch(parts)).item() == pytest.approx(loss.of(Batch(longer)).item(), rel=1e-12)


@pytest.mark.parametrize(
    ("parts", "in_batch", "word"),
    [
        ([torch.ones(3, 4)], True, "a query and a positive"),
        ([torch.ones(3, 4), torch.ones(2, 4)], True, "alike"),
        ([torch.ones(3), torch.ones(3)], True, "alike"),
        ([torch.ones(1, 4), torch.ones(1, 4)], True, "a batch needs two rows"),
        ([torch.ones(3, 4), torch.ones(3, 4)], False, "add a column of negatives"),
    ],
)
def test_columns_that_leave_no_loss_are_refused(parts, in_batch, word):
    with pytest.raises(ValueError, match=word):
        similarities(parts, in_batch=in_batch)


# focal


def test_focal_weights_by_what_is_missing():
    nce = torch.tensor([0.0, 1e-9, 0.7, 30.0], dtype=torch.float64, requires_grad=True)
    want = [(1 - math.exp(-x)) ** 0.5 * x if x > 1e-6 else x**1.5 for x in nce.tolist()]
    assert focal(nce, gamma=0.5).tolist() == pytest.approx(want, rel=1e-8)
    gradient = torch.autograd.grad(focal(nce, gamma=0.5).sum(), nce)[0]
    assert gradient[2].item() == pytest.approx((1 - math.exp(-0.7)) ** 0.5, rel=1e-12)  # of the loss, not of the weight
    assert torch.equal(focal(nce, gamma=0.0), nce)
    with pytest.raises(ValueError, match="at least 0"):
        Focal(nn.Identity(), gamma=-1.0)


# mixing


def test_mixtures_lie_on_the_arc():
    a, b = unit(torch.randn(5, 3)), unit(torch.randn(5, 3))
    share = torch.rand(5)
    mixed = mix_pair(a, b, share)
    torch.testing.assert_close(mixed.norm(dim=1), torch.ones(5))
    assert torch.linalg.matrix_rank(torch.stack([a, b, mixed], 1), tol=1e-5).tolist() == [2] * 5
    torch.testing.assert_close(mix_pair(a, b, torch.ones(5)), a)
    torch.testing.assert_close(mix_pair(a, a, share), a)


def test_the_list_leans_to_the_hardest():
    negatives = unit(torch.randn(2, 5, 4, dtype=torch.float64))
    query = negatives[:, 2]
    torch.testing.assert_close(mix_list(query, negatives, scale=1e4), query)
    torch.testing.assert_close(mix_list(query, negatives, scale=0.0), unit(negatives.mean(1)))


@pytest.mark.parametrize("in_batch", [True, False])
@pytest.mark.parametrize("N", [1, 2])
def test_negatives_are_found_by_their_number(in_batch, N):
    parts = [unit(part.detach()) for part in columns(4, 5, N)]
    _, negative = similarities(parts, in_batch=in_batch)
    where = torch.arange(negative.shape[1]).expand_as(negative)
    rows = negative_rows(parts[1:], where, in_batch=in_batch)
    torch.testing.assert_close((rows * parts[0][:, None]).sum(-1), negative)


def test_ties_keep_their_order():
    assert hardest(torch.tensor([[1.0, 2.0, 2.0, 0.0]]), 3)[1].tolist() == [[1, 2, 0]]
    assert hardest(torch.tensor([[1.0, 2.0]]), 5)[1].tolist() == [[1, 0]]


def test_mixing_adds_negatives_and_draws_by_the_seed():
    parts, plain = columns(4, 5, 1), InfoNCE(nn.Identity())
    loss = Mixing(nn.Identity(), hard=3, pairs=2)
    torch.manual_seed(1)
    first = loss.of(Batch(parts))
    assert first > plain.of(Batch(parts))
    torch.manual_seed(1)
    assert torch.equal(first, loss.of(Batch(parts)))
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(first, parts))
    with pytest.raises(ValueError, match="at least 1 hard"):
        Mixing(nn.Identity(), hard=0)


# positive-aware


def test_limits():
    p = torch.tensor([0.8, -0.2])
    torch.testing.assert_close(share_limit(p), torch.tensor([0.76, -0.21]))  # below the positive on either side of 0
    torch.testing.assert_close(margin_limit(p, 0.1), torch.tensor([0.7, -0.3]))
    torch.testing.assert_close(fixed_limit(p, 0.5), torch.tensor([0.5, 0.5]))


def mined_by_hand(q, d, own, k, limit):
    found = []
    for row, mine_own in zip(q, own, strict=True):
        scores = {j: cosine(row, x) for j, x in enumerate(d)}
        top = limit(torch.tensor(min(scores[j] for j in mine_own), dtype=torch.float64)).item()
        others = sorted((j for j in scores if j not in mine_own), key=lambda j: (-scores[j], j))
        allowed = [j for j in others if scores[j] < top]
        refused = [j if scores[j] >= top else -1 for j in others[:k]]
        found.append((allowed[:k], refused, sum(scores[j] >= top for j in others)))
    return found


@given(
    N=st.integers(1, 5),
    M=st.integers(2, 9),
    k=st.integers(1, 4),
    limit=st.sampled_from([share_limit, margin_limit, fixed_limit, no_limit]),
    chunk=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_mining_is_its_definition(N, M, k, limit, chunk, seed):
    g = torch.Generator().manual_seed(seed)
    q, d = (torch.randn(n, 3, generator=g, dtype=torch.float64) for n in (N, M))
    own = torch.randint(M, (N, 2), generator=g)
    own[torch.rand(N, generator=g) < 0.5, 1] = -1
    got = mine(q, d, own, k=k, limit=limit, chunk=chunk, progress=False)
    for i, (allowed, refused, above) in enumerate(
        mined_by_hand(q, d, [[j for j in row if j >= 0] for row in own.tolist()], k, limit)
    ):
        assert [j for j in got.negative[i].tolist() if j >= 0] == allowed
        assert [j for j in got.refused[i].tolist() if j >= 0] == [j for j in refused if j >= 0]
        assert got.above[i] == above
        assert got.score[i].isnan().tolist() == (got.negative[i] < 0).tolist()


def test_a_copy_of_the_positive_is_refused_and_a_far_one_is_kept():
    d = unit(torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [0.9, 0.5, 0], [0, 1.0, 0]]))
    q = unit(torch.tensor([[1.0, 0.1, 0]]))
    found = mine(q, d, [0], k=2, progress=False)
    assert found.negative.tolist() == [[2, 3]]
    assert found.refused.tolist() == [[1, -1]]
    assert found.above.tolist() == [1]
    assert mine(q, d, [0], k=2, limit=no_limit, progress=False).negative.tolist() == [[1, 2]]


def test_what_just_reaches_the_limit_is_refused():
    d = torch.tensor([[1.0, 0], [0, 1.0], [-1.0, 0]])
    found = mine(d[:1], d, [0], k=1, limit=partial(fixed_limit, most=0.0), progress=False)
    assert (found.negative.tolist(), found.refused.tolist(), found.above.tolist()) == ([[2]], [[1]], [1])


def test_drawing_among_the_hardest():
    q, d = torch.randn(50, 8), torch.randn(40, 8)
    own = torch.zeros(50, dtype=torch.long)
    ten = mine(q, d, own, k=10, limit=no_limit, progress=False).negative
    drawn = mine(q, d, own, k=4, among=10, limit=no_limit, seed=3, progress=False)
    assert all(set(a) <= set(b) for a, b in zip(drawn.negative.tolist(), ten.tolist(), strict=True))
    assert (drawn.score.diff(dim=1) <= 0).all()
    assert not torch.equal(drawn.negative, ten[:, :4])
    again = mine(q, d, own, k=4, among=10, limit=no_limit, seed=3, progress=False)
    assert torch.equal(again.negative, drawn.negative)


@pytest.mark.parametrize(
    ("q", "d", "own", "options", "word"),
    [
        (torch.ones(2, 3), torch.ones(2, 4), [0, 1], {}, "got queries"),
        (torch.ones(2, 3), torch.ones(2, 3), [0], {}, "document numbers"),
        (torch.ones(2, 3), torch.ones(2, 3), [0.0, 1.0], {}, "document numbers"),
        (torch.ones(2, 3), torch.ones(2, 3), [0, 2], {}, "among the documents"),
        (torch.ones(2, 3), torch.ones(2, 3), [0, -1], {}, "needs a positive"),
        (torch.ones(2, 3), torch.ones(2, 3), [0, 1], {"k": 0}, "at least 1"),
        (torch.ones(2, 3), torch.ones(2, 3), [0, 1], {"k": 4, "among": 2}, "at least k"),
    ],
)
def test_mining_refuses(q, d, own, options, word):
    with pytest.raises(ValueError, match=word):
        mine(q, d, own, progress=False, **options)


def test_positive_aware_drops_what_reaches_the_limit_and_counts_it():
    parts = columns(4, 5, 0)
    with torch.no_grad():
        parts[1][2] = parts[1][0]  # a copy: for query 0 and for query 2 the other's positive is as good as its own
    loss, plain = PositiveAware(nn.Identity(), limit=share_limit), InfoNCE(nn.Identity())
    got = loss.of(Batch(parts))
    assert got < plain.of(Batch(parts))
    positive, negative = similarities(parts)
    keep = negative < (positive - 0.05 * positive.abs())[:, None]
    assert (loss.dropped, loss.seen) == (int((~keep).sum()), 12)
    torch.testing.assert_close(got, infonce(positive, negative, keep=keep).mean())
    everything = PositiveAware(nn.Identity(), limit=no_limit)
    assert torch.equal(everything.of(Batch(parts)), plain.of(Batch(parts)))
    assert everything.dropped == 0


# coupled


def test_unlabelled_weight_and_its_limits():
    r, s = torch.rand(4, 5, dtype=torch.float64), torch.rand(4, 5, dtype=torch.float64)
    torch.testing.assert_close(unlabelled_weight(r, s), (1 - r) / (1 - r * s))
    torch.testing.assert_close(unlabelled_weight(r, torch.ones_like(s)), torch.ones_like(r))
    torch.testing.assert_close(unlabelled_weight(r, torch.zeros_like(s)), 1 - r)
    certain = unlabelled_weight(torch.ones(1, 3), torch.tensor([[0.0, 0.5, 1.0]]))
    assert certain.tolist() == [[0, 0, 1]]  # 1 - r, (1 - r) / (1 - r s), and 1: the limit along s = 1
    near = torch.tensor([[0.9]], dtype=torch.float64)
    for s in (0.0, 0.3, 0.99, 0.9999):
        assert unlabelled_weight(near, torch.full_like(near, s)).item() == pytest.approx(0.1 / (1 - 0.9 * s), rel=1e-12)


def test_selection_finds_the_curve_that_labels_were_drawn_by():
    g = torch.Generator().manual_seed(0)
    z = torch.randn(20_000, generator=g, dtype=torch.float64)
    chance = torch.sigmoid(2 * z - 1)
    labelled = torch.rand(len(z), generator=g, dtype=torch.float64) < chance  # all of them relevant
    unseen = z[~labelled]
    easy = torch.randn(30_000, generator=g, dtype=torch.float64)  # not relevant, and known not to be
    negative = torch.cat([unseen, easy])[None]
    relevance = torch.cat([torch.ones_like(unseen), torch.zeros_like(easy)])[None]
    found = selection(z[labelled], negative, relevance, rounds=30)[0, : len(unseen)]
    torch.testing.assert_close(found, torch.sigmoid(2 * unseen - 1), rtol=0, atol=0.03)


def test_without_a_sign_of_unlabelled_positives_all_was_selected():
    z = torch.randn(64, dtype=torch.float64)
    found = selection(z, torch.randn(64, 9, dtype=torch.float64), torch.zeros(64, 9, dtype=torch.float64))
    assert (found > 0.9).float().mean() > 0.9
    assert found.isfinite().all()


@pytest.mark.parametrize("seed", range(5))
def test_the_curve_of_selection_never_falls(seed):
    """Every question has a document that looks relevant and that the selector puts above the labelled one."""
    g = torch.Generator().manual_seed(seed)
    positive = torch.rand(24, generator=g) * 0.2 + 0.6
    negative = torch.rand(24, 23, generator=g) * 0.4
    relevance = torch.full_like(negative, 1e-3)
    negative[:, 0], relevance[:, 0] = 0.9, 0.9
    s = selection(positive, negative, relevance)
    order = negative.flatten().argsort()
    assert (s.flatten()[order].diff() >= -1e-6).all()
    assert (s[:, 0] >= s[:, 1:].max() - 1e-6).all()


def test_selection_stands_equal_scores():
    found = selection(torch.ones(3), torch.ones(3, 2), torch.full((3, 2), 0.5))
    assert found.isfinite().all()
    assert ((found > 0) & (found < 1)).all()


# hyperspherical and centroids


@given(B=st.integers(1, 4), C=st.integers(2, 4), D=st.integers(1, 5), seed=st.integers(0, 99))
def test_normalized_softmax_is_its_definition(B, C, D, seed):
    g = torch.Generator().manual_seed(seed)
    x, w = (torch.randn(n, D, generator=g, dtype=torch.float64) for n in (B, C))
    y = torch.randint(C, (B,), generator=g)
    want = []
    for i in range(B):
        logits = [5.0 * cosine(x[i], w[c]) for c in range(C)]
        want.append(math.log(math.fsum(map(math.exp, logits))) - logits[y[i]])
    assert normalized_softmax(x, w, y, scale=5.0).tolist() == pytest.approx(want, rel=1e-11, abs=1e-12)
    torch.testing.assert_close(normalized_softmax(3 * x, 0.1 * w, y), normalized_softmax(x, w, y))


def test_normalized_softmax_gradient_and_faults():
    x, w = (torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    y = torch.tensor([0, 2, 2])
    assert torch.autograd.gradcheck(lambda a, b: normalized_softmax(a, b, y, scale=4.0), (x, w))
    loss = NormalizedSoftmax(nn.Identity(), classes=2, dim=4)
    with pytest.raises(ValueError, match="0 to 2"):
        loss.of(Batch([x], y))
    with pytest.raises(ValueError, match="one column"):
        loss.of(Batch([x, x], y))
    with pytest.raises(ValueError, match="labels None"):
        loss.of(Batch([x]))
    with pytest.raises(ValueError, match="at least 2"):
        NormalizedSoftmax(nn.Identity(), classes=1, dim=4)


@given(B=st.integers(2, 7), D=st.integers(1, 4), seed=st.integers(0, 99), margin=st.sampled_from([0.0, 0.3, 3.0]))
def test_centroid_triplet_is_its_definition(B, D, seed, margin):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(B, D, generator=g, dtype=torch.float64)
    y = torch.cat([torch.tensor([7, 3]), torch.randint(4, (B - 2,), generator=g)])
    got, holds = centroid_triplet(x, y, margin=margin)
    for i in range(B):
        mates = [x[j] for j in range(B) if j != i and y[j] == y[i]]
        means = [x[y == c].mean(0) for c in set(y.tolist()) - {y[i].item()}]
        near = min((x[i] - m).square().sum().item() for m in means)
        assert holds[i].item() == bool(mates)
        want = max(0.0, (x[i] - torch.stack(mates).mean(0)).square().sum().item() - near + margin) if mates else 0.0
        assert got[i].item() == pytest.approx(want, rel=1e-9, abs=1e-9)


def test_centroid_triplet_gradient_and_faults():
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    y = torch.tensor([0, 0, 1, 1, 2])
    assert torch.autograd.gradcheck(lambda a: centroid_triplet(a, y, margin=5.0)[0], (x,))
    with pytest.raises(ValueError, match="another class"):
        centroid_triplet(x, torch.zeros(5, dtype=torch.long))
    with pytest.raises(ValueError, match="no class has two"):
        CentroidTriplet(nn.Identity()).of(Batch([x], torch.arange(5)))
    with pytest.raises(ValueError, match="margin"):
        CentroidTriplet(nn.Identity(), margin=-1.0)


# agreement


def test_generation_agreement_is_its_definition():
    cos, said = torch.randn(3, 4, dtype=torch.float64, requires_grad=True), torch.randn(3, 4, dtype=torch.float64)
    said.requires_grad_()
    got = generation_agreement(cos, said, scale=2.0)
    for i in range(3):
        t, c = ([math.exp(v) for v in row] for row in (said[i].tolist(), (2 * cos[i]).tolist()))
        t, c = [v / sum(t) for v in t], [v / sum(c) for v in c]
        want = math.fsum(a * math.log(a / b) for a, b in zip(t, c, strict=True))
        assert got[i].item() == pytest.approx(want, rel=1e-10)
    gradient = torch.autograd.grad(got.sum(), (cos, said), allow_unused=True)
    torch.testing.assert_close(gradient[0], 2 * ((2 * cos).softmax(1) - said.softmax(1)))
    assert gradient[1] is None
    assert generation_agreement(said / 2, said, scale=2.0).abs().max() < 1e-12
    assert generation_agreement(cos, torch.full_like(said, math.nan)).isnan().all()  # not hidden


def test_mean_log_probability_is_its_definition():
    logits, ids = torch.randn(2, 4, 5), torch.randint(5, (2, 4))
    target = torch.tensor([[False, True, True, False], [False, False, True, True]])
    logs = logits.log_softmax(-1)
    want = [
        (logs[0, 0, ids[0, 1]] + logs[0, 1, ids[0, 2]]) / 2,
        (logs[1, 1, ids[1, 2]] + logs[1, 2, ids[1, 3]]) / 2,
    ]
    torch.testing.assert_close(mean_log_probability(logits, ids, target), torch.stack(want))
    empty = torch.tensor([[False] * 4, [False, True, False, False]])
    with pytest.raises(ValueError, match=r"rows \[0\]"):
        mean_log_probability(logits, ids, empty)
    with pytest.raises(ValueError, match=r"rows \[1\]"):
        mean_log_probability(logits, ids, torch.tensor([[False, True, True, True], [True] * 4]))


@pytest.mark.parametrize("side", ["right", "left"])
def test_joined_rows_hold_the_real_tokens_in_order(side):
    def padded(rows):
        width = max(map(len, rows))
        fill = [[0] * (width - len(row)) for row in rows]
        both = [(row + f, [1] * len(row) + f) if side == "right" else (f + row, f + [1] * len(row))
                for row, f in zip(rows, fill, strict=True)]  # fmt: skip
        ids, mask = zip(*both, strict=True)
        return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}

    query, document = padded([[1, 2], [3]]), padded([[4], [5, 6, 7]])
    ids, mask, target = joined(query, document)
    assert ids[mask].tolist() == [1, 2, 4, 3, 5, 6, 7]
    assert mask.tolist() == [[True, True, True, False], [True] * 4]
    assert target.tolist() == [[False, False, True, False], [False, True, True, True]]


# agreement of layers


def test_score_agreement_is_its_definition():
    student, teacher = columns(3, 4, 1, seed=1), columns(3, 6, 1, seed=2)
    got = score_agreement(student, teacher, scale=2.0)
    total = 0.0
    for i in range(3):
        rows = []
        for part in (teacher, student):
            order = [part[1][i], *(part[1][j] for j in range(3) if j != i), *part[2]]
            e = [math.exp(2 * cosine(part[0][i], d)) for d in order]
            rows.append([v / sum(e) for v in e])
        total += math.fsum(t * math.log(t / c) for t, c in zip(*rows, strict=True))
    assert got.item() == pytest.approx(total / 3, rel=1e-10)
    assert score_agreement(teacher, teacher).item() == pytest.approx(0, abs=1e-12)
    assert all(g is None for g in torch.autograd.grad(got, teacher, allow_unused=True))


def test_coordinate_agreement_is_sentence_transformers():
    student, teacher = columns(3, 4, 0, seed=1), columns(3, 6, 0, seed=2)
    T, c, t = 0.3, torch.cat(student), torch.cat(teacher)[:, :4]
    want = T * nn.functional.kl_div((c / T).log_softmax(-1), (t / T).softmax(-1).detach(), reduction="batchmean")
    got = coordinate_agreement(student, teacher)
    assert got.item() == pytest.approx(want.item(), rel=1e-12)
    assert all(g is None for g in torch.autograd.grad(got, teacher, allow_unused=True))


def test_a_loss_that_is_no_function_of_embeddings_is_refused():
    from sentence_transformers.sentence_transformer.losses import DenoisingAutoEncoderLoss

    with pytest.raises(TypeError, match="cannot be asked"):
        of_columns(nn.Linear(2, 2))
    assert not hasattr(DenoisingAutoEncoderLoss, "compute_loss_from_embeddings")


def test_the_table_makes_what_it_names():
    made = {name: LOSSES[name](nn.Identity()) for name in ("in_batch_or_own", "focal", "mixing", "positive_aware")}
    assert [type(loss).__name__ for loss in made.values()] == ["InfoNCE", "Focal", "Mixing", "PositiveAware"]
