"""Which layers do little: how far each turns the states that pass through it, from stored states.

states: h[layer, pool, example, dim] of lab.capture.states or a store, or h[layer, token, dim] of lab.capture.tokens,
whose means run over tokens, as in the sources. (lab.capture.moments has block influence over all tokens of a corpus
without keeping any.) Two layers are in memory at a time.
"""

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from lab.geometry.space import Space


def block_influence(states: xr.Dataset) -> xr.DataArray:
    """1 - mean_i cos(h_l,i, h_(l+1),i), for each layer but the first of those captured: influence[layer, pool].

    `layer` is the one after the block. 0: the block changes no direction; in [0, 2]. Unchanged by scaling single
    states and by one rotation of both layers; changed by a shift. A zero state has cosine 0. Last-layer states that
    left the final norm are compared as they are: `normed` tells.

    ShortGPT, Men et al., 2024, eq. 1 (number recalled), there over tokens. https://arxiv.org/abs/2403.03853
    ValueError for fewer than two layers, layers of different widths, and states that are not finite.
    """
    h, width = _layers(states)
    found = np.empty((len(h.layer) - 1, *(h.sizes[axis] for axis in h.dims[1:-2])))
    for cell in np.ndindex(*found.shape[1:]):
        before = _units(h, 0, cell, width)
        for i in range(len(found)):
            after = _units(h, i + 1, cell, width)
            found[(i, *cell)] = 1 - float((before * after).sum(-1).mean())
            before = after
    dims = h.dims[:-2]
    coords = {"layer": h.layer[1:], **{axis: h[axis] for axis in dims[1:]}}
    return xr.DataArray(found, dims=dims, coords=coords, name="influence")


def angular_distance(states: xr.Dataset) -> xr.DataArray:
    """mean_i arccos(cos(h_l,i, h_m,i)) / pi, for all pairs of layers: angular_distance[pool, layer, layer_].

    0: same directions; 1/2: right angles; 1: opposite. The cosine is clamped. A run of n blocks that starts after
    layer l is least missed where the entry (l, l + n) is smallest. Unchanged and changed as block_influence.

    Gromov et al., 2024, eq. 3 (number recalled), there at the last token: capture with pools=("last",).
    https://arxiv.org/abs/2403.17887. ValueError as for block_influence.
    """
    h, width = _layers(states)
    layers = len(h.layer)
    found = np.zeros((*(h.sizes[axis] for axis in h.dims[1:-2]), layers, layers))
    for cell in np.ndindex(*found.shape[:-2]):
        for i in range(layers - 1):
            one = _units(h, i, cell, width)
            for j in range(i + 1, layers):
                cosine = (one * _units(h, j, cell, width)).sum(-1).clamp(-1, 1)
                found[(*cell, i, j)] = found[(*cell, j, i)] = float(cosine.arccos().mean()) / np.pi
    dims = (*h.dims[1:-2], "layer", "layer_")
    coords = {**{axis: h[axis] for axis in dims[:-2]}, "layer": h.layer, "layer_": h.layer.values}
    return xr.DataArray(found, dims=dims, coords=coords, name="angular_distance")


def _layers(states: xr.Dataset) -> tuple[xr.DataArray, int]:
    h = states["h"]
    rows = "token" if "token" in h.dims else "example"
    if "layer" not in h.dims or h.sizes["layer"] < 2:
        raise ValueError(f"two layers or more are compared; got {h.sizes.get('layer', 'no axis layer')}")
    widths = {int(width) for width in states["width"].values} if "width" in states else {h.sizes["dim"]}
    if len(widths) > 1:
        raise ValueError(f"only layers of one width have angles between them; got widths {sorted(widths)}: select some")
    others = [axis for axis in h.dims if axis not in ("layer", rows, "dim")]
    return h.transpose("layer", *others, rows, "dim"), widths.pop()


def _units(h: xr.DataArray, layer: int, cell: tuple[int, ...], width: int) -> Tensor:
    return Space(torch.from_numpy(h[(layer, *cell)][:, :width].values)).units
