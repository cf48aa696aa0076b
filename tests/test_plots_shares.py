"""Shares on words and places: the colours are those of the numbers, everything is drawn once, and text is escaped."""

import numpy as np
import pandas as pd
import pytest

from lab import plots
from lab.plots.shares import LINE

EVIL = "<script>alert(1)</script>"


def safe(figure) -> bool:
    written = figure.to_json()
    return "<script>" not in written and "u003cscript" not in written


def shares():
    return pd.DataFrame([[0.25, 0.25, 0.25, 0.25], [1.0, 0, 0, 0], [0.0] * 4], index=["mean", "first", EVIL])


def test_every_pool_has_the_whole_text_coloured_against_the_equal_share():
    figure = plots.token_shares(shares(), ["the", "black", "cat", EVIL], title="t")
    mean, first, none = figure.data
    np.testing.assert_allclose(mean.marker.color, 0)
    np.testing.assert_allclose(first.marker.color, [2, -3, -3, -3])
    for bars in figure.data:
        assert list(bars.text) == ["the", "black", "cat", "&lt;script&gt;alert(1)&lt;/script&gt;"]
        assert len(set(bars.y)) == 1
    assert none.marker.color == "rgba(0,0,0,0)", "no share, no colour"
    assert [bars.marker.showscale for bars in (mean, first)] == [True, False]
    assert figure.layout.yaxis.ticktext[:2] == ("mean", "first")
    assert figure.layout.yaxis.ticktext[2].endswith("(no gradient)")
    assert first.customdata[0] == "first, the: 1.000"
    assert safe(figure)


def test_words_do_not_overlap_and_a_long_text_goes_on_in_the_next_line():
    words = ["word" * (1 + i % 4) for i in range(30)]
    (bars,) = plots.token_shares(pd.DataFrame([np.full(30, 1 / 30)], index=["mean"]), words, title="t").data
    begin, end = np.array(bars.base), np.array(bars.base) + np.array(bars.x)
    same = np.diff(bars.y) == 0
    assert (begin[1:][same] >= end[:-1][same]).all()
    assert (begin[1:][~same] == 0).all()
    assert (end[:-1][~same] + np.array(bars.x)[1:][~same] > LINE - 1).all(), "a line ends where a word has no room"
    assert end.max() <= LINE
    assert set(np.diff(bars.y)) == {0, 1}


def test_a_share_for_every_token():
    with pytest.raises(ValueError, match="got 4 shares and 3 tokens"):
        plots.token_shares(shares(), ["the", "black", "cat"], title="t")


def test_places_are_coloured_like_words_with_the_ink_on_top():
    image = np.array([[0.0, 4.0], [1.0, 0.0]])
    even, one = np.full((2, 2), 0.25), np.array([[1.0, 0], [0, 0]])
    figure = plots.place_shares({"mean": even, EVIL: one}, image, title="t")
    first, ink, second, again = figure.data
    np.testing.assert_allclose(first.z, 0)
    np.testing.assert_allclose(second.z, [[2, -3], [-3, -3]])
    for dots in (ink, again):
        assert (list(dots.x), list(dots.y)) == ([1, 0], [0, 1])
        assert dots.marker.size[0] == 2 * dots.marker.size[1], "area is ink"
    assert [heat.showscale for heat in (first, second)] == [True, False]
    assert not any(trace.showlegend for trace in (ink, again))
    assert safe(figure)
    with pytest.raises(ValueError, match=r"one share per place of \(2, 2\); got \[\(4,\)\]"):
        plots.place_shares({"mean": even.ravel()}, image, title="t")


def test_image_grid_gives_each_image_a_place_a_heading_and_a_range_around_zero():
    images = {EVIL: np.eye(2), "b": 4 * np.eye(3), "c": -np.eye(2)}
    figure = plots.image_grid(images, title="t")
    assert [heat.z.shape for heat in figure.data] == [(2, 2), (3, 3), (2, 2)]
    assert [(heat.zmin, heat.zmax) for heat in figure.data] == [(-1, 1), (-4, 4), (-1, 1)]
    assert [a.text for a in figure.layout.annotations] == ["&lt;script&gt;alert(1)&lt;/script&gt;", "b", "c"]
    assert len({heat.xaxis for heat in figure.data}) == 3
    assert {axis.autorange for axis in figure.select_yaxes()} == {"reversed"}
    assert safe(figure)
    with pytest.raises(ValueError, match=r"images must be \[H, W\]"):
        plots.image_grid({"a": np.zeros(3)}, title="t")
    with pytest.raises(ValueError, match="one or more"):
        plots.image_grid({}, title="t")
