"""Figures lose digits that no eye sees, and nothing else: off by less than a fiftieth of a pixel, on any axis."""

import base64
import json
import math

import numpy as np
import plotly.graph_objects as go
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.reports import figures
from lab.reports.rounding import SEEN, array, light


def rounded(values):
    return light({"data": [{"y": values}]})["data"][0]["y"]


def packed(values):
    wide = np.asarray(values, "<f8")
    return {"dtype": "f8", "bdata": base64.b64encode(wide.tobytes()).decode()}


NUMBERS = st.lists(st.floats(-1e6, 1e6, allow_nan=False), min_size=2, max_size=30)


@given(values=NUMBERS, offset=st.sampled_from([0.0, 1e3, 1e9]), pack=st.booleans())
def test_no_point_moves_visibly(values, offset, pack):
    wide = np.array(values) + offset
    kept = array(rounded(packed(wide) if pack else wide.tolist())).astype(float)
    span = wide.max() - wide.min()
    assert np.abs(kept - wide).max() <= SEEN * span + 1e-300
    assert (kept[np.abs(wide) > 0] != 0).all()  # nothing becomes 0: on a logarithmic axis that would be a hole


@pytest.mark.parametrize("pack", [False, True])
def test_small_values_of_a_logarithmic_axis_keep_their_place(pack):
    wide = [1e-12, 1.2345678e-6, 1.0]
    kept = array(rounded(packed(wide) if pack else wide)).astype(float)
    np.testing.assert_allclose(kept, wide, rtol=1e-6)


def test_it_is_smaller():
    y = np.random.default_rng(0).normal(size=1000)
    assert len(rounded(packed(y))["bdata"]) == pytest.approx(len(packed(y)["bdata"]) / 2, rel=0.01)
    assert len(json.dumps(rounded(y.tolist()))) < 0.6 * len(json.dumps(y.tolist()))


def test_what_is_no_measured_number_stays():
    trace = {
        "x": ["2026-01-01", "b"], "y": [1, 2, None, True], "z": [[0.123456789123, 1.0], [None, 2.0]],
        "ids": [123456789012345, 5], "line": {"color": "#0072B2", "width": 1.23456789}, "name": "n",
        "i": {"dtype": "i4", "bdata": "AAAAAA=="},
    }  # fmt: skip
    figure = {
        "data": [trace],
        "layout": {"xaxis": {"range": [0.123456789, 1.0]}},
        "frames": [{"data": [{"y": [0.1234567891, 1.0]}]}],
    }
    kept = light(figure)
    assert kept["layout"] == figure["layout"]
    assert kept["data"][0] == trace | {"z": [[0.1234568, 1.0], [None, 2.0]]}
    assert kept["frames"][0]["data"][0]["y"] == [0.1234568, 1.0]
    assert trace["z"][0][0] == 0.123456789123  # the caller's figure is not touched


def test_values_that_lie_close_together_keep_the_digits_that_tell_them_apart():
    assert rounded([1000.0012345678, 1000.0023456789]) == [1000.00123457, 1000.00234568]
    far = [1e9 + 0.1, 1e9 + 0.2]
    assert rounded(packed(far)) == packed(far)
    assert rounded([0.1 + 0.2, 0.1 + 0.2]) == [0.3, 0.3]


def test_nan_and_infinity_stay_what_they_are():
    assert rounded([0.5, None, 1.0]) == [0.5, None, 1.0]
    kept = array(rounded(packed([0.5, math.nan, math.inf, 1.0])))
    np.testing.assert_array_equal(kept, [0.5, math.nan, math.inf, 1.0])
    assert rounded(packed([1e300, 1.0])) == packed([1e300, 1.0])  # beyond 32 bits


def test_a_page_holds_the_rounded_figure():
    figure = go.Figure().to_plotly_json()
    text = str(figures.data(figure | {"data": [{"y": [1 / 3, 2 / 3]}]}, "figure-1"))
    assert '"y":[0.3333333,0.6666667]' in text
