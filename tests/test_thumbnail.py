"""The gallery's pictures: what stands in the SVG is what stands in the figure, at the right place; no word of data."""

import base64
import re
import xml.etree.ElementTree as ET

import numpy as np
import plotly.graph_objects as go
import pytest

from lab.reports.thumbnail import EDGE, HEIGHT, MOST, WIDTH, thumbnail

SVG = "{http://www.w3.org/2000/svg}"


def drawn(figure):
    return ET.fromstring(str(thumbnail(figure.to_plotly_json())))  # noqa: S314 (ours)


def of(svg, name):
    return [node.attrib for node in svg.iter(f"{SVG}{name}")]


def points(svg, name="polyline"):
    return [[tuple(map(float, p.split(","))) for p in node["points"].split()] for node in of(svg, name)]


@pytest.mark.parametrize("packed", [False, True])
def test_a_line_goes_where_its_numbers_go(packed):
    y = np.array([0.0, 10.0, 5.0]) if packed else [0.0, 10.0, 5.0]
    figure = go.Figure(go.Scatter(x=[0, 1, 2], y=y, mode="lines", line={"color": "#123456"}))
    (line,) = points(drawn(figure))
    x = [a for a, _ in line]
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.11)
    assert EDGE < x[0] < x[2] < WIDTH - EDGE
    up = [HEIGHT - b for _, b in line]
    assert up[0] < up[2] < up[1]
    assert up[2] - up[0] == pytest.approx(up[1] - up[2], abs=0.11)
    assert of(drawn(figure), "polyline")[0]["stroke"] == "#123456"


def test_a_logarithmic_axis_is_one_and_a_range_is_kept():
    figure = go.Figure(go.Scatter(x=[1, 10, 100], y=[1, 2, 3], mode="lines")).update_xaxes(type="log")
    ((a, b, c),) = points(drawn(figure))
    assert b[0] - a[0] == pytest.approx(c[0] - b[0], abs=0.11)
    ((first, *_, last),) = points(drawn(figure.update_xaxes(range=[2, 0])))
    assert (first[0], last[0]) == (WIDTH - EDGE, EDGE)


def test_bars_stand_on_zero_as_high_as_they_count():
    figure = go.Figure(go.Bar(x=["a", "b", "c"], y=[1, 2, -1]))
    one, two, below = of(drawn(figure), "rect")
    assert float(two["height"]) == pytest.approx(2 * float(one["height"]), abs=0.11)
    zero = float(one["y"]) + float(one["height"])
    (short, tall) = of(drawn(go.Figure(go.Bar(x=["a", "b"], y=[10, 11]))), "rect")
    assert all(float(bar["y"]) + float(bar["height"]) < HEIGHT for bar in (short, tall))  # zero is in the picture
    assert zero == pytest.approx(float(below["y"]), abs=0.11)
    lying = of(drawn(go.Figure(go.Bar(y=["a", "b"], x=[1, 2], orientation="h"))), "rect")
    assert float(lying[1]["width"]) == pytest.approx(2 * float(lying[0]["width"]), abs=0.11)


def test_heat_is_coloured_by_its_scale_and_blank_where_there_is_none():
    scale = [[0, "#000000"], [1, "#ffffff"]]
    figure = go.Figure(go.Heatmap(z=[[0, 1], [0.5, None]], colorscale=scale, zmin=0, zmax=1))
    cells = of(drawn(figure), "rect")
    assert [cell["fill"] for cell in cells] == ["#000000", "#ffffff", "#808080"]
    assert float(cells[0]["y"]) > float(cells[2]["y"])  # the first row is the lowest
    # both columns fill the picture
    assert float(cells[0]["x"]) == pytest.approx(EDGE, abs=0.11)
    assert float(cells[1]["x"]) + float(cells[1]["width"]) == pytest.approx(WIDTH - EDGE, abs=0.11)


def test_panels_keep_their_places():
    figure = go.Figure([go.Scatter(y=[0, 1]), go.Scatter(y=[0, 1], xaxis="x2")])
    figure.update_layout(xaxis={"domain": [0, 0.4]}, xaxis2={"domain": [0.6, 1]})
    left, right = points(drawn(figure))
    assert max(a for a, _ in left) < WIDTH * 0.5 < min(a for a, _ in right)


def test_of_many_points_some_are_drawn_and_the_ends_are_among_them():
    figure = go.Figure(go.Scattergl(x=np.arange(5000), y=np.arange(5000), mode="markers"))
    dots = of(drawn(figure), "circle")
    assert len(dots) == MOST
    assert float(dots[-1]["cx"]) - float(dots[0]["cx"]) > 0.8 * WIDTH
    assert len(str(thumbnail(figure.to_plotly_json()))) < 40_000


def test_nan_and_missing_are_left_out():
    figure = go.Figure(go.Scatter(x=[0, 1, 2, 3], y=[1, None, np.nan, 2], mode="markers"))
    assert len(of(drawn(figure), "circle")) == 2


@pytest.mark.parametrize(
    "figure",
    [
        go.Figure(),
        go.Figure(go.Violin(y=[1, 2])),
        go.Figure([go.Scatter(y=[1, 2]), go.Box(y=[1, 2])]),
        go.Figure(go.Scatter3d(x=[1], y=[1], z=[1])),
        go.Figure(go.Scatter(y=[1, 2], visible=False)),
    ],
)
def test_what_cannot_be_sketched_has_no_picture(figure):
    assert thumbnail(figure.to_plotly_json()) == ""


@pytest.mark.parametrize("y", [[], [None], [3], [3, 3], [float("inf"), 1]])
def test_odd_data_give_a_picture_without_nan(y):
    svg = str(thumbnail({"data": [{"type": "scatter", "y": y, "mode": "lines+markers"}]}))
    assert "nan" not in svg
    assert "inf" not in svg.replace("aria-label", "")


def test_hostile_words_and_colours_stay_in_their_place():
    evil = '"/><script>alert(1)</script>'
    figure = {
        "data": [{"type": "scatter", "x": [evil, "b"], "y": [1, 2], "mode": "lines+markers", "name": evil,
                  "line": {"color": evil}, "marker": {"color": [evil, "red"]}, "fill": "toself", "fillcolor": evil}],
        "layout": {"title": {"text": f"title {evil}"}},
    }  # fmt: skip
    svg = str(thumbnail(figure))
    assert "<script" not in svg
    assert [node.tag.removeprefix(SVG) for node in ET.fromstring(svg).iter()] == [  # noqa: S314 (ours)
        "svg", "polygon", "polyline", "circle", "circle",
    ]  # fmt: skip
    assert re.findall(r'fill="([^"]*)"', svg)[-1] == "red"


def test_the_picture_says_what_it_shows():
    figure = go.Figure(go.Scatter(y=[1, 2])).update_layout(title="Score by layer", meta={"caption": "It rises."})
    assert drawn(figure).attrib["aria-label"] == "Thumbnail of the figure: Score by layer. It rises"
    assert drawn(figure).attrib["role"] == "img"


def test_packed_and_plain_arrays_draw_the_same():
    y = [0.25, 0.5, 1.0]
    packed = {"dtype": "f8", "bdata": base64.b64encode(np.array(y, "<f8").tobytes()).decode()}
    plain, other = ({"data": [{"type": "scatter", "y": values}]} for values in (y, packed))
    assert thumbnail(plain) == thumbnail(other)
