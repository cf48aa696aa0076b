"""Ratios of one operator each, beside 1."""

import html
from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from lab.plots.style import quiet

BETTER, WORSE = "#0072B2", "#D55E00"


def ratio_dots(panels: Mapping[str, xr.Dataset], *, title: str, unit: str) -> go.Figure:
    """A dot with its range for each operator, a panel for each measurement, on logarithmic axes around 1.

    Blue below 1, orange above it; filled where the whole range lies on that side, hollow where it reaches across.

    panels: {heading: estimate, low and high [operator], and where there are some, words [operator] that stand in place
    of a number that is NaN}; the operators of the first panel give the rows. title: what to notice; unit: of what.
    """
    if not panels:
        raise ValueError("ratios of one measurement or more are needed; got none")
    for heading, ratios in panels.items():
        if not {"estimate", "low", "high"} <= set(ratios) or ratios["estimate"].dims != ("operator",):
            raise ValueError(f"{heading}: ratios need estimate, low and high over operator; got {ratios.sizes}")
    rows = next(iter(panels.values()))["operator"].values.tolist()
    panels = {
        heading: one.reindex(operator=rows, fill_value={"words": "not measured"}) for heading, one in panels.items()
    }
    numbers = np.concatenate([[1.0], *(one["estimate"].values for one in panels.values())])
    reach = np.log10([np.nanmin(numbers) / 1.6, np.nanmax(numbers) * 1.6])
    figure = make_subplots(
        1, len(panels), shared_yaxes=True, horizontal_spacing=0.02,
        subplot_titles=[html.escape(heading).replace(": ", "<br>" if len(panels) > 2 else ": ") for heading in panels],
    )  # fmt: skip
    for column, (heading, ratios) in enumerate(panels.items(), start=1):
        middle, low, high = (ratios[name].values for name in ("estimate", "low", "high"))
        clear = (low > 1) | (high < 1)
        figure.add_scatter(
            x=middle, y=rows, mode="markers", showlegend=False, row=1, col=column,
            marker={"color": np.where(middle > 1, WORSE, BETTER), "symbol": np.where(clear, "circle", "circle-open"),
                    "size": 8},
            error_x={"array": high - middle, "arrayminus": middle - low, "thickness": 1, "width": 0, "color": "gray"},
            customdata=np.c_[low, high], hovertemplate=f"{html.escape(heading)}, %{{y}}: %{{x:.2f}} "
            "(%{customdata[0]:.2f} to %{customdata[1]:.2f})<extra></extra>",
        )  # fmt: skip
        lacking = np.flatnonzero(np.isnan(middle)) if "words" in ratios else []
        figure.add_scatter(
            x=[10 ** reach[0]] * len(lacking), y=[rows[i] for i in lacking], mode="text", showlegend=False,
            text=[html.escape(str(ratios["words"].values[i])) for i in lacking], textposition="middle right",
            textfont={"size": 10, "color": "gray"}, hoverinfo="skip", row=1, col=column,
        )  # fmt: skip
    figure.add_vrect(x0=1, x1=10 ** reach[1], fillcolor=WORSE, opacity=0.08, line_width=0, layer="below")
    figure.add_vline(x=1, line={"dash": "dash", "color": "gray"})
    marks = (0.01, 0.1, 0.25, 0.5, 1, 2, 4, 10, 100) if len(panels) < 3 else (0.01, 0.1, 1, 10, 100)
    ticks = [tick for tick in marks if reach[0] < np.log10(tick) < reach[1]]
    figure.update_xaxes(
        type="log", range=reach.tolist(), tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks], tickangle=0
    )
    figure.update_yaxes(range=[len(rows) - 0.4, -0.6], tickfont={"size": 11}, automargin=True, showgrid=True)
    figure.update_annotations(font={"size": 13})
    figure.add_annotation(text=unit, x=0.5, y=0, xref="paper", yref="paper", yshift=-50, showarrow=False)
    return quiet(figure, title=title, height=165 + 18 * len(rows)).update_layout(margin={"t": 90, "b": 65})
