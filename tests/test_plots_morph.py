"""Maps under a slider and panels side by side: what each trace, frame and menu holds."""

import numpy as np
import pytest
import xarray as xr

from lab.plots import curve_panels, layer_panels, morphing_map

EVIL = "<script>alert(1)</script>"


def maps(layers=2, pools=2, n=4):
    values = np.arange(layers * pools * n * 2, dtype=float).reshape(layers, pools, n, 2) / 100
    coords = {"layer": range(layers), "pool": [EVIL, "max"][:pools]}
    return xr.DataArray(values, dims=("layer", "pool", "example", "axis"), coords=coords)


def colour(n=4):
    entries = [{"label": EVIL, "colour": "#ff0000", "n": 2}, {"label": "b", "colour": "#00ff00", "n": 2}]
    return {
        "codes": [0, 1] * (n // 2),
        "palette": ["#ff0000", "#00ff00"],
        "legend": {"kind": "classes", "entries": entries},
    }


def test_frames_and_menus_lead_to_the_same_places():
    places = maps()
    places[1, 1, 2] = np.nan
    scale = colour() | {"legend": {"kind": "scale", "low": 0.0, "high": 1.0, "missing": 0}, "palette": ["#000000"] * 3}
    figure = morphing_map(places, {"kind": colour(), "size": scale}, [EVIL] * 4, title=EVIL)
    assert figure.data[0].x == (0.16, 0.18, 0.2, 0.22)
    frames = {frame.name: frame.data[0] for frame in figure.frames}
    assert set(frames) == {"0/0", "0/1", "1/0", "1/1"}
    assert frames["1/1"].y == (0.25, 0.27, None, 0.31)
    for p, slider in enumerate(figure.layout.sliders):
        assert [step.args[0] for step in slider.steps] == [(f"{p}/0",), (f"{p}/1",)]
        assert slider.visible == (p == 0)
    to_second = figure.layout.updatemenus[0].buttons[1].args
    assert to_second[0]["y"][0] == list(frames["1/1"].y)
    assert to_second[1] == {"sliders[0].visible": False, "sliders[1].visible": True, "sliders[1].active": 1}
    assert figure.layout.updatemenus[1].buttons[1].args[0]["marker.colorbar"][0]["ticktext"] == ["0", "0.5", "1"]
    assert "<script" not in figure.to_json()
    with pytest.raises(ValueError, match="4 points"):
        morphing_map(places, {}, ["one"], title="")


def test_one_pool_and_one_colour_need_no_menu():
    figure = morphing_map(maps(pools=1), {"kind": colour()}, ["a"] * 4, title="")
    assert figure.layout.updatemenus == ()
    assert figure.data[0].marker.color == (0, 1, 0, 1)


def test_panels_have_a_line_for_each_value_of_the_other_axis():
    table = xr.DataArray([[1.0, 2.0], [np.nan, 3.0]], dims=("step", "layer"), coords={"step": [0, 10], "layer": [0, 1]})
    figure = curve_panels({"a": table, EVIL: table[:, 0]}, title="t", along="step")
    assert [trace.x.tolist() for trace in figure.data] == [[0], [0, 10], [0]]
    assert figure.data[1].y.tolist() == [2, 3]
    assert [(trace.name, trace.legend, trace.showlegend) for trace in figure.data] == [
        ("layer 0", "legend", True), ("layer 1", "legend", True), ("", "legend2", False)
    ]  # fmt: skip
    deep = xr.DataArray(np.ones((2, 6)), dims=("step", "layer"), coords={"step": [0, 1], "layer": range(6)})
    many = curve_panels({"a": deep}, title="t", along="step")
    assert [trace.name for trace in many.data if trace.showlegend] == ["layer 0", "layer 5"]
    assert "<script" not in figure.to_json()
    with pytest.raises(ValueError, match="the axis 'depth'"):
        curve_panels({"a": table}, title="", along="depth")


def test_layer_panels_show_what_they_are_given():
    axes = {"layer": [0, 1, 2], "pool": ["mean", "max"]}
    scores = xr.Dataset({"estimate": (("layer", "pool"), np.arange(6.0).reshape(3, 2))}, coords=axes)
    alike = xr.DataArray(
        np.random.default_rng(0).uniform(size=(2, 3, 3)), dims=("pool", "layer", "layer_"), coords=axes
    )
    space = xr.Dataset({"a": scores.estimate, "b": scores.estimate * 10}, coords=axes)
    figure = layer_panels(scores, alike, space, title="t", unit="accuracy")
    assert [trace.type for trace in figure.data] == ["scatter", "scatter", "heatmap", "scatter", "scatter"]
    to_b = figure.layout.updatemenus[1].buttons[1]
    assert (to_b.label, to_b.args[1]) == ("b", (3, 4))
    assert {axis.dtick for axis in (figure.layout.xaxis, figure.layout.xaxis2, figure.layout.yaxis2)} == {1}
    assert to_b.args[0]["y"][1] == [10, 30, 50]
    assert figure.layout.updatemenus[0].buttons[1].args[0]["z"][0] == np.round(alike.sel(pool="max").values, 4).tolist()
    assert len(layer_panels(None, None, space, title="t", unit="").data) == 2
