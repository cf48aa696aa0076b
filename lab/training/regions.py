"""Regions of one shared feature map against the convolutions run again on each region alone."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lab.training.map_classifier import MapNet

Box = tuple[int, int, int, int]  # top, left, height, width in pixels


def region_maps(
    net: MapNet, image: Float[Tensor, "1 C H W"], boxes: Sequence[Box]
) -> tuple[Float[Tensor, "R D h w"], Float[Tensor, "R D h w"]]:
    """The maps of boxes of one size, cut from the whole image's map, and made of the pixels of each box alone.

    He et al., ECCV 2014, section 4 (recalled), pool such regions of one map for detection.
    https://arxiv.org/abs/1406.4729
    ValueError: no box, boxes of different sizes, out of the image, or with corners that are no multiples of net.stride.
    """
    H, W = image.shape[2:]
    if not boxes or len({box[2:] for box in boxes}) != 1:
        raise ValueError(f"boxes must be one or more of one size; got {list(boxes)[:4]}")
    for top, left, h, w in boxes:
        inside = top >= 0 and left >= 0 and h > 0 and w > 0 and top + h <= H and left + w <= W
        if not inside or any(n % net.stride for n in (top, left, h, w)):
            raise ValueError(
                f"a box is top, left, height, width inside {(H, W)}, multiples of the stride {net.stride}; "
                f"got {(top, left, h, w)}"
            )
    whole, s = net.maps(image), net.stride
    shared = [whole[..., t // s : (t + h) // s, x // s : (x + w) // s] for t, x, h, w in boxes]
    alone = [image[..., t : t + h, x : x + w] for t, x, h, w in boxes]
    return torch.cat(shared), net.maps(torch.cat(alone))


def rings(height: int, width: int) -> Int[Tensor, "h w"]:
    """How many places lie between each place of a map and its nearest edge: 0 at the edge."""
    down, right = torch.arange(height), torch.arange(width)
    return torch.minimum(torch.minimum(down, height - 1 - down)[:, None], torch.minimum(right, width - 1 - right))


def reach(net: MapNet) -> int:
    """How many places from an edge of its map a MapNet can feel that the image ends there, from its layers.

    A convolution of radius r adds r; a pool of k, beginning at the edge, leaves ceil(n / k) of n places.
    """
    felt = 0
    for part in net.maps:
        if isinstance(part, torch.nn.Conv2d):
            felt += part.kernel_size[0] // 2
        elif not isinstance(part, torch.nn.ReLU):
            felt = -(-felt // 2)
    return felt
