"""The mean in each cell of a grid laid over a square map whose places are tokens: pooling with a size to choose."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lab.kernels.layout import check, is_padded


class GridMean(nn.Module):
    """Mean over the real places of each cell of a size x size grid, cells side by side: size = 1 is the mean.

    x (B, T, D), the T places of a square map row by row, mask (B, T) -> (B, size^2 D), cells row by row. Cell i of an
    axis of n places has floor(i n / size) .. ceil((i + 1) n / size) - 1 of them, as torch's adaptive pooling: cells
    of unequal sizes share places where size does not divide n, and repeat them where it is above n. A cell without a
    real place is zero.
    """

    def __init__(self, size: object) -> None:
        super().__init__()
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ValueError(f"size is the number of cells along a side, 1 or more; got {size!r}")
        self.size = size

    def forward(self, x: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B E"]:
        check(x, mask)
        if not is_padded(mask):
            raise ValueError(f"a grid lies over padded x [batch, places, dim]; got ragged {tuple(x.shape)}")
        side = round(x.shape[1] ** 0.5)
        if side * side != x.shape[1] or not side:
            raise ValueError(f"a grid lies over a square map of places; got {x.shape[1]} of them, which make none")
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        i = torch.arange(self.size, device=x.device)[:, None]
        place = torch.arange(side, device=x.device)
        # [size, side]: (i + 1) side / size rounded up, in whole numbers
        inside = (place >= i * side // self.size) & (place < -(-(i + 1) * side // self.size))
        cells = torch.kron(inside.to(wide.dtype), inside.to(wide.dtype))  # [size^2, T]
        total = cells @ wide.masked_fill(~mask[..., None], 0)
        count = cells @ mask.to(wide.dtype)[..., None]
        return (total / count.clamp(min=1)).flatten(1).to(x.dtype)
