"""The dots that stand for ratios."""

import numpy as np
import pytest
import xarray as xr

from lab import plots


def ratios():
    middle = np.array([[0.5, 2.0], [1.0, np.nan]])
    axes = {"operator": ["mean", "max"], "against": ["eager", "compile"]}
    table = {"estimate": middle, "low": middle * 0.9, "high": middle * 1.2}
    return xr.Dataset({name: (tuple(axes), values) for name, values in table.items()}, axes)


def test_a_dot_with_its_range_for_each_operator():
    figure = plots.ratio_dots(ratios(), title="faster", unit="ratio")
    eager, compiled = figure.data
    assert (eager.name, compiled.name) == ("eager", "compile")
    assert list(eager.y) == ["mean", "max"]
    assert list(eager.x) == [0.5, 1.0]
    np.testing.assert_allclose(eager.error_x.array, [0.1, 0.2])
    np.testing.assert_allclose(eager.error_x.arrayminus, [0.05, 0.1])
    assert figure.layout.xaxis.type == "log"
    low, high = figure.layout.xaxis.range
    assert low < np.log10(0.5)
    assert high > np.log10(2)


def test_nothing_measured_is_an_empty_picture_not_an_error():
    figure = plots.ratio_dots(ratios() * np.nan, title="none", unit="ratio")
    assert len(figure.data) == 2


def test_other_axes_are_refused():
    with pytest.raises(ValueError, match="operator first"):
        plots.ratio_dots(ratios().transpose("against", "operator"), title="", unit="")
