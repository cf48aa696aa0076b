"""Means that listen to what attention does: without the sinks, or weighted by the attention that a token receives."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lab.kernels.layout import Segments, Tokens, at_once, expand, keep
from lab.pooling.arguments import check_counts
from lab.pooling.functional import check, counts, positions, segment_expand, segment_pool, weighed
from lab.pooling.length import length
from lab.pooling.selection import check_choice, narrow


class SinkExcludingMeanPool(nn.Module):
    """The mean over real tokens that are not attention sinks, y = 1/|K| sum_{t in K} x_t.

    x (B, T, D), mask (B, T) -> (B, D), or ragged. `sinks`, bool for each token, says which they are. Without it they
    are the first `num_sinks` real tokens, where causal models put them, and with `max_norm_ratio` also the tokens whose
    norm is more than so many times the geometric mean of the row's norms, which one massive state hardly moves. A row
    of sinks alone keeps them all. A standard form without one source: "drop the sink from the mean".
    ValueError: num_sinks negative, max_norm_ratio below 1.
    """

    def __init__(self, dim: int | None = None, num_sinks: int = 1, max_norm_ratio: float | None = None) -> None:
        super().__init__()
        check_counts(0, num_sinks=num_sinks)
        if max_norm_ratio is not None and not max_norm_ratio >= 1:
            raise ValueError(f"max_norm_ratio must be 1 or more; got {max_norm_ratio}")
        self.dim, self.num_sinks, self.max_norm_ratio = dim, num_sinks, max_norm_ratio

    def sinks(self, x: Tokens, mask: Segments) -> Bool[Tensor, "*tokens"]:
        """Which tokens are left out when the caller does not say."""
        found = positions(mask, x.shape[-2]) <= self.num_sinks
        if self.max_norm_ratio is not None:
            real = keep(x.detach(), mask).to(torch.promote_types(x.dtype, torch.float32))
            log_norm = length(real)[..., None].clamp(min=1e-6).log()
            usual = segment_expand(segment_pool(log_norm, mask, "mean"), mask, x.shape[-2])
            found = found | ((log_norm - usual)[..., 0].exp() > self.max_norm_ratio)
        return found

    def forward(self, x: Tokens, mask: Segments, sinks: Bool[Tensor, "*tokens"] | None = None) -> Float[Tensor, "S D"]:
        check(x, mask)
        sinks = self.sinks(x, mask) if sinks is None else sinks
        check_choice("sinks", sinks, x)
        kept = ~sinks
        some = narrow(x, mask, kept)
        left = counts(some[1])
        if not (at_once(x) and bool(left.all())):
            some = narrow(x, mask, kept | (expand(left, mask, x.shape[-2]) == 0))
        return segment_pool(*some, "mean")


class ReceivedAttentionPool(nn.Module):
    """Mean weighted by the attention a token receives, y = sum_t a_t x_t / sum_t a_t.

    x (B, T, D), mask (B, T), received (B, T) or ragged [N] -> (B, D). a_t >= 0 is what the caller measured, such as the
    column sums of attention maps averaged over heads and layers; equal ones give the mean. It cannot be guessed from x,
    so `received` has no default. A row that received nothing gives zeros. In the manner of ATA (ACL 2025, from the
    abstract: weights from received attention, no parameters; its exact formula is not verified).
    https://arxiv.org/abs/2509.00842
    ValueError: `received` missing, or negative or not finite at a real token.
    """

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        self.dim = dim

    def forward(
        self, x: Tokens, mask: Segments, received: Float[Tensor, "*tokens"] | None = None
    ) -> Float[Tensor, "S D"]:
        check(x, mask)
        if received is None:
            raise ValueError("received is missing: pool(x, mask, received) needs the attention each token receives")
        if not isinstance(received, Tensor) or received.shape != x.shape[:-1]:
            got = tuple(received.shape) if isinstance(received, Tensor) else type(received).__name__
            raise ValueError(f"received must be {tuple(x.shape[:-1])}, the token axes of x; got {got}")
        wide = torch.promote_types(torch.promote_types(x.dtype, received.dtype), torch.float32)
        weights = keep(received, mask).to(wide)
        if not torch.compiler.is_compiling() and weights.numel():
            low, high = (end.item() for end in weights.detach().aminmax())
            if not 0 <= low <= high < torch.inf:  # NaN is neither
                raise ValueError(f"received must be finite and not negative; got {low:g} to {high:g}")

        def spread(total: Tensor) -> Tensor:
            return expand(total[:, 0].masked_fill(total[:, 0] <= 0, 1), mask, x.shape[-2])

        # a share of the largest first: a sum of weights near the ends of their type is 0 or inf
        shares = weights / spread(segment_pool(weights.detach()[..., None], mask, "max"))
        shares = shares / spread(segment_pool(shares[..., None], mask, "sum"))
        return weighed(x, shares[..., None], mask).squeeze(1)
