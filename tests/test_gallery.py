"""What the gallery says about a family follows from the numbers."""

import pandas as pd
import pytest
import torch
import xarray as xr

from lab.pooling import gallery


@pytest.fixture
def table():
    read = xr.DataArray(
        [[1.0, 0.5, 0.0], [0.4, 0.5, -0.6]], dims=("source", "target"),
        coords={"source": ["mean", "max"], "target": ["mean", "first", "max"]},
    )  # fmt: skip
    seen = {
        "max": {"outlier": torch.tensor([3.0, 5.0]), "order": torch.zeros(2), "padding": torch.tensor([1e-9, 0.0])},
        "mean": {"outlier": torch.tensor([1.0, 1.0]), "order": torch.zeros(2), "padding": torch.zeros(2)},
    }
    return gallery.side_by_side(read, seen, "over layers")


def test_the_table_has_averages_blanks_and_what_is_kept(table):
    assert list(table.index) == ["max", "mean"], "the order of what was seen"
    assert list(table.columns) == [*gallery.COLUMNS, "kept", "family"]
    assert table.loc["max", "outlier"] == 4.0
    assert table["shift"].isna().all()
    assert table.loc["mean", "kept"] == pytest.approx(0.5)
    assert table.loc["max", "kept"] == pytest.approx(0.3), "worse than nothing keeps nothing"


def test_the_verdict_names_the_best_the_loudest_and_the_twins(table):
    results = {"max": torch.ones(2, 3), "mean": torch.ones(2, 3)}
    assert gallery.verdict(table, results) == (
        "**Over layers, 2 operators.** Keeps most: `mean` (0.50); least: `max` (0.30). "
        "One input 20 times its size moves 2 of 2, most `max` (4.00), `mean` (1.00). "
        "The order moves 0 of 2. Padding moves 0 of 2. The same numbers: `max` = `mean`."
    )
    assert "same numbers" not in gallery.verdict(table, results | {"mean": torch.zeros(2, 3)})


def test_families_of_each_operator(table):
    told = gallery.side_by_side(
        xr.DataArray(table[list(gallery.READ)].to_numpy(), dims=("s", "t"), coords={"s": ["max", "mean"]}),
        {"mean": {}, "max": {}},
        {"max": "b", "mean": "a"},
    )
    pd.testing.assert_series_equal(told["family"], pd.Series({"mean": "a", "max": "b"}), check_names=False)


def test_twins_are_equal_in_shape_and_numbers():
    y = torch.randn(4, 3)
    results = {"a": y, "b": 2 * y, "c": y * (1 + 1e-7), "d": torch.cat([y, y], 1), "e": 2 * y, "f": y + 1e-3}
    assert gallery.twins(results) == [["a", "c"], ["b", "e"]]
    assert gallery.twins({"a": y}) == []
