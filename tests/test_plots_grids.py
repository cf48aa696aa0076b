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
