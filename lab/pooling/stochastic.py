"""Pooling that draws: one activation of each window, or one set of rows and columns of the map.

Both take a torch.Generator for their draws: the same seed, the same map.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lab.kernels import windows
from lab.kernels.window_pool import window_pool
from lab.kernels.windows import Ints
from lab.pooling.arguments import check_counts
from lab.pooling.spatial import check


class StochasticPool2d(nn.Module):
    """Stochastic pooling: train, y = a_l with l drawn with probability a_l / sum a; eval, y = sum a_i^2 / sum a_i.

    x (B, C, H, W) -> (B, C, oH, oW), a = max(x, 0): a negative activation is never drawn, a window without a positive
    one gives 0. The drawn activation has the whole gradient. Zeiler & Fergus, ICLR 2013, section 3 (section recalled;
    third-party code read). https://arxiv.org/abs/1301.3557
    """

    def __init__(
        self, kernel_size: Ints = 2, stride: Ints | None = None, padding: Ints = 0, ceil_mode: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.args = (kernel_size, stride, padding, ceil_mode)
        self.generator = generator

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C oH oW"]:
        check(x, 2)
        a = x.to(torch.promote_types(x.dtype, torch.float32)).relu()
        if not self.training:
            top = a.detach().amax((2, 3), keepdim=True)  # squares of large activations stay finite
            a = a / torch.where(top > 0, top, 1)
            mass, squares = window_pool(a, "mean", *self.args), window_pool(a * a, "mean", *self.args)
            return (squares / torch.where(mass > 0, mass, 1) * top).to(x.dtype)
        values, _ = windows.unfold(windows.lift(a), windows.plan(x, *self.args))
        total = values.detach().cumsum(-1)  # [B, C, 1, oH, oW, K]
        draw = torch.rand(total.shape[:-1], generator=self.generator, device=x.device, dtype=a.dtype)
        # the first place whose running sum passes the draw: never one of zero mass, as that would not raise the sum
        drawn = (total <= (draw * total[..., -1])[..., None]).sum(-1, keepdim=True).clamp(max=values.shape[-1] - 1)
        return values.gather(-1, drawn)[..., 0].squeeze(2).to(x.dtype)


class S3Pool2d(nn.Module):
    """S3Pool: maxima of pool_size x pool_size at stride 1, then a random downsampling by rows and columns.

    x (B, C, H, W) -> (B, C, H / pool_size, W / pool_size). train: of every grid_size rows (and columns) of the maxima,
    grid_size / pool_size stay, drawn without replacement and in order, the same for the whole batch; eval: the mean
    over pool_size x pool_size, which is what the draws give on average where grid_size = pool_size. The maxima look
    right and down, clipped at the border, so they have x's size. Zhai et al., CVPR 2017, section 3 (section recalled;
    the authors' code was read; its padding is half a window, ours none). https://arxiv.org/abs/1611.05138
    """

    def __init__(
        self, pool_size: int = 2, grid_size: int | None = None, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        grid_size = pool_size if grid_size is None else grid_size
        check_counts(pool_size=pool_size, grid_size=grid_size)
        if grid_size % pool_size:
            got = f"got pool_size={pool_size}, grid_size={grid_size}"
            raise ValueError(f"pool_size must be >= 1 and grid_size a multiple of it; {got}")
        self.pool_size, self.grid_size, self.generator = pool_size, grid_size, generator

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C h w"]:
        check(x, 2)
        if any(n % self.grid_size for n in x.shape[2:]):
            raise ValueError(f"H and W must be multiples of grid_size {self.grid_size}; got {tuple(x.shape[2:])}")
        edge = [0, self.pool_size - 1, 0, self.pool_size - 1]
        top = window_pool(nn.functional.pad(x, edge, value=-torch.inf), "max", self.pool_size, stride=1)
        if not self.training:
            return window_pool(top, "mean", self.pool_size)
        return top[:, :, self._draw(x.shape[2], x.device)][..., self._draw(x.shape[3], x.device)]

    def _draw(self, n: int, device: torch.device) -> Tensor:
        """The indices that stay: grid_size / pool_size of every grid_size, rising."""
        grids = n // self.grid_size
        order = torch.rand(grids, self.grid_size, generator=self.generator, device=device).argsort(1)
        kept = order[:, : self.grid_size // self.pool_size].sort(1).values
        return (kept + self.grid_size * torch.arange(grids, device=device)[:, None]).flatten()
