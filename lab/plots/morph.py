"""One map for each layer and pool, moved into each other by a slider that needs no kernel."""

import html
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from lab.plots.style import quiet

SIZES = {"width": 0, "color": "rgba(0,0,0,0)"}


def morphing_map(
    maps: xr.DataArray,
    colours: Mapping[str, Mapping[str, Any]],
    texts: Sequence[str],
    *,
    title: str,
    start: int = -1,
) -> go.Figure:
    """Points that a slider moves from layer to layer, with a menu of pools and one of colours.

    maps: places [layer, pool, example, axis], on one scale; a point without a place (NaN) is left out. colours:
    {column: {"codes": a number per example, "palette": hex colours that they count, "legend": as
    lab.widgets.packing.hues makes}}. texts: one per example, on hover, escaped here. start: the layer shown first, by
    index. ValueError where the numbers of examples differ.
    """
    maps = maps.transpose("layer", "pool", "example", "axis")
    n = maps.sizes["example"]
    lengths = {"texts": len(texts)} | {name: len(one["codes"]) for name, one in colours.items()}
    if set(lengths.values()) != {n}:
        raise ValueError(f"one text and one colour per point; got {n} points and {lengths}")
    layers, pools = ([html.escape(str(value)) for value in maps[axis].values] for axis in ("layer", "pool"))
    start = range(len(layers))[start]
    places = np.round(maps.values.astype(float), 4)
    first = next(iter(colours.values()), None)
    figure = go.Figure(
        go.Scatter(
            **_xy(places[start, 0]), mode="markers", showlegend=False,
            marker={"size": 6, "opacity": 0.8, "line": SIZES} | (_marker(first) if first else {}),
            text=[_hover(text) for text in texts], hovertemplate="%{text}<extra></extra>",
        )
    )  # fmt: skip
    figure.frames = [
        go.Frame(name=f"{p}/{layer}", data=[go.Scatter(**_xy(places[layer, p]))], traces=[0])
        for p in range(len(pools))
        for layer in range(len(layers))
    ]
    quiet(figure, title=html.escape(title), height=620).update_layout(
        sliders=[_slider(p, pool, layers, start, visible=p == 0) for p, pool in enumerate(pools)],
        updatemenus=[*_pools(places, pools, start), *_colours(colours)],
        margin={"t": 110, "b": 100, "l": 20, "r": 20},
    )
    edge = [-1.08, 1.08]
    figure.update_xaxes(visible=False, range=edge)
    return figure.update_yaxes(visible=False, range=edge, scaleanchor="x")


def _xy(places: np.ndarray) -> dict[str, list[float | None]]:
    return {axis: [None if np.isnan(v) else v for v in places[:, i].tolist()] for i, axis in enumerate("xy")}


def _slider(p: int, pool: str, layers: Sequence[str], start: int, *, visible: bool) -> dict[str, Any]:
    """Of the layers of one pool; only the shown pool's is visible."""
    moves = {"mode": "immediate", "frame": {"duration": 500, "redraw": False}, "transition": {"duration": 500}}
    return {
        "active": start, "visible": visible, "pad": {"t": 20}, "x": 0, "len": 1,
        "currentvalue": {"prefix": f"{pool}, layer "},
        "steps": [
            {"label": name, "method": "animate", "args": [[f"{p}/{i}"], moves]} for i, name in enumerate(layers)
        ],
    }  # fmt: skip


def _pools(places: np.ndarray, pools: Sequence[str], start: int) -> list[dict[str, Any]]:
    if len(pools) < 2:
        return []
    buttons = []
    for p, pool in enumerate(pools):
        shown = {f"sliders[{other}].visible": other == p for other in range(len(pools))} | {
            f"sliders[{p}].active": start
        }
        moved = {axis: [values] for axis, values in _xy(places[start, p]).items()}
        buttons.append({"label": pool, "method": "update", "args": [moved, shown, [0]]})
    return [{"buttons": buttons, "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom", "showactive": True}]


def _colours(colours: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    if len(colours) < 2:
        return []
    buttons = [
        {
            "label": html.escape(name),
            "method": "restyle",
            "args": [{f"marker.{key}": [value] for key, value in _marker(one).items()}, [0]],
        }
        for name, one in colours.items()
    ]
    return [{"buttons": buttons, "x": 1, "xanchor": "right", "y": 1.02, "yanchor": "bottom", "showactive": True}]


def _marker(one: Mapping[str, Any]) -> dict[str, Any]:
    """Colours by number, so that one trace holds every class and a bar of colours is the legend."""
    legend = one["legend"]
    palette = list(one["palette"])[: len(legend["entries"]) if legend["kind"] == "classes" else None]
    n = len(palette)
    steps = [[edge / n, colour] for i, colour in enumerate(palette) for edge in (i, i + 1)]
    bar = {"thickness": 14, "outlinewidth": 0, "len": 1, "title": {"text": ""}}
    if legend["kind"] == "classes":
        entries = legend["entries"]
        words = [f"{html.escape(textwrap.shorten(e['label'], 24, placeholder='…') or '…')} ({e['n']})" for e in entries]
        bar |= {"tickvals": list(range(len(words))), "ticktext": words}
    else:
        numbers = [legend["low"] + share * (legend["high"] - legend["low"]) for share in (0, 0.5, 1)]
        bar |= {"tickvals": [0, (n - 2) / 2, n - 2], "ticktext": [f"{number:.3g}" for number in numbers]}
    return {
        "color": [int(code) for code in one["codes"]], "colorscale": steps, "cmin": -0.5, "cmax": n - 0.5,
        "showscale": True, "colorbar": bar,
    }  # fmt: skip


def _hover(text: str) -> str:
    short = textwrap.shorten(" ".join(text.split()), 240, placeholder=" ...")
    return "<br>".join(html.escape(line) for line in textwrap.wrap(short, 70))
