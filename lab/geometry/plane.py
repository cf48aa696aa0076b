"""Features seen in the plane of three classes: where a classifier's three corners form a triangle."""

import torch
from torch import Tensor

from lab.geometry.space import Space, space


def simplex_plane(x: Tensor | Space, corners: Tensor) -> Tensor:
    """Coordinates of rows x [*L, N, D] in the plane of three vectors [3, D]: [*L, N, 2] in float64.

    The plane is that of w_i - mean(w), the first of which points up and the second to the right. Only directions
    within the plane are kept: what is the same for all three classes, and what belongs to other classes, is not
    seen. corners: three rows of a classifier, or three class means.

    After the pictures of Fisher et al., ICLR 2024, Pushing boundaries: mixup's influence on neural collapse (their
    projection recalled, the frame of the picture ours). https://arxiv.org/abs/2402.06171
    ValueError for other shapes, and for corners on one line.
    """
    here = space(x)
    if tuple(corners.shape) != (3, here.dim):
        raise ValueError(f"corners must be three vectors as wide as x, [3, {here.dim}]; got {list(corners.shape)}")
    around = corners.detach().double() - corners.detach().double().mean(0)
    up = torch.nn.functional.normalize(around[0], dim=0)
    aside = around[1] - around[1] @ up * up
    if not aside.norm() > 1e-9 * around.norm():
        raise ValueError("the three corners lie on one line, or in one point: they span no plane")
    return here.x @ torch.stack([aside / aside.norm(), up]).T
