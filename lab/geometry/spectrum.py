"""How many directions a space uses, read from its singular values."""

import torch
from jaxtyping import Float
from torch import Tensor


def effective_rank(x: Float[Tensor, "*L N D"]) -> Float[Tensor, "*L"]:
    """exp of the entropy of the singular values: erank = exp(-sum_i p_i ln p_i), p_i = s_i / sum_j s_j.

    On the matrix as given, neither centred nor scaled: 1 for rows that are all parallel, min(N, D) for equal
    singular values, 0 for the zero matrix. Unchanged by scaling and by rotations of rows or columns; biased low
    when N is not many times D, so compare only equal N.

    Roy & Vetterli, 2007 (EUSIPCO), definition 1 (number recalled). RankMe (https://arxiv.org/abs/2210.02885) is
    the same number, with 1e-7 added to every p.
    """
    wide = x.double()
    tall = wide if wide.shape[-2] >= wide.shape[-1] else wide.mT
    # eigenvalues of the small Gram matrix: in float64 exact enough, and many times faster than an SVD
    squares = torch.linalg.eigvalsh(tall.mT @ tall).clamp(min=0)
    values = squares.sqrt()
    share = values / values.sum(-1, keepdim=True).clamp(min=torch.finfo(values.dtype).tiny)
    return torch.where(squares.sum(-1) > 0, torch.special.entr(share).sum(-1).exp(), 0)
