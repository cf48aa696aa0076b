"""Two numbers for each operator: what it gives against what it costs."""

import html
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lab.plots.style import COLOURS, SYMBOLS, quiet

LEAST = 0.02  # what lies below has its place at the left edge: a logarithm has none for 0
WIDE, TALL, LETTER, LINE = 800, 370, 6.0, 13  # pixels of the usual page: all panels together; a letter, its line
Box = tuple[float, float, float, float]  # left, top, right, bottom


def trade_offs(points: pd.DataFrame, *, title: str, across: str, up: str, only: str | None = None) -> go.Figure:
    """A point for each operator, named where a name has room, and on hover: up is good, left is good.

    points: one row per operator, its name as index, with the columns across (>= 0, drawn on a logarithmic axis), up,
    group (of one colour) and panel (side by side, on the same axes); only: the one group not in grey, in its panel.
    """
    if missing := {"across", "up", "group", "panel"} - set(points.columns):
        raise ValueError(f"points need the columns across, up, group and panel; {sorted(missing)} missing")
    drawn = points.assign(log=np.log10(points["across"].clip(lower=LEAST)), loud=True)
    groups = list(drawn["group"].unique())
    if only is not None:
        drawn = drawn[drawn["panel"].isin(drawn.loc[drawn["group"] == only, "panel"])]
        drawn["loud"] = drawn["group"] == only
    left, right = np.log10(LEAST) - 0.15, max(float(drawn["log"].max()), 0.0) + 0.25
    low, high = float(drawn["up"].min()) - 0.07, float(drawn["up"].max()) + 0.07
    sizes = drawn["panel"].value_counts(sort=False)
    figure = make_subplots(
        1, len(sizes), shared_yaxes=True, horizontal_spacing=0.03, column_widths=sizes.tolist(),
        subplot_titles=[html.escape(panel) for panel in sizes.index] if len(sizes) > 1 else None,
    )  # fmt: skip
    for column, (panel, width) in enumerate((WIDE * sizes / sizes.sum()).items(), start=1):
        here = drawn[drawn["panel"] == panel]
        for group, mine in here.groupby("group", sort=False):
            i, loud = groups.index(group), bool(mine["loud"].any())
            look = {"color": COLOURS[i % len(COLOURS)], "size": 9} if loud else {"color": "gray", "size": 6}
            figure.add_scatter(
                x=10 ** mine["log"], y=mine["up"], name=html.escape(group), mode="markers", row=1, col=column,
                marker=look | {"symbol": SYMBOLS[i % len(SYMBOLS)], "opacity": 0.9 if loud else 0.4},
                showlegend=only is None and len(groups) > 1,
                customdata=[[html.escape(str(name)), *pair] for name, *pair in mine[["across", "up"]].itertuples()],
                hovertemplate="%{customdata[0]}: %{customdata[2]:.2f} against %{customdata[1]:.2f}<extra></extra>",
            )  # fmt: skip
        at = np.c_[(here["log"] - left) / (right - left) * width, (high - here["up"]) / (high - low) * TALL]
        for k, text, dx, dy in _labels(at, here.index.map(str).tolist(), here["loud"].tolist(), (width, TALL)):
            figure.add_annotation(
                x=here["log"].iloc[k], y=here["up"].iloc[k], text=html.escape(text), ax=dx, ay=dy, row=1, col=column,
                font={"size": 11}, showarrow=True, arrowhead=0, arrowwidth=0.7, arrowcolor="gray", standoff=4,
                borderpad=0,
            )  # fmt: skip
    ticks = [tick for tick in (0.1, 1, 10, 100, 1000, 10000) if np.log10(tick) < right]
    figure.update_xaxes(type="log", range=[left, right], tickvals=[LEAST, *ticks], ticktext=["0", *map(str, ticks)])
    figure.update_yaxes(range=[low, high]).update_yaxes(title={"text": up}, col=1)
    figure.update_xaxes(title={"text": across, "standoff": 8, "font": {"size": 12}}, col=1)
    legend = {"orientation": "h", "y": -0.22, "x": 0}
    quiet(figure, title=title, height=TALL + (170 if only is None and len(groups) > 1 else 130))
    return figure.update_layout(legend=legend, margin={"b": figure.layout.height - TALL - 70, "t": 70})


def _labels(
    at: np.ndarray, names: Sequence[str], wanted: Sequence[bool], room: tuple[float, float | int]
) -> Iterator[tuple[int, str, float, float]]:
    """Point, label and where its middle stands from the point; points in one place share a label.

    at: pixels [N, 2] from the top left. No two labels overlap, none lies on a point or leaves the room; a label
    without such a place is left out.
    """
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in at.tolist()]
    left = [i for i, want in enumerate(wanted) if want]
    while left:
        x, y = at[left[0]].tolist()
        same = [k for k in left if np.abs(at[k] - at[left[0]]).max() < 4]
        left = [k for k in left if k not in same]
        text = ", ".join(names[k] for k in same)
        if len(same) > 2 and LETTER * len(text) > room[0] / 2:
            text = f"{names[same[0]]} and {len(same) - 1} more"
        wide = LETTER * len(text)
        for dx, dy in _places(wide):
            box = (x + dx - wide / 2, y + dy - LINE / 2, x + dx + wide / 2, y + dy + LINE / 2)
            inside = box[0] >= 0 and box[1] >= 0 and box[2] <= room[0] and box[3] <= room[1]
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                yield same[0], text, dx, dy
                break


def _places(wide: float) -> Iterator[tuple[float, float]]:
    """Where the middle of a text may stand from its point, the nearest first."""
    for far in (0, 15, 30, 45):
        for side in (1, -1):
            yield side * (8 + wide / 2), -far
            yield side * (8 + wide / 2), far
        yield 0, -13 - far
        yield 0, 13 + far


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
