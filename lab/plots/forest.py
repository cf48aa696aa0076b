"""A row for each design: how good it is, and how far from the baseline."""

import html

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from lab.plots.style import COLOURS, quiet

APART, LEVEL, GRAY = COLOURS[0], COLOURS[1], "gray"


def forest(table: xr.Dataset, *, title: str, unit: str) -> go.Figure:
    """Estimates with their intervals on the left, differences to the baseline on the right with p beside each.

    Blue and filled where the interval of the difference leaves out 0, orange and hollow where it does not; the words
    give p after Holm's correction and, in brackets, the smallest p that the test could have given.

    table: what lab.stats.compare returns, for one cell of all axes but that of the designs. title: what to notice;
    unit: of the scores. Raises ValueError for a table with other axes, or without those variables.
    """
    needed = {"estimate", "low", "high", "difference", "difference_low", "difference_high", "holm", "attainable", "dz"}
    if missing := needed - set(table):
        raise ValueError(f"a table of lab.stats.compare is needed; it lacks {sorted(missing)}")
    if table["estimate"].ndim != 1:
        raise ValueError(f"select one cell first: the table has the axes {table['estimate'].dims}, and a forest one")
    axis = str(table["estimate"].dims[0])
    rows = [html.escape(str(label)) for label in table[axis].values]
    values = {name: table[name].values for name in needed}
    figure = make_subplots(
        1, 2, shared_yaxes=True, horizontal_spacing=0.04, column_widths=[0.45, 0.55],
        subplot_titles=["estimate", f"difference to {html.escape(str(table.attrs.get('baseline', 'the baseline')))}"],
    )  # fmt: skip
    clear = (values["difference_low"] > 0) | (values["difference_high"] < 0)
    tested = ~np.isnan(values["holm"])
    # the baseline differs from itself by nothing: no dot
    gap = np.where(tested, values["difference"], np.nan)
    colours = np.where(clear, APART, LEVEL)
    _dots(figure, 1, rows, values["estimate"], values["low"], values["high"], np.full(len(rows), GRAY), "circle")
    _dots(
        figure, 2, rows, gap, values["difference_low"], values["difference_high"], colours,
        np.where(clear, "circle", "circle-open"),
    )  # fmt: skip
    words = [
        f"p {p:.3g} ({least:.2g})  d<sub>z</sub> {dz:.2g}" if real else "baseline"
        for p, least, dz, real in zip(values["holm"], values["attainable"], values["dz"], tested, strict=True)
    ]
    figure.add_vline(x=0, line={"dash": "dash", "color": GRAY}, row=1, col=2)
    reach = [values["difference_low"].min(), values["difference_high"].max()]
    width = max(reach[1] - reach[0], 1e-12)
    figure.add_scatter(
        x=np.full(len(rows), reach[1] + 0.08 * width), y=rows, mode="text", text=words, textposition="middle right",
        textfont={"size": 11, "color": GRAY}, hoverinfo="skip", showlegend=False, row=1, col=2,
    )  # fmt: skip
    figure.update_xaxes(range=[reach[0] - 0.1 * width, reach[1] + 0.9 * width], row=1, col=2)
    # a label such as "1212" is a name, no number
    figure.update_yaxes(type="category", range=[len(rows) - 0.5, -0.5], automargin=True)
    figure.update_xaxes(title=html.escape(unit))
    return quiet(figure, title=title, height=150 + 28 * len(rows))


def _dots(figure, column, rows, middle, low, high, colours, symbols) -> None:
    for i, row in enumerate(rows):  # one trace a row: error bars have one colour a trace
        figure.add_scatter(
            x=middle[i : i + 1], y=[row], mode="markers", showlegend=False, row=1, col=column,
            marker={"color": colours[i], "size": 9, "symbol": symbols if isinstance(symbols, str) else symbols[i]},
            error_x={"array": (high - middle)[i : i + 1], "arrayminus": (middle - low)[i : i + 1], "thickness": 1.5,
                     "width": 0, "color": colours[i]},
            customdata=[[low[i], high[i]]],
            hovertemplate=f"{row}: %{{x:.4f}} (%{{customdata[0]:.4f}} to %{{customdata[1]:.4f}})<extra></extra>",
        )  # fmt: skip
