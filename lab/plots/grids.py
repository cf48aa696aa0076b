"""Tables as heat."""

import html
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from lab.plots.style import quiet

ROW = 24  # pixels; a label fits
HEAT = [[0, "#f7fbff"], [0.5, "#9ecae1"], [1, "#4a98c9"]]  # light enough for black numbers at its darkest


def heat_table(
    table: pd.DataFrame,
    *,
    title: str,
    rows: str,
    columns: str,
    ranges: Mapping[str, tuple[float | int, float | int]] | None = None,
    groups: Sequence[str] | None = None,
    decimals: int = 2,
) -> go.Figure:
    """Numbers in cells, coloured within their column: the pale end is the column's lowest, the dark its highest.

    rows, columns: what the axes hold; ranges: {column: (lowest, highest)} of the colours, otherwise the column's own;
    groups: a family per row, equal ones in a run. A number that is not there is left blank.
    """
    values = table.to_numpy(float)
    spans = [(ranges or {}).get(name, _span(values[:, i])) for i, name in enumerate(table.columns)]
    low, high = (np.array(ends, float) for ends in zip(*spans, strict=True))
    heat = np.clip((values - low) / np.where(high > low, high - low, 1), 0, 1)
    figure = go.Figure(
        go.Heatmap(
            z=np.where(np.isnan(values), np.nan, heat), x=np.arange(len(table.columns)), y=np.arange(len(table)),
            text=_numbers(values, decimals), texttemplate="%{text}", textfont={"color": "black"}, zmin=0, zmax=1,
            customdata=_hover(table.index, table.columns), hovertemplate="%{customdata}: %{text}<extra></extra>",
            colorscale=HEAT, showscale=False, xgap=1, ygap=1,
        )
    )  # fmt: skip
    quiet(figure, title=title, height=150 + ROW * len(table)).update_layout(
        margin={"t": 130, "b": 10}, title={"yref": "container", "y": 1, "yanchor": "top", "pad": {"t": 12}}
    )
    names = ["<br>".join(html.escape(part) for part in textwrap.wrap(str(name), 8)) for name in table.columns]
    figure.update_xaxes(
        title={"text": columns, "standoff": 12}, tickvals=list(range(len(names))), ticktext=names, tickangle=0,
        side="top", showgrid=False,
    )  # fmt: skip
    figure.update_yaxes(
        title={"text": rows, "standoff": 14}, tickvals=list(range(len(table))), showgrid=False, automargin=True,
        ticktext=[html.escape(str(name)) for name in table.index], range=[len(table) - 0.5, -0.5],
    )  # fmt: skip
    return figure if groups is None else _families(figure, groups, len(table))


def mosaic(
    values: xr.DataArray,
    *,
    title: str,
    unit: str,
    reach: tuple[float | int, float | int] | None = None,
) -> go.Figure:
    """One number for each place of a grid as colour alone, for grids too large for figures: layers x heads, say.

    values: two axes, rows first, drawn from below as layers stand; reach: the ends of the colours, otherwise the
    lowest and highest number. title: what to notice; unit: what the colour means. NaN is left blank.
    """
    if values.ndim != 2:
        raise ValueError(f"a mosaic has two axes, rows and columns; got {values.dims}")
    rows, columns = values.dims
    labels = [values[axis].values if axis in values.coords else np.arange(values.sizes[axis]) for axis in values.dims]
    low, high = reach if reach is not None else _span(values.to_numpy().astype(float))
    figure = go.Figure(
        go.Heatmap(
            z=values.to_numpy().astype(float), zmin=low, zmax=high, colorscale="Cividis", xgap=1, ygap=1,
            x=np.arange(len(labels[1])), y=np.arange(len(labels[0])), customdata=_hover(labels[0], labels[1]),
            colorbar={"title": {"text": unit, "side": "right"}, "thickness": 14},
            hovertemplate=f"{rows}, {columns} %{{customdata}}: %{{z:.3f}}<extra></extra>",
        )
    )  # fmt: skip
    for update, names, axis in ((figure.update_yaxes, labels[0], rows), (figure.update_xaxes, labels[1], columns)):
        every = -(-len(names) // 24)  # a label fits for each of two dozen
        places = list(range(0, len(names), every))
        update(
            title=str(axis),
            tickvals=places,
            ticktext=[html.escape(str(names[i])) for i in places],
            showgrid=False,
            automargin=True,
        )
    return quiet(figure, title=title, height=170 + 22 * min(len(labels[0]), 24))


def _families(figure: go.Figure, groups: Sequence[str], n: int) -> go.Figure:
    """A line and a name where a family of rows begins."""
    if len(groups) != n:
        raise ValueError(f"one group per row; got {len(groups)} groups and {n} rows")
    begins = [i for i in range(n) if i == 0 or groups[i] != groups[i - 1]]
    for i, end in zip(begins, [*begins[1:], n], strict=True):
        if i:
            figure.add_hline(y=i - 0.5, line={"color": "gray", "width": 1.5})
        figure.add_annotation(
            x=1, xref="paper", xanchor="left", xshift=4, y=(i + end - 1) / 2, text=html.escape(groups[i]),
            textangle=90, showarrow=False, font={"color": "gray", "size": 12},
        )  # fmt: skip
    return figure


def _hover(rows, columns) -> np.ndarray:
    return np.array([[html.escape(f"{row}, {column}") for column in columns] for row in rows], dtype=object)


def _numbers(values: np.ndarray, decimals: int) -> np.ndarray:
    words = [
        "" if np.isnan(v) else "∞" if np.isinf(v) else f"{round(v, decimals) + 0.0:.{decimals}f}" for v in values.flat
    ]
    return np.array(words, dtype=object).reshape(values.shape)


def _span(values: np.ndarray) -> tuple[float, float]:
    real = values[np.isfinite(values)]
    return (float(real.min()), float(real.max())) if real.size else (0.0, 1.0)
