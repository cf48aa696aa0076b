"""lab.plots.forest: what it draws is what the table says."""

import numpy as np
import pytest
import xarray as xr

from lab import plots, stats


@pytest.fixture(scope="module")
def table():
    draw = np.random.default_rng(0).normal
    values = draw(size=(1, 6)) + 0.01 * draw(size=(3, 6)) + np.array([[0.0], [0.5], [0.0]])
    scores = xr.DataArray(values, dims=("design", "seed"), coords={"design": ["mean", "<b>max</b>", "last"]})
    return stats.compare(scores, draws=100)


def test_dots_bars_and_words_are_the_tables(table):
    figure = plots.forest(table, title="one is better", unit="MRR")
    dots = [trace for trace in figure.data if trace.mode == "markers"]
    assert len(dots) == 6
    np.testing.assert_allclose([dot.x[0] for dot in dots[:3]], table.estimate)
    np.testing.assert_allclose([dot.x[0] + dot.error_x.array[0] for dot in dots[:3]], table.high)
    np.testing.assert_allclose([dot.x[0] - dot.error_x.arrayminus[0] for dot in dots[4:]], table.difference_low[1:])
    assert np.isnan(dots[3].x[0])
    assert [dot.marker.symbol for dot in dots[4:]] == ["circle", "circle-open"]
    (words,) = [trace for trace in figure.data if trace.mode == "text"]
    assert words.text[0] == "baseline"
    assert words.text[1].startswith(f"p {float(table.holm[1]):.3g} ({2 / 64:.2g})")
    assert figure.layout.annotations[1].text == "difference to mean"
    assert "<b>" not in "".join(trace.y[0] for trace in dots)


def test_other_tables_are_refused(table):
    with pytest.raises(ValueError, match="it lacks"):
        plots.forest(table.drop_vars("dz"), title="", unit="")
    with pytest.raises(ValueError, match="select one cell first"):
        plots.forest(table.expand_dims(layer=2), title="", unit="")


def test_a_label_of_figures_is_a_name(table):
    figure = plots.forest(table.assign_coords(design=["1122", "1212", "2211"]), title="", unit="")
    assert [axis.type for axis in figure.select_yaxes()] == ["category"] * 2
