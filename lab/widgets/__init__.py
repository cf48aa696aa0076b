"""Figures under controls, for a notebook with a kernel; where there is none, in a report, a figure stands instead.

explorer(states, table)                a map that moves from layer to layer, with the texts behind the points
"""

from lab.widgets.explorer import Explorer, explorer

__all__ = ["Explorer", "explorer"]
