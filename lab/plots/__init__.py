"""Arrays in, figures out: every function takes labelled arrays and returns a plotly figure, drawing nothing itself."""

from lab.plots.bars import ratio_dots
from lab.plots.curves import layer_curves
from lab.plots.grids import heat_table, image_grid, token_shares
from lab.plots.maps import point_maps

__all__ = ["heat_table", "image_grid", "layer_curves", "point_maps", "ratio_dots", "token_shares"]
