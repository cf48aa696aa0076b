"""The widgets in Python: what can be read and set, what they send, what they refuse; no browser is needed."""

import functools
import json
import re
import threading

import numpy as np
import pandas as pd
import pytest
import torch
import traitlets
import xarray as xr

import lab
from lab.training.losses.contrast import InfoNCE
from lab.widgets.around import around
from lab.widgets.live import FIGURE, finite, plain, script
from lab.widgets.maps import Maps
from lab.widgets.packing import hues, packed

EVIL = "<script>alert(1)</script>\u202e\0\ud800'\""


def spaces(layers=3, pools=2, n=40, dim=6, seed=0):
    """States whose layers are turned copies of one cloud that slowly comes apart into two groups."""
    g = np.random.default_rng(seed)
    base, group = g.normal(size=(n, dim)), np.arange(n) % 2
    h = np.empty((layers, pools, n, dim), np.float32)
    for layer in range(layers):
        turn, _ = np.linalg.qr(g.normal(size=(dim, dim)))
        for pool in range(pools):
            h[layer, pool] = (base + layer * 4 * group[:, None]) @ turn + 10 * pool
    coords = {"layer": np.arange(layers), "pool": ["mean", "max"][:pools], "example": np.arange(n)}
    return xr.Dataset({"h": (("layer", "pool", "example", "dim"), h)}, coords=coords, attrs={"model": "none"})


def rows(n=40):
    kinds = [f"group {i % 2}" for i in range(n)]
    return pd.DataFrame({"text": [f"text {i}" for i in range(n)], "kind": kinds, "size": np.linspace(0, 1, n)})


class Sent:
    """What a widget sends to its page."""

    comm_id = "sent"

    def __init__(self, widget):
        self.custom = []
        widget.comm = self

    def send(self, data=None, metadata=None, buffers=None):  # noqa: ARG002 - named so by who calls
        json.dumps(data, allow_nan=False).encode("utf-8")
        if data["method"] == "custom":
            self.custom.append((data["content"], [bytes(part) for part in buffers or []]))

    def on_msg(self, act):
        pass

    def of(self, kind):
        return [pair for pair in self.custom if pair[0]["answer"] == kind]


def ask(widget, what, buffers=(), **more):
    widget._heard(widget, {"ask": what, **more}, list(buffers))
    widget.settle(30)


# --- maps


def test_maps_are_turned_onto_each_other_and_the_map_is_pca():
    states = spaces(layers=2)
    states["h"][1] = states.h[0].values @ np.linalg.qr(np.random.default_rng(3).normal(size=(6, 6)))[0].astype("f4")
    maps = Maps(states)
    np.testing.assert_allclose(maps(1, 0), maps(0, 0), atol=1e-4)  # the same cloud, turned: nothing may jump
    x = states.h[0, 0].values.astype(float)
    straight = np.linalg.svd(x - x.mean(0), full_matrices=False)
    want = straight[0][:, :2] * straight[1][:2]
    got = maps(0, 0) * np.abs(want).max() / np.abs(maps(0, 0)).max()
    np.testing.assert_allclose(np.abs(got), np.abs(want), atol=1e-3)


def test_maps_are_the_same_whichever_is_asked_for_first():
    states = spaces()
    one, other = Maps(states), Maps(states)
    for place in [(2, 1), (0, 0), (1, 1)]:
        one(*place)
    for place in [(1, 1), (2, 1)]:
        np.testing.assert_array_equal(one(*place), other(*place))


def test_an_alignment_is_the_best_of_all_turns():
    g = np.random.default_rng(0)
    x, onto = g.normal(size=(30, 2)), g.normal(size=(30, 2))
    best = np.linalg.norm(x @ lab.geometry.align(x, onto) - onto)
    for angle in np.linspace(0, 2 * np.pi, 400):
        for flip in (1, -1):
            turn = np.array([[np.cos(angle), -np.sin(angle)], [flip * np.sin(angle), flip * np.cos(angle)]])
            assert best <= np.linalg.norm(x @ turn - onto) + 1e-12


def test_tsne_keeps_neighbours_and_begins_where_it_is_told():
    g = np.random.default_rng(0)
    x = (g.normal(size=(60, 8)) + 12 * np.eye(8)[np.arange(60) % 3]).astype(np.float32)
    xy = lab.geometry.coordinates(x, "tsne", neighbours=5, start=x[:, :2])
    far = np.linalg.norm(xy[:, None] - xy[None], axis=-1) + np.eye(60) * 1e9
    assert (np.arange(60)[far.argmin(1)] % 3 == np.arange(60) % 3).mean() > 0.95
    with pytest.raises(ValueError, match="no projection 'mds'"):
        lab.geometry.coordinates(x, "mds")
    with pytest.raises(ValueError, match="1 not finite"):
        lab.geometry.coordinates(np.vstack([x, np.full((1, 8), np.nan, np.float32)]))


@pytest.mark.parametrize(("n", "kind"), [(5, "float32"), (200_001, "uint16")])
def test_places_survive_packing(n, kind):
    xy = np.random.default_rng(0).uniform(-1, 1, (n, 2)).astype(np.float32)
    xy[1] = np.nan
    got, sent = packed(xy)
    assert got == kind
    back = np.frombuffer(sent, "<f4" if kind == "float32" else "<u2").reshape(-1, 2).astype(float)
    back = back if kind == "float32" else back * 2 / 60_000 - 1
    assert back[1, 0] > 1.1
    np.testing.assert_allclose(np.delete(back, 1, 0), np.delete(xy, 1, 0), atol=1e-6 if kind == "float32" else 2e-5)


def test_colours_are_of_classes_or_a_scale():
    kinds = hues(pd.Series(["b", "a", "b", None]))
    assert kinds.codes.tolist() == [0, 1, 0, 2]
    assert [entry["label"] for entry in kinds.legend["entries"]] == ["b", "a", "no value"]
    many = hues(pd.Series([f"k{i}" for i in range(30)] * 2))
    assert many.legend["entries"][-1]["label"] == "16 others"
    assert len(many.palette) == len(many.legend["entries"])
    scale = hues(pd.Series([0.0, 5.0, np.nan, 10.0]))
    assert scale.codes.tolist() == [0, 127, 255, 254]
    assert (scale.legend["low"], scale.legend["high"], scale.legend["missing"]) == (0, 10, 1)


# --- neighbours


def test_neighbours_are_by_their_definition():
    states = spaces(n=25)
    chosen = np.array([0, 2, 4])
    got = around(states, chosen, pool=1, k=3)
    for layer in range(3):
        x = states.h[layer, 1].values.astype(float)
        unit = x / np.linalg.norm(x, axis=1, keepdims=True)
        centre = unit[chosen].mean(0)
        cosine = unit @ centre / np.linalg.norm(centre)
        cosine[chosen] = -9
        order = np.argsort(-cosine)[:3]
        assert got.number[layer].values.tolist() == order.tolist()
        np.testing.assert_allclose(got.cosine[layer], cosine[order], atol=1e-5)
        all_pairs = unit @ unit.T - 9 * np.eye(25)
        share = [np.isin(np.argsort(-all_pairs[i])[:10], chosen).mean() for i in chosen]
        assert float(got.together[layer]) == pytest.approx(np.mean(share), abs=1e-6)
    assert got.attrs["chance"] == pytest.approx(2 / 24)


def test_neighbours_without_finite_states_are_nobodys():
    states = spaces(n=6)
    states["h"][:, :, 3] = np.nan
    states["h"][:, :, 4] = 0
    got = around(states, np.array([0]), pool=0, k=5)
    assert set(got.number.values.ravel().tolist()) == {1, 2, 5, -1}
    with pytest.raises(ValueError, match="got none"):
        around(states, np.empty(0, int), pool=0)


# --- the explorer


def test_an_explorer_answers_its_page():
    widget = lab.widgets.explorer(spaces(), rows(), colour="kind")
    sent = Sent(widget)
    assert (widget.layer, widget.pool, widget.colour, widget.columns) == (2, "mean", "kind", ["kind", "size"])
    ask(widget, "map", layer=1, pool="max", method="pca")
    content, buffers = sent.of("map")[0]
    assert content["key"] == [1, "max", "pca"]
    np.testing.assert_array_equal(np.frombuffer(buffers[0], "<f4").reshape(-1, 2), widget.map(1, "max").values)
    ask(widget, "texts", chunk=0)
    assert sent.of("texts")[0][0]["texts"][7] == "text 7"
    ask(widget, "search", query="TEXT 3")
    found = np.frombuffer(sent.of("search")[0][1][0], "<u4").tolist()
    assert found == [3, *range(30, 40)]
    widget.query = "text 3"
    assert widget.found.tolist() == found
    ask(widget, "select", [memoryview(np.array([5, 1, 5], "<u4").tobytes())], version=1)
    assert widget.selected.tolist() == [1, 5]
    assert widget.table.text.tolist() == ["text 1", "text 5"]
    assert sent.of("table")[0][0]["rows"][0][0] == "text 1"
    answer = sent.of("around")[0][0]
    assert [row["layer"] for row in answer["rows"]] == [0, 1, 2]
    assert answer["rows"][2]["near"][0]["number"] == int(widget.neighbours.number[2, 0])
    assert widget.message == ""


def test_groups_that_come_apart_hold_together_in_later_layers():
    widget = lab.widgets.explorer(spaces(), rows())
    widget.selected = np.arange(1, 40, 2)
    together = widget.neighbours.together.values
    assert together[0] < together[1] <= together[2]
    assert together[2] == 1
    widget.selected = []
    assert widget.table.empty
    assert widget.neighbours.sizes["rank"] == 0


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"ask": "map", "layer": 9, "pool": "mean", "method": "pca"}, "no layer 9"),
        ({"ask": "map", "layer": 0, "pool": EVIL, "method": "pca"}, "no pool <script>"),
        ({"ask": "map", "layer": 0, "pool": "mean", "method": "mds"}, "no projection mds"),
        ({"ask": "hues", "column": "gone"}, "no column gone"),
        ({"ask": "focus", "number": 99}, "examples 0 to 39"),
        ({"ask": "dig"}, "not known here"),
    ],
)
def test_what_goes_wrong_is_the_message(asked, said):
    widget = lab.widgets.explorer(spaces(), rows())
    Sent(widget)
    ask(widget, asked.pop("ask"), **asked)
    assert said in widget.message
    assert json.dumps(widget.message).encode("utf-8")


def test_a_projection_that_fails_is_a_message(monkeypatch):
    def broken(*given):
        raise RuntimeError("the graph fell apart")

    monkeypatch.setitem(lab.geometry.projection.METHODS, "umap", broken)
    widget = lab.widgets.explorer(spaces(), rows())
    sent = Sent(widget)
    ask(widget, "map", layer=0, pool="mean", method="umap")
    assert widget.message == "RuntimeError: the graph fell apart"
    assert widget.busy == ""
    ask(widget, "map", layer=0, pool="mean", method="pca")
    assert len(sent.of("map")) == 1  # it goes on


def broken_states(kind):
    states = spaces(n=1 if kind == "one point" else 8)
    if kind == "all equal":
        states["h"][:] = 3.0
    if kind == "some NaN":
        states["h"][:, :, 2] = np.nan
    if kind == "a layer of NaN":
        states["h"][1] = np.nan
    return states


@pytest.mark.parametrize(
    ("kind", "note"),
    [
        ("one point", "one point"),
        ("all equal", "all examples are in one place"),
        ("some NaN", "1 of 8 examples"),
        ("a layer of NaN", "no example has finite states"),
    ],
)
def test_odd_states_are_told_and_drawn(kind, note):
    states = broken_states(kind)
    widget = lab.widgets.explorer(states, [f"t{i}" for i in range(states.sizes["example"])])
    sent = Sent(widget)
    ask(widget, "map", layer=1, pool="mean", method="pca")
    notes = widget.message + " ".join(content["note"] for content, _ in sent.of("map"))
    assert note in notes
    assert FIGURE in widget._repr_mimebundle_()[0]
    widget.selected = [0]
    ask(widget, "around", version=1)
    assert sent.of("around")[-1][0]["rows"]
    ask(widget, "map", layer=0, pool="mean", method="pca")
    assert sent.of("map")


def test_hostile_text_is_sent_as_text():
    n = 6
    texts = [EVIL, "x" * 2_000_000, "", "مرحبا", "😀" * 400, "\0" * 9]
    name = EVIL.replace("\ud800", "")  # pandas itself refuses half characters in its own kind of text
    table = pd.DataFrame({"text": pd.Series(texts, dtype=object), name: pd.Series([EVIL] * n, dtype=object)})
    widget = lab.widgets.explorer(spaces(n=n), table)
    sent = Sent(widget)
    ask(widget, "texts", chunk=0)
    said = sent.of("texts")[0][0]["texts"]
    assert said[0] == "<script>alert(1)</script>[U+202E][U+0000]?'\""
    assert len(said[1]) == 302
    assert said[5] == "[U+0000]" * 9
    widget.selected = range(n)
    ask(widget, "hues", column=widget.columns[0])
    assert sent.of("hues")[0][0]["legend"]["entries"][0]["n"] == n
    figure = widget._repr_mimebundle_()[0][FIGURE]
    assert "<script" not in json.dumps(figure)
    assert len(json.dumps(figure)) < 100_000


def test_the_figure_has_a_slider_a_frame_each_and_menus():
    widget = lab.widgets.explorer(spaces(), rows())
    figure = widget.figure()
    assert len(figure.frames) == 6
    assert [len(slider.steps) for slider in figure.layout.sliders] == [3, 3]
    assert [[button.label for button in menu.buttons] for menu in figure.layout.updatemenus] == [
        ["mean", "max"],
        ["kind", "size"],
    ]
    np.testing.assert_allclose(figure.frames[1].data[0].x, widget.map(1, "mean").values[:, 0], atol=1e-4)
    np.testing.assert_allclose(figure.data[0].x, widget.map(2, "mean").values[:, 0], atol=1e-4)
    assert "All 40 examples" in figure.layout.meta["caption"]
    many = lab.widgets.explorer(spaces(n=3000), rows(3000)).figure()
    assert len(many.data[0].x) == 1500
    assert "1,500 of 3,000 examples" in many.layout.meta["caption"]


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (lambda _, table: (None, table), TypeError, "states must be"),
        (lambda states, table: (states, table[:3]), ValueError, "3 rows and 40 examples"),
        (lambda states, table: (states.isel(example=[]), table[:0]), ValueError, "0 examples"),
        (lambda states, _: (states, "text"), TypeError, "got str"),
        (lambda states, table: (states, table[[]]), ValueError, "no column at all"),
        (lambda states, table: (states, table.set_axis(["a", "a", "b"], axis=1)), ValueError, "one name"),
    ],
)
def test_an_explorer_refuses_what_it_cannot_show(change, error, said):
    states, table = change(spaces(), rows())
    with pytest.raises(error, match=said):
        lab.widgets.explorer(states, table)


@pytest.mark.parametrize(
    "wrong", [{"layer": 7}, {"pool": "median"}, {"colour": "gone"}, {"method": "mds"}, {"text": "gone"}]
)
def test_a_name_that_is_not_there_is_a_value_error(wrong):
    with pytest.raises(ValueError, match=r"no |there are"):
        lab.widgets.explorer(spaces(), rows(), **wrong)
    widget = lab.widgets.explorer(spaces(), rows())
    name, value = next(iter(wrong.items()))
    if name != "text":
        with pytest.raises(ValueError, match="no "):
            setattr(widget, name, value)
    with pytest.raises(ValueError, match="from 0 to 39"):
        widget.selected = [40]
    with pytest.raises(ValueError, match="got 99"):
        widget.weights(99)


def test_a_click_shows_what_each_pool_listens_to(minilm):
    texts = ["the mean listens to all", "one"]
    states = lab.capture.states(minilm, texts, pools=("mean", "first"), progress=False)
    widget = lab.widgets.explorer(states, texts, model=minilm)
    sent = Sent(widget)
    assert widget.columns == ["tokens"]
    ask(widget, "focus", number=0)
    told = sent.of("focus")[0][0]
    assert told["words"][0] == "[CLS]"
    assert told["pools"][0]["shares"] == pytest.approx([1 / len(told["words"])] * len(told["words"]), abs=1e-5)
    assert told["pools"][1]["shares"][0] == pytest.approx(1)
    assert widget.weights(1).shape == (2, 3)
    other = lab.widgets.explorer(spaces(n=2), texts)
    sent = Sent(other)
    ask(other, "focus", number=1)
    assert "model=model" in sent.of("focus")[0][0]["note"]  # the text is shown all the same
    assert sent.of("focus")[0][0]["text"] == "one"


# --- what all share


def test_a_report_shows_the_figure_in_the_widgets_place():
    from lab.reports import outputs

    data, _ = lab.widgets.explorer(spaces(), rows())._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in data
    output = {"output_type": "display_data", "data": data}
    assert 'data-figure="a1"' in outputs.shown(output, "a1")
    assert outputs.figures_of({"outputs": [output]}) == [data[FIGURE]]
    del data[FIGURE]
    assert outputs.shown(output, "a1") == ""


BANNED = (
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|\bfetch\(|\bimport\b|XMLHttpRequest|WebSocket"
)


def test_pages_ask_the_network_for_nothing_and_write_no_markup():
    names = (
        "scatter",
        "card",
        "pixels",
        "pace",
        "grid",
        "words",
        "tables",
        "explorer",
        "heat",
        "lines",
        "sinks",
        "layers",
        "inspector",
        "cockpit",
    )
    source = re.sub(r"^\s*//.*|\s//.*", "", script(*names), flags=re.M)
    assert re.findall(BANNED, source) == []
    assert re.findall(r"\S*://\S*", source) == ['"http://www.w3.org/2000/svg";']


def test_numbers_as_json_has_them():
    assert finite({"a": [1.5, np.float32("nan"), (np.inf, 2)], "b": np.array([[np.nan]])}) == {
        "a": [1.5, None, [None, 2]],
        "b": [[None]],
    }
    assert plain("a\tb\n") == "a\tb\n"
    assert (plain(12), plain(1 / 3)) == ("12", "0.3333")


# --- sinks


def test_a_pattern_is_the_models_own(minilm):
    text = "attention goes where it went before"
    inputs = minilm.tokenizer([text], return_tensors="pt")
    was = minilm.model.config._attn_implementation
    minilm.model.set_attn_implementation("eager")
    with torch.no_grad():
        own = minilm.model(**inputs, output_attentions=True).attentions
    minilm.model.set_attn_implementation(was)
    for layer in (1, minilm.depth):
        got = lab.attention.pattern(minilm, text, layer)
        np.testing.assert_allclose(got.weight, own[layer - 1][0].numpy(), atol=1e-5)
    assert got.token.values.tolist() == minilm.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0].tolist())
    softpick = lab.attention.pattern(minilm, text, 2, normalizer="softpick")
    assert float((softpick.weight == 0).mean()) > 0.05  # it may decline
    with lab.attention.watch(minilm) as sinks, torch.no_grad():
        minilm.model(**inputs)
    np.testing.assert_allclose(got.weight.mean("query"), sinks.result().mass.sel(layer=minilm.depth), atol=1e-5)
    np.testing.assert_allclose(got.value_norm, sinks.result().value_norm.sel(layer=minilm.depth), rtol=1e-5)


@pytest.mark.parametrize("wrong", [{"text": " "}, {"layer": 0}, {"layer": 7}, {"max_length": 0}, {"normalizer": "x"}])
def test_a_pattern_refuses(minilm, wrong):
    with pytest.raises(ValueError, match=r"empty|from 1|no normalizer"):
        lab.attention.pattern(minilm, **{"text": "words", "layer": 1} | wrong)


def test_the_sink_viewer_shows_what_was_watched(minilm):
    texts = ["a short text of words", "another one, " + EVIL.replace("\ud800", "")]
    viewer = lab.widgets.sinks(minilm, texts, max_length=16)
    sent = Sent(viewer)
    with lab.attention.watch(minilm) as watched:
        lab.capture.states(minilm, texts, max_length=16, layers=[minilm.depth])
    want = watched.result()
    np.testing.assert_allclose(viewer.rates, want.sink_rate.isel(threshold=0).sel(position=1))
    assert float(viewer.rates.sel(layer=viewer.layer, head=viewer.head)) == float(viewer.rates.max())
    here = {"layer": 2, "head": 3, "text": 1, "normalizer": "softmax"}
    for what in ("mosaic", "places", "pattern"):
        ask(viewer, what, **here)
    assert np.array(sent.of("mosaic")[0][0]["rate"]).shape == (6, 12)
    np.testing.assert_allclose(sent.of("places")[0][0]["mass"], want.mass.sel(layer=2, head=3), atol=1e-6)
    weights = np.array(sent.of("pattern")[0][0]["weights"])
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-3)
    assert viewer.message == ""
    ask(viewer, "mosaic", normalizer="softpick")
    assert sent.of("mosaic")[1][0]["rate"] != sent.of("mosaic")[0][0]["rate"]
    ask(viewer, "pattern", **here | {"head": 99})
    assert "head must be from 0 to 11" in viewer.message
    ask(viewer, "mosaic", normalizer="linear?")
    assert "no normalizer" in viewer.message
    assert viewer.figure().data[0].type == "heatmap"
    with pytest.raises(ValueError, match="not empty"):
        lab.widgets.sinks(minilm, [])
    with pytest.raises(TypeError, match=r"lab\.models"):
        lab.widgets.sinks("minilm", texts)
    with pytest.raises(ValueError, match="threshold"):
        lab.widgets.sinks(minilm, texts, threshold=1.0)


# --- layers


def measured():
    states = spaces(layers=4, n=30)
    g = np.random.default_rng(0)
    axes = {"layer": states.layer, "pool": states["pool"], "fold": range(3)}
    scores = xr.DataArray(g.uniform(size=(4, 2, 3)), dims=("layer", "pool", "fold"), coords=axes)
    return scores, lab.geometry.cka(states), lab.geometry.measure(states, progress=False)


def test_the_layer_browser_holds_what_it_was_given():
    scores, similarity, space = measured()
    browser = lab.widgets.layers(scores, similarity, space, unit="accuracy")
    assert [p[1] for p in browser.data["scores"]["max"]] == pytest.approx(scores.mean("fold").sel(pool="max").values)
    np.testing.assert_allclose(browser.data["similarity"]["values"]["mean"], similarity.sel(pool="mean"), atol=1e-4)
    assert list(browser.data["space"]) == list(space.data_vars)
    browser.layer, browser.metric = 3, "two_nn"
    figure = browser.figure()
    assert {trace.type for trace in figure.data} == {"scatter", "heatmap"}
    assert len(figure.layout.updatemenus) == 2
    banded = lab.stats.bootstrap(scores, along="fold")
    assert len(lab.widgets.layers(banded).data["scores"]["mean"][0]) == 4
    with pytest.raises(ValueError, match="no layer 9"):
        browser.layer = 9
    with pytest.raises(ValueError, match="nothing to browse"):
        lab.widgets.layers()
    with pytest.raises(ValueError, match="axes layer and pool"):
        lab.widgets.layers(scores.rename(layer="depth"))
    with pytest.raises(ValueError, match=r"similarity needs the axes \['layer'"):
        lab.widgets.layers(similarity=similarity.isel(pool=0))
    with pytest.raises(ValueError, match="share no pool"):
        lab.widgets.layers(scores, similarity.assign_coords(pool=["a", "b"]))


# --- the inspector


def test_the_inspector_weighs_and_finds(minilm):
    texts = ["sorts a list of numbers", "draws a red circle", "sorts numbers in a list", EVIL.replace("\ud800", "")]
    widget = lab.widgets.inspector(minilm, texts, pools=("mean", "first"), k=2)
    sent = Sent(widget)
    assert widget.neighbours.loc["mean", 1] == "sorts numbers in a list"
    assert texts[0] not in widget.neighbours.to_numpy()
    assert widget.weights.loc["first"].iloc[0] == pytest.approx(1)
    ask(widget, "look", text="paints a ring in red", layer=6)
    told = sent.of("look")[0][0]
    assert told["near"][0]["texts"][0].endswith("draws a red circle")
    assert [pool["name"] for pool in told["pools"]] == ["mean", "first"]
    ask(widget, "look", text="  ", layer=6)
    assert "nothing to weigh" in widget.message
    ask(widget, "look", text="a", layer=77)
    assert "no layer 77" in widget.message
    assert FIGURE in widget._repr_mimebundle_()[0]
    with pytest.raises(ValueError, match="no pool"):
        lab.widgets.inspector(minilm, texts, pools=("nope",))
    with pytest.raises(ValueError, match="1 to 5,000"):
        lab.widgets.inspector(minilm, [])
    with pytest.raises(ValueError, match="no layer 9"):
        lab.widgets.inspector(minilm, texts, layer=9)


# --- the cockpit


def training(folder=None, steps=6):
    recipe = lab.training.Recipe(layers=1, dim=16, heads=2, steps=steps, batch=4)
    source = lab.data.tasks.BigramBackcopy(symbols=12, length=16)
    return functools.partial(lab.training.language_model, source, recipe, folder=folder, every=2, device="cpu")


def test_a_training_is_seen_stopped_and_resumed(tmp_path):
    whole = training()(progress=False)
    train, at_look = training(tmp_path), threading.Event()
    widget = lab.widgets.cockpit(train)
    sent = Sent(widget)
    assert "Nothing was trained yet" in widget.figure().layout.title.text
    keep = widget._see

    def see(step, values):
        widget.stop()  # as if pressed while the first steps run
        at_look.set()
        return keep(step, values)

    widget._see = see
    ask(widget, "start")
    assert widget.wait(60) is None
    assert at_look.is_set()
    assert widget.state == "stopped"
    assert widget.rows[-1]["step"] == 2
    widget._see = keep
    widget.start()
    run = widget.wait(60)
    assert widget.state == "done"
    assert [row["step"] for row in widget.rows] == [0, 2, 4, 6]
    assert float(run.curve.loss[-1]) == pytest.approx(float(whole.curve.loss[-1]), rel=1e-5)
    assert sent.of("row")
    np.testing.assert_allclose(widget.curve.effective_rank, run.curve.effective_rank)
    np.testing.assert_allclose(widget.curve.sink_rate, run.curve.sink_rate[:, 1:])
    assert len(widget.figure().data) == 2 + 1 + 2 + 2


def test_an_embedder_is_stopped_and_resumed_with_the_model_as_it_stands(tmp_path):
    words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"]
    pairs = pd.DataFrame({"query": [f"what is {w}" for w in words], "positive": [f"{w} is a letter" for w in words]})

    def training(**options):
        model = lab.training.embedder(
            lab.models.tiny("bert", layers=1, dim=16, heads=2), "mean, both ways", device="cpu"
        )
        how = {"steps": 6, "batch": 4, "rate": 1e-2, "every": 2, "held_out": pairs[:4]} | options
        return functools.partial(lab.training.contrastive, pairs, model, **how)

    whole = training()(progress=False)
    widget = lab.widgets.cockpit(training(folder=tmp_path))
    keep, pressed = widget._see, {2, 6}  # at a first look, and at the last one

    def see(step, values):
        if step in pressed:
            pressed.remove(step)
            widget.stop()
        return keep(step, values)

    widget._see = see
    for reached in (2, 6):
        widget.start()
        assert widget.wait(60) is None
        assert (widget.state, widget.message, widget.rows[-1]["step"]) == ("stopped", "", reached)
    widget.start()
    run = widget.wait(60)
    assert (widget.state, widget.message, run.steps) == ("done", "", 6)
    assert [row["step"] for row in widget.rows] == [0, 2, 4, 6]
    np.testing.assert_array_equal(run.curve.held_out, whole.curve.held_out)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(run.model.state_dict()[name], value)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("at", [1, 4])  # before the first checkpoint, and behind it
def test_an_embedder_that_fails_midway_begins_again_from_the_model_it_was_given(tmp_path, monkeypatch, kept, at):
    words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"]
    pairs = pd.DataFrame({"query": [f"what is {w}" for w in words], "positive": [f"{w} is a letter" for w in words]})
    small = lab.models.tiny("bert", layers=1, dim=16, heads=2)
    models = [lab.training.embedder(small, "mean, both ways", device="cpu") for _ in range(2)]
    before = {name: value.clone() for name, value in models[0].state_dict().items()}
    calls = []

    def failing(self, batch):
        calls.append(1)
        if len(calls) == at + 1:
            raise RuntimeError("the power went out")
        return whole(self, batch)

    whole = InfoNCE.of
    monkeypatch.setattr(InfoNCE, "of", failing)
    how = {"steps": 6, "batch": 4, "rate": 1e-2, "every": 3, "loss": "in_batch_or_own"}
    train = functools.partial(lab.training.contrastive, pairs, models[0], **how, folder=tmp_path if kept else None)
    widget = lab.widgets.cockpit(train)
    widget.start()
    assert widget.wait(60) is None
    assert (widget.state, widget.message) == ("failed", "RuntimeError: the power went out")
    assert all(torch.equal(value, before[name]) for name, value in models[0].state_dict().items())
    assert not models[0].training
    assert all(p.grad is None for p in models[0].parameters())
    widget.start()
    run = widget.wait(60)
    assert (widget.state, widget.message, run.steps) == ("done", "", 6)
    want = lab.training.contrastive(pairs, models[1], **how, progress=False).model
    assert all(torch.equal(run.model.state_dict()[name], value) for name, value in want.state_dict().items())


def test_a_training_that_fails_is_a_message_and_may_be_tried_again():
    tries = []

    def train(see, progress):
        tries.append(progress)
        if len(tries) == 1:
            see(1, {"loss": float("nan"), "kurtosis": [3.0, float("inf")]})
            raise FloatingPointError("the loss is nan " + EVIL)

    widget = lab.widgets.cockpit(train)
    Sent(widget)
    widget.start()
    assert widget.wait(20) is None
    assert widget.state == "failed"
    assert widget.message.startswith("FloatingPointError: the loss is nan")
    assert widget.rows == [{"step": 1, "loss": None, "kurtosis": [3.0, None]}]
    assert widget.figure().data
    widget.start()
    widget.wait(20)
    assert (widget.state, widget.message, tries) == ("done", "", [False, False])
    with pytest.raises(TypeError, match="must be a function"):
        lab.widgets.cockpit(3)
    with pytest.raises(TypeError, match="see"):
        lab.widgets.cockpit(lambda: None)
    with pytest.raises(traitlets.TraitError):
        widget.state = "flying"


def test_vitals_count_directions():
    model = lab.models.tiny("llama", layers=1, dim=16)
    ids = torch.arange(12).reshape(2, 6)
    seen = lab.training.vitals(model, ids)
    with lab.capture.tap(model, ["layer.1"]) as states, torch.no_grad():
        model.model(input_ids=ids)
    x = states["layer.1"].flatten(0, 1).double()
    s = torch.linalg.svdvals(x - x.mean(0))
    p = s / s.sum()
    assert seen["effective_rank"][1] == pytest.approx(float(torch.special.entr(p).sum().exp()), rel=1e-4)
