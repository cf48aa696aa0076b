"""lab.pooling.table(): every operator of the registries, with a formula, a source and its size."""

import pytest
from torch import nn

from lab.pooling import LAYER_POOLS, MAP_POOLS, POOLS, catalogue, table

FAMILIES = {"tokens": POOLS, "layers": LAYER_POOLS, "maps": MAP_POOLS}


@pytest.fixture(scope="module")
def found():
    return table()


def test_every_operator_has_a_row(found):
    assert list(found.index) == [(family, name) for family, registry in FAMILIES.items() for name in registry]


def test_every_operator_has_a_source_or_is_said_to_be_a_standard_form(found):
    unsaid = found[~found["source"].str.startswith(("https://", "a standard form"))]
    assert list(unsaid.index) == []
    assert (found["formula"].str.len() > 20).all()
    assert not found["formula"].str.contains("http").any()


def test_rows_are_those_of_the_classes(found):
    soft, mean, standard = found.loc[("maps", "soft")], found.loc[("tokens", "mean")], found.loc[("tokens", "min")]
    assert soft["class"] == "SoftPool2d"
    assert soft["source"] == "https://arxiv.org/abs/2101.00440"  # of the class it is derived from
    assert mean["formula"] == "The mean over real tokens, y = 1/n sum_t x_t."
    assert found.loc[("tokens", "pma"), "formula"].endswith("y = o + relu(W_o o), a LayerNorm after each sum")
    assert standard["source"] == "a standard form"
    assert found.loc[("layers", "pick"), "parameters"] == 0
    assert found.loc[("layers", "softmax_mix"), "parameters"] == 8  # seven scores and gamma
    assert table(num_layers=3).loc[("layers", "softmax_mix"), "parameters"] == 4


def test_a_name_added_to_a_registry_is_a_row(monkeypatch):
    monkeypatch.setitem(POOLS, "new", POOLS["mean"])
    assert ("tokens", "new") in table().index


def test_a_class_that_names_no_source_has_none():
    class Bare(nn.Module):
        """y = x."""

    assert catalogue.told(Bare) == "y = x."
