"""Shares drawn on what they are shares of: the words of a text, the places of an image.

One meaning of colour: grey-white is the equal share 1/n, orange is more, blue is less, cut at 8 times either way.
"""

import html
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from lab.plots.images import panels
from lab.plots.style import SPLIT, quiet

BLANK = {"color": "rgba(0,0,0,0)", "line": {"color": "gray", "width": 0.5}}
LINE = 84  # letters of text that fit beside the names of the pools
PALE = [[0, "#5a9bd0"], [0.25, "#a6cde6"], [0.5, "#f5f5f0"], [0.75, "#fdbf78"], [1, "#e8872d"]]  # for black words
BAR = {
    "title": {"text": "times 1/n"}, "thickness": 10, "len": 1,
    "tickvals": list(range(-3, 4)), "ticktext": ["1/8", "1/4", "1/2", "1", "2", "4", "8"],
}  # fmt: skip


def token_shares(shares: pd.DataFrame, tokens: Sequence[str], *, title: str) -> go.Figure:
    """The text itself once for each pool, every token on the colour of its share, log2 of n times it.

    shares: pools by tokens; rows sum to 1, and one without any share is drawn without colour and says so.
    """
    values = shares.to_numpy(float)
    if values.shape[1] != len(tokens):
        raise ValueError(f"one share per token; got {values.shape[1]} shares and {len(tokens)} tokens")
    line, start, width = _typeset([len(token) for token in tokens])
    deep = line[-1] + 1.25  # lines of a pool, with the gap below it
    figure, names = go.Figure(), []
    first = int((values > 0).any(1).argmax())  # the scale of the first that has colours is the scale of all
    for i, (name, row) in enumerate(zip(shares.index, values, strict=True)):
        told = row.any()
        names.append(html.escape(str(name)) + ("" if told else " (no gradient)"))
        colour = {"color": lift(row), "colorscale": PALE, "cmin": -3, "cmax": 3, "colorbar": BAR}
        figure.add_bar(
            orientation="h", base=start, x=width, y=i * deep + line, width=0.92, showlegend=False,
            marker=colour | {"showscale": i == first} if told else BLANK,
            text=[html.escape(token) for token in tokens], textposition="inside", insidetextanchor="middle",
            textangle=0, insidetextfont={"size": 11, "family": "monospace"} | ({"color": "black"} if told else {}),
            customdata=[html.escape(f"{name}, {token}: {share:.3f}") for token, share in zip(tokens, row, strict=True)],
            hovertemplate="%{customdata}<extra></extra>",
        )  # fmt: skip
    quiet(figure, title=title, height=round(85 + 25 * deep * len(names)))
    figure.update_layout(barmode="overlay", margin={"b": 15})
    figure.update_xaxes(visible=False, range=[0, float((start + width).max())])
    return figure.update_yaxes(
        tickvals=(np.arange(len(names)) * deep + line[-1] / 2).tolist(), ticktext=names, automargin=True,
        range=[len(names) * deep - 0.7, -0.6], showgrid=False,
    )  # fmt: skip


def _typeset(letters: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The line of each token, where it begins on it and how wide it is, in letters."""
    line, start, at, down = [], [], 0, 0
    for n in letters:
        if at and at + n + 1 > LINE:
            at, down = 0, down + 1
        line.append(down)
        start.append(at)
        at += n + 1.3
    return np.array(line), np.array(start, float), np.array(letters) + 1.0


def place_shares(shares: Mapping[str, np.ndarray], image: np.ndarray, *, title: str) -> go.Figure:
    """The share of each place [H, W] of an image, a panel for each pool; dots are the ink of the image."""
    if any(share.shape != image.shape for share in shares.values()):
        raise ValueError(f"one share per place of {image.shape}; got {[share.shape for share in shares.values()]}")
    figure, places = panels(list(shares), title=title)
    row, column = np.nonzero(image)
    ink = {
        "color": "black",
        "opacity": 0.7,
        "size": 8 * np.sqrt(image[row, column] / image.max()),
        "line": {"width": 0},
    }
    for name, share, place in zip(shares, shares.values(), places, strict=True):
        figure.add_heatmap(
            z=lift(share), zmin=-3, zmax=3, colorscale=SPLIT, showscale=False, text=share, **place,
            hovertemplate=f"{html.escape(name)}, row %{{y}}, column %{{x}}: share %{{text:.3f}}<extra></extra>",
        )  # fmt: skip
        figure.add_scatter(x=column, y=row, mode="markers", marker=ink, hoverinfo="skip", showlegend=False, **place)
    figure.update_traces(showscale=True, colorbar=BAR | {"len": 0.6}, selector=0)
    return figure.update_layout(margin={"r": 80})


def lift(shares: np.ndarray) -> np.ndarray:
    """log2 of n times each share, cut at 3 either way."""
    with np.errstate(divide="ignore"):
        return np.clip(np.log2(shares * shares.size), -3, 3)
