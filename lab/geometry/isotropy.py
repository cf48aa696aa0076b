"""Do the vectors of a space point everywhere, or all one way?"""

import torch
from torch import Tensor

from lab.geometry.space import Space, space
from lab.geometry.spectrum import participation_ratio

BLOCK = 2**19  # pairs at once: 4 MB, which caches hold


def anisotropy(x: Tensor | Space, centred: bool = False) -> Tensor:
    """Mean cosine over all pairs of distinct rows: 0 for directions spread evenly, 1 when all point the same way.

    With u_i = x_i / |x_i|: (|sum_i u_i|^2 - n) / (n (n - 1)), exact and linear in n; a zero row has cosine 0 with
    all others. [*L, N, D] -> [*L], in [-1/(n-1), 1]. Unchanged by scaling single rows and by rotating all of them;
    changed by a shift unless centred: then about 0 for any cloud that is even around its mean.

    Ethayarajh, 2019, section 3.2 (there from sampled pairs; section recalled). https://arxiv.org/abs/1909.00512
    ValueError for fewer than two rows.
    """
    here = space(x, centred).needs(2, "a mean over pairs")
    own = (here.units != 0).any(-1).sum(-1)  # each non-zero row has cosine 1 with itself
    return (here.units.sum(-2).square().sum(-1) - own) / (here.n * (here.n - 1))


def isoscore(x: Tensor | Space) -> Tensor:
    """(PR - 1) / (D - 1), PR the participation ratio of the covariance: 0 for a line, 1 for equal variances. [*L].

    The paper's steps, from the normalised principal variances to the defect of isotropy and a rescaling, give this
    number exactly. Rows are examples. Unchanged by shift, scale and rotation,
    changed by a stretch. NaN where all rows are one point and for D = 1.

    Rudman et al., 2022, algorithm 1 (number recalled). https://arxiv.org/abs/2108.07344
    """
    here = space(x).needs(2, "a covariance")
    ratio = participation_ratio(here)
    defined = (ratio > 0) & (here.dim > 1)
    return torch.where(defined, (ratio - 1) / max(here.dim - 1, 1), torch.nan)


def alignment(x: Tensor | Space, y: Tensor | Space, alpha: float = 2.0) -> Tensor:
    """Mean distance of positive pairs: E |x_i/|x_i| - y_i/|y_i||^alpha. Both [*L, N, D] -> [*L]; 0 is best.

    At alpha = 2 it is 2 - 2 E cos(x_i, y_i), in [0, 4]. Unchanged by scaling single rows and by one rotation of both
    sides; changed by a rotation of one, and by another pairing. A zero row stays zero.

    Wang & Isola, 2020, eq. for L_align. https://arxiv.org/abs/2005.10242
    ValueError for other shapes and alpha <= 0.
    """
    a, b = space(x), space(y)
    if a.x.shape != b.x.shape:
        raise ValueError(f"pairs need two sides of one shape; got {tuple(a.x.shape)} and {tuple(b.x.shape)}")
    if not alpha > 0:
        raise ValueError(f"alpha must be above 0; got {alpha}")
    return (a.units - b.units).norm(dim=-1).pow(alpha).mean(-1)


def uniformity(x: Tensor | Space, t: float = 2.0) -> Tensor:
    """ln of the mean over pairs of distinct rows of exp(-t |u_i - u_j|^2), u_i = x_i / |x_i|. [*L, N, D] -> [*L].

    In [-4 t, 0]: 0 when all point one way; about -2 t for random directions in many dimensions, and no lower than
    about that for many rows. The diagonal is left out (with it, ln n bounds the number from below: a common fault).
    Unchanged by scaling single rows and by rotation; changed by a shift. A zero row stays zero, 1 from all others.

    Wang & Isola, 2020, eq. for L_uniform. https://arxiv.org/abs/2005.10242
    ValueError for fewer than two rows and t <= 0.
    """
    if not t > 0:
        raise ValueError(f"t must be above 0; got {t}")
    here = space(x).needs(2, "a mean over pairs")
    parts = here.units.reshape(-1, here.n, here.dim)
    return torch.stack([_mean_kernel(part, t) for part in parts]).view(here.x.shape[:-2])


def _mean_kernel(u: Tensor, t: float) -> Tensor:
    own, n = u.square().sum(1), len(u)
    step = max(1, BLOCK // n)
    sums, most = [], []
    for begin in range(0, n - 1, step):  # rows of a block against themselves and what follows: each pair once
        rows, others = slice(begin, begin + step), slice(begin, None)
        square = torch.addmm(own[None, others], u[rows], u[others].T, alpha=-2).add_(own[rows, None])
        square.masked_fill_(torch.ones_like(square, dtype=torch.bool).tril_(), torch.inf)
        least = square.min()
        sums.append(square.sub_(least).mul_(-t).exp_().sum())
        most.append(-t * least)
    pairs = u.new_tensor(n * (n - 1) / 2)
    return (torch.stack(sums).log() + torch.stack(most)).logsumexp(0) - pairs.log()
