"""Weights that are exactly zero below a threshold: sparsemax, 1.5-entmax, and the family between softmax and sparsemax.

p_j = [1 + (alpha - 1)(x_j - t)]_+^(1 / (alpha - 1)) with t such that they sum to 1: sparsemax at alpha = 2, softmax as
alpha -> 1. Against the row's greatest score no other below -1 / (alpha - 1) has weight, so scores are cut there: they
lie in a short interval, and 1e4 is no larger than 1.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Scores = Float[Tensor, "*rows J"]
Seen = Bool[Tensor, "*rows J"]


def sparsemax(x: Scores, mask: Seen) -> Scores:
    """The point of the simplex next to x: relu(x_j - tau) with the tau for which they sum to 1."""
    return _Tsallis.apply(x, mask, 2.0)


def entmax15(x: Scores, mask: Seen) -> Scores:
    return _Tsallis.apply(x, mask, 1.5)


def entmax(x: Scores, mask: Seen, alpha: Tensor | float = 1.5) -> Scores:
    """alpha in [1, 2]: a number, or a tensor that broadcasts to [..., Tq, 1], whose values are cut to that."""
    if not isinstance(alpha, Tensor):
        if not 1 <= alpha <= 2:
            raise ValueError(f"alpha must be from 1, softmax, to 2, sparsemax; got {alpha}")
        alpha = x.new_tensor(alpha)
    return _Tsallis.apply(x, mask, alpha)


def power(y: Tensor, gap: Tensor | float) -> Tensor:
    """[1 + gap y]_+^(1 / gap) for y <= 0 through log1p, which keeps its digits as gap -> 0, where it is e^y."""
    base = gap * y
    inside = base > -1
    return torch.where(inside, (torch.where(inside, base, 0).log1p() / gap).exp(), 0)


def _sorted_threshold(y: Tensor, alpha: float) -> Tensor:
    """The threshold of sparsemax or 1.5-entmax, exact: of the k greatest for each k, the last k that keeps its k-th.

    With u = (alpha - 1) y and weights (u - tau)^(1 / (alpha - 1)), tau is mean - 1 / k for sparsemax, and for
    1.5-entmax the lower root of sum (u - tau)^2 = 1.
    """
    u = (alpha - 1) * y
    ordered = u.sort(-1, descending=True).values
    k = torch.arange(1, y.shape[-1] + 1, dtype=y.dtype, device=y.device)
    mean = ordered.cumsum(-1) / k
    if alpha == 2:
        tau = mean - 1 / k
    else:
        spread = ordered.square().cumsum(-1) - k * mean.square()
        tau = mean - ((1 - spread) / k).clamp(min=0).sqrt()
    kept = (tau <= ordered).sum(-1, keepdim=True).clamp(min=1)
    return (tau.gather(-1, kept - 1) + 1) / (alpha - 1)  # as t in [1 + (alpha - 1)(y - t)]


def _searched_threshold(y: Tensor, gap: Tensor, n: Tensor) -> Tensor:
    """t for any alpha: halving while the weights sum to 1 or more, then Newton, which from there never overshoots.

    y <= 0 with its maximum 0, so t is at least 0, where one weight is 1, and at most where each would be 1 / n.
    """
    low = torch.zeros_like(n)
    high = -torch.expm1(-gap * n.log()) / gap
    low, high = torch.broadcast_tensors(low, high)
    for _ in range(16):
        middle = (low + high) / 2
        above = power(y - middle, gap).sum(-1, keepdim=True) >= 1
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    for _ in range(8):
        p = power(y - low, gap)
        slope = torch.where(p > 0, p ** (1 - gap), 0).sum(-1, keepdim=True)
        low = low + ((p.sum(-1, keepdim=True) - 1) / slope.clamp(min=torch.finfo(y.dtype).tiny)).clamp(min=0)
    return low


class _Tsallis(torch.autograd.Function):
    """p, and dp_j = s_j (dx_j - sum_k s_k dx_k / sum_k s_k) with s_j = p_j^(2 - alpha) on the support: p alone is kept.

    With respect to alpha, dp_j = (p_j - s_j / S) / (alpha - 1)^2 + (h_j - s_j H / S) / (alpha - 1), where h = -p log p,
    H and S the sums of h and s; near alpha = 1 the two parts cancel, and their limit p_j (sum_k p_k log^2 p_k -
    log^2 p_j) / 2 stands instead.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor, alpha: Tensor | float) -> Tensor:
        exact = alpha if isinstance(alpha, float) else None
        order = torch.as_tensor(alpha, dtype=x.dtype, device=x.device).clamp(1, 2)
        gap = (order - 1).clamp(min=torch.finfo(x.dtype).eps ** 2)
        lowest = -1 / gap
        y = x.masked_fill(~mask, -torch.inf)
        y = y - torch.where(mask.any(-1, keepdim=True), y.amax(-1, keepdim=True), 0)
        y = torch.maximum(y, lowest)  # has no weight there, whatever t is
        n = mask.sum(-1, keepdim=True).clamp(min=1).to(x.dtype)
        t = _searched_threshold(y, gap, n) if exact is None else _sorted_threshold(y, exact)
        p = torch.where(mask, power(y - t, gap), 0)
        total = p.sum(-1, keepdim=True)
        p = p / torch.where(total > 0, total, 1)
        ctx.save_for_backward(p, order)
        ctx.learned = isinstance(alpha, Tensor)
        return p

    @staticmethod
    def backward(ctx: Any, dp: Tensor) -> tuple[Tensor, None, Tensor | None]:
        p, alpha = ctx.saved_tensors
        there = p > 0
        safe = torch.where(there, p, 1)
        s = torch.where(there, safe ** (2 - alpha), 0)
        total = s.sum(-1, keepdim=True)
        share = s / torch.where(total > 0, total, 1)
        dx = s * (dp - (share * dp).sum(-1, keepdim=True))
        dx = torch.where(there, dx, 0)
        if not (ctx.learned and ctx.needs_input_grad[2]):
            return dx, None, None
        gap = alpha - 1
        near = gap.abs() < torch.finfo(p.dtype).eps ** (1 / 3)  # both ways of writing it are off by as much there
        gap = torch.where(near, 1, gap)
        h = -p * safe.log()
        apart = (p - share) / gap**2 + (h - share * h.sum(-1, keepdim=True)) / gap
        squared = safe.log() ** 2
        limit = p * ((p * squared).sum(-1, keepdim=True) - squared) / 2
        return dx, None, (dp * torch.where(near, limit, apart)).sum_to_size(alpha.shape)


def sparsemax_loss(scores: Tensor, target: Tensor) -> Tensor:
    """L(z; y) = -<y, z> + 1/2 sum_(j in S) (z_j^2 - tau^2) + 1/2 |y|^2, whose gradient is sparsemax(z) - y.

    scores [..., C]; target: classes, int [...], or shares of a whole, float [..., C], which sum to 1. Returns [...],
    zero where sparsemax(z) = y; with two classes it is the Huber-type loss of their difference: 0 from 1 on, linear
    below -1, (1 - d)^2 / 4 between. Martins & Astudillo, ICML 2016, section 3. https://arxiv.org/abs/1602.02068
    TypeError: scores that are not float. ValueError: a target of another shape, a class that is not there.
    """
    if not isinstance(scores, Tensor) or not scores.is_floating_point():
        raise TypeError(f"scores must be a float tensor [..., classes]; got {getattr(scores, 'dtype', type(scores))}")
    if not isinstance(target, Tensor) or target.is_complex():
        raise TypeError(f"target must be a tensor of classes or of shares; got {type(target).__name__}")
    shape = scores.shape if target.is_floating_point() else scores.shape[:-1]
    if target.shape != shape:
        raise ValueError(
            f"target must be {tuple(shape)} beside scores {tuple(scores.shape)}; got {tuple(target.shape)}"
        )
    wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if target.is_floating_point():
        y = target.to(wide.dtype)
    else:
        if target.numel() and not 0 <= int(target.min()) <= int(target.max()) < scores.shape[-1]:
            raise ValueError(
                f"classes must be 0 to {scores.shape[-1] - 1}; got {int(target.min())} to {int(target.max())}"
            )
        y = torch.nn.functional.one_hot(target.long(), scores.shape[-1]).to(wide.dtype)
    z = wide - wide.detach().amax(-1, keepdim=True)  # p and y sum to 1: the loss does not see a shift
    p = sparsemax(z, torch.ones_like(z, dtype=torch.bool))
    # half the sum over S of z_j^2 - tau^2 is <p, z> - |p|^2 / 2, since z_j = p_j + tau there and p sums to 1
    loss = ((p - y) * z).sum(-1) + (y.square().sum(-1) - p.square().sum(-1)) / 2
    return loss.clamp(min=0).to(scores.dtype)
