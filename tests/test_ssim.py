"""Structural similarity against its formula, written out window by window."""

import numpy as np
import pytest
import torch

from lab.geometry import ssim


def written_out(a, b, window, span):
    c, d, found = (0.01 * span) ** 2, (0.03 * span) ** 2, []
    for i in range(a.shape[0] - window + 1):
        for j in range(a.shape[1] - window + 1):
            x, y = (m[i : i + window, j : j + window].ravel() for m in (a, b))
            together = np.cov(x, y, ddof=0)
            light = (2 * x.mean() * y.mean() + c) / (x.mean() ** 2 + y.mean() ** 2 + c)
            found.append(light * (2 * together[0, 1] + d) / (together[0, 0] + together[1, 1] + d))
    return np.mean(found)


@pytest.mark.parametrize(("window", "span"), [(7, 1.0), (4, 2.5), (1, 1.0)])
def test_it_is_the_formula(window, span):
    a, b = torch.rand(2, 3, 9, 8).double(), torch.rand(2, 3, 9, 8).double()
    found = ssim(a, b, window=window, span=span)
    assert found.shape == (2, 3)
    want = [[written_out(a[i, j].numpy(), b[i, j].numpy(), window, span) for j in range(3)] for i in range(2)]
    np.testing.assert_allclose(found, want, rtol=1e-9)


def test_one_for_itself_less_for_anything_else_and_exact_on_a_bright_flat_ground():
    a = torch.rand(5, 8, 8)
    torch.testing.assert_close(ssim(a, a), torch.ones(5))
    assert float(ssim(a, a + 0.1).max()) < 1
    assert float(ssim(a, 1 - a).max()) < 0
    half = torch.rand(3, 8, 8).half()
    assert ssim(half, half).dtype == torch.float32
    bright, wave = torch.full((1, 8, 8), 1000.0), 0.1 * torch.rand(1, 8, 8)
    exact = ssim((bright + wave).double(), bright.double(), window=4)
    torch.testing.assert_close(ssim(bright + wave, bright, window=4).double(), exact, atol=1e-4, rtol=0)


def test_other_images_are_refused():
    with pytest.raises(ValueError, match=r"one shape \[..., H, W\]; got \(8, 8\) and \(8, 9\)"):
        ssim(torch.rand(8, 8), torch.rand(8, 9))
    with pytest.raises(ValueError, match="from 1 to the shorter side, 6"):
        ssim(torch.rand(8, 6), torch.rand(8, 6), window=7)
    with pytest.raises(ValueError, match="span above 0"):
        ssim(torch.rand(8, 8), torch.rand(8, 8), span=0.0)
