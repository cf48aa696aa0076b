"""Arrays in, figures out: every function takes labelled arrays and returns a plotly figure, drawing nothing itself."""

from lab.plots.bars import ratio_dots
from lab.plots.curves import curves, layer_curves
from lab.plots.forest import forest
from lab.plots.grids import heat_table, mosaic
from lab.plots.images import image_grid
from lab.plots.maps import point_maps
from lab.plots.morph import morphing_map
from lab.plots.panels import curve_panels, layer_panels
from lab.plots.shares import place_shares, token_shares
from lab.plots.trade import trade_offs

__all__ = [
    "curve_panels",
    "curves",
    "forest",
    "heat_table",
    "image_grid",
    "layer_curves",
    "layer_panels",
    "morphing_map",
    "mosaic",
    "place_shares",
    "point_maps",
    "ratio_dots",
    "token_shares",
    "trade_offs",
]
