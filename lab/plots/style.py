"""What all figures share: colours that colour-blind readers can tell apart, a quiet background, fonts of the page."""

import textwrap

import plotly.graph_objects as go

# Okabe & Ito's palette without black, then darker and lighter relatives for more than seven
COLOURS = (
    *("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#999933"),
    *("#882255", "#44AA99", "#AA4499", "#6699CC", "#DDAA33", "#117733", "#BB5566", "#888888"),
)
SYMBOLS = ("circle", "square", "diamond", "cross", "x", "triangle-up", "star")
# blue below, orange above: told apart by all readers; grey-white in the middle
SPLIT = [[0, "#2166ac"], [0.25, "#92c5de"], [0.5, "#f5f5f0"], [0.75, "#fdb863"], [1, "#b35806"]]
_GRID = "rgba(128,128,128,0.25)"  # readable on white and on black


def quiet(figure: go.Figure, *, title: str, height: int = 420) -> go.Figure:
    """The house's layout: transparent, thin grid, legend beside the plot, title on the left."""
    figure.update_layout(
        template="none",
        title={"text": title, "x": 0, "xanchor": "left", "font": {"size": 16}},
        height=height,
        margin={"l": 60, "r": 20, "t": 60, "b": 50},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13},
        hoverlabel={"align": "left"},
    )
    figure.update_xaxes(gridcolor=_GRID, zeroline=False)
    return figure.update_yaxes(gridcolor=_GRID, zeroline=False)


def upright(text: str) -> dict:
    """A vertical axis and its title in lines that a figure of usual height has room for, and the room beside it."""
    return {"title": "<br>".join(textwrap.wrap(text, 40)), "automargin": True}
