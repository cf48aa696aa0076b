"""The layers of captured states as sides of pairs: read when asked for, kept while they fit."""

from collections.abc import Iterable
from threading import Lock

import torch
import xarray as xr
from torch import Tensor

from lab.geometry.pairs import Part, Side

HOLD = 2**30  # bytes of the kept parts of one pool's layers; beyond them a layer is read again for each row of pairs


class Layers:
    """layers(i) is layer i of one pool as a Side that has these parts and nothing else."""

    def __init__(self, states: xr.Dataset, pool: int, parts: Iterable[Part]) -> None:
        self.states, self.pool, self.parts = states, pool, tuple(parts)
        self.kept: dict[int, Side] = {}
        self.held, self.lock = 0, Lock()
        n = states.sizes["example"]
        self.room = 8 * n * (4 * states.sizes["dim"] + 2 * n)  # of one being read: its rows four times, all distances

    def __len__(self) -> int:
        return self.states.sizes["layer"]

    def __call__(self, layer: int) -> Side:
        return self.kept[layer] if layer in self.kept else self._read(layer)

    def keep(self, layer: int) -> None:
        """Read it now if there may be room for it. Any thread may call this."""
        if self.held >= HOLD:
            return
        side = self._read(layer)
        with self.lock:
            if self.held + side.nbytes <= HOLD:
                self.held += side.nbytes
                self.kept[layer] = side

    def _read(self, layer: int) -> Side:
        return Side(rows(self.states, layer, self.pool)).only(self.parts)


def rows(states: xr.Dataset, layer: int, pool: int) -> Tensor:
    """The rows of one layer and pool [example, dim], at the layer's own width."""
    width = int(states["width"][layer]) if "width" in states else states.sizes["dim"]
    return torch.from_numpy(states.h.isel(layer=layer, pool=pool).transpose("example", "dim").values[:, :width])
