"""The path of a sequence through its space, one number for each text, and how capture asks for them.

    pools = {"curvature": PerText(curvature), "entropy": PerText(prompt_entropy)}
    lab.capture.states(model, texts, pools=pools)    # h[layer, pool, example, 1], no token kept

x is [B, T, D] with mask bool [B, T], True = real, or ragged [N, D] with offsets [B + 1]; what stands in padding is
never read, and a text gives the same number on either side of it. Numbers that a text is too short for are NaN.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lab.geometry.spectrum import renyi


class PerText(nn.Module):
    """A number of each text as a pool of width 1: number(x, mask, **settings) [B] as [B, 1].

    A store of lab.capture.to_zarr remembers the number's name and settings.
    """

    def __init__(self, number: Callable[..., Tensor], **settings: Any) -> None:
        super().__init__()
        self.name, self.settings = number.__qualname__, tuple(sorted(settings.items()))
        self._number = number

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self._number(x, mask, **dict(self.settings))[:, None]


def curvature(x: Tensor, mask: Tensor) -> Tensor:
    """Mean angle between steps: mean_t arccos(v_t . v_(t+1) / |v_t||v_(t+1)|), v_t = x_(t+1) - x_t. [B], radians.

    0 on a straight line, pi / 2 for a random walk, 2 pi / 3 for independent points, pi for there and back. Unchanged
    by shift, scale and rotation, and reversed order; changed by shuffling the tokens. The cosine is clamped, so
    that rounding on a line gives no NaN; steps of length 0 are left out. NaN for texts without two steps that follow
    one another. In the source a model's curvature is this, averaged over texts, less that of the embedding layer.

    Henaff et al., 2019; for language models Hosseini & Fedorenko, 2023. https://arxiv.org/abs/2311.04930
    """
    rows, real = packed_left(x, mask)
    step, there = rows[:, 1:] - rows[:, :-1], real[:, 1:]
    length = step.norm(dim=-1)
    moves = there & (length > 0)
    used = moves[:, 1:] & moves[:, :-1]
    size = torch.where(used, length[:, 1:] * length[:, :-1], 1)
    cosine = ((step[:, 1:] * step[:, :-1]).sum(-1) / size).clamp(-1, 1)
    count = used.sum(1)
    return torch.where(count > 0, torch.where(used, cosine.arccos(), 0).sum(1) / count.clamp(min=1), torch.nan)


def prompt_entropy(
    x: Tensor, mask: Tensor, alpha: float = 1.0, centred: bool = False, unit: bool = False, share: bool = True
) -> Tensor:
    """matrix_entropy of one text's tokens X [n, D]: ln(sum_i p_i^alpha) / (1 - alpha), p = eigenvalues of XX'/tr XX'.

    [B]: 0 where all tokens point one way. share: divided by ln min(n, D), so that 1 is the most a text of its length
    can have; else in nats. centred: less the text's mean token; unit: then each token to length 1. Unchanged by scale,
    rotation and the order of tokens. NaN for texts of one token (with share), of none, and of zeros.

    Skean et al., 2025, https://arxiv.org/abs/2502.02013. The published code sets negative entries of the Gram matrix
    to 0, which is another matrix. ValueError for alpha < 0.
    """
    rows, real = packed_left(x, mask)
    count = real.sum(1)
    if centred:
        near = torch.where(real[..., None], rows - rows[:, :1], 0)
        rows = torch.where(real[..., None], near - near.sum(1, keepdim=True) / count.clamp(min=1)[:, None, None], 0)
    if unit:
        length = rows.norm(dim=-1, keepdim=True)
        rows = rows / torch.where(length > 0, length, 1)
    # rows of padding are zero and add zero eigenvalues only
    gram = rows @ rows.mT if rows.shape[1] <= rows.shape[2] else rows.mT @ rows
    values = torch.linalg.eigvalsh(gram) if gram.shape[-1] else gram.new_zeros(len(gram), 0)
    most = values.amax(-1, keepdim=True) if values.shape[-1] else values.new_zeros(len(values), 1)
    values = values * (values > most * max(rows.shape[1:]) * torch.finfo(values.dtype).eps)
    total = values.sum(-1, keepdim=True)
    entropy = torch.where(total[:, 0] > 0, renyi(values / torch.where(total > 0, total, 1), alpha), torch.nan)
    if not share:
        return entropy
    room = count.clamp(max=rows.shape[2])
    return torch.where(room > 1, entropy / room.clamp(min=2).double().log(), torch.nan)


def packed_left(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The real tokens of each text, first to last, in float64 with zeros behind [B, T', D], and which are real.

    ValueError for shapes that do not fit; TypeError for a mask that is neither bool nor offsets of whole numbers.
    """
    if mask.dtype == torch.bool:
        if x.ndim != 3 or mask.shape != x.shape[:2]:
            raise ValueError(f"x must be [B, T, D] with mask [B, T]; got {tuple(x.shape)} and mask {tuple(mask.shape)}")
        count, tokens = mask.sum(1), x[mask]
    elif mask.is_floating_point() or mask.is_complex():
        raise TypeError(f"mask must be bool, True = real token, or whole-numbered offsets; got {mask.dtype}")
    else:
        if x.ndim != 2 or mask.ndim != 1 or not len(mask) or mask[0] != 0 or mask[-1] != len(x):
            raise ValueError(f"offsets [B + 1] must go from 0 to the {len(x)} rows of x [N, D]; got {mask.tolist()}")
        count, tokens = mask.diff(), x
    real = torch.arange(int(count.max()) if len(count) else 0, device=x.device) < count[:, None]
    rows = torch.zeros(*real.shape, x.shape[-1], dtype=torch.float64, device=x.device)
    rows[real] = tokens.double()
    return rows, real
