"""lab.kernels.attention_columns under softpick: scores of every size, and what of them has no weight."""

import math

import pytest
import torch
from test_attention_columns import definition, drawn, every_implementation, poisoned, value_and_grad

from lab.attention.normalizers import NORMALIZERS
from lab.kernels import attention_columns
from lab.kernels.attention_weights_triton import EPSILON

EPS = torch.finfo(torch.float32).eps
ROWS = {
    "mixed": [0.7, -1.2, 0.49, 0.51, -0.5, 2.3, -3e-3, 0.0],
    "high": [1e4, 9999.0, -1e4, 0.0, 1.0, 1e4, 1e-7, 87.0],
    "low": [-1e4, -90.0, -3.0, -103.0, -1e4, -20.0, -88.0, -0.25],
    "tiny": [1.3e-6, -0.7e-6, 2.1e-6, 0.4e-6, 0.0, -3e-6, 1e-8, 2e-7],
    "one above": [-50.0, -0.3, 1e-5, -7.0, -1e4, -2.0, 0.0, -0.01],
    "zeros": [0.0] * 8,
    **{f"equal {s:g}": [s] * 8 for s in (1e-7, 0.3, 88.0, 1e4, -1e-6, -3.0, -1e4)},
}


def found(run, scores, dtype=torch.float32):
    """Values and gradients of a query of 1 and keys that are the scores, so that no product rounds them."""
    g = torch.Generator().manual_seed(0)
    T, one = len(scores), torch.ones(1, 1, 1, 1)
    value, of_columns = torch.randn(1, 1, T, 1, generator=g), torch.randn(1, 1, T, generator=g)
    tensors = [x.to(dtype) for x in (one, scores.view(1, 1, T, 1), value, one[0, 0])]
    bounds = torch.tensor([[0, T]], dtype=torch.int32)
    return value_and_grad(run, tensors, bounds, "softpick", False, [one, of_columns], scale=1.0)


@pytest.mark.parametrize("row", ROWS)
def test_the_definition_is_the_normalizer(row):
    scores = torch.tensor(ROWS[row], dtype=torch.float64).requires_grad_()
    dy = torch.randn(len(scores), dtype=torch.float64)
    here, there = attention_columns.softpick(scores, scores), NORMALIZERS["softpick"](scores)
    torch.testing.assert_close(here, there, rtol=1e-13, atol=0)
    grads = [torch.autograd.grad(weights, scores, dy)[0] for weights in (here, there)]
    torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-13)


@every_implementation
@pytest.mark.parametrize("row", ROWS)
def test_scores_of_every_size(run, row):
    scores = torch.tensor(ROWS[row])
    got, want = found(run, scores), found(definition, scores, torch.float64)
    wide = scores.double()
    r = (wide.clamp(max=500).expm1().abs().sum() + EPSILON).log() if wide.max() < 500 else wide.max()
    steep = (wide - r).exp().max().item()  # of a weight by its score
    digits = (16 + 2 * abs(r.item())) * EPS  # r in float32 is that far from r
    sizes = (4, 1, 8 * steep * wide.abs().max().item(), 8 * steep, 1, 4)
    for ours, right, size in zip(got, want, sizes, strict=True):
        assert ours.isfinite().all()
        torch.testing.assert_close(ours.double(), right, rtol=digits, atol=digits * size)


@every_implementation
@pytest.mark.parametrize(("top", "digits"), [(10.0, 24), (0.499, 8), (1e-8, 24)])  # of float32's last, as r has left
def test_weights_keep_their_digits_near_zero(run, top, digits):
    """Where e^s - 1 as a difference has none left; of the last row's sum eps is the greater part."""
    sizes = torch.logspace(math.log10(top) - 8, math.log10(top), 300)
    scores = torch.cat([sizes, -sizes]) if top > 1 else sizes
    (_, columns, *_), (_, right, *_) = found(run, scores), found(definition, scores, torch.float64)
    torch.testing.assert_close(columns.double(), right, rtol=digits * EPS, atol=0)
    assert torch.equal(columns[0, 0] > 0, scores > 0)


@every_implementation
def test_rows_of_zeros_weigh_nothing_and_have_no_gradient(run):
    query, key, value, rows, bounds = drawn(2, 1, 2, 9, 9, 4)
    tensors = [torch.zeros_like(query), key, value, rows]
    douts = [torch.ones_like(query), torch.ones(2, 2, 9)]
    for part in value_and_grad(run, tensors, bounds, "softpick", True, douts):
        assert torch.equal(part, torch.zeros_like(part))
    zeros = torch.zeros(1, 9, requires_grad=True)
    weights = NORMALIZERS["softpick"](zeros)
    assert not weights.any()
    assert not torch.autograd.grad(weights, zeros, torch.randn(1, 9))[0].any()


@every_implementation
def test_a_negative_score_has_no_weight_and_a_gradient(run):
    scores = torch.tensor([0.5, -1.0, 2.0, -0.3])
    _, columns, _, dk, dv, _ = found(run, scores)
    assert torch.equal(columns[0, 0] == 0, scores < 0)
    assert torch.equal(dv[0, 0, :, 0] == 0, scores < 0)
    assert (dk.abs() > 1e-3).all()


@every_implementation
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_small_scores_keep_weights_and_gradients_in_half_precision(run, dtype):
    """Scores of 1e-6 give weights of some size; e^s - 1 itself is no number of float16."""
    query, key, value, rows, bounds = drawn(1, 1, 2, 20, 20, 4)
    tensors = [(query * 1e-3).to(dtype), (key * 1e-3).to(dtype), value.to(dtype), rows]
    douts = [torch.ones_like(tensors[0]), torch.ones(1, 2, 20)]
    got = value_and_grad(run, tensors, bounds, "softpick", True, douts, scale=1.0)
    want = value_and_grad(definition, [t.double() for t in tensors], bounds, "softpick", True, douts, scale=1.0)
    assert want[0].abs().max() > 0.1
    assert want[2].abs().max() > 100  # a slope of 1e5 times keys of 1e-3
    eps = torch.finfo(dtype).eps
    for ours, right in zip(got, want, strict=True):
        atol = 2 * eps * right.abs().max().item() if ours.dtype == dtype else 1e-5
        torch.testing.assert_close(ours.double(), right, rtol=eps if ours.dtype == dtype else 1e-5, atol=atol)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_not_there(side):
    run = slice(3, 12) if side == "left" else slice(0, 9)
    mask = torch.zeros(1, 12, dtype=torch.bool)
    mask[:, run] = True
    bounds = torch.tensor([[run.start, run.stop]], dtype=torch.int32)
    query, key, value, _, _ = poisoned(*drawn(1, 2, 3, 12, 12, 4)[:4], bounds)
    how = {"normalizer": "softpick", "causal": True}
    got = attention_columns.attention_columns(query, key, value, mask, **how)
    alone = attention_columns.attention_columns(*(x[:, :, run] for x in (query, key, value)), **how)
    torch.testing.assert_close(got.out[:, :, run], alone.out)
    torch.testing.assert_close(got.columns[:, :, run], alone.columns)
    assert not got.columns[..., ~mask[0]].any()
    assert not got.out[:, :, ~mask[0]].any()
