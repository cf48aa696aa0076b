"""Figures under controls, for a notebook with a kernel; where there is none, in a report, a figure stands instead.

explorer(states, table)                a map that moves from layer to layer, with the texts behind the points
sinks(model, texts)                    a mosaic of heads, and what each does with a text, under any normalizer
layers(scores, similarity, space)      probes, similarity and geometry of the same layers
inspector(model, table)                a text under every pooling, and what stands near it then
cockpit(train)                         the curves of a training while they grow, with stop and resume

What is chosen on the page can be read, and mostly set, in Python. What goes wrong is said in the widget.
"""

from lab.widgets.cockpit import Cockpit, cockpit
from lab.widgets.explorer import Explorer, explorer
from lab.widgets.inspector import Inspector, inspector
from lab.widgets.layers import LayerBrowser, layers
from lab.widgets.sinks import SinkViewer, sinks

__all__ = [
    "Cockpit",
    "Explorer",
    "Inspector",
    "LayerBrowser",
    "SinkViewer",
    "cockpit",
    "explorer",
    "inspector",
    "layers",
    "sinks",
]
