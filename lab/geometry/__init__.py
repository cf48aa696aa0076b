"""How an embedding space bends: one function per number, batched over layers and pools."""

import torch
import xarray as xr

from lab.geometry.isotropy import anisotropy
from lab.geometry.projection import project
from lab.geometry.spectrum import effective_rank

METRICS = {"anisotropy": anisotropy, "effective_rank": effective_rank}

__all__ = ["METRICS", "anisotropy", "effective_rank", "measure", "project"]


def measure(states: xr.Dataset) -> xr.Dataset:
    """Every metric of METRICS for every layer and pool of captured states: one variable per metric [layer, pool].

    states: what lab.capture.states returns. Raises ValueError for fewer than two examples.
    """
    h = states["h"].transpose("layer", "pool", "example", "dim")
    if h.sizes["example"] < 2:
        raise ValueError(f"a space needs at least two examples; got {h.sizes['example']}")
    x = torch.from_numpy(h.values)
    return xr.Dataset(
        {name: (("layer", "pool"), metric(x).numpy()) for name, metric in METRICS.items()},
        coords={axis: h[axis] for axis in ("layer", "pool")},
    )
