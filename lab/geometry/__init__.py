"""How an embedding space bends: one function per number, batched over layers and pools."""

import numpy as np
import torch
import xarray as xr

from lab.geometry.isotropy import anisotropy
from lab.geometry.projection import project
from lab.geometry.similarity import cka, linear_cka
from lab.geometry.spectrum import effective_rank

METRICS = {"anisotropy": anisotropy, "effective_rank": effective_rank}

__all__ = ["METRICS", "anisotropy", "cka", "effective_rank", "linear_cka", "measure", "project"]


def measure(states: xr.Dataset) -> xr.Dataset:
    """Every metric of METRICS for every layer and pool of captured states: one variable per metric [layer, pool].

    states: what lab.capture.states or open_store returns; one layer and pool is in memory at a time. Layers narrower
    than the widest are measured at their own width. Raises ValueError for fewer than two examples.
    """
    h = states["h"].transpose("layer", "pool", "example", "dim")
    if h.sizes["example"] < 2:
        raise ValueError(f"a space needs at least two examples; got {h.sizes['example']}")
    widths = states["width"].values if "width" in states else np.full(h.sizes["layer"], h.sizes["dim"])
    found = {name: np.empty(h.shape[:2]) for name in METRICS}
    for cell in np.ndindex(*h.shape[:2]):
        x = torch.from_numpy(h[cell][:, : widths[cell[0]]].values)
        for name, metric in METRICS.items():
            found[name][cell] = metric(x)
    return xr.Dataset(
        {name: (("layer", "pool"), values) for name, values in found.items()},
        coords={axis: h[axis] for axis in ("layer", "pool")},
    )
