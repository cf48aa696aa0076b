"""How many directions a space uses, read from its singular values s_1 >= s_2 >= ...: five numbers, five meanings.

On one matrix they differ several times over (of 2,000 embeddings of width 384: 209, 109, 79 and 37), so a number is
worth its name only. X is the matrix of rows x [*L, N, D], as given or, with centred=True, less its mean row. All are
unchanged by scaling, by rotating rows or columns and by the order of rows, and seen to change by a stretch of single
axes; a shift changes them unless centred. All are biased low when N is not many times D: compare equal N only.
"""

import torch
from torch import Tensor

from lab.geometry.space import Space, space


def effective_rank(x: Tensor | Space, centred: bool = False) -> Tensor:
    """exp of the entropy of the singular values: exp(-sum_i p_i ln p_i), p_i = s_i / sum_j s_j. [*L, N, D] -> [*L].

    1 for rows that are all parallel, min(N, D) for equal singular values, 0 for the zero matrix.

    Roy & Vetterli, 2007 (EUSIPCO), definition 1 (number recalled); on the matrix as given.
    """
    squares = space(x, centred).squares
    return torch.where(_any(squares), torch.special.entr(_shares(squares.sqrt())).sum(-1).exp(), 0)


def rankme(x: Tensor | Space, centred: bool = False, eps: float = 1e-7) -> Tensor:
    """exp(-sum_i p_i ln p_i), p_i = s_i / sum_j s_j + eps, over the min(N, D) values. [*L, N, D] -> [*L].

    effective_rank with eps added to every share (1e-7 is the paper's for float32), so slightly above it where there
    are zero singular values. 0 for the zero matrix.

    Garrido et al., 2023, eq. 1 (number recalled; there of some 25,000 uncentred rows).
    https://arxiv.org/abs/2210.02885
    """
    squares = space(x, centred).squares
    return torch.where(_any(squares), torch.special.entr(_shares(squares.sqrt()) + eps).sum(-1).exp(), 0)


def participation_ratio(x: Tensor | Space, centred: bool = True) -> Tensor:
    """(sum_i l_i)^2 / sum_i l_i^2, l_i = s_i^2, the eigenvalues of the covariance. [*L, N, D] -> [*L].

    In [1, min(N, D)]: k where k eigenvalues are equal and the others 0; 0 where all rows are one point. Of n Gaussian
    rows in d dimensions about d / (1 + d / n).

    Gao et al., 2017 (recalled), tr(C)^2 / |C|_F^2. https://doi.org/10.1101/214262
    """
    squares = space(x, centred).squares
    return torch.where(_any(squares), _shares(squares).square().sum(-1).clamp(min=1e-300).reciprocal(), 0)


def stable_rank(x: Tensor | Space, centred: bool = False) -> Tensor:
    """|X|_F^2 / |X|_2^2 = sum_i s_i^2 / s_1^2. [*L, N, D] -> [*L].

    In [1, min(N, D)], never above the rank, and moved little by small singular values; 0 for the zero matrix.

    Rudelson & Vershynin, 2007 (there "numerical rank"; recalled). https://arxiv.org/abs/math/0503442
    """
    squares = space(x, centred).squares
    first = squares[..., 0]
    return torch.where(_any(squares), squares.sum(-1) / torch.where(first > 0, first, 1), 0)


def matrix_entropy(x: Tensor | Space, alpha: float = 1.0, centred: bool = False) -> Tensor:
    """Renyi's entropy of the Gram matrix K = X X', in nats: ln(sum_i p_i^alpha) / (1 - alpha). [*L, N, D] -> [*L].

    p = eigenvalues of K / tr K, which are those of X'X / tr X'X too: s_i^2 / sum_j s_j^2. alpha -> 1 is von Neumann's
    -sum p ln p, alpha = 2 minus the log of the participation ratio's inverse. From 0 (parallel rows) to
    ln min(N, D), by which one divides to compare sizes; falls as alpha grows. NaN for the zero matrix.

    Giraldo, Rao & Principe, 2014 (recalled). https://arxiv.org/abs/1211.2459. Over pooled texts this is the data set
    entropy of Skean et al., 2025, https://arxiv.org/abs/2502.02013; over the tokens of one, see prompt_entropy.
    ValueError for alpha < 0.
    """
    squares = space(x, centred).squares
    return torch.where(_any(squares), renyi(_shares(squares), alpha), torch.nan)


def renyi(p: Tensor, alpha: float) -> Tensor:
    """Renyi's entropy of each last axis of p, in nats; zero shares count for nothing, at alpha = 0 too."""
    if not alpha >= 0:
        raise ValueError(f"alpha must be at least 0 (1 is Shannon's entropy); got {alpha}")
    if abs(alpha - 1) < 1e-6:  # the quotient has lost its digits there; the limit is within 1e-5 of it
        return torch.special.entr(p).sum(-1)
    powers = torch.where(p > 0, p.clamp(min=1e-300) ** alpha, 0)
    return powers.sum(-1).log() / (1 - alpha)


def spectral_exponent(x: Tensor | Space, ranks: tuple[int, int] | None = None, centred: bool = True) -> Tensor:
    """a of the power law l_i ~ i^-a of the covariance's eigenvalues: minus the slope of ln l_i on ln i. [*L].

    By ordinary least squares over the ranks first <= i <= last; by default from 5 % to 50 % of min(N - 1, D), since
    the first few lie off the line and the last fall by the finite sample alone. Small a: many directions share the
    variance; near 1 is where alpha-ReQ finds the best transfer. NaN where an eigenvalue of the range is 0, and where
    the default range has fewer than three ranks.

    alpha-ReQ, Agrawal et al., 2022 (NeurIPS; the range of its fit is not confirmed, ours is not claimed to be it);
    Stringer et al., 2019, fitted ranks 11 to 500 (recalled). ValueError for a range outside 1 .. min(N, D) or of fewer
    than three ranks.
    """
    squares = space(x, centred).squares
    room = squares.shape[-1]
    usable = min(space(x).n - 1, room)
    first, last = ranks or (max(1, usable // 20), usable // 2)
    if ranks is None and last < first + 2:
        return torch.full_like(squares[..., 0], torch.nan)
    if not (first >= 1 and first + 2 <= last <= room):
        raise ValueError(f"a slope needs at least three ranks from 1 to min(rows, dim) = {room}; got {first} to {last}")
    log = torch.arange(first, last + 1, dtype=squares.dtype, device=squares.device).log()
    log = log - log.mean()
    values = squares[..., first - 1 : last]
    slope = (values.clamp(min=1e-300).log() * log).sum(-1) / log.square().sum()
    return torch.where((values > 0).all(-1), -slope, torch.nan)


def _any(squares: Tensor) -> Tensor:
    return squares[..., 0] > 0


def _shares(values: Tensor) -> Tensor:
    total = values.sum(-1, keepdim=True)
    return values / torch.where(total > 0, total, 1)
