"""Which tokens a pool sees, in both layouts: a part of the tokens kept, ragged rows stood side by side."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lab.kernels.layout import Segments, Tokens, keep
from lab.pooling.functional import counts, is_padded, to_padded


def check_choice(name: str, chosen: Tensor, x: Tensor, axes: int = 0) -> None:
    """TypeError or ValueError unless `chosen` is bool and has the token axes of x, then `axes` of its own."""
    if not isinstance(chosen, Tensor) or chosen.dtype != torch.bool:
        got = chosen.dtype if isinstance(chosen, Tensor) else type(chosen).__name__
        raise TypeError(f"{name} must be bool, True = chosen; got {got}")
    if (
        chosen.ndim != x.ndim - 1 + axes
        or chosen.shape[: x.ndim - 1] != x.shape[:-1]
        or (axes and not chosen.shape[-1])
    ):
        wanted = f"{tuple(x.shape[:-1])}, the token axes of x{', then one more, not empty' * axes}"
        raise ValueError(f"{name} must be {wanted}; got {tuple(chosen.shape)}")


def blank(y: Float[Tensor, " S *rest"], mask: Segments) -> Float[Tensor, " S *rest"]:
    """Rows without a real token set to zero, with zero gradient to whatever made them."""
    empty = counts(mask) == 0
    return torch.where(empty.reshape(-1, *[1] * (y.ndim - 1)), 0, y)


def narrow(x: Tokens, mask: Segments, kept: Bool[Tensor, "*tokens"]) -> tuple[Tensor, Tensor]:
    """(x, mask) of the kept tokens only; a row may lose all of its tokens."""
    if is_padded(mask):
        return x, mask & kept
    before = torch.nn.functional.pad(kept.cumsum(0), (1, 0))  # kept tokens in front of each position
    return x[kept], before[mask.long()].to(mask.dtype)


def side_by_side(x: Tokens, mask: Segments) -> tuple[Float[Tensor, "B T D"], Bool[Tensor, "B T"]]:
    """The padded layout with zeros for padding, for batched products: NaN times a weight of 0 is NaN."""
    if not is_padded(mask):
        return to_padded(x, mask)
    return keep(x, mask), mask
