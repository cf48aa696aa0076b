"""Claims and their outcomes: the side of zero that was claimed, the other one, and neither."""

import numpy as np
import pytest
import xarray as xr

import lab


def seeds(*values):
    return xr.DataArray(list(values), dims="seed", attrs={"a": 1}).assign_coords(step=5)


def test_an_outcome_is_the_side_of_the_interval():
    table = lab.stats.judge(
        {
            "up": (seeds(1.0, 2.0, 1.5), 1),
            "down": (seeds(-1.0, -2.0, -1.5), -1),
            "wrongly up": (seeds(-1.0, -1.1), 1),
            "wrongly down": (seeds(3.0, 3.1), -1),
            "two that differ": (seeds(1.0, 2.0), 1),
            "unclear": (seeds(-1.0, 2.0), 1),
            "unclear too": (seeds(-1.0, 2.0), -1),
            "zero is in it": (seeds(0.0, 0.0), 1),
        }
    )
    assert table.outcome.tolist() == ["holds", "holds", "negative", "negative", *["not at this scale"] * 4]
    assert table.loc["up", "estimate"] == pytest.approx(1.5)
    # Student's t of one degree of freedom: two samples say little
    assert table.loc["two that differ", ["low", "high"]].tolist() == pytest.approx([1.5 - 6.35, 1.5 + 6.35], rel=0.05)
    assert table.dtypes[["estimate", "low", "high"]].eq(float).all()


def test_intervals_are_bootstraps_or_given():
    values = xr.DataArray(np.random.default_rng(0).normal(1, 1, 40), dims="example")
    made = lab.stats.bootstrap(values, "example", seed=4)
    table = lab.stats.judge({"one": (values, 1), "given": (made, 1)}, "example", seed=4)
    assert table.loc["one", ["estimate", "low", "high"]].tolist() == table.loc["given"].tolist()[:3]
    assert table.loc["one", "low"] == float(made.low)


def test_the_verdict_names_each_under_its_heading():
    one, other = (xr.Dataset({"estimate": x + 0.5, "low": x, "high": x + 1}) for x in (1.0, 3.0))
    table = lab.stats.judge({"up": (one, 1), "b": (one, -1), "c": (other, 1)})
    said = lab.stats.verdict(table)
    assert (
        said == "**Holds**: up (+1.500 [+1.000, +2.000]); c (+3.500 [+3.000, +4.000]).\n\n"
        "**Negative**: b (+1.500 [+1.000, +2.000])."
    )


@pytest.mark.parametrize(
    ("claims", "says"),
    [
        ({}, "no claim"),
        ({"a": (seeds(1.0, 2.0), 0)}, "'a' has sign 0"),
        ({"a": (seeds(1.0), 1)}, "needed are 2"),
        ({"a": (xr.Dataset({"estimate": 1.0}), 1)}, r"'a' lacks \['high', 'low'\]"),
        ({"a": (xr.DataArray(np.ones((2, 3)), dims=("seed", "x")), 1)}, "'a' is 3 numbers"),
    ],
)
def test_what_is_no_claim_is_refused(claims, says):
    with pytest.raises(ValueError, match=says):
        lab.stats.judge(claims)
