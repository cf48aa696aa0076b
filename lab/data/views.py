"""Views of an image that each show a part of it, with noise: what a multi-view reconstruction is given."""

import torch
from jaxtyping import Float
from torch import Tensor


def draw(
    images: Float[Tensor, "N 1 H W"], views: int, *, side: int = 4, noise: float | int = 0.3, seed: int = 0
) -> Float[Tensor, "N V P"]:
    """`views` of each image: a window of side x side pixels at a place drawn evenly, normal noise on it, 0 outside.

    P = 2 H W: the pixels, then 1 where they are shown. ValueError: fewer than one view, a window larger than the
    image, negative noise.
    """
    N, _, H, W = images.shape
    if views < 1 or not 1 <= side <= min(H, W) or noise < 0:
        raise ValueError(
            f"needed are 1 view or more, side from 1 to {min(H, W)} and noise 0 or more; got {views}, {side}, {noise}"
        )
    generator = torch.Generator().manual_seed(seed)
    top, left = (torch.randint(n - side + 1, (N, views, 1), generator=generator) for n in (H, W))
    row, column = torch.arange(H) - top, torch.arange(W) - left
    down, across = ((at >= 0) & (at < side) for at in (row, column))
    shown = (down[..., None] & across[..., None, :]).float()
    seen = images + noise * torch.randn(N, views, H, W, generator=generator)
    return torch.cat([(seen * shown).flatten(2), shown.flatten(2)], -1)
