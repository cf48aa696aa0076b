"""Small images side by side."""

import html
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lab.plots.style import SPLIT, quiet

ACROSS = 6


def image_grid(images: Mapping[str, np.ndarray], *, title: str) -> go.Figure:
    """Signed images [H, W] with a heading each, the first row of pixels on top: blue below zero, orange above.

    Each has its own range of colours, as far below 0 as above it.
    """
    pictures = [np.asarray(image, float) for image in images.values()]
    if not pictures or any(picture.ndim != 2 for picture in pictures):
        raise ValueError(f"images must be [H, W], one or more; got {[picture.shape for picture in pictures]}")
    figure, places = panels(list(images), title=title)
    for name, picture, place in zip(images, pictures, places, strict=True):
        far = float(np.abs(picture).max())
        figure.add_heatmap(
            z=picture, zmin=-far, zmax=far, showscale=False, colorscale=SPLIT, **place,
            hovertemplate=f"{html.escape(name)}, row %{{y}}, column %{{x}}: %{{z:.3f}}<extra></extra>",
        )  # fmt: skip
    return figure


def panels(names: Sequence[str], *, title: str) -> tuple[go.Figure, list[dict[str, int]]]:
    """A figure with a square place for each name, headed by it, and the row and column of each."""
    down = -(-len(names) // ACROSS)
    figure = make_subplots(
        down, ACROSS, subplot_titles=[html.escape(name) for name in names],
        horizontal_spacing=0.02, vertical_spacing=min(0.2, 34 / (150 * down)),
    )  # fmt: skip
    quiet(figure, title=title, height=90 + 165 * down).update_layout(margin={"l": 10, "b": 10})
    figure.update_annotations(font={"size": 12})
    figure.update_xaxes(visible=False, constrain="domain")
    figure.update_yaxes(visible=False, autorange="reversed", constrain="domain")
    for axis in figure.select_yaxes():  # square pixels
        axis.scaleanchor = axis.anchor
    return figure, [{"row": i // ACROSS + 1, "col": i % ACROSS + 1} for i in range(len(names))]
