"""The explorer where there is no kernel: all its maps as the frames of one figure with a slider."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from lab.plots import morphing_map
from lab.widgets.live import plain
from lab.widgets.maps import Maps

if TYPE_CHECKING:
    from lab.widgets.explorer import Explorer

POINTS = 1500  # of a frame, and of all frames together:
PLACES = 60_000
WHOLE = 5000  # examples up to which the points lie where the widget itself has them


def still(widget: Explorer) -> go.Figure:
    """Every layer and pool by PCA; points drawn evenly, up to six columns to colour by, blank where none is finite."""
    layers, pools, n = widget.layers, widget.pools, widget.n
    size = min(n, POINTS, max(100, PLACES // (len(layers) * len(pools))))
    some = np.linspace(0, n - 1, size).round().astype(int)
    states = widget.states.isel(example=some)
    maps, whole = Maps(states, widget.maps.seed), widget.maps if n <= WHOLE else None
    places = np.full((len(layers), len(pools), size, 2), np.nan)
    with_states = np.isfinite(states.h.transpose("layer", "pool", "example", "dim").values).all(-1).any(-1)
    for layer, pool in np.argwhere(with_states):
        at = int(layer), int(pool)
        places[at] = whole(*at)[some] if whole else maps(*at)
    columns = [widget.colour, *(name for name in widget.columns if name != widget.colour)][:6]
    colours = {name: widget.hued(name) for name in columns if name}
    figure = morphing_map(
        xr.DataArray(places, dims=("layer", "pool", "example", "axis"), coords={"layer": layers, "pool": pools}),
        {name: {"codes": h.codes[some], "palette": h.palette, "legend": h.legend} for name, h in colours.items()},
        [plain(value, 240) for value in widget.data[widget.text].iloc[some]],
        title=f"{n:,} examples, layer by layer (PCA)",
        start=layers.index(widget.layer),
    )
    lost = "" if with_states.all() else " Layers without finite states are blank."
    shown = f"{size:,} of {n:,} examples" if size < n else f"All {size:,} examples"
    told = f"{shown}; each layer's map is turned onto the one before it, so that points move as little as they can."
    return figure.update_layout(meta={"caption": told + lost})
