"""Rows with class labels: counts, means and residuals, for the numbers of neural collapse."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lab.geometry.space import Space, space


class Classes:
    """Rows x [*L, N, D] of K classes: means [*L, K, D], residuals [*L, N, D], counts [K], index [N], names [K].

    ValueError for labels of another length, missing ones (None, NaN), or fewer than two classes.
    """

    def __init__(self, x: Tensor | Space, labels: object) -> None:
        self.space = space(x)
        self.names, index = _codes(labels, self.space.n)
        rows = self.space.x
        self.index = torch.from_numpy(index).to(rows.device)
        self.counts = torch.bincount(self.index).double()
        total = rows.new_zeros(*rows.shape[:-2], len(self.names), rows.shape[-1])
        # sums of deviations from the first row: rows that are all equal give means that are exactly equal
        first = rows[..., :1, :]
        total.index_add_(-2, self.index, rows - first)
        self.means = total / self.counts[:, None] + first
        self.residuals = rows - self.means[..., self.index, :]

    @property
    def spread(self) -> Tensor:
        """M [*L, K, D]: the class means less their own mean, each class counted once."""
        near = self.means - self.means[..., :1, :]
        return near - near.mean(-2, keepdim=True)

    @property
    def nearest(self) -> Tensor:
        """The class whose mean is nearest each row [*L, N], the first of equals."""
        rows, means = self.space.x - self.means[..., :1, :], self.means - self.means[..., :1, :]
        return (means.square().sum(-1)[..., None, :] - 2 * rows @ means.mT).argmin(-1)


def classes(x: Tensor | Space | Classes, labels: object) -> Classes:
    return x if isinstance(x, Classes) else Classes(x, labels)


def _codes(labels: object, n: int) -> tuple[list, np.ndarray]:
    import pandas as pd

    values = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if values.ndim != 1 or len(values) != n:
        raise ValueError(f"labels must be one for each of the {n} rows; got shape {values.shape}")
    # a list of texts as an array calls a missing one 'nan'
    given = np.asarray(labels, dtype=object) if values.dtype.kind == "U" else values
    missing = np.flatnonzero(pd.isna(given)).tolist()
    if missing:
        raise ValueError(f"{len(missing)} labels are missing, the first in rows {missing[:3]}: leave those rows out")
    names, index = np.unique(values.astype(str) if values.dtype == object else values, return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"at least two classes are needed; all {n} labels are {names.tolist()[0]!r}")
    return names.tolist(), index


def weights(grouped: Classes, weight: Tensor, bias: Tensor | Sequence[float] | None = None) -> tuple[Tensor, Tensor]:
    """A classifier's weight [K, D] and bias [K] in float64; ValueError where they do not fit the rows and classes."""
    want = (len(grouped.names), grouped.space.dim)
    if tuple(weight.shape[-2:]) != want:
        raise ValueError(
            f"weight must be [classes, dim] = {list(want)}, a row for each class that has rows, in sorted order; got "
            f"{list(weight.shape)}: an empty class has no mean, so leave its weight out"
        )
    weight = weight.detach().double()
    offset = weight.new_zeros(want[0]) if bias is None else torch.as_tensor(bias).detach().double()
    if offset.shape[-1:] != want[:1] or not (weight.isfinite().all() and offset.isfinite().all()):
        raise ValueError(f"weight and bias must be finite, bias [{want[0]}]; got bias of shape {list(offset.shape)}")
    return weight, offset
