"""The states of one layer and pool at a time, checked, in float64, from memory or from a store larger than it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from torch import Tensor

HELD = 2**27  # numbers of one cell that are kept in memory, a gigabyte; larger cells are read again, block by block
AXES = ("layer", "pool", "example", "dim")


@dataclass(frozen=True)
class Cells:
    """Checked states, and how to read them."""

    h: xr.DataArray  # [layer, pool, example, dim]
    widths: np.ndarray  # of each layer; h is NaN beyond it
    device: torch.device
    held: int = HELD

    @property
    def n(self) -> int:
        return self.h.sizes["example"]

    @property
    def shape(self) -> tuple[int, int]:
        return self.h.sizes["layer"], self.h.sizes["pool"]

    def __iter__(self) -> Iterator[tuple[tuple[int, int], "Cell"]]:
        for where in np.ndindex(*self.shape):
            yield where, self.cell(where)

    def cell(self, where: tuple[int, int]) -> "Cell":
        h, width = self.h[where], int(self.widths[where[0]])
        size = self.n if self.n * width <= self.held else max(1, self.held // (8 * width))
        first = _read(h, slice(0, size), width, self.device)
        shift = first.mean(0)
        spread = torch.linalg.vector_norm(first.sub_(shift), dim=0) / len(first) ** 0.5
        scale = torch.where(spread > 0, spread, 1)
        return Cell(h, width, size, self.device, shift, scale, first.div_(scale) if size >= self.n else None)

    def coords(self, *axes: str) -> dict[str, xr.DataArray]:
        return {axis: self.h[axis] for axis in axes}


@dataclass(frozen=True)
class Cell:
    """One layer and pool: blocks of rows [n, D], moved by one shift and scale for all of them.

    The shift is for the arithmetic alone: sums of squares around a far-off mean would lose their digits. What is
    fitted standardises within its own training rows.
    """

    h: xr.DataArray
    width: int
    size: int
    device: torch.device
    shift: Tensor
    scale: Tensor
    kept: Tensor | None

    def moved(self, x: Tensor) -> Tensor:
        return x.sub(self.shift).div_(self.scale)

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        if self.kept is not None:
            yield slice(0, len(self.kept)), self.kept
            return
        for start in range(0, self.h.sizes["example"], self.size):
            at = slice(start, start + self.size)
            yield at, self.moved(_read(self.h, at, self.width, self.device))

    def rows(self, chosen: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The numbers and the states of the rows where chosen [N] is True, block by block."""
        for at, x in self:
            here = chosen[at]
            if here.any():
                yield torch.arange(at.start, at.start + len(x), device=x.device)[here], x[here]


def checked_cells(
    states: xr.Dataset, layers: Sequence[int] | None = None, device: str | torch.device = "cpu", held: int = HELD
) -> Cells:
    """States as `lab.capture` returns them; ValueError for anything a probe could not be fitted on, before any is."""
    if "h" not in states or set(states["h"].dims) != set(AXES):
        got = dict(states["h"].sizes) if "h" in states else sorted(map(str, states))
        raise ValueError(f"states need h with the axes {AXES}, as lab.capture.states returns it; got {got}")
    h = states["h"].transpose(*AXES)
    widths = states["width"].values if "width" in states else np.full(h.sizes["layer"], h.sizes["dim"])
    if layers is not None:
        there = h["layer"].values.tolist()
        if not list(layers) or (unknown := [layer for layer in layers if layer not in there]):
            raise ValueError(f"layers must be some of {there}; got {unknown if list(layers) else 'none'}")
        at = [there.index(layer) for layer in layers]
        h, widths = h[at], widths[at]
    if h.size == 0:
        raise ValueError(f"states are empty: {dict(h.sizes)}")
    cells = Cells(h, widths, torch.device(device), held)
    for where in np.ndindex(*cells.shape):
        _check_finite(cells, where)
    return cells


def _check_finite(cells: Cells, where: tuple[int, int]) -> None:
    h, width = cells.h[where], int(cells.widths[where[0]])
    rows = max(1, cells.held // width)
    for start in range(0, cells.n, rows):
        wrong = ~np.isfinite(h[start : start + rows, :width].values).all(-1)
        if wrong.any():
            layer, pool = (cells.h[axis].values[i] for axis, i in zip(AXES, where, strict=False))
            raise ValueError(
                f"states must be finite; layer {layer}, pool {pool} has NaN or infinity in {int(wrong.sum())} "
                f"examples, the first at {start + int(wrong.argmax())}: leave them out, or capture in float32"
            )


def _read(h: xr.DataArray, at: slice, width: int, device: torch.device) -> Tensor:
    """A copy of its own, in float64."""
    return torch.as_tensor(h[at, :width].values).to(device, torch.double, copy=True)
