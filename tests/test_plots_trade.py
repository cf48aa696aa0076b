"""Trade-offs: every operator is a point, labels keep out of each other's way, and one family can stand out."""

import itertools

import numpy as np
import pandas as pd
import pytest

from lab import plots
from lab.plots.trade import COLOURS, LEAST, LETTER, LINE, _labels, _overlap

AXES = {"title": "t", "across": "moved", "up": "kept"}


def points(n=6):
    rng = np.random.default_rng(0)
    kind = {"group": ["fixed", "values", "layers"], "panel": ["tokens", "tokens", "layers"]}
    table = pd.DataFrame(
        {name: np.resize(values, n) for name, values in kind.items()}, index=[f"op{i}" for i in range(n)]
    )
    return table.assign(across=rng.exponential(5, n), up=rng.random(n))


def drawn(figure):
    return {name: (x, y) for t in figure.data for (name, *_), x, y in zip(t.customdata, t.x, t.y, strict=True)}


def test_every_operator_is_drawn_once_where_its_numbers_are():
    table = points()
    table.loc["op0", "across"] = 0.0
    figure = plots.trade_offs(table, **AXES)
    assert sum(len(trace.x) for trace in figure.data) == len(table)
    seen = drawn(figure)
    for name, row in table.iterrows():
        np.testing.assert_allclose(seen[name], (max(row["across"], LEAST), row["up"]))
    assert figure.layout.xaxis.ticktext[0] == "0"
    assert [(trace.name, trace.xaxis) for trace in figure.data] == [("fixed", "x"), ("values", "x"), ("layers", "x2")]


def test_one_family_stands_out_in_its_panel_and_keeps_its_colour():
    figure = plots.trade_offs(points(), **AXES, only="values")
    assert {trace.name: trace.marker.color for trace in figure.data} == {"fixed": "gray", "values": COLOURS[1]}
    assert {a.text for a in figure.layout.annotations if a.showarrow} <= {"op1", "op4"}
    assert not any(trace.showlegend for trace in figure.data)


def test_labels_meet_neither_each_other_nor_a_point_nor_the_edge():
    at = np.random.default_rng(1).random((25, 2)) * [300, 200]
    names = [f"operator_{i}" for i in range(25)]
    boxes = []
    for i, text, dx, dy in _labels(at, names, [True] * 25, (300.0, 200)):
        (x, y), wide = (at[i] + [dx, dy]).tolist(), LETTER * len(text)
        boxes.append((x - wide / 2, y - LINE / 2, x + wide / 2, y + LINE / 2))
    assert len(boxes) > 8
    assert not any(_overlap(one, other) for one, other in itertools.combinations(boxes, 2))
    assert not any(_overlap(box, (x - 5, y - 5, x + 5, y + 5)) for box in boxes for x, y in at.tolist())
    assert min(min(box) for box in boxes) >= 0
    assert max(box[2] for box in boxes) <= 300
    assert max(box[3] for box in boxes) <= 200


def test_points_in_one_place_share_a_label_and_names_are_escaped():
    table = points(3).assign(across=1.0, up=0.5, panel="tokens", group="fixed").rename({"op1": "<b>"})
    (label,) = [a.text for a in plots.trade_offs(table, **AXES).layout.annotations if a.showarrow]
    assert label == "op0, &lt;b&gt;, op2"
    many = points(40).assign(across=1.0, up=0.5, panel="tokens", group="fixed")
    (label,) = [a.text for a in plots.trade_offs(many, **AXES).layout.annotations if a.showarrow]
    assert label == "op0 and 39 more"


def test_what_is_missing_is_named():
    with pytest.raises(ValueError, match=r"\['panel'\] missing"):
        plots.trade_offs(points().drop(columns="panel"), **AXES)
