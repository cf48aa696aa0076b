"""lab.plots: what was measured is what is drawn, and text from data cannot become markup."""

import numpy as np
import plotly.graph_objects as go
import pytest
import xarray as xr

from lab import plots, stats


def scores():
    values = np.random.default_rng(0).normal(size=(3, 2, 40))
    coords = {"layer": [0, 1, 2], "pool": ["mean", "max"]}
    return xr.DataArray(values, dims=("layer", "pool", "example"), coords=coords)


def test_layer_curves_draw_the_estimates_inside_their_bands():
    table = stats.bootstrap(scores())
    figure = plots.layer_curves(table, title="what to notice", unit="MRR", references={"chance": 0.25})
    assert isinstance(figure, go.Figure)
    lines = {trace.name: trace for trace in figure.data if trace.mode == "lines+markers"}
    bands = [trace for trace in figure.data if trace.fill == "toself"]
    assert list(lines) == ["mean", "max"]
    for pool, band in zip(("mean", "max"), bands, strict=True):
        np.testing.assert_allclose(lines[pool].y, table.estimate.sel(pool=pool))
        assert band.legendgroup == lines[pool].legendgroup
        np.testing.assert_allclose(band.y[:3], table.high.sel(pool=pool))
        np.testing.assert_allclose(band.y[3:], table.low.sel(pool=pool)[::-1])
    assert figure.layout.xaxis.title.text == "layer (0 = embeddings)"
    assert figure.layout.yaxis.title.text == "MRR"
    long = plots.layer_curves(table, title="t", unit="a unit that has more to say than the axis is long, in words")
    lines = long.layout.yaxis.title.text.split("<br>")
    assert len(lines) == 2
    assert max(map(len, lines)) <= 40
    (reference,) = [trace for trace in figure.data if trace.name == "chance"]
    assert (list(reference.x), list(reference.y), reference.line.dash) == ([0, 2], [0.25, 0.25], "dash")


def test_layer_curves_without_intervals_draw_lines_alone():
    figure = plots.layer_curves(scores().mean("example"), title="t", unit="u")
    assert [trace.mode for trace in figure.data] == ["lines+markers"] * 2
    with pytest.raises(ValueError, match=r"\['pool'\] missing"):
        plots.layer_curves(scores().mean("example").isel(pool=0), title="t", unit="u")


def test_curves_along_any_axis_leave_out_what_was_not_measured():
    values = xr.DataArray(
        [[1.0, np.nan, 3.0], [2.0, 2.0, 2.0]], dims=("run", "step"), coords={"run": ["a<b>", "c"], "step": [1, 10, 100]}
    )
    figure = plots.curves(values, "step", lines="run", title="t", unit="nats", across="steps", log="x")
    assert [trace.name for trace in figure.data] == ["a&lt;b&gt;", "c"]
    assert (list(figure.data[0].x), list(figure.data[0].y)) == ([1, 100], [1, 3])
    assert (figure.layout.xaxis.type, figure.layout.yaxis.type) == ("log", None)
    assert figure.layout.xaxis.title.text == "steps"
    with pytest.raises(ValueError, match=r"\['layer'\] missing"):
        plots.curves(values, "layer", lines="run", title="t", unit="u")


def test_a_mosaic_is_its_array():
    values = xr.DataArray([[0.1, np.nan, 0.3], [0.4, 0.5, 0.9]], dims=("layer", "head"), coords={"layer": [1, 2]})
    figure = plots.mosaic(values, title="t", unit="share", reach=(0, 1))
    (heat,) = figure.data
    np.testing.assert_array_equal(heat.z, values)
    assert (heat.zmin, heat.zmax) == (0, 1)
    assert list(figure.layout.yaxis.ticktext) == ["1", "2"]
    assert list(figure.layout.xaxis.ticktext) == ["0", "1", "2"]
    assert heat.customdata[1][2] == "2, 2"
    wide = plots.mosaic(xr.DataArray(np.zeros((2, 60)), dims=("layer", "head")), title="t", unit="u")
    assert list(wide.layout.xaxis.ticktext) == [str(i) for i in range(0, 60, 3)]
    with pytest.raises(ValueError, match="two axes"):
        plots.mosaic(values[0], title="t", unit="u")


def test_point_maps_draw_every_point_once_under_its_label():
    drawn = np.random.default_rng(0).normal(size=(2, 6, 2))
    xy = {name: xr.DataArray(a, dims=("example", "axis")) for name, a in zip(("best", "worst <1>"), drawn, strict=True)}
    labels, texts = ["b", "a", "a", "b", "a", "a<i>"], ["<script>alert(1)</script>", *"vwxyz"]
    figure = plots.point_maps(xy, labels, texts, title="t")
    assert len(figure.data) == 6
    assert [trace.name for trace in figure.data if trace.showlegend] == ["a", "a&lt;i&gt;", "b"]
    for column, points in enumerate(xy.values()):
        trace = figure.data[3 * column]
        np.testing.assert_allclose(np.c_[trace.x, trace.y], points.values[[1, 2, 4]])
    written = figure.to_json()
    assert "<script>" not in written
    assert "u003cscript" not in written
    assert [a.text for a in figure.layout.annotations] == ["best", "worst &lt;1&gt;"]
    with pytest.raises(ValueError, match="one label and one text per point"):
        plots.point_maps(xy, labels[:3], texts, title="t")
