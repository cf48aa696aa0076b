"""The dots that stand for ratios."""

import numpy as np
import pytest
import xarray as xr

from lab import plots
from lab.plots.bars import BETTER, WORSE


def ratios(middle, spread=1.2, **more):
    middle = np.array(middle, float)
    table = {"estimate": middle, "low": middle / spread, "high": middle * spread} | more
    names = ["mean", "max", "gem", "first"][: len(middle)]
    return xr.Dataset({name: ("operator", values) for name, values in table.items()}, {"operator": names})


def test_slower_is_orange_and_only_what_is_beyond_doubt_is_filled():
    panels = {"forward": ratios([0.5, 2.0, 1.1, 0.9]), "backward": ratios([1.5, np.nan, 1.0, 3.0])}
    figure = plots.ratio_dots(panels, title="t", unit="ratio")
    forward = figure.data[0]
    assert list(forward.y) == ["mean", "max", "gem", "first"]
    assert list(forward.x) == [0.5, 2.0, 1.1, 0.9]
    assert list(forward.marker.color) == [BETTER, WORSE, WORSE, BETTER]
    assert list(forward.marker.symbol) == ["circle", "circle", "circle-open", "circle-open"]
    np.testing.assert_allclose(forward.error_x.array, forward.x * 0.2)
    np.testing.assert_allclose(forward.error_x.arrayminus, forward.x - forward.x / 1.2)
    assert {axis.type for axis in figure.select_xaxes()} == {"log"}
    low, high = figure.layout.xaxis2.range
    assert low < np.log10(0.5)
    assert high > np.log10(3)
    shaded = [shape for shape in figure.layout.shapes if shape.fillcolor == WORSE]
    assert [shape.x0 for shape in shaded] == [1, 1], "the slower side of both panels"


def test_what_was_not_measured_says_so_in_its_row():
    words = ["", "<no> gradient", "", ""]
    panels = {"a": ratios([0.5, np.nan, 1.1, 0.9], words=words), "b": ratios([0.5], words=[""])}
    _, lacking, _, unknown = plots.ratio_dots(panels, title="t", unit="ratio").data
    assert (list(lacking.y), list(lacking.text)) == (["max"], ["&lt;no&gt; gradient"])
    assert (list(unknown.y), set(unknown.text)) == (["max", "gem", "first"], {"not measured"})


def test_nothing_measured_is_an_empty_picture_not_an_error():
    figure = plots.ratio_dots({"none": ratios([np.nan, np.nan])}, title="none", unit="ratio")
    assert np.isnan(figure.data[0].x).all()


def test_other_axes_are_refused():
    with pytest.raises(ValueError, match="forward: ratios need"):
        plots.ratio_dots({"forward": ratios([1.0]).expand_dims("way")}, title="", unit="")
    with pytest.raises(ValueError, match="got none"):
        plots.ratio_dots({}, title="", unit="")
