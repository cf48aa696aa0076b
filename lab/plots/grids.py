"""Tables as heat, shares of tokens on the text itself, images side by side."""

import html
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lab.plots.style import quiet

ROW = 24  # pixels; a label fits
HEAT = [[0, "#f7fbff"], [0.5, "#9ecae1"], [1, "#4a98c9"]]  # light enough for black numbers at its darkest
# blue below, orange above: told apart by all readers; grey-white in the middle
SPLIT = [[0, "#2166ac"], [0.25, "#92c5de"], [0.5, "#f5f5f0"], [0.75, "#fdb863"], [1, "#b35806"]]


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
    names = ["<br>".join(html.escape(part) for part in textwrap.wrap(str(name), 10)) for name in table.columns]
    figure.update_xaxes(
        title={"text": columns, "standoff": 12}, tickvals=list(range(len(names))), ticktext=names, tickangle=0
    )
    return _rows(figure, table.index, rows, groups, title)


def token_shares(
    shares: pd.DataFrame, tokens: Sequence[str], *, title: str, groups: Sequence[str] | None = None
) -> go.Figure:
    """What each pool (row) makes of each token of one text (column), against the equal share 1/n.

    shares: rows sum to 1; a row without any share is left blank and says so. Colour is log2 of n times the share, cut
    at 8 times more or less; the text runs along the bottom.
    """
    values = shares.to_numpy(float)
    if values.shape[1] != len(tokens):
        raise ValueError(f"one share per token; got {values.shape[1]} shares and {len(tokens)} tokens")
    silent = ~(values > 0).any(1)
    with np.errstate(divide="ignore"):
        lift = np.clip(np.log2(values * values.shape[1]), -3, 3)
    lift[silent] = np.nan
    figure = go.Figure(
        go.Heatmap(
            z=lift, x=np.arange(len(tokens)), y=np.arange(len(shares)), zmin=-3, zmax=3, colorscale=SPLIT, xgap=1,
            ygap=1, customdata=_hover(shares.index, tokens), text=_numbers(values, 3),
            hovertemplate="%{customdata}: share %{text}<extra></extra>",
            colorbar={"title": {"text": "times 1/n"}, "thickness": 12, "len": 0.5, "x": 1.05,
                      "tickvals": list(range(-3, 4)), "ticktext": ["1/8", "1/4", "1/2", "1", "2", "4", "8"]},
        )
    )  # fmt: skip
    for row in np.flatnonzero(silent):
        figure.add_annotation(x=len(tokens) / 2, y=row, text="passes no gradient to its tokens", showarrow=False)
    words = [html.escape(token) for token in tokens]
    figure.update_xaxes(
        title={"text": "token", "standoff": 12}, tickvals=list(range(len(words))), ticktext=words, tickangle=-60
    )
    return _rows(figure, shares.index, "pool", groups, title)


def image_grid(
    images: Mapping[str, np.ndarray], *, title: str, across: int = 6, shared: bool = False, symmetric: bool = False
) -> go.Figure:
    """Images [H, W] with a heading each, the first row of pixels on top.

    shared: one colour range for all, otherwise each its own, from 0 (or its lowest value below that) to its highest.
    symmetric: the range is centred on 0, blue below and orange above.
    """
    pictures = [np.asarray(image, float) for image in images.values()]
    if not pictures or any(picture.ndim != 2 for picture in pictures):
        raise ValueError(f"images must be [H, W], one or more; got {[picture.shape for picture in pictures]}")
    down = -(-len(pictures) // across)
    figure = make_subplots(
        down, across, subplot_titles=[html.escape(name) for name in images],
        horizontal_spacing=0.02, vertical_spacing=min(0.2, 34 / (150 * down)),
    )  # fmt: skip
    for i, (name, picture) in enumerate(zip(images, pictures, strict=True)):
        low, high = _span(np.concatenate([p.ravel() for p in pictures]) if shared else picture.ravel())
        low, far = min(low, 0.0), max(abs(low), abs(high))
        row, column = i // across + 1, i % across + 1
        figure.add_heatmap(
            z=picture, zmin=-far if symmetric else low, zmax=far if symmetric else high, showscale=False,
            colorscale=SPLIT if symmetric else "Greys", row=row, col=column,
            hovertemplate=f"{html.escape(name)}, row %{{y}}, column %{{x}}: %{{z:.3f}}<extra></extra>",
        )  # fmt: skip
    quiet(figure, title=title, height=90 + 165 * down)
    figure.update_annotations(font={"size": 12})
    figure.update_xaxes(visible=False, constrain="domain")
    figure.update_yaxes(visible=False, autorange="reversed", constrain="domain")
    for axis in figure.select_yaxes():  # square pixels
        axis.scaleanchor = axis.anchor
    return figure


def _rows(figure: go.Figure, index, label: str, groups: Sequence[str] | None, title: str) -> go.Figure:
    """Rows from top to bottom, with a line and a name where a family of them begins."""
    quiet(figure, title=title, height=150 + ROW * len(index))
    names = [html.escape(str(name)) for name in index]
    figure.update_yaxes(
        title={"text": label, "standoff": 14}, tickvals=list(range(len(names))), ticktext=names, showgrid=False,
        range=[len(names) - 0.5, -0.5], automargin=True,
    )  # fmt: skip
    figure.update_xaxes(showgrid=False, automargin=True)
    return figure if groups is None else _families(figure, groups, len(names))


def _families(figure: go.Figure, groups: Sequence[str], n: int) -> go.Figure:
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
