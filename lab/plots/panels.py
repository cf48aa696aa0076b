"""Several figures of one thing side by side: curves over training, and what is known of each layer."""

import html
from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from lab.plots.style import COLOURS, quiet


def curve_panels(parts: Mapping[str, xr.DataArray], *, title: str, along: str, columns: int = 2) -> go.Figure:
    """A panel for each part, over one axis that all share; a line for each value of the other axis a part has, named in
    the panel: of more than four the first and the last.

    parts: {heading: [along] or [along, any other]}. NaN is left out. ValueError for a part without the axis `along`, or
    with more than one beside it.
    """
    if wrong := {name: part.dims for name, part in parts.items() if along not in part.dims or part.ndim > 2}:
        raise ValueError(f"each part has the axis {along!r} and at most one beside it; got {wrong}")
    rows = -(-len(parts) // columns)
    figure = make_subplots(rows, columns, subplot_titles=[html.escape(name) for name in parts], vertical_spacing=0.16)
    keys = {}
    for i, part in enumerate(parts.values()):
        row, column, key = i // columns + 1, i % columns + 1, f"legend{i + 1 if i else ''}"
        for line in _lines(part, along):
            figure.add_scatter(**line, legend=key, row=row, col=column)
        panel = figure.get_subplot(row, column)
        place = {"x": panel.xaxis.domain[1], "xanchor": "right", "y": panel.yaxis.domain[1], "yanchor": "top"}
        keys[key] = place | {"font": {"size": 11}, "bgcolor": "rgba(128,128,128,0.08)"}
    figure.update_xaxes(title=along)
    return quiet(figure, title=title, height=150 + 270 * rows).update_layout(keys)


def _lines(part: xr.DataArray, along: str) -> list[dict[str, Any]]:
    other = next((dim for dim in part.dims if dim != along), None)
    names = [None] if other is None else part[other].values.tolist()
    found = []
    for i, name in enumerate(names):
        one = (part if other is None else part.sel({other: name})).dropna(along)
        told = (part.name or "") if name is None else name if isinstance(name, str) else f"{other} {name}"
        label = html.escape(str(told))
        found.append(
            {
                "x": one[along].values, "y": one.values, "name": label, "mode": "lines+markers",
                "showlegend": len(names) > 1 and (len(names) <= 4 or i in (0, len(names) - 1)),
                "line": {"color": COLOURS[i % len(COLOURS)], "width": 2}, "marker": {"size": 4},
                "hovertemplate": f"{label}, {html.escape(along)} %{{x}}: %{{y:.3g}}<extra></extra>",
            }
        )  # fmt: skip
    return found


def layer_panels(
    scores: xr.Dataset | None, similarity: xr.DataArray | None, space: xr.Dataset | None, *, title: str, unit: str
) -> go.Figure:
    """What is known of each layer: probe curves, how alike layers are, and a number of the space, by menu.

    scores: estimate [layer, pool]; similarity: [pool, layer, layer_]; space: variables [layer, pool]. One or two of
    them may be None. A line under the pointer runs through all panels of curves.
    """
    parts = {"scores": scores, "similarity": similarity, "space": space}
    shown = [name for name, part in parts.items() if part is not None]
    headings = {"scores": unit, "similarity": "", "space": ""}
    figure = make_subplots(1, len(shown), subplot_titles=[html.escape(headings[name]) or " " for name in shown])
    menus = []
    for column, name in enumerate(shown, start=1):
        if name == "scores":
            _add_curves(figure, scores["estimate"], column, legend=True)
        elif name == "similarity":
            menus.append(_add_similarity(figure, similarity, column, len(shown)))
        else:
            menus.append(_add_space(figure, space, column, len(shown), legend="scores" not in shown))
    quiet(figure, title=title, height=460).update_layout(updatemenus=menus, margin={"t": 120}, hovermode="x")
    return figure


def _add_curves(figure: go.Figure, table: xr.DataArray, column: int, *, legend: bool) -> list[int]:
    first = len(figure.data)
    for i, pool in enumerate(table["pool"].values.tolist()):
        one = table.sel(pool=pool)
        label = html.escape(str(pool))
        figure.add_scatter(
            x=one["layer"].values, y=one.values, name=label, legendgroup=label, showlegend=legend, mode="lines+markers",
            line={"color": COLOURS[i % len(COLOURS)]}, hovertemplate=f"{label}: %{{y:.3g}}<extra></extra>",
            row=1, col=column,
        )  # fmt: skip
    figure.update_xaxes(title="layer", dtick=max(1, round(table.sizes["layer"] / 8)), row=1, col=column)
    return list(range(first, len(figure.data)))


def _add_similarity(figure: go.Figure, similarity: xr.DataArray, column: int, of: int) -> dict[str, Any]:
    similarity = similarity.transpose("pool", "layer", "layer_")
    maps = [np.round(part, 4).tolist() for part in similarity.values.astype(float)]
    layers = similarity["layer"].values
    name = html.escape(str(similarity.name or "similarity"))
    figure.add_heatmap(
        z=maps[0], x=layers, y=layers, colorscale="Cividis", showscale=False, row=1, col=column,
        hovertemplate=f"{name} of layers %{{y}} and %{{x}}: %{{z:.3f}}<extra></extra>",
    )  # fmt: skip
    every = max(1, round(len(layers) / 8))  # a layer between two layers there is not
    figure.update_xaxes(title="layer", dtick=every, row=1, col=column)
    figure.update_yaxes(title="layer", dtick=every, row=1, col=column)
    at = len(figure.data) - 1
    pools = similarity["pool"].values.tolist()
    buttons = [
        {"label": f"{name}, {html.escape(str(pool))}", "method": "restyle", "args": [{"z": [z]}, [at]]}
        for pool, z in zip(pools, maps, strict=True)
    ]
    return _menu(buttons, column, of)


def _add_space(figure: go.Figure, space: xr.Dataset, column: int, of: int, *, legend: bool) -> dict[str, Any]:
    names = [str(name) for name in space.data_vars]
    tables = {name: space[name].transpose("pool", "layer").values.astype(float) for name in names}
    traces = _add_curves(figure, space[names[0]], column, legend=legend)
    buttons = [
        {"label": html.escape(name), "method": "restyle", "args": [{"y": [_numbers(row) for row in table]}, traces]}
        for name, table in tables.items()
    ]
    return _menu(buttons, column, of)


def _numbers(row: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in row]


def _menu(buttons: list[dict[str, Any]], column: int, of: int) -> dict[str, Any]:
    return {"buttons": buttons, "x": (column - 1) / of, "xanchor": "left", "y": 1.04, "yanchor": "bottom"}
