"""Rows seen as a space: what several numbers need is computed once, when the first of them asks."""

from functools import cached_property

import torch
from torch import Tensor

from lab.geometry.nearest import nearest


class Space:
    """x [*L, N, D] in float64, with its spectrum, unit rows and nearest neighbours, each computed when first read.

    Every number of lab.geometry that takes one space takes a Space in x's place: `measure` makes one of each layer and
    pool, so that all numbers share one spectrum and one search. TypeError for what is no tensor; ValueError for fewer
    than two axes, no rows or columns, and NaN or infinite values.
    """

    def __init__(self, x: object) -> None:
        if not isinstance(x, Tensor):
            raise TypeError(f"x must be a tensor [..., rows, dim]; got {type(x).__name__}: torch.as_tensor makes one")
        if x.ndim < 2 or 0 in x.shape[-2:]:
            raise ValueError(f"x must be [..., rows, dim] with at least one of each; got x of shape {tuple(x.shape)}")
        self.x = x.detach().double()
        if not self.x.isfinite().all():
            bad = (~self.x.isfinite()).any(-1).sum().item()
            raise ValueError(f"x has NaN or infinite values in {bad} of its rows: leave those rows out")
        self.n, self.dim = x.shape[-2:]
        self._found: tuple[Tensor, Tensor] | None = None

    def needs(self, rows: int, why: str) -> "Space":
        """Itself; ValueError for fewer rows."""
        if self.n < rows:
            words = {2: "two", 3: "three"}.get(rows, str(rows))
            raise ValueError(f"{why} needs at least {words} rows; got x of shape {tuple(self.x.shape)}")
        return self

    @cached_property
    def centred(self) -> "Space":
        """The rows less their mean; rows that are all equal become exact zeros, however far from the origin."""
        near = self.x - self.x[..., :1, :]
        return Space(near - near.mean(-2, keepdim=True))

    @cached_property
    def squares(self) -> Tensor:
        """Squared singular values, largest first [*L, min(N, D)]; what is within rounding of 0 is 0.

        As eigenvalues of the smaller Gram matrix in float64, which is many times faster than an SVD; singular values
        below about 1e-7 of the largest are lost in it.
        """
        tall = self.x if self.n >= self.dim else self.x.mT
        values = torch.linalg.eigvalsh(tall.mT @ tall).flip(-1)
        return values * (values > values[..., :1] * max(self.n, self.dim) * torch.finfo(values.dtype).eps)

    @cached_property
    def units(self) -> Tensor:
        """The rows divided by their lengths; a zero row stays zero."""
        norms = self.x.norm(dim=-1, keepdim=True)
        return self.x / torch.where(norms > 0, norms, 1)

    @cached_property
    def directions(self) -> "Space":
        """The unit rows: nearest among them is largest in cosine."""
        return Space(self.units)

    def nearest(self, k: int) -> tuple[Tensor, Tensor]:
        """Euclidean distances and numbers of each row's k nearest others, nearest first: both [*L, N, k].

        The widest search so far is kept and cut for smaller k.
        """
        self.needs(k + 1, f"a search for {k} neighbours")
        if self._found is None or self._found[0].shape[-1] < k:
            self._found = nearest(self.centred.x, k)
        distance, index = self._found
        return distance[..., :k], index[..., :k]


def space(x: object, centred: bool = False) -> Space:
    """x as a Space, the same one if it is one; its centred form if asked."""
    made = x if isinstance(x, Space) else Space(x)
    return made.centred if centred else made
