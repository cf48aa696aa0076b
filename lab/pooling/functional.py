"""The reductions that poolings stand on: plain functions of states and a mask."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def check(x: Tensor, mask: Tensor) -> None:
    """Raise ValueError or TypeError unless x is [B, T, D] of a float type and mask a bool [B, T]."""
    if x.ndim != 3 or not x.is_floating_point():
        raise ValueError(f"x must be [batch, tokens, dim] of a float type; got {tuple(x.shape)} of {x.dtype}")
    if mask.dtype != torch.bool:
        raise TypeError(f"mask must be bool, True = real token; got {mask.dtype}: pass attention_mask.bool()")
    if mask.shape != x.shape[:2]:
        raise ValueError(f"mask must be {tuple(x.shape[:2])}, the first axes of x; got {tuple(mask.shape)}")


def weighted_sum(
    x: Float[Tensor, "B T D"], weights: Float[Tensor, "B P T"], mask: Bool[Tensor, "B T"]
) -> Float[Tensor, "B P D"]:
    """y[b, p] = sum over real tokens t of weights[b, p, t] x[b, t]: P weightings of one read of x.

    Accumulates in float32 or wider, returns x's dtype. Whatever stands in padding (NaN included) is not read.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    real = x.to(wide).masked_fill(~mask[..., None], 0)
    return torch.bmm(weights.to(wide), real).to(x.dtype)


def masked_max(x: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B D"]:
    """y[b, d] = max over real tokens t of x[b, t, d]; zeros for a row without real tokens."""
    if x.shape[1] == 0:
        return x.sum(1)  # zeros, in the graph
    top = x.masked_fill(~mask[..., None], -torch.inf).amax(1)
    return top.masked_fill(~mask.any(1, keepdim=True), 0)


def positions(mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """1, 2, 3 ... along the real tokens of each row, 0 at padding, wherever the padding stands."""
    return (mask.cumsum(1) * mask).to(torch.float64)
