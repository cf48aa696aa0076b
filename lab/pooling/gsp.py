"""Generalized sum pooling: an optimal-transport problem per bag whose solution is one threshold."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lab.kernels.layout import Segments, Tokens, all_finite, at_once, expand, keep
from lab.pooling.arguments import check_counts
from lab.pooling.functional import check, counts, segment_expand, segment_pool, weighed
from lab.pooling.length import length
from lab.pooling.selection import side_by_side

TINY = torch.finfo(torch.float64).tiny
FAR = 2.0**12  # more than the square root of any width


def threshold(logits: Float[Tensor, "*tokens"], mask: Segments, mu: float, steps: int = 40) -> Float[Tensor, " S"]:
    """t of each row with mean_j sigmoid(t + l_j) = mu, by Newton's method inside a bracket that always holds t.

    mean_j sigmoid(t + l_j) rises with t from below mu at logit(mu) - max l to above it at logit(mu) - min l. A Newton
    step that leaves the bracket is replaced by its middle. The gradient is the implicit function's,
    dt/dl_j = -s'_j / sum_k s'_k with s' = s (1 - s), whatever the number of steps; it needs no unrolled graph. Two more
    steps from the root, which leave it where it is, have the root's derivatives up to the third.
    """
    # one scalar for each token: small enough to stand side by side, in float64, as a difference of sums is near mu
    wide, real = side_by_side(logits.double()[..., None], mask)
    wide, n = wide[..., 0], counts(mask).clamp(min=1)[:, None]

    def mean_and_slope(t: Tensor) -> tuple[Tensor, Tensor]:
        """The mean of sigmoid(t + l) and its slope in t."""
        s = torch.where(real, torch.sigmoid(t + wide), 0)
        return s.sum(1, keepdim=True) / n, (s * (1 - s)).sum(1, keepdim=True) / n

    with torch.no_grad():
        wanted = math.log(mu) - math.log1p(-mu)
        ends = [torch.where(real, wide, fill) for fill in (-torch.inf, torch.inf)]
        if wide.shape[1]:
            low, high = wanted - ends[0].amax(1, keepdim=True), wanted - ends[1].amin(1, keepdim=True)
        else:
            low = high = wide.new_zeros(len(wide), 1)
        t = wanted - wide.sum(1, keepdim=True) / n
        for _ in range(steps):
            mean, slope = mean_and_slope(t)
            low, high = torch.where(mean < mu, t, low), torch.where(mean < mu, high, t)
            step = t - (mean - mu) / slope.clamp(min=TINY)
            before, t = t, torch.where((low <= step) & (step <= high), step, (low + high) / 2)
            # a GPU would wait for the answer, and a graph cannot ask
            if at_once(t) and torch.equal(before, t):
                break
    for _ in range(2):
        mean, slope = mean_and_slope(t)
        # a step of exactly 0, of which only the derivatives are wanted; a slope of 0 means that no weight can move
        t = t - (mean - mean.detach()) / slope.clamp(min=TINY)
    return t[:, 0].to(logits.dtype)


class GSP(nn.Module):
    """Generalized sum pooling: the mean of the tokens, each weighted by how well some prototype explains it.

        c_ij = |N(omega_i) - N(x_j)|, N(x) = x / max(|x|, 1),   l_j = LSE_i(-gamma c_ij)
        w_j = sigmoid(t + l_j) / mu with t from mean_j w_j = 1,   y = 1/n sum_j w_j x_j

    x (B, T, D), mask (B, T) -> (B, D), or ragged. The closed form of: minimise sum c pi + entropy / gamma over
    transport plans pi >= 0 and residuals rho_j = 1/n - sum_i pi_ij >= 0 with mass sum pi = mu. So sum_j w_j = n, and w
    -> 1 (the mean) for mu -> 1 or gamma -> 0; a small mu keeps the tokens nearest to a prototype. Prototypes
    [num_prototypes, D] ~ N(0, 1/D) (the official start, k-centres of a classifier's rows, needs one). mu = 0.3 as in
    the official torch code, gamma = 20 as in the TensorFlow code (torch's 0.1 is close to the mean); the official
    embedding layer is the caller's. The official code scales exp(-gamma c) by its inverse, which overflows for gamma c
    > 88; nothing here does. Gurbuz, Sener & Alatan, ICCV 2023 (formulas from the official code; closed form checked
    against it). https://arxiv.org/abs/2308.09228
    ValueError: mu outside (0, 1), gamma negative.
    """

    def __init__(self, dim: int, num_prototypes: int = 64, mu: float = 0.3, gamma: float = 20.0) -> None:
        super().__init__()
        check_counts(dim=dim, num_prototypes=num_prototypes)
        if not 0 < mu < 1 or not 0 <= gamma < math.inf:
            raise ValueError(f"mu must be inside (0, 1) and gamma 0 or more and finite; got mu {mu} and gamma {gamma}")
        self.dim, self.num_prototypes, self.mu, self.gamma = dim, num_prototypes, mu, gamma
        self.prototypes = nn.Parameter(torch.randn(num_prototypes, dim) * dim**-0.5)

    def closeness(self, x: Float[Tensor, "*tokens D"]) -> Float[Tensor, "*tokens M"]:
        """-gamma c_ij of each token j to each prototype i."""
        omega = unit_ball(self.prototypes.to(x.dtype))
        size = length(x)[..., None]
        outside = size.clamp(min=1)  # N(x) = x / outside, divided after the product, which is narrower than x
        # smaller prototypes, by a power of two that rounds nothing, keep the products of the largest x finite; those
        # of their gradient, |x|^2 times what comes back for each prototype, may not fit into float32
        fits = at_once(x) and all_finite((FAR**2 * size.square()).float())
        products, scale = x @ (omega / FAR).mT, 2 * FAR / outside
        twice = products * scale.to(x.dtype) if fits else (products * scale).to(x.dtype)
        squared = (size / outside).square().to(x.dtype) + omega.square().sum(-1) - twice
        return -self.gamma * squared.clamp(min=1e-12).sqrt()  # the root has no slope at 0

    def weights(self, x: Tokens, mask: Segments) -> Float[Tensor, "*tokens"]:
        """w_j, which sum to n over the real tokens of a row; 0 at padding."""
        real = keep(x, mask).to(torch.promote_types(x.dtype, torch.float32))
        return self._weights(self.closeness(real).logsumexp(-1), mask)

    def _weights(self, logits: Tensor, mask: Segments) -> Tensor:
        t = threshold(logits, mask, self.mu)
        return keep(torch.sigmoid(segment_expand(t, mask, logits.shape[-1]) + logits) / self.mu, mask)

    def histogram(self, x: Tokens, mask: Segments) -> Float[Tensor, "S M"]:
        """z_i = sum_j pi_ij / mu, the share of each prototype in the pooled tokens; sums to 1."""
        check(x, mask, self.dim)
        closeness = self.closeness(keep(x, mask).to(torch.promote_types(x.dtype, torch.float32)))
        weights = self._weights(closeness.logsumexp(-1), mask)
        return segment_pool(weights[..., None] * closeness.softmax(-1), mask, "mean").to(x.dtype)

    def forward(self, x: Tokens, mask: Segments) -> Float[Tensor, "S D"]:
        check(x, mask, self.dim)
        real = keep(x, mask).to(torch.promote_types(x.dtype, torch.float32))
        weights = self._weights(self.closeness(real).logsumexp(-1), mask)
        shares = weights / expand(counts(mask).clamp(min=1).to(weights.dtype), mask, x.shape[-2])
        return weighed(real, shares[..., None], mask)[:, 0].to(x.dtype)


def unit_ball(x: Float[Tensor, "*n D"]) -> Float[Tensor, "*n D"]:
    """x / max(|x|, 1): vectors inside the unit ball stay, those outside move to its surface."""
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp(min=1)
