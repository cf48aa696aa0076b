"""Token pooling without parameters: [B, T, D] states and a mask, or ragged [N, D] and offsets, to one vector per row.

A linear pool is a weight per token computed from the mask alone, so several of them share one read of the states:
`weights(mask)` gives the weights (in float64, they are small), `forward` applies them. Empty rows give zeros.
"""

from jaxtyping import Float
from torch import Tensor, nn

from lab.kernels.layout import Segments, Tokens, expand, is_padded, token_at
from lab.pooling.functional import check, counts, positions, segment_pool, weighed


class LinearPool(nn.Module):
    """y[b] = sum over real t of w[b, t] x[b, t], with w = self.weights(mask). x (B, T, D), mask (B, T) -> (B, D).

    A weighting is a function of two numbers per token, `self.weigh(at, n)`: its place 1 .. n among the real tokens
    of its segment (0 at padding, where it must give 0) and their number, [B, 1] where all of a row have the same. So it
    is the same function in both layouts.
    """

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        self.dim = dim  # every pool is built the same way; a fixed weighting has no use for the width

    def weigh(self, at: Float[Tensor, "..."], n: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        raise NotImplementedError(f"{type(self).__name__} must say its weights")

    def weights(self, mask: Segments, tokens: int | None = None) -> Float[Tensor, "..."]:
        """[B, T] for a mask, 0 at padding; [N] for offsets, where `tokens` = N saves reading it from them, a wait."""
        at = positions(mask, tokens)
        n = counts(mask).clamp(min=1).to(at.dtype)
        return self.weigh(at, n[:, None] if is_padded(mask) else expand(n, mask, len(at)))

    def forward(self, x: Tokens, mask: Segments) -> Float[Tensor, "S D"]:
        check(x, mask)
        weights = self.weights(mask, x.shape[-2])
        return weighed(x, weights[..., None], mask).squeeze(1)


class FirstPool(LinearPool):
    """The first real token, y = x[min t]: "CLS pooling" where the tokenizer puts such a token in front.

    Devlin et al., 2019, section 4.1 (the final hidden vector of [CLS]; section recalled). https://arxiv.org/abs/1810.04805
    """

    def weigh(self, at: Float[Tensor, "..."], n: Float[Tensor, "..."]) -> Float[Tensor, "..."]:  # noqa: ARG002
        return (at == 1).to(at.dtype)

    def forward(self, x: Tokens, mask: Segments) -> Float[Tensor, "S D"]:
        check(x, mask)
        return token_at(0, x, mask)


class LastPool(LinearPool):
    """The last real token, y = x[max t]: the only one that has seen all others in a causal model.

    Neelakantan et al., 2022, section 2 (the state of the end-of-sequence token; section recalled). https://arxiv.org/abs/2201.10005
    """

    def weigh(self, at: Float[Tensor, "..."], n: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return (at == n).to(at.dtype)

    def forward(self, x: Tokens, mask: Segments) -> Float[Tensor, "S D"]:
        check(x, mask)
        return token_at(-1, x, mask)


class MeanPool(LinearPool):
    """The mean over real tokens, y = 1/n sum_t x_t.

    Reimers & Gurevych, 2019, section 3 (recalled). https://arxiv.org/abs/1908.10084
    """

    def weigh(self, at: Float[Tensor, "..."], n: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return (at > 0) / n

    def forward(self, x: Tokens, mask: Segments) -> Float[Tensor, "S D"]:
        return segment_pool(x, mask, "mean")


class SqrtMeanPool(LinearPool):
    """The sum over real tokens by the square root of their number, y = 1/sqrt(n) sum_t x_t.

    Keeps the variance of a sum of n independent tokens at that of one. Cer et al., 2018, section 3.2 (recalled; the
    transformer encoder's sentence vector). https://arxiv.org/abs/1803.11175
    """

    def weigh(self, at: Float[Tensor, "..."], n: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return (at > 0) / n.sqrt()


class PositionMeanPool(LinearPool):
    """The position-weighted mean, y = sum_t t x_t / sum_t t with t = 1 .. n along the real tokens.

    Later tokens of a causal model have seen more, so they count more. SGPT: Muennighoff, 2022, eq. 2 in section 4
    (equation number recalled). https://arxiv.org/abs/2202.08904 RDS+, for selecting data, has the same weights (arXiv
    2503.01807, number recalled); its code counts places along the padded batch, which is this for one text alone.
    """

    def weigh(self, at: Float[Tensor, "..."], n: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return 2 * at / (n * (n + 1))


class MaxPool(nn.Module):
    """The maximum over real tokens, each coordinate by itself, y_d = max_t x_td. x (B, T, D), mask (B, T) -> (B, D).

    Conneau et al., 2017, section 3.2.3 (BiLSTM-max; section number recalled). https://arxiv.org/abs/1705.02364
    """

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tokens, mask: Segments) -> Float[Tensor, "S D"]:
        return segment_pool(x, mask, "max")


class MinPool(nn.Module):
    """The minimum over real tokens, each coordinate by itself, y_d = min_t x_td. x (B, T, D), mask (B, T) -> (B, D).

    The maximum's mirror image, min(x) = -max(-x); a standard form without one source.
    """

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tokens, mask: Segments) -> Float[Tensor, "S D"]:
        return segment_pool(x, mask, "min")
