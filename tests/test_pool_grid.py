"""GridMean: the mean of each cell of a map, by its definition."""

import math

import pytest
import torch
from torch.nn.functional import adaptive_avg_pool2d

from lab.pooling import GridMean


@pytest.mark.parametrize(("side", "size"), [(1, 1), (4, 1), (4, 2), (4, 4), (5, 2), (7, 3), (2, 3), (3, 8)])
def test_cells_are_those_of_adaptive_pooling(side, size):
    x = torch.randn(3, 5, side, side).double().requires_grad_()
    tokens = x.flatten(2).mT  # not contiguous
    y = GridMean(size)(tokens, torch.ones(3, side * side, dtype=torch.bool))
    wanted = adaptive_avg_pool2d(x, size).flatten(2).mT.flatten(1)
    torch.testing.assert_close(y, wanted)
    dy = torch.randn_like(y)
    torch.testing.assert_close(*(torch.autograd.grad(out, x, dy, retain_graph=True)[0] for out in (y, wanted)))


def test_only_real_places_count_and_nan_in_others_does_not_leak():
    x, mask = torch.randn(2, 16, 3), torch.rand(2, 16) < 0.5
    mask[0, [0, 1, 4, 5]] = False  # the first cell of the first map
    mask[1] = False
    x = x.masked_fill(~mask[..., None], math.nan).requires_grad_()
    y = GridMean(2)(x, mask)
    for cell in range(4):
        here = [4 * (2 * (cell // 2) + i) + 2 * (cell % 2) + j for i in (0, 1) for j in (0, 1)]
        real = [p for p in here if mask[0, p]]
        wanted = x[0, real].mean(0) if real else torch.zeros(3)
        torch.testing.assert_close(y[0, 3 * cell : 3 * cell + 3], wanted)
    assert (y[1] == 0).all()
    y.sum().backward()
    assert (x.grad[~mask] == 0).all()


def test_half_precision_is_summed_in_float32():
    x = torch.full((1, 64 * 64, 2), 1.001).half()
    y = GridMean(1)(x, torch.ones(1, 64 * 64, dtype=torch.bool))
    assert y.dtype == torch.float16
    torch.testing.assert_close(y, x[:, 0], atol=0, rtol=0)


def test_bad_input():
    for size in (0, 1.5, "2"):
        with pytest.raises(ValueError, match="number of cells along a side"):
            GridMean(size)
    with pytest.raises(ValueError, match="got 6 of them"):
        GridMean(2)(torch.ones(1, 6, 2), torch.ones(1, 6, dtype=torch.bool))
