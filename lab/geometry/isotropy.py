"""Do the vectors of a space point everywhere, or all one way?"""

import torch
from jaxtyping import Float
from torch import Tensor


def anisotropy(x: Float[Tensor, "*L N D"]) -> Float[Tensor, "*L"]:
    """Mean cosine over all pairs of distinct rows: 0 for directions spread evenly, 1 when all point the same way.

    With u_i = x_i / |x_i|: (|sum_i u_i|^2 - n) / (n (n - 1)), exact and linear in n; a zero row has cosine 0 with
    all others. Unchanged by scaling single rows and by rotating all of them; changed by a shift. In [-1/(n-1), 1].

    Ethayarajh, 2019, section 3.2 (there from sampled pairs; section recalled). https://arxiv.org/abs/1909.00512
    """
    n = x.shape[-2]
    if n < 2:
        raise ValueError(f"a mean over pairs needs at least two rows; got x of shape {tuple(x.shape)}")
    wide = x.double()
    norms = wide.norm(dim=-1, keepdim=True)
    units = wide / torch.where(norms > 0, norms, 1)
    own = (norms > 0).sum(dim=(-2, -1))  # each non-zero row has cosine 1 with itself
    return (units.sum(-2).square().sum(-1) - own) / (n * (n - 1))
