"""One number per layer and pool, drawn over depth."""

import html
from collections.abc import Mapping

import plotly.graph_objects as go
import xarray as xr

from lab.plots.style import COLOURS, SYMBOLS, quiet

DASHES = ("dash", "dot", "dashdot", "longdash")


def layer_curves(
    scores: xr.Dataset | xr.DataArray,
    *,
    title: str,
    unit: str,
    lines: str = "pool",
    references: Mapping[str, float] | None = None,
) -> go.Figure:
    """A line per pool over the layers, with its interval as a band where there is one.

    scores: [layer, pool], either one array or a dataset with estimate, low and high (lab.stats.bootstrap).
    lines: the axis that has a line for each of its values, where that is not the pool.
    title: what to notice; unit: what the height means; references: {name: height} of dashed grey lines.
    """
    data = scores if isinstance(scores, xr.Dataset) else xr.Dataset({"estimate": scores})
    if missing := {"layer", lines} - set(data["estimate"].dims):
        raise ValueError(
            f"scores need the axes layer and {lines}; {sorted(missing)} missing from {data['estimate'].dims}"
        )
    layers = data["layer"].values.tolist()
    figure = go.Figure()
    for i, name in enumerate(data[lines].values):
        line, colour = data.sel({lines: name}), COLOURS[i % len(COLOURS)]
        group = {"legendgroup": str(name)}
        if "low" in data:
            band = [*line["high"].values, *line["low"].values[::-1]]
            figure.add_scatter(
                x=layers + layers[::-1],
                y=band,
                mode="lines",
                fill="toself",
                fillcolor=_translucent(colour),
                line={"width": 0},
                hoverinfo="skip",
                showlegend=False,
                **group,
            )
        figure.add_scatter(
            x=layers,
            y=line["estimate"].values,
            name=html.escape(str(name)),
            mode="lines+markers",
            line={"color": colour, "width": 2},
            marker={"symbol": SYMBOLS[i % len(SYMBOLS)], "size": 8},
            hovertemplate=f"{name}, layer %{{x}}: %{{y:.3f}}<extra></extra>",
            **group,
        )
    for i, (name, height) in enumerate((references or {}).items()):
        figure.add_scatter(
            x=[layers[0], layers[-1]],
            y=[height, height],
            name=name,
            mode="lines",
            line={"dash": DASHES[i % len(DASHES)], "color": "gray", "width": 1.5},
            hovertemplate=f"{name}: {height:.3f}<extra></extra>",
        )
    figure.update_xaxes(title="layer (0 = embeddings)", tickvals=layers)
    figure.update_yaxes(title=unit)
    return quiet(figure, title=title)


def _translucent(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.18)"
