"""One number per operator, beside 1."""

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from lab.plots.style import COLOURS, SYMBOLS, quiet


def ratio_dots(ratios: xr.Dataset, *, title: str, unit: str) -> go.Figure:
    """A dot with its range for each operator and each thing it is compared with, on a logarithmic axis around 1.

    ratios: estimate, low and high over [operator, one other axis], NaN where nothing was measured.
    title: what to notice; unit: what the ratio is of.
    """
    if set(ratios) != {"estimate", "low", "high"} or ratios["estimate"].dims[:1] != ("operator",):
        raise ValueError(f"ratios need estimate, low and high over operator first; got {ratios['estimate'].dims}")
    (other,) = ratios["estimate"].dims[1:]
    figure = go.Figure()
    for i, name in enumerate(ratios[other].values):
        here = ratios.sel({other: name})
        middle = here["estimate"].values
        figure.add_scatter(
            x=middle,
            y=here["operator"].values,
            name=str(name),
            mode="markers",
            marker={"color": COLOURS[i % len(COLOURS)], "symbol": SYMBOLS[i % len(SYMBOLS)], "size": 8},
            error_x={
                "array": here["high"].values - middle,
                "arrayminus": middle - here["low"].values,
                "thickness": 1,
                "width": 0,
            },
            hovertemplate=f"%{{y}}, {name}: %{{x:.2f}}<extra></extra>",
        )
    figure.add_vline(x=1, line={"dash": "dash", "color": "gray"})
    finite = ratios["estimate"].values[np.isfinite(ratios["estimate"].values)]
    span = np.log10([finite.min(), finite.max()]) if len(finite) else np.zeros(2)
    figure.update_xaxes(type="log", title=unit, range=[min(span[0], 0) - 0.15, max(span[1], 0) + 0.15])
    figure.update_yaxes(autorange="reversed", tickfont={"size": 11})
    return quiet(figure, title=title, height=120 + 20 * ratios.sizes["operator"]).update_layout(margin={"l": 170})
