"""Points in the plane, coloured by a label, with the text behind each on hover."""

import html
import textwrap
from collections.abc import Iterable, Mapping

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from lab.plots.style import COLOURS, quiet


def point_maps(
    maps: Mapping[str, xr.DataArray], labels: Iterable[str], texts: Iterable[str], *, title: str
) -> go.Figure:
    """Maps of the same examples side by side, one colour per label; a click in the legend hides a label everywhere.

    maps: {heading: coordinates [example, axis]}, such as lab.geometry.project gives; labels, texts: one per example,
    escaped here. Axes carry no numbers: distances on such maps mean little, neighbourhoods more.
    """
    labels, texts = np.array([str(label) for label in labels]), list(texts)
    sizes = {heading: len(xy) for heading, xy in maps.items()}
    if set(sizes.values()) != {len(labels)} or len(texts) != len(labels):
        raise ValueError(
            f"one label and one text per point; got maps {sizes}, {len(labels)} labels, {len(texts)} texts"
        )
    hover = np.array([_hover(text) for text in texts], dtype=object)
    figure = make_subplots(1, len(maps), subplot_titles=[html.escape(heading) for heading in maps])
    for column, xy in enumerate(maps.values(), start=1):
        for i, label in enumerate(np.unique(labels)):
            here = labels == label
            figure.add_scattergl(
                x=xy.values[here, 0],
                y=xy.values[here, 1],
                mode="markers",
                marker={"size": 5, "color": COLOURS[i % len(COLOURS)], "opacity": 0.8},
                name=html.escape(label),
                legendgroup=label,
                showlegend=column == 1,
                text=hover[here],
                hovertemplate="<b>%{fullData.name}</b><br>%{text}<extra></extra>",
                row=1,
                col=column,
            )
    quiet(figure, title=title, height=520)
    figure.update_xaxes(visible=False)
    return figure.update_yaxes(visible=False)


def _hover(text: str) -> str:
    short = textwrap.shorten(" ".join(text.split()), 240, placeholder=" ...")
    return "<br>".join(html.escape(line) for line in textwrap.wrap(short, 70))
