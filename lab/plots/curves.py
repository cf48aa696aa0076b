"""One number along an axis, over depth or training or length, a line for each of what is compared."""

import html
from collections.abc import Mapping

import plotly.graph_objects as go
import xarray as xr

from lab.plots.style import COLOURS, SYMBOLS, quiet, upright

DASHES = ("dash", "dot", "dashdot", "longdash")


def layer_curves(
    scores: xr.Dataset | xr.DataArray,
    *,
    title: str,
    unit: str,
    lines: str = "pool",
    references: Mapping[str, float] | None = None,
) -> go.Figure:
    """A line per pool over the layers, with its interval as a band where there is one; see `curves`."""
    across = "layer (0 = embeddings)"
    figure = curves(scores, "layer", lines=lines, title=title, unit=unit, across=across, references=references)
    return figure.update_xaxes(tickvals=scores["layer"].values.tolist())


def curves(
    scores: xr.Dataset | xr.DataArray,
    along: str,
    *,
    title: str,
    unit: str,
    lines: str,
    across: str | None = None,
    log: str = "",
    references: Mapping[str, float] | None = None,
) -> go.Figure:
    """A line for each value of one axis, along another, with its interval as a band where there is one.

    scores: [along, lines], either one array or a dataset with estimate, low and high (lab.stats.bootstrap). A point
    that is NaN is left out.
    title: what to notice; unit: what the height means; across: what the width means, the name of `along` when not
    given; log: "x", "y" or "xy" for logarithmic axes; references: {name: height} of dashed grey lines.
    Raises ValueError for an axis that is not there.
    """
    data = scores if isinstance(scores, xr.Dataset) else xr.Dataset({"estimate": scores})
    if missing := {along, lines} - set(data["estimate"].dims):
        raise ValueError(
            f"scores need the axes {along} and {lines}; {sorted(missing)} missing from {data['estimate'].dims}"
        )
    figure = go.Figure()
    for i, name in enumerate(data[lines].values):
        line, colour = data.sel({lines: name}).dropna(along, subset=["estimate"]), COLOURS[i % len(COLOURS)]
        places = line[along].values.tolist()
        label = html.escape(str(name))
        if "low" in data:
            figure.add_scatter(
                x=places + places[::-1],
                y=[*line["high"].values, *line["low"].values[::-1]],
                mode="lines",
                fill="toself",
                fillcolor=_translucent(colour),
                line={"width": 0},
                hoverinfo="skip",
                showlegend=False,
                legendgroup=label,
            )
        figure.add_scatter(
            x=places,
            y=line["estimate"].values,
            name=label,
            mode="lines+markers",
            line={"color": colour, "width": 2},
            marker={"symbol": SYMBOLS[i % len(SYMBOLS)], "size": 8 if len(places) < 40 else 4},
            hovertemplate=f"{label}, {along} %{{x}}: %{{y:.3f}}<extra></extra>",
            legendgroup=label,
        )
    ends = [float(data[along].min()), float(data[along].max())]
    for i, (name, height) in enumerate((references or {}).items()):
        figure.add_scatter(
            x=ends,
            y=[height, height],
            name=html.escape(name),
            mode="lines",
            line={"dash": DASHES[i % len(DASHES)], "color": "gray", "width": 1.5},
            hovertemplate=f"{html.escape(name)}: {height:.3f}<extra></extra>",
        )
    spaced = {"type": "log", "dtick": "D2", "tickformat": "~g"}  # 1, 2, 5, 10, each as a number
    figure.update_xaxes(title=across or along, **spaced if "x" in log else {})
    figure.update_yaxes(**upright(unit), **spaced if "y" in log else {})
    return quiet(figure, title=title)


def _translucent(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.18)"
