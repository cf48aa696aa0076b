"""The widgets for every reader: contrast as JupyterLab's own themes give it, and reach and name by keyboard."""

import sys
from pathlib import Path

import pytest
from test_accessible import contrast
from test_widgets import measured, training
from widget_host import Host
from window import needs_chromium

import lab

pytestmark = needs_chromium
THEMES = Path(sys.prefix) / "share/jupyter/lab/themes/@jupyterlab"
STYLES = {name: THEMES / f"theme-{name}-extension/index.css" for name in ("light", "dark", "dark-high-contrast")}
TEXTS = ["sorts a list of numbers", "draws a red circle", "reads a file", "reads a list of files", "a red file"]

LISTEN = """() => {
  window.reacts = new Set();
  const plain = EventTarget.prototype.addEventListener;
  EventTarget.prototype.addEventListener = function (kind, ...rest) {
    if (this instanceof Element && /^(click|pointerdown|pointermove|input|change)$/.test(kind)) window.reacts.add(this);
    return plain.call(this, kind, ...rest);
  };
}"""
THEME = """async css => {
  document.getElementById("theme")?.remove();
  document.head.append(Object.assign(document.createElement("style"), { id: "theme", textContent: css }));
  document.body.getClientRects();
  await Promise.all(document.getAnimations().map((one) => one.finished)); // colours of canvases have a transition
}"""
# [what, its colour as it is seen, the ground it stands on] of all words, and of the edges of all fields
SEEN = """() => {
  const pen = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgba = (colour, opacity = 1) => {
    pen.clearRect(0, 0, 1, 1);
    pen.fillStyle = colour;
    pen.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = pen.getImageData(0, 0, 1, 1).data;
    return [r, g, b, (a / 255) * opacity];
  };
  const over = (top, below) => below.map((value, i) => value + top[3] * (top[i] - value));
  const hex = (colour) => "#" + colour.map((value) => Math.round(value).toString(16).padStart(2, "0")).join("");
  const up = (node) => (node ? [node, ...up(node.parentElement)] : []);
  const ground = (node) => up(node).reverse().reduce((below, one) => over(rgba(getComputedStyle(one).backgroundColor), below), [255, 255, 255]);
  const pair = (what, node, colour, below = ground(node)) => {
    const opacity = up(node).reduce((share, one) => share * getComputedStyle(one).opacity, 1);
    return [what, hex(over(rgba(colour, opacity), below)), hex(below)];
  };
  const seen = (node) => node.checkVisibility() && node.getClientRects().length && !node.closest(":disabled");
  const words = [], edges = [], walker = document.createTreeWalker(document.getElementById("root"), NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement, text = walker.currentNode.data.trim(), style = getComputedStyle(node);
    if (text && seen(node)) words.push(pair(text.slice(0, 30), node, node.namespaceURI.endsWith("svg") ? style.fill : style.color));
  }
  for (const node of document.querySelectorAll("#root input, #root select, #root textarea, #root button, #root .lab-heat")) {
    if (!seen(node)) continue;
    const style = getComputedStyle(node), what = `${node.tagName} ${node.textContent.slice(0, 20)}`;
    words.push(pair(what, node, style.color));
    if (node.placeholder) words.push(pair(node.placeholder, node, getComputedStyle(node, "::placeholder").color));
    if (node.tagName !== "CANVAS") edges.push(pair(what, node.parentElement, style.borderTopColor));
  }
  return { words, edges };
}"""  # noqa: E501
# is the ground of a map dark, and what is written beside a grid light?
PAINTED = """dark => [...document.querySelectorAll("canvas")].every((canvas) => {
  const flat = Object.assign(document.createElement("canvas"), { width: canvas.width, height: canvas.height }), pen = flat.getContext("2d");
  pen.drawImage(canvas, 0, 0);
  const map = canvas.matches(".lab-points"), { data } = map ? pen.getImageData(1, 1, 1, 1) : pen.getImageData(0, 0, 65, canvas.height);
  const seen = [];
  for (let i = 0; i < data.length; i += 4) if (data[i + 3] > 200) seen.push(data[i]);
  return seen.length > 0 && (map ? seen[0] < 90 : Math.max(...seen) > 150) === dark;
})"""  # noqa: E501
FOCUSED = r"""() => {
  const node = document.activeElement, style = getComputedStyle(node);
  if (node === document.body || window.reached.has(node)) return null;
  window.reached.add(node);
  const [r, g, b] = style.outlineColor.match(/\d+/g).map((part) => (+part).toString(16).padStart(2, "0"));
  return [node.tagName, style.outlineStyle, `#${r}${g}${b}`];
}"""
MISSED = """() => [...document.querySelectorAll("#root *")]
  .filter((node) => window.reacts.has(node) || /^(INPUT|SELECT|TEXTAREA|BUTTON)$/.test(node.tagName))
  .filter((node) => !node.disabled && node.checkVisibility() && !window.reached.has(node))
  .map((node) => node.outerHTML.slice(0, 80))"""


def explorer(minilm, _):
    states = lab.capture.states(minilm, TEXTS, pools=("mean", "first"), progress=False)
    widget = lab.widgets.explorer(states, TEXTS, model=minilm)
    widget.query, widget.focus, widget.selected = "red", 1, [0, 1, 2]
    widget.busy, widget.message = "works", "something went wrong"
    return widget, "document.querySelectorAll('.lab-words, .lab-around tbody tr').length >= 10"


def sinks(minilm, _):
    return lab.widgets.sinks(minilm, TEXTS[:2], max_length=16), "document.getElementById('root').dataset.pattern"


def layers(*_):
    scores, similarity, space = measured()
    widget = lab.widgets.layers(scores, similarity, space, unit="accuracy", references={"chance": 0.5})
    widget.layer = 2
    return widget, "document.querySelector('.lab-told').textContent.includes('layer 2')"


def inspector(minilm, _):
    widget = lab.widgets.inspector(minilm, TEXTS, pools=("mean", "first", "max"), k=3)
    return widget, "document.querySelectorAll('.lab-words').length === 4"


def cockpit(_, folder):
    widget = lab.widgets.cockpit(training(folder))
    widget.start()
    widget.wait(60)
    return widget, "+document.getElementById('root').dataset.rows >= 2"


@pytest.fixture(scope="module", params=[explorer, sinks, layers, inspector, cockpit], ids=lambda make: make.__name__)
def opened(request, browser, minilm, tmp_path_factory):
    widget, ready = request.param(minilm, tmp_path_factory.mktemp("run"))
    host = Host(browser, widget, first=LISTEN)
    host.until(ready)
    yield host
    assert host.errors == []
    host.close()


def themes():
    """JupyterLab's own, and a page of none, which has the system's colours."""
    plain = {
        f"{name}, no JupyterLab": f":root {{ color-scheme: {name}; }} body {{ background: Canvas; }}"
        for name in ("light", "dark")
    }
    own = {name: path.read_text() + "body { background: var(--jp-layout-color0); }" for name, path in STYLES.items()}
    return own | plain


def test_words_and_fields_can_be_seen_in_every_theme(opened):
    grounds = {}
    for theme, css in themes().items():
        opened.page.evaluate(THEME, css)
        seen = opened.page.evaluate(SEEN)
        assert len(seen["words"]) > 10
        grounds[theme] = seen["words"][0][2]
        assert [(theme, *one) for one in seen["words"] if contrast(*one[1:]) < 4.5] == []
        assert [(theme, *one) for one in seen["edges"] if contrast(*one[1:]) < 3] == []
    assert len(set(grounds.values())) >= 3, "the themes are not on"


def test_what_is_painted_follows_the_theme(opened):
    """A canvas keeps the colours it was painted in until it is painted again."""
    shown = opened.page.locator("canvas").count()
    for theme, dark in (("dark", True), ("light", False)):
        opened.page.evaluate(THEME, themes()[theme])
        opened.page.wait_for_function(PAINTED, arg=dark)
    assert shown == opened.page.evaluate("document.querySelectorAll('canvas').length")


def test_keys_reach_what_a_pointer_reaches_and_each_has_a_name(opened):
    page = opened.page
    page.evaluate("window.reached = new Set()")
    page.locator("body").evaluate("body => { body.tabIndex = -1; body.focus(); }")
    rings = []
    for _ in range(200):
        page.keyboard.press("Tab")
        if (ring := page.evaluate(FOCUSED)) is None:
            break
        rings.append(ring)
    assert page.evaluate(MISSED) == []
    grounds = ("#ffffff", "#111111")  # JupyterLab's own, light and dark
    assert [ring for ring in rings if ring[1] == "none" or min(contrast(ring[2], one) for one in grounds) < 3] == []
    tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    held = [
        node
        for node in tree
        if {"name": "focusable", "value": {"type": "booleanOrUndefined", "value": True}} in node.get("properties", [])
    ]
    named = [node for node in held if node["role"]["value"] != "RootWebArea" and not node.get("ignored")]
    assert len(named) >= len(rings)
    assert [node for node in named if not node["name"]["value"].strip()] == []
