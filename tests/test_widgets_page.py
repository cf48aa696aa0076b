"""The pages of the widgets in a real browser, their messages carried by widget_host: done by hand, looked at after."""

import functools
import json
import os
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from test_widgets import EVIL, broken_states, measured, rows, spaces, training
from widget_host import Host
from window import needs_chromium

import lab

pytestmark = needs_chromium
SHOWN = "JSON.parse(document.getElementById('root').dataset.shown ?? '[]')"

COUNT_DRAWS = """() => {
  window.draws = 0;
  for (const [kind, name] of [[WebGL2RenderingContext, "drawArrays"], [CanvasRenderingContext2D, "putImageData"]]) {
    const draw = kind.prototype[name];
    kind.prototype[name] = function (...given) { window.draws++; draw.apply(this, given); };
  }
}"""
# a browser that plays a graphics card by the processor and does not say so
CARD = """() => {
  const plain = HTMLCanvasElement.prototype.getContext, told = WebGL2RenderingContext.prototype.getParameter;
  HTMLCanvasElement.prototype.getContext = function (kind, options = {}) {
    return plain.call(this, kind, { ...options, failIfMajorPerformanceCaveat: false });
  };
  WebGL2RenderingContext.prototype.getParameter = function (name) {
    return name === 0x9246 ? "a card" : told.call(this, name);
  };
}"""


@pytest.fixture
def host(browser, tmp_path, request):
    """host(widget) opens it; in the end a picture is kept, and nothing may have gone wrong or been asked for."""
    opened = []

    def open_(widget, **options):
        opened.append(Host(browser, widget, **options))
        return opened[-1]

    yield open_
    for one in opened:
        name = request.node.name.replace("/", "-")
        one.page.screenshot(path=Path(os.environ.get("LAB_SHOTS", tmp_path)) / f"{name}.png", full_page=True)
        assert one.errors == []
        assert [url for url in one.requests if not url.startswith("blob:")] == []
        one.close()


def pixel(host, widget, number):
    """Where a point is drawn, before the map was moved."""
    box = host.box(".lab-points")
    x, y = (float(v) for v in widget.map().values[number])
    side = 0.94 * min(box["width"], box["height"]) / 2
    return box["x"] + box["width"] / 2 + x * side, box["y"] + box["height"] / 2 - y * side


def lasso(host, widget, numbers, margin=14):
    """Draw a line around these points, as wide as they lie."""
    places = np.array([pixel(host, widget, i) for i in numbers])
    (x0, y0), (x1, y1) = (map(float, places.min(0) - margin), map(float, places.max(0) + margin))
    host.page.locator("button", has_text="lasso").click()
    host.page.mouse.move(x0, y0)
    host.page.mouse.down()
    for x, y in ((x1, y0), (x1, y1), (x0, y1), (x0, y0 + 2)):
        host.page.mouse.move(x, y, steps=3)
    host.page.mouse.up()
    host.page.locator("button", has_text="lasso").click()
    inside = widget.map().values
    centre = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
    all_places = np.array([pixel(host, widget, i) for i in range(len(inside))])
    return np.flatnonzero((np.abs(all_places - centre) < np.array([x1 - x0, y1 - y0]) / 2).all(1)).tolist()


def test_an_explorer_is_walked_through(host):
    widget = lab.widgets.explorer(spaces(n=60), rows(60), colour="kind")
    page = host(widget)
    page.until(f"{SHOWN}[0] === 2")
    page.until(lambda: len(widget.maps.kept) == 6)  # the others come before they are asked for
    page.page.locator("input[type=range]").nth(0).focus()
    page.page.keyboard.press("ArrowLeft")
    page.until(f"{SHOWN}[0] === 1")
    page.page.locator("input[type=range]").nth(1).focus()
    page.page.keyboard.press("ArrowRight")
    page.until(f"{SHOWN}[1] === 'max'")
    assert (widget.layer, widget.pool) == (1, "max")

    page.page.mouse.move(*pixel(page, widget, 7))
    page.until(
        "!document.querySelector('.lab-tip').hidden && document.querySelector('.lab-tip').textContent.includes('text')"
    )
    under = int(page.text(".lab-tip").split(":")[0])
    assert np.hypot(*(np.array(pixel(page, widget, under)) - pixel(page, widget, 7))) < 9
    page.page.mouse.down()
    page.page.mouse.up()
    page.until(lambda: widget.focus == under)
    page.until("document.querySelector('.lab-full') !== null")
    assert page.text(".lab-full") == f"text {under}"
    assert "model=model" in page.text("#root")  # these states came from no model that is known

    want = lasso(page, widget, [0, 1, 2])
    page.until(lambda: len(widget.selected) > 0)
    assert widget.selected.tolist() == want
    page.until("document.querySelectorAll('.lab-around tbody tr').length === 3")
    assert page.page.locator(".lab-table").first.locator("tbody tr").count() == len(want)

    page.page.get_by_role("searchbox").fill("TEXT 5")
    page.until("document.querySelector('.lab-bar').textContent.includes('11 found')")
    page.page.locator("button", has_text="choose found").click()
    page.until(lambda: widget.selected.tolist() == [5, *range(50, 60)])
    page.page.locator("select").nth(1).select_option("size")
    page.until("document.querySelector('.lab-scale') !== null")
    widget.selected = [3]
    page.until("document.getElementById('root').dataset.chosen === '1'")
    widget.layer = 0
    page.until(f"{SHOWN}[0] === 0")


def test_dragging_and_the_wheel_move_the_map_and_a_double_click_brings_it_back(host):
    widget = lab.widgets.explorer(spaces(n=60), rows(60))
    page = host(widget)
    page.until(f"{SHOWN}[0] === 2")
    x, y = pixel(page, widget, 11)

    def hover_finds(px, py):
        page.page.mouse.move(px - 40, py - 40)
        page.page.mouse.move(px, py)
        page.until("document.querySelector('.lab-tip').innerText.includes('11: text 11')")

    hover_finds(x, y)
    middle = page.box(".lab-points")
    corner = middle["x"] + middle["width"] - 20, middle["y"] + 20
    page.page.mouse.move(*corner)
    page.until("document.querySelector('.lab-tip').hidden")
    page.page.mouse.down()
    page.page.mouse.move(corner[0] - 60, corner[1] + 30, steps=4)
    page.page.mouse.up()
    hover_finds(x - 60, y + 30)
    page.page.mouse.wheel(0, -800)
    hover_finds(x - 60, y + 30)  # what is under the pointer stays there
    page.page.mouse.dblclick(*corner)
    hover_finds(x, y)
    page.page.locator(".lab-points").focus()
    page.page.keyboard.press("ArrowRight")
    hover_finds(x - 60, y)
    assert (widget.focus, widget.selected.size) == (-1, 0)  # moving the map chooses nothing


@pytest.mark.parametrize("kind", ["one point", "all equal", "some NaN", "a layer of NaN"])
def test_odd_states_are_drawn_with_a_word(host, kind):
    states = broken_states(kind)
    widget = lab.widgets.explorer(states, [f"t{i}" for i in range(states.sizes["example"])], layer=1)
    page = host(widget)
    told = {
        "one point": "one point",
        "all equal": "one place",
        "some NaN": "1 of 8",
        "a layer of NaN": "no example has",
    }
    page.until(f"document.getElementById('root').innerText.includes({told[kind]!r})")
    page.page.mouse.move(*(v + 3 for v in (page.box(".lab-points")["x"], page.box(".lab-points")["y"])))
    lasso_box = page.box(".lab-points")
    page.page.keyboard.down("Shift")  # a lasso around nothing
    page.page.mouse.down()
    page.page.mouse.move(lasso_box["x"] + 9, lasso_box["y"] + 9, steps=3)
    page.page.mouse.up()
    page.page.keyboard.up("Shift")
    page.pump()
    widget.settle(20)
    assert widget.selected.size == 0


def test_hostile_text_shows_as_text(host):
    evil = EVIL + '<img src=x onerror="alert(2)">'
    texts = [evil, evil * 30_000, "", "مرحبا بالعالم", "😀" * 400, "\0" * 9]
    assert len(texts[1]) > 1_500_000
    table = pd.DataFrame({"text": pd.Series(texts, dtype=object), "<i>kind</i>": pd.Series([evil] * 6, dtype=object)})
    widget = lab.widgets.explorer(spaces(n=6), table)
    page = host(widget)
    page.until(f"{SHOWN}[0] === 2")
    page.page.mouse.move(*pixel(page, widget, 0))
    page.until("document.querySelector('.lab-tip').textContent.includes('onerror')")
    widget.selected = range(6)
    page.until("document.querySelectorAll('.lab-table tbody tr').length >= 6")
    widget.focus = 0
    page.until("document.querySelector('.lab-full') !== null")
    shown = page.text(".lab-full")
    assert "<script>alert(1)</script>" in shown
    widget.focus = 1
    page.until("document.querySelector('.lab-full')?.textContent.length > 4000")
    assert page.text(".lab-full").startswith(shown)
    page.page.get_by_role("searchbox").fill('x onerror="alert(2)"')
    page.until("document.querySelector('.lab-bar').textContent.includes('6 found')")
    assert "[U+202E][U+0000]" in shown
    assert page.page.locator("#root script, #root img, #root i").count() == 0
    assert page.page.evaluate("document.getElementById('root').scrollWidth") <= 1100


def test_a_click_shows_the_weight_of_each_token(host, minilm):
    texts = ["all of them <b>", "one", "two words"]
    states = lab.capture.states(minilm, texts, pools=("mean", "first"), progress=False)
    page = host(widget := lab.widgets.explorer(states, texts, model=minilm))
    page.until(f"{SHOWN}[0] === 6")
    page.page.mouse.click(*pixel(page, widget, 0))
    page.until("document.querySelectorAll('.lab-words').length === 3")  # of two pools, and the scale
    assert widget.focus == 0
    tokens = page.page.locator(".lab-words").nth(1).locator(".lab-token")
    assert tokens.all_inner_texts() == [*widget.weights(0).columns]
    assert "<" in tokens.all_inner_texts()
    ground = "all => [...new Set(all.map(node => getComputedStyle(node).backgroundColor))]"
    even, more, less = "rgb(245, 245, 240)", "rgb(232, 135, 45)", "rgb(90, 155, 208)"
    assert page.page.locator(".lab-words").nth(0).locator(".lab-token").evaluate_all(ground) == [even]
    assert tokens.evaluate_all(ground) == [more, less]  # the first token alone is heard


@pytest.mark.parametrize(("n", "painter"), [(10_000, "Card"), (10_000, "Pixels"), (1_000_000, "Pixels")])
def test_ten_thousand_points_move_and_a_million_draw(host, n, painter):
    h = np.random.default_rng(0).normal(size=(2, 1, n, 2)).astype(np.float32)
    axes = {"layer": [0, 1], "pool": ["mean"]}
    states = xr.Dataset({"h": (("layer", "pool", "example", "dim"), h)}, coords=axes, attrs={"model": "none"})
    table = pd.DataFrame({"number": np.arange(n), "kind": np.arange(n) % 5})
    widget = lab.widgets.explorer(states, table, text="number", colour="kind")
    page = host(widget, **({"first": CARD} if painter == "Card" else {}))
    assert page.page.evaluate("document.getElementById('root').dataset.painter") == painter
    page.until(f"{SHOWN}[0] === 1")
    first = time.perf_counter() - page.began
    widget.layer = 0
    page.until(f"{SHOWN}[0] === 0")
    morph = json.loads(page.page.evaluate("document.getElementById('root').dataset.frames"))
    stride = int(page.page.evaluate("document.getElementById('root').dataset.stride"))
    box = page.box(".lab-points")
    page.page.mouse.move(box["x"] + 200, box["y"] + 200)
    page.page.mouse.down()
    page.page.mouse.move(box["x"] + 260, box["y"] + 230, steps=8)
    page.page.mouse.up()
    page.until("document.getElementById('root').dataset.rests === 'true'")
    page.page.evaluate(COUNT_DRAWS)
    began = time.perf_counter()
    page.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.until("/[0-9]+: [0-9]/.test(document.querySelector('.lab-tip').innerText)")
    hover = time.perf_counter() - began
    assert page.page.evaluate("window.draws") == 0  # no point is drawn again because one is pointed at
    line = [[-0.2, -0.2], [0.2, -0.2], [0.2, 0.2], [-0.2, 0.2]]
    began = time.perf_counter()
    page.page.keyboard.down("Shift")
    page.page.mouse.move(box["x"] + box["width"] / 2 - 60, box["y"] + box["height"] / 2 - 60)
    page.page.mouse.down()
    for dx, dy in line:
        page.page.mouse.move(box["x"] + box["width"] / 2 + 300 * dx, box["y"] + box["height"] / 2 + 300 * dy)
    page.page.mouse.up()
    page.page.keyboard.up("Shift")
    page.until(lambda: widget.selected.size > n // 1000)
    took = time.perf_counter() - began
    morphing = f"a frame of a morph {np.median(morph):.0f} ms ({len(morph)} frames, 1 in {stride} points)"
    print(f"\n{n:,} points, {painter}: first figure {first:.1f} s, {morphing}")
    print(f"hover {1000 * hover:.0f} ms, lasso of {widget.selected.size:,} {took:.1f} s")
    assert len(morph) >= 7  # it moves, and does not jump, however slow the machine


def test_the_sink_viewer_is_clicked(host, minilm):
    texts = ["a short text of words", "another one: " + EVIL.replace("\ud800", "")]
    widget = lab.widgets.sinks(minilm, texts, max_length=16)
    page = host(widget)
    page.until(f"document.getElementById('root').dataset.pattern === 'softmax/{widget.layer}/{widget.head}/0'")
    box = page.box(".lab-heat")
    page.page.mouse.click(box["x"] + 74 + (box["width"] - 74) * 2.5 / 12, box["y"] + 5)  # the last layer is on top
    page.until("document.getElementById('root').dataset.pattern === 'softmax/6/2/0'")
    assert (widget.layer, widget.head) == (6, 2)
    page.page.locator("select").first.select_option("softpick")
    page.until("document.getElementById('root').dataset.pattern === 'softpick/6/2/0'")
    page.page.locator("input[type=range]").first.focus()
    page.page.keyboard.press("ArrowRight")
    page.until("document.getElementById('root').dataset.pattern === 'softpick/6/2/1'")
    assert "<script>" in page.text(".lab-full")
    page.page.locator("select").first.select_option("softmax")
    page.until("document.getElementById('root').dataset.pattern === 'softmax/6/2/1'")
    assert widget.message == ""


def test_the_layer_browser_links_what_is_hovered(host):
    scores, similarity, space = measured()
    widget = lab.widgets.layers(scores, similarity, space, unit="accuracy", references={"chance": 0.5})
    page = host(widget)
    box = page.box(".lab-chart")
    page.page.mouse.move(box["x"] + box["width"] - 12, box["y"] + 40)
    page.until(lambda: widget.layer == 3)
    assert "layer 3, mean · accuracy" in page.text(".lab-told")
    heat = page.box(".lab-heat")
    page.page.mouse.move(heat["x"] + 74 + 5, heat["y"] + 5)  # the last layer is on top
    page.page.mouse.move(heat["x"] + 74 + 5, heat["y"] + heat["height"] - 50)
    page.until(lambda: widget.layer == 0)
    page.page.locator("select").nth(1).select_option("two_nn")
    page.page.locator("select").nth(0).select_option("max")
    page.until(lambda: (widget.metric, widget.pool) == ("two_nn", "max"))
    widget.layer = 2
    page.until("document.querySelector('.lab-told').textContent.includes('layer 2, max')")


def test_the_inspector_is_typed_into(host, minilm):
    hostile = EVIL.replace("\ud800", "") * 30_000  # tokenizers refuse half characters
    texts = ["sorts a list of numbers", "draws a red circle", "<b>bold</b> words", hostile]
    widget = lab.widgets.inspector(minilm, texts, pools=("mean", "first", "max"), k=3)
    page = host(widget)
    page.until("document.querySelectorAll('.lab-words').length === 4")
    page.page.locator("textarea").fill("paints a circle <i>")
    page.until(lambda: widget.text == "paints a circle <i>")
    page.until("document.querySelector('.lab-table').textContent.includes('draws a red circle')")
    page.until("document.querySelector('.lab-table').textContent.includes('<script>alert(1)</script>[U+202E]')")
    widget.text = hostile
    page.until("document.querySelectorAll('.lab-token').length > 300")
    page.page.locator("textarea").fill("   ")
    page.until("document.getElementById('root').innerText.includes('nothing to weigh')")
    page.page.locator("textarea").fill("back again")
    page.until("document.querySelectorAll('.lab-words').length === 4")
    page.page.locator("input[type=range]").focus()
    page.page.keyboard.press("ArrowLeft")
    page.until("document.getElementById('root').dataset.layer === '5'")


def test_the_cockpit_starts_stops_and_resumes(host, tmp_path):
    widget = lab.widgets.cockpit(functools.partial(training(tmp_path, steps=400)))
    page = host(widget)
    page.page.get_by_role("button", name="start").click()
    page.until("+document.getElementById('root').dataset.rows >= 2")
    page.page.get_by_role("button", name="stop").click()
    page.until(lambda: widget.state == "stopped")
    page.until("document.querySelector('.lab-state').textContent.includes('stopped')")
    steps = len(widget.rows)
    page.page.get_by_role("button", name="resume").click()
    page.until(lambda: len(widget.rows) > steps)
    page.page.get_by_role("button", name="stop").click()
    page.until(lambda: widget.state in ("stopped", "done"))
    assert page.page.locator(".lab-chart polyline").count() >= 6
