"""How smooth a sequence of states is: the share of its energy that sits in low frequencies.

Attention averages, which keeps low frequencies and loses high ones; convolutions and max-pools do not. Frequencies are
in cycles per token (patch): 0 is the mean of the sequence, 1/2 a change of sign at every step. Masks, ragged input and
the use inside lab.capture are as in lab.geometry.trajectories.
"""

import torch
from torch import Tensor

from lab.geometry.trajectories import packed_left


def low_frequency(x: Tensor, mask: Tensor, cutoff: float = 0.1) -> Tensor:
    """sum_{|f| <= cutoff} |X_f|^2 / sum_f |X_f|^2, X_f = sum_t x_t exp(-2 pi i f t), f = k / n of a text's n tokens.

    [B], in [0, 1]; summed over all D. cutoff 0 keeps the mean alone: |mean|^2 over the mean of |x_t|^2, what attention
    without skips collapses to (Wang et al., 2022, https://arxiv.org/abs/2203.05962; abstract-level). White noise has
    the share of the frequencies kept. Unchanged by scale, rotation and turning the order round; changed by shuffling
    the tokens (unless cutoff is 0) and by a shift. NaN for texts without tokens and of zeros.

    Per layer, as in iFormer's and Park & Kim's spectra of branches (https://arxiv.org/abs/2205.12956,
    https://arxiv.org/abs/2202.06709; both abstract-level). ValueError for a cutoff outside [0, 1/2].
    """
    _check(cutoff)
    rows, real = packed_left(x, mask)
    lengths = real.sum(1)
    found = rows.new_full((len(rows),), torch.nan)
    for n in lengths.unique().tolist():  # batches of capture hold texts of few lengths
        if n:
            these = lengths == n
            found[these] = _share(torch.fft.fft(rows[these, :n], dim=1), _frequencies(n, x), cutoff)
    return found


def patch_low_frequency(x: Tensor, mask: Tensor, grid: tuple[int, int], prefix: int = 1, cutoff: float = 0.1) -> Tensor:
    """low_frequency of patches on a grid: energy where sqrt(f_y^2 + f_x^2) <= cutoff over all of the 2-D spectrum.

    x has `prefix` tokens (class, registers) and then the H x W patches of the grid, row by row. [B], in [0, 1].
    Unchanged by scale, rotation of the states and by turning the picture round; changed by shuffling patches. NaN for
    rows that have not exactly prefix + H W real tokens, so all of them under a wrong grid, and for zeros.

    Park & Kim, 2022, https://arxiv.org/abs/2202.06709 (abstract-level; they show log amplitudes along the diagonal).
    ValueError for a cutoff outside [0, 1/sqrt(2)], grid sides below 1 or a negative prefix.
    """
    _check(cutoff, 0.5**0.5)
    height, width = grid
    if min(height, width) < 1 or prefix < 0:
        raise ValueError(f"grid sides must be at least 1 and prefix at least 0; got {grid} and {prefix}")
    rows, real = packed_left(x, mask)
    fits = real.sum(1) == prefix + height * width
    found = rows.new_full((len(rows),), torch.nan)
    if fits.any():
        patches = rows[fits, prefix : prefix + height * width].unflatten(1, (height, width))
        radius = torch.hypot(_frequencies(height, x)[:, None], _frequencies(width, x)[None])
        found[fits] = _share(torch.fft.fft2(patches, dim=(1, 2)).flatten(1, 2), radius.flatten(), cutoff)
    return found


def _frequencies(n: int, like: Tensor) -> Tensor:
    return torch.fft.fftfreq(n, dtype=torch.float64, device=like.device).abs()


def _share(spectrum: Tensor, frequency: Tensor, cutoff: float) -> Tensor:
    energy = torch.view_as_real(spectrum).square().sum((-2, -1))
    total = energy.sum(1)
    # a frequency k / n that equals the cutoff belongs to it, whatever its last digit
    low = (energy * (frequency <= cutoff + 1e-12)).sum(1)
    return torch.where(total > 0, low / torch.where(total > 0, total, 1), torch.nan)


def _check(cutoff: float, most: float = 0.5) -> None:
    if not 0 <= cutoff <= most + 1e-12:
        raise ValueError(f"cutoff is in cycles per step, from 0 to {most:.4g}; got {cutoff}")
