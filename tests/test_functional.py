"""lab.pooling.functional: the public reductions, in both layouts."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lab.kernels import layout
from lab.kernels import weighted_sum as product
from lab.kernels.segment_pool import MODES
from lab.pooling import functional
from lab.pooling.token import FirstPool, LastPool, MaxPool, MeanPool, PositionMeanPool, SqrtMeanPool

OURS = [FirstPool, LastPool, MeanPool, SqrtMeanPool, PositionMeanPool, MaxPool]  # all but the last are linear

WIDE = pytest.mark.parametrize("K", [(), (4,)], ids=["one per token", "four per token"])


def drawn(B=3, T=11, D=4, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    mask = torch.rand(B, T, generator=g) < 0.6
    mask[0] = False
    return torch.randn(B, T, D, generator=g, dtype=dtype), mask


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_the_same_in_both_layouts(mode):
    x, mask = drawn()
    scores = x[..., 0] if mode == "softmax" else None
    rows, offsets = functional.to_ragged(x, mask)
    want = functional.segment_pool(x, mask, mode, scores)
    got = functional.segment_pool(rows, offsets, mode, None if scores is None else scores[mask])
    torch.testing.assert_close(got, want)
    assert torch.equal(want[0], torch.zeros(4, dtype=x.dtype))


@pytest.mark.parametrize("pool", OURS)
@given(B=st.integers(0, 4), T=st.integers(0, 9), seed=st.integers(0, 99))
def test_every_pool_takes_both_layouts(pool, B, T, seed):
    g = torch.Generator().manual_seed(seed)
    x, mask = torch.randn(B, T, 6, generator=g, dtype=torch.float64), torch.rand(B, T, generator=g) < 0.6
    torch.testing.assert_close(pool(6)(*functional.to_ragged(x, mask)), pool(6)(x, mask))


@WIDE
def test_softmax_sums_to_one_over_each_segment(K):
    x, mask = drawn()
    scores = torch.where(mask.reshape(3, 11, *[1] * len(K)), 400 * torch.randn(3, 11, *K).double(), torch.nan)
    weights = functional.segment_softmax(scores, mask)
    for b in (1, 2):
        torch.testing.assert_close(weights[b][mask[b]], scores[b][mask[b]].softmax(0))
    assert torch.equal(weights[~mask], torch.zeros_like(weights[~mask]))
    _, offsets = functional.to_ragged(x, mask)
    torch.testing.assert_close(functional.segment_softmax(scores[mask], offsets), weights[mask])
    half = functional.segment_softmax(scores[mask].half(), offsets)
    assert half.dtype == torch.float16
    assert half.isfinite().all()


def test_softmax_of_minus_infinity_is_zero_not_nan():
    scores = torch.full((2, 3), -torch.inf)
    scores[0, 1] = 5.0
    weights = functional.segment_softmax(scores.requires_grad_(), torch.ones(2, 3, dtype=torch.bool))
    assert torch.equal(weights, torch.tensor([[0.0, 1, 0], [0, 0, 0]]))
    (grad,) = torch.autograd.grad(weights.sum(), scores)
    assert torch.equal(grad, torch.zeros(2, 3))


@pytest.mark.parametrize("K", [(), (4,), (2, 3)], ids=str)
def test_expand_is_the_adjoint_of_the_sum(K):
    x, mask = drawn()
    x = torch.randn(3, 11, *K).double()
    y = torch.randn(3, *K).double()
    rows, offsets = functional.to_ragged(x, mask)
    spread, ragged = functional.segment_expand(y, mask), functional.segment_expand(y, offsets)
    assert torch.equal(spread[mask], ragged)
    assert torch.equal(functional.segment_expand(y, offsets, len(rows)), ragged)
    assert torch.equal(spread[~mask], torch.zeros_like(spread[~mask]))
    summed = functional.segment_pool(rows.reshape(len(rows), -1), offsets, "sum").reshape(y.shape)
    torch.testing.assert_close((spread * x).sum(), (y * summed).sum())
    with pytest.raises(ValueError, match="one row for each of the 3 segments"):
        functional.segment_expand(y[:2], mask)


def test_layouts_are_inverses():
    x, mask = drawn()
    rows, offsets = functional.to_ragged(x.requires_grad_(), mask)
    padded, left = functional.to_padded(rows, offsets)
    again, same = functional.to_ragged(padded, left)
    assert torch.equal(again, rows)
    assert torch.equal(same, offsets)
    assert torch.equal(left.sum(1), mask.sum(1))
    assert torch.equal(padded[~left], torch.zeros_like(padded[~left]))
    assert torch.equal(functional.counts(offsets), functional.counts(mask))
    assert torch.equal(functional.positions(offsets), functional.positions(mask)[mask])
    (grad,) = torch.autograd.grad(padded.sum(), x)
    torch.testing.assert_close(grad, mask[..., None].expand_as(x).double())
    none, no = functional.to_padded(torch.zeros(0, 4), torch.zeros(3).long())
    assert (none.shape, no.shape) == ((2, 0, 4), (2, 0))


def test_weighted_sum_in_both_layouts():
    x, mask = drawn()
    weights = torch.randn(3, 2, 11).double()
    rows, offsets = functional.to_ragged(x, mask)
    want = functional.weighted_sum(torch.where(mask[..., None], x, torch.nan), weights, mask)
    by_hand = torch.stack([weights[b][:, mask[b]] @ x[b][mask[b]] for b in range(3)])
    torch.testing.assert_close(want, by_hand)
    torch.testing.assert_close(functional.weighted_sum(rows, weights.transpose(1, 2)[mask], offsets), want)


@pytest.mark.parametrize("P", [1, 3])
@pytest.mark.parametrize("ragged", [False, True], ids=["padded", "ragged"])
@pytest.mark.parametrize("small", [True, False])
def test_gradients_of_weighted_sum(ragged, P, small, monkeypatch):
    """Of tokens and of weights, with NaN in padding; and the gradients of the gradients."""
    monkeypatch.setattr(product, "FEWEST", 4 if small else 0)
    x, mask = drawn()
    weights, dy = torch.randn(3, P, 11).double(), torch.randn(3, P, 4).double()
    rows = [(x[b][mask[b]].requires_grad_(), weights[b][:, mask[b]].requires_grad_()) for b in range(3)]
    want = torch.autograd.grad([w @ row for row, w in rows], [v for pair in rows for v in pair], list(dy))
    dx, dw = torch.cat(want[::2]), torch.cat(want[1::2], 1).mT  # of the real tokens
    x = torch.where(mask[..., None], x, torch.nan)
    weights = torch.where(mask[:, None], weights, torch.nan)
    given = (*functional.to_ragged(x, mask), weights.mT[mask]) if ragged else (x, mask, weights)
    inputs = [v.clone().requires_grad_() for v in (given[0], given[2])]
    found = torch.autograd.grad(functional.weighted_sum(inputs[0], inputs[1], given[1]), inputs, dy)
    got = found if ragged else (found[0][mask], found[1].mT[mask])
    torch.testing.assert_close(got, (dx, dw))
    if not ragged:
        assert not found[0][~mask].any()
        assert not found[1].mT[~mask].any()
    out = torch.randn(3, P, 4, dtype=torch.float64, requires_grad=True)
    once = torch.autograd.grad(functional.weighted_sum(inputs[0], inputs[1], given[1]), inputs, out, create_graph=True)
    twice = torch.autograd.grad(sum(g.nan_to_num(0).sum() for g in once), [*inputs, out])
    assert all(g.isfinite().all() for g in twice)
    inputs = [v.detach().nan_to_num(0).requires_grad_() for v in inputs]
    assert torch.autograd.gradgradcheck(lambda x, w: functional.weighted_sum(x, w, given[1]), inputs, fast_mode=True)


@pytest.mark.parametrize("ragged", [False, True], ids=["padded", "ragged"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_weighted_sums_of_half_tokens_are_rounded_once(ragged, dtype, monkeypatch):
    monkeypatch.setattr(product, "BYTES", 200)  # several rows, one after the other
    monkeypatch.setattr(product, "FEWEST", 0)
    x, mask = drawn(B=5, T=300)
    eps = torch.finfo(dtype).eps
    x, weights = (100 + x).to(dtype), torch.full((5, 2, 300), (1 + 0.49 * eps) / 256)  # would be rounded to 1 / 256
    want = torch.bmm(torch.where(mask[:, None], weights, 0).double(), x.double())
    given = (*functional.to_ragged(x, mask), weights.mT[mask]) if ragged else (x, mask, weights)
    got = functional.weighted_sum(given[0], given[2], given[1])
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), want, rtol=0.51 * eps, atol=0)


@pytest.mark.parametrize("pool", [FirstPool, LastPool])
def test_a_picked_token_is_a_copy_and_reads_nothing_else(pool):
    x = torch.full((2, 5, 3), torch.nan)
    x[:, [0, 4]] = torch.tensor([1.0, 2.0])[:, None]
    kept = x.clone()
    y = pool(3)(x, torch.ones(2, 5, dtype=torch.bool))
    assert torch.equal(y, torch.full((2, 3), 1.0 if pool is FirstPool else 2.0))
    y.add_(1)
    assert torch.equal(x.nan_to_num(7), kept.nan_to_num(7))


@pytest.mark.parametrize("fill", [0.0, -torch.inf, torch.inf, 3.0])
def test_keep_stops_a_gradient_of_nan(fill):
    x, mask = drawn()
    dy = torch.where(mask[..., None], 2.0, torch.nan).expand_as(x).to(x.dtype)
    (dx,) = torch.autograd.grad(layout.keep(x.requires_grad_(), mask, fill), x, dy)
    assert torch.equal(dx, torch.where(mask[..., None], 2.0, 0.0).expand_as(x).to(x.dtype))


@pytest.mark.parametrize("fill", [0.0, -torch.inf, torch.inf, 3.0])
@pytest.mark.parametrize("poison", [0.0, torch.nan, torch.inf])
def test_keep_hides_whatever_stands_in_padding(fill, poison):
    x, mask = drawn()
    x = torch.where(mask[..., None], x, poison)
    got = layout.keep(x, mask, fill)
    assert torch.equal(got[mask], x[mask])
    assert torch.equal(got[~mask], torch.full_like(got[~mask], fill))
    assert functional.to_ragged(layout.finite(x, mask), mask)[0].isfinite().all()
    assert layout.finite(x, mask)[~mask].isfinite().all()


def test_linear_pools_say_their_weights_in_both_layouts():
    x, mask = drawn()
    rows, offsets = functional.to_ragged(x, mask)
    for pool in OURS[:-1]:
        weights = pool(4).weights(mask)
        assert torch.equal(weights[~mask], torch.zeros_like(weights[~mask])), pool
        assert torch.equal(pool(4).weights(offsets, len(rows)), weights[mask]), pool


def test_stats_are_the_pools_of_the_same_names():
    x, mask = drawn()
    stats = functional.segment_stats(x, mask)
    for name, pool in {"mean": MeanPool, "max": MaxPool, "first": FirstPool, "last": LastPool}.items():
        torch.testing.assert_close(getattr(stats, name), pool(4)(x, mask))
    torch.testing.assert_close(
        stats.norm_square, functional.segment_pool(x.square().sum(-1, keepdim=True), mask, "mean")[:, 0]
    )


@pytest.mark.parametrize(
    ("offsets", "error", "says"),
    [
        ([0, 3, 2, 6], ValueError, "falling"),
        ([1, 3, 6], ValueError, "from 0 to 6.*got 1 to 6"),
        ([0, 3, 5], ValueError, "from 0 to 6.*got 0 to 5"),
        ([0, 3, 7], ValueError, "from 0 to 6.*got 0 to 7"),
        ([], ValueError, "at least"),
        ([[0, 6]], ValueError, "segments"),
        ([0.0, 6.0], TypeError, "int32 or int64"),
    ],
    ids=str,
)
def test_bad_offsets_are_refused(offsets, error, says):
    values = torch.tensor(offsets) if offsets else torch.zeros(0, dtype=torch.int64)
    with pytest.raises(error, match=says):
        functional.check(torch.zeros(6, 2), values)


@pytest.mark.parametrize(
    ("mode", "scores", "says"),
    [
        ("median", None, "mode must be one of sum, mean.*median"),
        ("softmax", None, "scores go with mode"),
        ("mean", torch.zeros(2, 3), "scores go with mode"),
        ("softmax", torch.zeros(2, 4), r"scores must be \(2, 3\).*\(2, 3, 5\).*got \(2, 4\)"),
    ],
    ids=["mode", "no scores", "too many scores", "shape"],
)
def test_bad_modes_and_scores_are_refused(mode, scores, says):
    with pytest.raises(ValueError, match=says):
        functional.segment_pool(torch.zeros(2, 3, 5), torch.ones(2, 3, dtype=torch.bool), mode, scores)


COMPILE = """
import torch
from lab.kernels import layout
from lab.kernels import weighted_sum as product
from lab.kernels.segment_pool import MODES
from lab.pooling import functional

sizes = [(3, 20, 8), (2, 33, 65)]
torch._dynamo.config.error_on_recompile = True  # other sizes fit the first graph
# the operator (interpreted) and the torch path, each layout with each
cases = [(mode, torch.float32, i % 2 == 0) for i, mode in enumerate(MODES)]
cases += [(mode, torch.float64, i % 2 == 1) for i, mode in enumerate(MODES)]
for mode, dtype, ragged in cases:
    torch._dynamo.reset()
    compiled = torch.compile(functional.segment_pool, fullgraph=True, dynamic=True, backend="aot_eager")
    for B, T, D in sizes:
        x, mask = torch.randn(B, T, D, dtype=dtype), torch.rand(B, T) < 0.6
        if ragged:
            x, mask = functional.to_ragged(x, mask)
        scores = torch.randn(x.shape[:-1], dtype=dtype) if mode == "softmax" else None
        a, b = (x.clone().requires_grad_() for _ in range(2))
        got, want = compiled(a, mask, mode, scores), functional.segment_pool(b, mask, mode, scores)
        torch.testing.assert_close(got, want)
        got.sum().backward(), want.sum().backward()
        torch.testing.assert_close(a.grad, b.grad)
print("compiled")
"""


def test_compiles_in_one_graph_for_all_sizes():
    """In a Python of its own: the types that tests check would break the graph."""
    env = os.environ | {"TRITON_INTERPRET": "1", "PYTHONWARNINGS": "ignore"}
    run = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, env=env, check=False)
    assert run.stdout.split() == ["compiled"], run.stderr[-3000:]


# ---- the sums that a GPU takes in place of index_add, which is atomic there


@pytest.mark.parametrize("lengths", [[3, 0, 4], [0, 0], [1], [70, 1, 0, 0, 2]], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("width", [(), (5,), (2, 3)], ids=str)
def test_sums_in_the_order_of_the_tokens(lengths, dtype, width):
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    x = torch.randn(*width, sum(lengths), dtype=torch.float64).movedim(-1, 0).to(dtype)  # not contiguous
    want = torch.stack([part.double().sum(0) for part in x.split(lengths)])
    got = layout.Total.apply(x, offsets)
    assert got.dtype == dtype
    bound = {"rtol": torch.finfo(dtype).eps, "atol": 300 * torch.finfo(torch.promote_types(dtype, torch.float32)).eps}
    torch.testing.assert_close(got.double(), want, **bound)
    back = layout.Spread.apply(got, offsets, len(x))
    assert back.tolist() == got.repeat_interleave(torch.tensor(lengths), 0).tolist()


def test_each_of_the_two_is_the_others_gradient():
    offsets = torch.tensor([0, 3, 3, 7])
    x = torch.randn(7, 2, dtype=torch.float64, requires_grad=True)
    y = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert check(lambda x: layout.Total.apply(x, offsets) ** 2, x)
        assert check(lambda y: layout.Spread.apply(y, offsets, 7) ** 2, y)
        assert check(lambda x: layout.Spread.apply(layout.Total.apply(x, offsets).exp(), offsets, 7), x)


def test_off_the_cpu_ragged_sums_are_not_index_add():
    """On a device without data: which operations are asked for, forward and backward."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Asked(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.names = set()

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.names.add(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    offsets = torch.tensor([0, 3, 3, 7], device="meta")
    scores = torch.randn(7, 2, device="meta", requires_grad=True)
    with Asked() as asked:
        weights = layout.total(scores.exp(), offsets)
        (layout.expand(weights, offsets, 7) * scores).sum().backward()
    assert scores.grad.shape == scores.shape
    assert "segment_reduce" in asked.names
    assert not {name for name in asked.names if name.startswith(("index_add", "scatter_add", "index_put"))}
