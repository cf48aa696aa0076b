"""Token pooling without parameters: [B, T, D] states and a mask to one vector per row.

A linear pool is a row of weights computed from the mask alone, so several of them share one read of the states:
`weights(mask)` gives the row (in float64, it is small), `forward` applies it. Empty rows give zeros.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lab.pooling.functional import check, masked_max, positions, weighted_sum


class LinearPool(nn.Module):
    """y[b] = sum over real t of w[b, t] x[b, t], with w = self.weights(mask). x (B, T, D), mask (B, T) -> (B, D)."""

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        self.dim = dim  # every pool is built the same way; a fixed weighting has no use for the width

    def weights(self, mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        raise NotImplementedError(f"{type(self).__name__} must say its weights")

    def forward(self, x: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B D"]:
        check(x, mask)
        return weighted_sum(x, self.weights(mask)[:, None], mask)[:, 0]


class FirstPool(LinearPool):
    """The first real token, y = x[min t]: "CLS pooling" where the tokenizer puts such a token in front.

    Devlin et al., 2019, section 4.1 (the final hidden vector of [CLS]; section recalled). https://arxiv.org/abs/1810.04805
    """

    def weights(self, mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        return (positions(mask) == 1).to(torch.float64)


class LastPool(LinearPool):
    """The last real token, y = x[max t]: the only one that has seen all others in a causal model.

    Neelakantan et al., 2022, section 2 (the state of the end-of-sequence token; section recalled). https://arxiv.org/abs/2201.10005
    """

    def weights(self, mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        at = positions(mask)
        return ((at == at.amax(1, keepdim=True)) & mask).to(torch.float64) if mask.shape[1] else at


class MeanPool(LinearPool):
    """The mean over real tokens, y = 1/n sum_t x_t.

    Reimers & Gurevych, 2019, section 3 (recalled). https://arxiv.org/abs/1908.10084
    """

    def weights(self, mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        real = mask.to(torch.float64)
        return real / real.sum(1, keepdim=True).clamp(min=1)


class SqrtMeanPool(LinearPool):
    """The sum over real tokens by the square root of their number, y = 1/sqrt(n) sum_t x_t.

    Keeps the variance of a sum of n independent tokens at that of one. Cer et al., 2018, section 3.2 (recalled; the
    transformer encoder's sentence vector). https://arxiv.org/abs/1803.11175
    """

    def weights(self, mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        real = mask.to(torch.float64)
        return real / real.sum(1, keepdim=True).clamp(min=1).sqrt()


class PositionMeanPool(LinearPool):
    """The position-weighted mean, y = sum_t t x_t / sum_t t with t = 1 .. n along the real tokens.

    Later tokens of a causal model have seen more, so they count more. SGPT: Muennighoff, 2022, eq. 2 in section 4
    (equation number recalled). https://arxiv.org/abs/2202.08904
    """

    def weights(self, mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        at = positions(mask)
        return at / at.sum(1, keepdim=True).clamp(min=1)


class MaxPool(nn.Module):
    """The maximum over real tokens, each coordinate by itself, y_d = max_t x_td. x (B, T, D), mask (B, T) -> (B, D).

    Conneau et al., 2017, section 3.2.3 (BiLSTM-max; section number recalled). https://arxiv.org/abs/1705.02364
    """

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B D"]:
        check(x, mask)
        return masked_max(x, mask)
