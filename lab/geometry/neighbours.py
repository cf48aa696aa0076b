"""What the nearest neighbours of each row tell: how many dimensions there are, and who is everyone's neighbour.

All but hubness come from ratios of distances or from lists of neighbours: unchanged by shift, scale, rotation and
the order of rows (where no distances tie), changed by a stretch of single axes. One search serves them all.
"""

import torch
from torch import Tensor

from lab.geometry.space import Space, space


def two_nn(x: Tensor | Space, discard: float = 0.1) -> Tensor:
    """Intrinsic dimension d from mu_i = r_2 / r_1, the ratio of the distances to the two nearest rows. [*L].

    mu follows P(mu > m) = m^-d. With mu sorted and F_i = i / n, d is the slope through the origin of -ln(1 - F_i) on
    ln mu_i, without the largest `discard` share. Rows whose nearest neighbour is a copy (r_1 = 0) are left out and
    counted by `duplicates`. Low for high dimensions (40 reads as about 27 at n = 2,000). NaN with fewer than two rows
    left to fit, or where all mu are 1.

    Facco et al., 2017. https://doi.org/10.1038/s41598-017-11873-y
    ValueError for fewer than three rows, or discard outside [0, 1).
    """
    if not 0 <= discard < 1:
        raise ValueError(f"discard is a share, from 0 to below 1; got {discard}")
    logs, n = _log_mu(x)
    order = logs.sort(dim=-1).values  # rows that do not count are infinite: last
    i = torch.arange(1, order.shape[-1] + 1, dtype=order.dtype, device=order.device)
    n = n[..., None]
    used = (i <= torch.floor(n * (1 - discard))) & (i < n)  # 1 - F_n = 0 has no logarithm
    rise = torch.where(used, -torch.log1p(-i / n.clamp(min=1) * used), 0)
    run = torch.where(used, order, 0)
    square = run.square().sum(-1)
    return torch.where((used.sum(-1) > 1) & (square > 0), (rise * run).sum(-1) / square, torch.nan)


def two_nn_mle(x: Tensor | Space) -> Tensor:
    """The other form of two_nn: the maximum-likelihood d of P(mu > m) = m^-d, unbiased: (n - 1) / sum_i ln mu_i. [*L].

    Uses all rows, so near copies, whose mu is huge, draw it down, where two_nn leaves them out: sentence embeddings of
    documentation gave 7.2 to 8.0 so and 10.1 to 12.2 by the fit. Rows whose nearest neighbour is a copy are left out.
    NaN with fewer than two rows left, or where all mu are 1.

    Facco et al., 2017, https://doi.org/10.1038/s41598-017-11873-y; the form after Denti et al., 2022 (recalled).
    ValueError for fewer than three rows.
    """
    logs, n = _log_mu(x)
    total = torch.where(logs.isfinite(), logs, 0).sum(-1)
    return torch.where((n > 1) & (total > 0), (n - 1) / total, torch.nan)


def _log_mu(x: Tensor | Space) -> tuple[Tensor, Tensor]:
    """ln(r_2 / r_1) [*L, N], infinite for rows that do not count, and how many do."""
    distance, _ = space(x).needs(3, "a second neighbour").nearest(2)
    counts = distance[..., 0] > 0
    ratio = distance[..., 1] / torch.where(counts, distance[..., 0], 1)
    return torch.where(counts, ratio.log(), torch.inf), counts.sum(-1).to(ratio.dtype)


def levina_bickel(x: Tensor | Space, k: int = 20) -> Tensor:
    """Maximum-likelihood intrinsic dimension: 1 / d = mean_i 1/(k-1) sum_{j<k} ln(T_k / T_j), T_j to neighbour j. [*L].

    The mean is of 1/d, over rows (MacKay & Ghahramani: the likelihood of all rows together), and with it 1/(k-1) is
    right: the 1/(k-2) of the paper's own average over d would make this one low by (k-2)/(k-1). Rows whose nearest
    neighbour is a copy are left out; kept, each would make ln(T_k / 0) and the whole number 0. NaN without rows left.

    Levina & Bickel, 2004 (NeurIPS), eq. 8 (number recalled); MacKay & Ghahramani, 2005 (a note on the web).
    ValueError for k < 3 or fewer than k + 1 rows.
    """
    if k < 3:
        raise ValueError(f"k must be at least 3; got {k}")
    distance, _ = space(x).nearest(k)
    counts = distance[..., 0] > 0
    safe = torch.where(counts[..., None], distance, 1)
    inverse = (safe[..., -1:] / safe[..., :-1]).log().mean(-1)  # over k - 1 neighbours; 0 for rows that do not count
    total = inverse.sum(-1)
    return torch.where(total > 0, counts.sum(-1) / torch.where(total > 0, total, 1), torch.nan)


def hubness(x: Tensor | Space, k: int = 10) -> Tensor:
    """Skewness of N_k(i), in how many lists of k nearest neighbours row i stands: E (N - k)^3 / sd(N)^3. [*L].

    0 when all are equally popular, about 1 to 3 for embeddings of hundreds of dimensions: a few hubs are near
    everything. NaN where all N_k are equal. Euclidean; give unit rows for cosine.

    Radovanovic, Nanopoulos & Ivanovic, 2010 (JMLR 11), eq. 1 (number recalled).
    ValueError for fewer than k + 1 rows.
    """
    away = _popularity(x, k) - k  # each row names k others: the mean is k
    spread = away.square().mean(-1)
    return torch.where(spread > 0, away.pow(3).mean(-1) / torch.where(spread > 0, spread, 1).pow(1.5), torch.nan)


def antihubs(x: Tensor | Space, k: int = 10) -> Tensor:
    """Share of rows that stand in nobody's list of k nearest neighbours, N_k(i) = 0. [*L], in [0, 1).

    Rows that no search finds. Radovanovic, Nanopoulos & Ivanovic, 2010 (JMLR 11).
    ValueError for fewer than k + 1 rows.
    """
    return (_popularity(x, k) == 0).double().mean(-1)


def _popularity(x: Tensor | Space, k: int) -> Tensor:
    if k < 1:
        raise ValueError(f"k must be at least 1; got {k}")
    _, index = space(x).nearest(k)
    lists = index.reshape(-1, index.shape[-2] * k)
    counts = torch.stack([torch.bincount(part, minlength=index.shape[-2]) for part in lists])
    return counts.view(index.shape[:-1]).double()


def duplicates(x: Tensor | Space) -> Tensor:
    """Share of rows that have an exact copy among the others. [*L], in [0, 1]. ValueError for fewer than two rows.

    What two_nn and levina_bickel leave out; a high share says that their number speaks of few rows.
    """
    distance, _ = space(x).nearest(1)
    return (distance[..., 0] == 0).double().mean(-1)
