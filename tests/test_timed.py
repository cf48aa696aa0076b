"""What the benchmark stored, as the notebook shows it: nothing that was not measured looks as if it was."""

import json

import numpy as np
import pytest

from lab.pooling import timed


def row(family, name, eager=None, peer=None, dtype="float32"):
    """Ratios are (forward, backward), each 20 % wide either way."""
    found = {"family": family, "name": name, "dtype": dtype, "shape": [4, 8], "forward_ms": 1.0, "backward_ms": 2.0}
    found |= {"forward_share": 0.5, "backward_share": 0.4, "compile_missing": "switched off"}
    for other, both in {"eager": eager, "peer": peer}.items():
        found[f"{other}_missing"] = "" if both else f"no {other}"
        for way, ratio in zip(("forward", "backward"), both or (), strict=False):
            ends = {"": 1, "_low": 0.8, "_high": 1.2}
            found |= {f"{other}_{way}_ratio{end}": ratio * factor for end, factor in ends.items()}
    return found


@pytest.fixture
def stored(tmp_path):
    tables = {
        "slow cpu": [row("tokens", "mean", (0.5, 3.0)), row("tokens", "gsp"), row("maps", "soft", (2.0, np.nan))],
        "gpu": [
            row("tokens", "mean", (0.2, 0.4), peer=(0.9, 0.9)),
            row("tokens", "mean", (0.4, 0.4), dtype="bfloat16"),
            row("tokens", "gsp"),
        ],
    }
    for device, rows in tables.items():
        text = json.dumps({"device": device, "words": "w", "rows": rows})
        (tmp_path / f"pooling-{device.replace(' ', '-')}.json").write_text(text)
    (tmp_path / "pooling-some-cpu.json").write_text("not a whole run")
    return timed.stored(tmp_path)


def test_every_device_is_found_and_partial_runs_are_not(stored, tmp_path):
    assert {device: len(table) for device, table in stored.items()} == {"slow cpu": 3, "gpu": 3}
    assert stored["gpu"].attrs["words"] == "w"
    assert timed.stored(tmp_path / "nowhere") == {}


def test_ratios_over_sizes_are_the_median_and_the_whole_range(stored):
    one = timed.ratios(stored["gpu"], "eager", "forward").sel(operator="tokens mean")
    np.testing.assert_allclose([one["estimate"], one["low"], one["high"]], [0.3, 0.16, 0.48])


def test_what_has_no_ratio_says_why(stored):
    words = timed.ratios(stored["slow cpu"], "eager", "backward").to_dataframe()
    assert np.isnan(words.loc["tokens gsp", "estimate"])
    assert words.loc["tokens gsp", "words"] == "not measured"
    assert np.isnan(words.loc["maps soft", "estimate"])
    assert words.loc["maps soft", "words"] == "no gradient"


def test_devices_stand_side_by_side_and_those_without_a_number_are_left_out(stored):
    panels = timed.beside(stored, "eager")
    assert list(panels) == [f"{device}: {way}" for device in ("gpu", "slow cpu") for way in ("forward", "backward")]
    assert list(panels["slow cpu: forward"]["operator"].values) == ["tokens mean", "tokens gsp", "maps soft"]
    assert list(timed.beside(stored, "peer")) == ["gpu: forward", "gpu: backward"]
    assert timed.beside(stored, "compile") == {}
    known = timed.measured(timed.beside(stored, "peer"))
    assert {tuple(panel["operator"].values) for panel in known.values()} == {("tokens mean",)}
    assert timed.beside(stored, "eager")["gpu: forward"]["words"].sel(operator="maps soft") == "not measured"
    both = timed.measured(timed.beside(stored, "eager"))  # the gpu has no maps, and no one has gsp
    assert {tuple(panel["operator"].values) for panel in both.values()} == {("tokens mean", "maps soft")}


def test_the_slowest_of_a_family_stands_on_top(stored):
    table = stored["slow cpu"].assign(family="tokens")
    (panel, _) = timed.beside({"cpu": table}, "eager").values()
    assert list(panel["operator"].values) == ["tokens mean", "tokens soft", "tokens gsp"]


def test_judged_counts_only_what_is_beyond_doubt():
    values = [[0.5, 0.4, 0.6], [0.9, 0.8, 1.1], [1.2, 1.1, 1.3], [1.1, 0.9, 1.3], [np.nan] * 3]
    table = timed.pd.DataFrame(values, columns=["estimate", "low", "high"], index=list("abcde")).rename_axis("operator")
    assert timed.judged(table.to_xarray()) == "1 of 4 faster, 1 slower, 2 undecided (slowest: `c`, 1.2 times)"
    assert timed.judged(table[:1].to_xarray()) == "1 of 1 faster, 0 slower, 0 undecided"


def test_the_page_marks_what_is_slower_and_what_was_not_measured(stored):
    page = timed.readable(stored["slow cpu"])
    assert page["÷ eager"].tolist() == ["0.50, 3.00\u00a0▲", "not measured", "2.00\u00a0▲, no gradient"]
    assert set(page["÷ peer"]) == {"not measured"}


def test_reasons_are_listed_with_their_operators(stored):
    lines = timed.missing(stored["gpu"]).splitlines()
    assert lines[0] == "- beside eager, 1 of 3 rows (no eager): `tokens gsp`"
    assert lines[1] == "- beside compile, 3 of 3 rows (switched off): `tokens mean`, `tokens gsp`"
    assert lines[2] == "- beside peer, 2 of 3 rows (no peer): `tokens mean`, `tokens gsp`"
    whole = stored["gpu"].assign(**{f"{other}_missing": "" for other in timed.OTHERS})
    assert timed.missing(whole) == "Nothing: every row has every ratio."


def test_numbers_without_a_range_have_one_of_no_width():
    alone = timed.alone(timed.pd.Series({"a": 3.0, "b": 2.0, "c": 0.0}))
    for name in ("estimate", "low", "high"):
        assert alone[name].sel(operator=["a", "b"]).values.tolist() == [3.0, 2.0]
    assert np.isnan(alone["estimate"].sel(operator="c"))


def test_an_operator_newer_than_the_tables_has_a_row_that_says_so(stored):
    known = ["tokens min", "maps soft"]
    panels = timed.beside(stored, "eager", known)
    for panel in panels.values():
        assert list(panel["operator"].values) == ["tokens mean", "tokens gsp", "tokens min", "maps soft"]
        assert panel["words"].sel(operator="tokens min") == "not measured"
    lines = timed.missing(stored["gpu"], known).splitlines()
    assert lines[-1] == "- not in this table at all: `tokens min`, `maps soft`"
    assert "not in this table" not in timed.missing(stored["slow cpu"], ["tokens mean"])
    assert {"tokens mean", "layers mean", "maps soft"} <= set(timed.labels())
