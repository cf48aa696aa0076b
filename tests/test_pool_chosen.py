"""Pools over chosen tokens: landmarks, spans, means without sinks or by received attention, and pools side by side."""

import pytest
import torch

from lab.pooling.concat import ConcatPool
from lab.pooling.functional import to_ragged
from lab.pooling.generalized import GeM
from lab.pooling.landmark import LandmarkPool
from lab.pooling.selection import check_choice
from lab.pooling.spans import SpanMaxPool, dependency_path, piecewise
from lab.pooling.splade import SPLADEPool
from lab.pooling.weighted import ReceivedAttentionPool, SinkExcludingMeanPool

D = 3
MASK = torch.tensor([[1, 1, 1, 1, 1, 1, 0], [0, 1, 1, 0, 1, 1, 1]]).bool()


def drawn():
    return torch.randn(2, 7, D, dtype=torch.float64)


def both(pool, x, mask, third):
    """The same call in both layouts, checked to agree."""
    flat, offsets = to_ragged(x, mask)
    y = pool(x, mask, third)
    torch.testing.assert_close(pool(flat, offsets, third[mask]), y)
    return y


def test_landmarks_are_averaged_where_they_are_said_to_be():
    x = drawn()
    landmarks = torch.zeros_like(MASK)
    landmarks[0, [2, 5]] = landmarks[0, 6] = landmarks[1, 4] = True  # one of them in padding
    y = both(LandmarkPool(D), x, MASK, landmarks)
    torch.testing.assert_close(y, torch.stack([x[0, [2, 5]].mean(0), x[1, 4]]))
    assert not both(LandmarkPool(D), x, MASK, torch.zeros_like(MASK)).any()


def test_landmarks_stand_at_the_end_of_each_chunk_of_real_tokens():
    x = drawn()
    rows = [row[real] for row, real in zip(x, MASK, strict=True)]
    for size, picked in ((1, slice(None)), (4, [3, -1]), (9, [-1])):
        want = torch.stack([row[picked].mean(0) for row in rows])
        torch.testing.assert_close(LandmarkPool(D, chunk_size=size)(x, MASK), want)
    with pytest.raises(ValueError, match="chunk_size must be 1 or more; got 0"):
        LandmarkPool(D, chunk_size=0)


def test_each_span_gives_its_maximum():
    x = drawn()
    spans = torch.rand(2, 7, 3) < 0.5
    spans[0, :, 2] = False
    y = both(SpanMaxPool(D), x, MASK, spans).unflatten(1, (3, D))
    for b in range(2):
        for k in range(3):
            part = x[b][spans[b, :, k] & MASK[b]]
            torch.testing.assert_close(y[b, k], part.amax(0) if len(part) else torch.zeros(D, dtype=x.dtype))


def test_a_span_of_everything_is_the_maximum():
    x = drawn()
    torch.testing.assert_close(SpanMaxPool()(x, MASK, torch.ones(2, 7, 1, dtype=torch.bool)), SpanMaxPool()(x, MASK))


def test_piecewise_spans_part_the_text_at_the_ends_of_the_mentions():
    first, second = torch.tensor([0, 0, 0, 0, 1, 0, 0]).bool(), torch.tensor([0, 1, 1, 0, 0, 0, 0]).bool()
    for spans in (piecewise(first, second), piecewise(second, first)):  # the order of the mentions is that of the text
        assert spans.int().T.tolist() == [[1, 1, 1, 0, 0, 0, 0], [0, 0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 1, 1]]
    assert torch.equal(piecewise(torch.stack([first, second]), torch.stack([second, first]))[1], spans)


#        0 <- 1 -> 2 -> 3 -> 4,  1 -> 5,  6 alone
HEADS = [1, -1, 1, 2, 3, 1, 6]


def test_dependency_paths_and_their_neighbours():
    assert dependency_path(HEADS, [0], [3]).nonzero().flatten().tolist() == [0, 1, 2, 3]
    assert dependency_path(HEADS, [0], [3], distance=1).nonzero().flatten().tolist() == [0, 1, 2, 3, 4, 5]
    assert dependency_path(HEADS, [4, 3], [2]).nonzero().flatten().tolist() == [
        2,
        3,
    ]  # from the mention's nearest token
    assert dependency_path(HEADS, [6], [6]).nonzero().flatten().tolist() == [6]


@pytest.mark.parametrize(
    ("heads", "source", "target", "says"),
    [
        (HEADS, [0], [6], "no path joins tokens"),
        (HEADS, [7], [0], "got 7"),
        (HEADS, [-1], [0], "got -1"),
        ([9], [0], [0], "got 9"),
    ],
)
def test_paths_that_do_not_exist_are_refused(heads, source, target, says):
    with pytest.raises(ValueError, match=says):
        dependency_path(heads, source, target)


def test_sinks_are_left_out_of_the_mean():
    x = drawn()
    sinks = torch.zeros_like(MASK)
    sinks[:, 4] = True
    want = torch.stack([row[real & ~sink].mean(0) for row, real, sink in zip(x, MASK, sinks, strict=True)])
    torch.testing.assert_close(both(SinkExcludingMeanPool(D), x, MASK, sinks), want)


def test_the_first_tokens_are_sinks_unless_nothing_else_is_there():
    x = drawn()
    rows = [row[real] for row, real in zip(x, MASK, strict=True)]
    torch.testing.assert_close(
        SinkExcludingMeanPool(D, num_sinks=2)(x, MASK), torch.stack([row[2:].mean(0) for row in rows])
    )
    everything = torch.stack([row.mean(0) for row in rows])
    torch.testing.assert_close(SinkExcludingMeanPool(D, num_sinks=0)(x, MASK), everything)
    torch.testing.assert_close(SinkExcludingMeanPool(D, num_sinks=9)(x, MASK), everything)


def test_a_massive_token_is_found_by_its_norm():
    x = drawn()
    x[0, 3] *= 1e4
    pool = SinkExcludingMeanPool(D, num_sinks=0, max_norm_ratio=8.0)
    torch.testing.assert_close(pool(x, MASK)[0], x[0, [0, 1, 2, 4, 5]].mean(0))
    torch.testing.assert_close(pool(x, MASK)[1], x[1][MASK[1]].mean(0))
    with pytest.raises(ValueError, match="max_norm_ratio must be 1 or more"):
        SinkExcludingMeanPool(D, max_norm_ratio=0.5)


def test_received_attention_weighs_the_mean():
    x = drawn()
    received = torch.rand(2, 7, dtype=torch.float64)
    received[0, 1] = 0
    w = received * MASK
    want = (w[..., None] * x).sum(1) / w.sum(1, keepdim=True)
    torch.testing.assert_close(both(ReceivedAttentionPool(D), x, MASK, received), want)
    # the share counts, so weights near the ends of the type are as good
    for scale in (1e-300, 1.7e308):
        torch.testing.assert_close(ReceivedAttentionPool(D)(x, MASK, received * scale), want)
    same = torch.full((2, 7), 0.1, dtype=torch.float64)
    torch.testing.assert_close(ReceivedAttentionPool(D)(x, MASK, same), ConcatPool(D, ["mean"])(x, MASK))
    assert not ReceivedAttentionPool(D)(x, MASK, 0 * same).any()


def test_received_attention_learns_through_its_weights():
    """dy / da_t = (x_t - y) / sum a, also at a weight of 0, from which it must be able to grow."""
    x, received = drawn(), torch.rand(2, 7, dtype=torch.float64)
    received[0, 1] = 0
    received.requires_grad_()
    y = ReceivedAttentionPool(D)(x, MASK, received)
    (slope,) = torch.autograd.grad(y.sum(), received)
    want = ((x - y[:, None]).sum(-1) / (received * MASK).sum(1, keepdim=True)).masked_fill(~MASK, 0)
    torch.testing.assert_close(slope, want.detach())


@pytest.mark.parametrize("wrong", [None, -1.0, torch.nan, torch.inf])
def test_received_attention_that_is_missing_or_no_weight_is_refused(wrong):
    received = None if wrong is None else torch.full((2, 7), wrong)
    with pytest.raises(ValueError, match=r"received (is missing|must be finite and not negative)"):
        ReceivedAttentionPool(D)(drawn(), MASK, received)


def test_wrong_weights_at_padding_are_not_looked_at():
    received = torch.ones(2, 7).masked_fill(~MASK, torch.nan)
    assert ReceivedAttentionPool(D)(drawn(), MASK, received).isfinite().all()


@pytest.mark.parametrize(
    ("chosen", "axes", "error", "says"),
    [
        (torch.ones(2, 7), 0, TypeError, "spans must be bool.*float32"),
        (torch.ones(7, 2).bool(), 0, ValueError, r"spans must be \(2, 7\).*got \(7, 2\)"),
        (torch.ones(2, 7).bool(), 1, ValueError, r"then one more; got \(2, 7\)"),
    ],
)
def test_a_choice_of_another_shape_or_type_is_refused(chosen, axes, error, says):
    """Asked of the check itself: inside tests the shape types would answer first."""
    with pytest.raises(error, match=says):
        check_choice("spans", chosen, drawn(), axes)


@pytest.mark.parametrize(
    ("pool", "name"), [(LandmarkPool, "landmark"), (SpanMaxPool, "spans"), (SinkExcludingMeanPool, "weighted")]
)
def test_every_choice_is_checked(pool, name, monkeypatch):
    seen = []
    monkeypatch.setattr(f"lab.pooling.{name}.check_choice", lambda *given, **_: seen.append(given[1]))
    chosen = torch.ones(2, 7, 1).bool() if pool is SpanMaxPool else MASK
    pool(D)(drawn(), MASK, chosen)
    assert len(seen) == 1
    assert seen[0] is chosen


def test_concat_stands_pools_side_by_side():
    x = drawn()
    gem = GeM(D)
    y = ConcatPool(D, ["mean", gem, SPLADEPool(pooling_strategy="sum")])(x, MASK)
    assert y.shape == (2, 3 * D)
    torch.testing.assert_close(y[:, D : 2 * D], gem(x, MASK))
    assert list(ConcatPool(D, [gem]).parameters()) == [gem.raw_p]


def test_concat_of_nothing_or_of_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="one or more names or pools; got"):
        ConcatPool(D, [])
    with pytest.raises(ValueError, match="got 'mean'"):
        ConcatPool(D, "mean")
    with pytest.raises(ValueError, match="nonsense"):
        ConcatPool(D, ["nonsense"])
