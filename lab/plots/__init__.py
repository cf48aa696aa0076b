"""Arrays in, figures out: every function takes labelled arrays and returns a plotly figure, drawing nothing itself."""

from lab.plots.curves import layer_curves
from lab.plots.maps import point_maps

__all__ = ["layer_curves", "point_maps"]
