"""The explorer's two painters: the same points give the same picture, and a frame of them costs little."""

import base64

import numpy as np
import pytest
from window import needs_chromium

from lab.widgets.live import script

pytestmark = needs_chromium
SIZE = 300, 200
OPEN = """async (source) => {
  const names = "Scatter, Card, Pixels, hasCard, unpacked, CHOSEN, FOUND";
  const url = URL.createObjectURL(new Blob([source + `\\nexport { ${names} };`], { type: "text/javascript" }));
  Object.assign(window, await import(url));
}"""
# one drawing, on its ground, as the bytes of its pixels
DRAW = """([painter, { n, kind, t, centre, zoom, marked, stride, colours, size, ground, moved }]) => {
  let seed = 7;
  const random = () => (seed = (seed * 16807) % 2147483647) / 2147483647;
  const cloud = () => {
    const places = new window[`${kind}Array`](2 * n), whole = kind === "Uint16";
    for (let i = 0; i < 2 * n; i++) places[i] = whole ? 60000 * random() : 1.9 * random() - 0.95;
    for (const i of [3, 8]) places.fill(whole ? 65535 : 2, 2 * i, 2 * i + 2);
    return places;
  };
  const canvas = document.createElement("canvas");
  canvas.style = `width: ${size[0]}px; height: ${size[1]}px; background: ${ground}`;
  document.body.replaceChildren(canvas);
  const scatter = new Scatter(canvas, window[painter]);
  const before = cloud();
  before.fill(kind === "Uint16" ? 65535 : 2, 20, 30); // these come from nowhere
  scatter.places(before, cloud());
  scatter.colours(Uint8Array.from({ length: n }, (_, i) => i % colours.length), colours);
  if (marked) scatter.marks(Uint8Array.from({ length: n }, (_, i) => (i % 5 ? 0 : i % 2 ? CHOSEN : FOUND)));
  Object.assign(scatter, { t, centre, zoom });
  scatter.draw(stride);
  scatter.centre = centre.map((place) => place + moved * scatter.pixel());
  if (moved) scatter.draw(stride);
  const flat = Object.assign(document.createElement("canvas"), { width: canvas.width, height: canvas.height });
  const pen = flat.getContext("2d");
  pen.fillStyle = ground;
  pen.fillRect(0, 0, flat.width, flat.height);
  pen.drawImage(canvas, 0, 0);
  const { data } = pen.getImageData(0, 0, flat.width, flat.height);
  scatter.painter.close();
  let text = "";
  for (let i = 0; i < data.length; i += 32768) text += String.fromCharCode(...data.subarray(i, i + 32768));
  return [canvas.width, canvas.height, btoa(text)];
}"""
FRAMES = """([n, kind, frames]) => {
  const places = () => window[`${kind}Array`].from({ length: 2 * n }, () => (kind === "Uint16" ? 60000 * Math.random() : 2 * Math.random() - 1));
  const canvas = document.createElement("canvas");
  canvas.style = "width: 880px; height: 480px";
  document.body.replaceChildren(canvas);
  window.scatter = new Scatter(canvas, Pixels);
  scatter.places(places(), places());
  scatter.draw();
  window.move = () => { for (let i = 0; i < frames; i++) { scatter.t = i / frames; scatter.draw(); } };
}"""  # noqa: E501
USUAL = {
    "n": 400, "kind": "Float32", "t": 0.4, "centre": [0, 0], "zoom": 1, "marked": False, "stride": 1,
    "colours": ["#0072b2", "#d55e00", "#009e73"], "size": SIZE, "ground": "#ffffff", "moved": 0,
}  # fmt: skip


@pytest.fixture
def page(browser):
    context = browser.new_context(offline=True)
    page = context.new_page()
    page.set_content("<!doctype html><meta charset=utf-8><body>")
    page.evaluate(OPEN, script("scatter", "card", "pixels"))
    yield page
    context.close()


def picture(page, painter, **changes):
    """uint8 [height, width, 3] of what a painter draws."""
    width, height, text = page.evaluate(DRAW, [painter, USUAL | changes])
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(height, width, 4)[..., :3].astype(int)


def apart(a, b):
    """Of the pixels with ink in either, the share that differ by more than roundings to 8 bits, layer by layer."""
    inked = (np.maximum(abs(a - a[0, 0]), abs(b - b[0, 0])) > 5).any(-1)  # no point lies in the corner
    assert inked.mean() > 0.02, "there is nothing to see"
    return float((np.abs(a - b).max(-1) > 6)[inked].mean())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"kind": "Uint16"},
        {"marked": True},
        {"zoom": 3.5, "centre": [0.3, -0.2]},
        {"n": 20_000},  # squares of two pixels, in many layers
        {"n": 20_000, "stride": 7},
        {"t": 1, "ground": "#111111", "colours": ["#56b4e9"]},
    ],
    ids=str,
)
def test_both_painters_give_one_picture(page, changes):
    card, pixels = (picture(page, painter, **changes) for painter in ("Card", "Pixels"))
    # a card puts points on a grid finer than pixels; edges may fall otherwise as far as a step of it moves them
    step = 2 ** -page.evaluate("document.createElement('canvas').getContext('webgl2').getParameter(0x0D50)")
    assert step <= 1 / 16
    assert apart(card, pixels) < apart(pixels, picture(page, "Pixels", **changes, moved=step))


def test_what_differs_would_be_seen(page):
    usual = picture(page, "Pixels")
    for change in ({"t": 0.41}, {"marked": True}, {"colours": ["#d55e00", "#0072b2", "#009e73"]}, {"zoom": 1.02}):
        assert apart(usual, picture(page, "Pixels", **change)) > 0.05, change


def test_the_processor_paints_where_a_card_is_only_played(page):
    assert page.evaluate("hasCard()") is False  # window.py asks Chromium for SwiftShader
    assert page.evaluate("new Scatter(document.createElement('canvas')).painter.constructor.name") == "Pixels"


@pytest.mark.parametrize(("n", "kind", "most"), [(10_000, "Float32", 33), (1_000_000, "Uint16", 400)])
def test_a_frame_costs_little(page, n, kind, most):
    """Milliseconds of the page's own thread, whatever else the machine does."""
    meter = page.context.new_cdp_session(page)
    meter.send("Performance.enable", {"timeDomain": "threadTicks"})
    frames = 20 if n < 100_000 else 4
    page.evaluate(FRAMES, [n, kind, frames])

    def spent():
        return {one["name"]: one["value"] for one in meter.send("Performance.getMetrics")["metrics"]}["TaskDuration"]

    page.evaluate("move()")  # once before it counts: scripts are compiled while they run
    before = spent()
    page.evaluate("move()")
    cost = 1000 * (spent() - before) / frames
    print(f"\n{n:,} points by the processor: {cost:.1f} ms a frame")
    assert 0 < cost < most
