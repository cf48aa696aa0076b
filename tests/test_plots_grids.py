"""Grids draw what they are given, in the order given, and escape what comes from data."""

import numpy as np
import pandas as pd
import pytest

from lab import plots

EVIL = "<script>alert(1)</script>"


def safe(figure) -> bool:
    written = figure.to_json()
    return "<script>" not in written and "u003cscript" not in written


def table():
    values = [[-0.001, 5.0], [0.5, np.nan], [1.0, np.inf]]
    return pd.DataFrame(values, index=["a", EVIL, "c"], columns=["share of it", "times"])


def test_heat_table_writes_its_numbers_and_colours_each_column_by_itself():
    figure = plots.heat_table(table(), title="t", rows="pool", columns="number", ranges={"times": (0.0, 10.0)})
    (heat,) = figure.data
    assert heat.text.tolist() == [["0.00", "5.00"], ["0.50", ""], ["1.00", "∞"]]
    np.testing.assert_allclose(heat.z, [[0, 0.5], [0.501 / 1.001, np.nan], [1, 1]])
    assert figure.layout.yaxis.ticktext == ("a", "&lt;script&gt;alert(1)&lt;/script&gt;", "c")
    assert figure.layout.xaxis.ticktext == ("share of<br>it", "times")
    assert (figure.layout.xaxis.title.text, figure.layout.yaxis.title.text) == ("number", "pool")
    top, bottom = figure.layout.yaxis.range[::-1]
    assert top < bottom, "the first row stands on top"
    assert heat.customdata[0][1] == "a, times"
    assert safe(figure)


def test_heat_table_draws_families_of_rows():
    figure = plots.heat_table(table(), title="t", rows="r", columns="c", groups=["one", "one", "two"])
    assert [(a.text, a.y) for a in figure.layout.annotations] == [("one", 0.5), ("two", 2.0)]
    assert [shape.y0 for shape in figure.layout.shapes] == [1.5]
    with pytest.raises(ValueError, match="one group per row; got 2 groups and 3 rows"):
        plots.heat_table(table(), title="t", rows="r", columns="c", groups=["one", "two"])


def test_a_constant_column_has_one_colour():
    figure = plots.heat_table(pd.DataFrame({"x": [2.0, 2.0]}), title="t", rows="r", columns="c")
    np.testing.assert_allclose(figure.data[0].z, 0)


def test_token_shares_are_drawn_against_the_equal_share():
    shares = pd.DataFrame([[0.25, 0.25, 0.25, 0.25], [1.0, 0, 0, 0], [0.0] * 4], index=["mean", "first", "none"])
    figure = plots.token_shares(shares, ["the", EVIL, "cat", "cat"], title="t")
    (heat,) = figure.data
    np.testing.assert_allclose(heat.z, [[0] * 4, [2, -3, -3, -3], [np.nan] * 4])
    assert heat.text.tolist()[1] == ["1.000", "0.000", "0.000", "0.000"]
    assert figure.layout.xaxis.ticktext == ("the", "&lt;script&gt;alert(1)&lt;/script&gt;", "cat", "cat")
    assert [(a.text, a.y) for a in figure.layout.annotations] == [("passes no gradient to its tokens", 2)]
    assert safe(figure)
    with pytest.raises(ValueError, match="got 4 shares and 3 tokens"):
        plots.token_shares(shares, ["the", "black", "cat"], title="t")


def test_image_grid_gives_each_image_a_place_a_heading_and_a_scale():
    images = {EVIL: np.eye(2), "b": 4 * np.eye(3), "c": -np.eye(2)}
    figure = plots.image_grid(images, title="t", across=2)
    assert [heat.z.shape for heat in figure.data] == [(2, 2), (3, 3), (2, 2)]
    assert [(heat.zmin, heat.zmax) for heat in figure.data] == [(0, 1), (0, 4), (-1, 0)]
    assert [a.text for a in figure.layout.annotations] == ["&lt;script&gt;alert(1)&lt;/script&gt;", "b", "c"]
    assert len({heat.xaxis for heat in figure.data}) == 3
    assert {axis.autorange for axis in figure.select_yaxes()} == {"reversed"}
    assert safe(figure)
    one = plots.image_grid(images, title="t", shared=True)
    assert {(heat.zmin, heat.zmax) for heat in one.data} == {(-1, 4)}
    centred = plots.image_grid(images, title="t", symmetric=True)
    assert [(heat.zmin, heat.zmax) for heat in centred.data] == [(-1, 1), (-4, 4), (-1, 1)]
    with pytest.raises(ValueError, match=r"images must be \[H, W\]"):
        plots.image_grid({"a": np.zeros(3)}, title="t")
    with pytest.raises(ValueError, match="one or more"):
        plots.image_grid({}, title="t")
