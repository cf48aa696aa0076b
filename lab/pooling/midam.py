"""Pooling of bags too large for one batch: a running estimate for each bag corrects the pool of the sampled part.

`x` holds a sample of the bag's instances; `index` [B] names the bags, and each keeps its estimate in a buffer in
log-space, where no exponential overflows. With `index` and in training mode the estimate moves and is the value; else
the pool is the exact one of what it is given. A bag seen for the first time starts at its first estimate (the official
code starts all at 1).
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lab.kernels.layout import Segments, Tokens, finite
from lab.pooling.arguments import check_counts
from lab.pooling.attention import GatedAttentionPool
from lab.pooling.functional import check, counts, segment_pool
from lab.pooling.generalized import log_mean_exp, wide
from lab.pooling.selection import blank


def move(log_old: Tensor, log_new: Tensor, gamma: float) -> Tensor:
    """ln((1 - gamma) e^old + gamma e^new); an old of -inf (never seen) takes the new one whole."""
    if gamma == 1:
        return log_new
    moved = torch.logaddexp(math.log1p(-gamma) + log_old, math.log(gamma) + log_new)
    return torch.where(log_old.isneginf(), log_new, moved)


def check_bags(index: Tensor, rows: int, num_bags: int) -> None:
    """ValueError unless index is one bag for each row, in range and none twice: two moves of one bag have no order."""
    if not isinstance(index, Tensor) or index.dtype not in {torch.int32, torch.int64}:
        got = index.dtype if isinstance(index, Tensor) else type(index).__name__
        raise TypeError(f"index must be a tensor of int64, one bag for each row; got {got}")
    if index.shape != (rows,):
        raise ValueError(f"index must be ({rows},), one bag for each row; got {tuple(index.shape)}")
    low, high = (int(index.min()), int(index.max())) if rows else (0, 0)
    if low < 0 or high >= num_bags:
        raise ValueError(f"index must be in 0 .. {num_bags - 1}; got {low} to {high}")
    if len(index.unique()) < rows:
        raise ValueError("index names a bag twice in one batch; put its instances into one row")


def check_gamma(gamma: float, num_bags: int) -> None:
    check_counts(num_bags=num_bags)
    if not 0 < gamma <= 1:
        raise ValueError(f"gamma must be in (0, 1]; got {gamma}")


class MIDAMSoftmaxPool(nn.Module):
    """Smoothed maximum h = tau ln(1/|X| sum_t exp(x_t / tau)) of each coordinate, with a running estimate s:

        s <- (1 - gamma) s + gamma s',  s' = mean of exp(x / tau) over the sample,  h = tau ln s,  dh = tau ds' / s

    x (B, T, D), mask (B, T), index (B,) -> (B, D), or ragged. gamma = 1 on the full bag is exact log-mean-exp; tau ->
    inf is the mean, tau -> 0 the maximum. Since s >= gamma s', the correction s' / s of the gradient is at most 1 /
    gamma. Zhu et al., ICML 2023, section 4.1 (number recalled; update from the official code, which takes exp(x / tau)
    outside of log-space: inf for x > 8.9 at tau = 0.1). https://arxiv.org/abs/2305.08040
    ValueError: tau or gamma out of range, index out of range or with a bag twice.
    """

    log_s: Tensor

    def __init__(self, dim: int, num_bags: int = 1, tau: float = 0.1, gamma: float = 0.9) -> None:
        super().__init__()
        check_gamma(gamma, num_bags)
        if not 0 < tau < math.inf:
            raise ValueError(f"tau must be positive and finite; got {tau}")
        self.dim, self.num_bags, self.tau, self.gamma = dim, num_bags, tau, gamma
        self.register_buffer("log_s", torch.full((num_bags, dim), -torch.inf))

    def forward(self, x: Tokens, mask: Segments, index: Int[Tensor, " S"] | None = None) -> Float[Tensor, "S D"]:
        check(x, mask, self.dim)
        r = torch.tensor(1 / self.tau, dtype=wide(x), device=x.device)
        exact = log_mean_exp(x, mask, r)
        if index is None or not self.training:
            return exact.to(x.dtype)
        check_bags(index, len(exact), len(self.log_s))
        log_new = exact.detach() / self.tau
        log_s = move(self.log_s[index].to(log_new.dtype), log_new, self.gamma)
        seen = counts(mask) > 0
        self.log_s[index[seen]] = log_s[seen].to(self.log_s.dtype)
        correction = (log_new - log_s).exp()
        return blank(self.tau * log_s + correction * (exact - exact.detach()), mask).to(x.dtype)


class MIDAMAttentionPool(nn.Module):
    """Attention pooling y = sum_t e^{s_t} x_t / sum_t e^{s_t}, s_t = w . tanh(V x_t + b_V) + b_w, with running
    estimates of the numerator and the denominator, each moved by gamma towards its mean over the sample.

    x (B, T, D), mask (B, T), index (B,) -> (B, D), or ragged. Kept as ln of the denominator and the quotient y, so the
    running y is a convex combination of the samples' and nothing overflows; dy = (d num' - y d den') / den with the
    running den. gamma = 1 on the full bag is exact attention. The official code pools the instances' predictions and
    ends in a sigmoid: put those into x, the sigmoid after. Zhu et al., ICML 2023, section 4.2 (number recalled; update
    from the official code). https://arxiv.org/abs/2305.08040
    ValueError: gamma out of range, index out of range or with a bag twice.
    """

    log_den: Tensor
    quotient: Tensor

    def __init__(self, dim: int, num_bags: int = 1, hidden: int = 128, gamma: float = 0.9) -> None:
        super().__init__()
        check_gamma(gamma, num_bags)
        self.dim, self.num_bags, self.hidden, self.gamma = dim, num_bags, hidden, gamma
        self.attention = GatedAttentionPool(dim, hidden, gated=False)
        self.register_buffer("log_den", torch.full((num_bags, 1), -torch.inf))
        self.register_buffer("quotient", torch.zeros(num_bags, dim))

    def forward(self, x: Tokens, mask: Segments, index: Int[Tensor, " S"] | None = None) -> Float[Tensor, "S D"]:
        check(x, mask, self.dim)
        if index is None or not self.training:
            return self.attention(x, mask)
        real = finite(x, mask).to(torch.promote_types(wide(x), self.attention.w.weight.dtype))
        scores = self.attention.scores(real.to(self.attention.w.weight.dtype)).to(real.dtype)
        y = segment_pool(real, mask, "softmax", scores[..., 0])
        check_bags(index, len(y), len(self.log_den))
        log_n = counts(mask).clamp(min=1).to(real.dtype).log()[:, None]
        log_new = segment_pool(scores, mask, "lse") - log_n  # of the mean of e^s
        log_den = move(self.log_den[index].to(real.dtype), log_new.detach(), self.gamma)
        # with both running values the new quotient is old + share (sample - old), share = gamma den' / den
        correction = (log_new.detach() - log_den).exp()
        unseen = self.log_den[index].isneginf()
        share = torch.where(unseen, 1.0, self.gamma * correction)
        old = self.quotient[index].to(real.dtype)
        moved = old + share * (y.detach() - old)
        seen = counts(mask) > 0
        self.log_den[index[seen]] = log_den[seen].to(self.log_den.dtype)
        self.quotient[index[seen]] = moved[seen].to(self.quotient.dtype)
        slope = (y - y.detach()) + (y.detach() - moved) * (log_new - log_new.detach())
        return blank(moved + correction * slope, mask).to(x.dtype)
