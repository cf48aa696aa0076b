"""Two spaces of the same examples, checked and centred: what every similarity starts from."""

import torch
from torch import Tensor

from lab.geometry.space import Space

Sides = tuple[Tensor, Tensor]


def sides(x: Tensor, y: Tensor, rows: int) -> Sides:
    """Both centred in float64; ValueError for other numbers of rows, too few of them, and NaN."""
    if not all(isinstance(side, Tensor) and side.ndim == 2 for side in (x, y)):
        raise ValueError(f"x and y must be tensors [rows, dim]; got {_shape(x)} and {_shape(y)}")
    if len(x) != len(y) or len(x) < rows:
        words = {2: "two", 3: "three", 4: "four"}[rows]
        raise ValueError(f"x and y must have the same rows, at least {words}; got {len(x)} and {len(y)}")
    return Space(x).centred.x, Space(y).centred.x


def _shape(x: object) -> object:
    return tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__


def numerical_rank(values: Tensor, size: int) -> int:
    """How many of the descending squared singular values stand above rounding."""
    return int((values > values[:1] * size * torch.finfo(values.dtype).eps).sum())
