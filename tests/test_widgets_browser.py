"""An explorer in a live JupyterLab: slider, drag, lasso, search, hover and click, read back in the next cell."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
import shelf
from nbformat.v4 import new_code_cell, new_notebook, writes
from window import launched, needs_chromium

import lab

ROOT = Path(__file__).parents[1]
pytestmark = needs_chromium
SHOW = """\
import numpy as np, pandas as pd, xarray as xr
import lab
g = np.random.default_rng(0)
group = np.arange(300) % 3
base = g.normal(size=(300, 8))
away = 5 * np.eye(8)[group]
h = np.stack([[base + depth * away] * 2 for depth in (0, 0.5, 1)]).astype("f4")
axes = {"layer": [0, 1, 2], "pool": ["mean", "max"]}
states = xr.Dataset({"h": (("layer", "pool", "example", "dim"), h)}, coords=axes, attrs={"model": "none"})
table = pd.DataFrame({"text": [f"<b onclick=alert(1)>text</b> {i}" for i in range(300)]})
table["kind"] = group.astype(str)
widget = lab.widgets.explorer(states, table)
widget"""
TELL = """\
print("layer", widget.layer, "pool", widget.pool, "query", widget.query, "focus", widget.focus)
print("chosen", len(widget.selected), "together", float(widget.neighbours.together[2]))"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """JupyterLab on this machine alone, with nothing of the user's own settings."""
    folder = tmp_path_factory.mktemp("lab")
    cells = [new_code_cell(SHOW), new_code_cell(TELL), new_code_cell("widget.layer = 0")]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    (folder / "live.ipynb").write_text(writes(new_notebook(cells=cells, metadata=kernel)))
    verdict = shelf.code("from IPython.display import Markdown\nMarkdown(f'n is {n}, {note}')", "verdict")
    shelf.write(folder / "notebooks/quick.ipynb", shelf.text("# Quick\n\n**Question.** How many?"), verdict)
    shutil.copy(ROOT / "notebooks/00_start.ipynb", folder / "notebooks")
    settings = {
        "apputils-extension/notification": {"fetchNews": "false"},  # else it asks, on top of the page
        "notebook-extension/tracker": {"windowingMode": "none"},
    }  # else cells out of sight are not there
    for name, value in settings.items():
        path = folder / f"config/lab/user-settings/@jupyterlab/{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(value))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    own = {f"JUPYTER_{name}_DIR": str(folder / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    own |= {"IPYTHONDIR": str(folder / "ipython"), "PYTHONPATH": str(ROOT), "HOME": str(folder)}
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={port}", "--allow-root",
        f"--ServerApp.root_dir={folder}", "--ServerApp.port_retries=0", "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]  # fmt: skip
    with (folder / "log").open("w") as log:
        running = subprocess.Popen(
            command, env=os.environ | own | {"JUPYTER_TOKEN": token}, stdout=log, stderr=subprocess.STDOUT
        )
        url = f"http://127.0.0.1:{port}"
        try:
            waited(url, running, folder / "log")
            yield f"{url}/lab/tree/live.ipynb?token={token}"
        finally:
            running.terminate()
            running.wait(20)


def waited(url, running, log, seconds=300):
    end = time.monotonic() + seconds
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while running.poll() is None and time.monotonic() < end:
        try:
            opener.open(f"{url}/api", timeout=5).read()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise RuntimeError(f"JupyterLab did not come up: {log.read_text()[-2000:]}")


@contextmanager
def live(url):
    """A notebook opened in JupyterLab with its kernel ready; nothing may go wrong, or be asked of others."""
    errors, requests = [], []
    with launched() as browser:
        page = browser.new_page(viewport={"width": 1300, "height": 1100})
        page.set_default_timeout(180_000)
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("dialog", lambda dialog: errors.append(f"dialog: {dialog.message}"))
        page.on("console", lambda told: told.type == "error" and errors.append(f"{told.text} at {told.location}"))
        page.goto(f"{url}&reset")  # not with what an earlier test left open
        page.locator(".jp-Notebook .jp-CodeCell").nth(2).wait_for()
        page.locator(".jp-Notebook .jp-CodeCell .cm-content").first.click()
        page.locator(".jp-NotebookPanel-toolbar .jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for()
        yield page
    own = (url.partition("/lab/")[0], "blob:", "data:")
    assert [other for other in requests if not other.startswith(own)] == []
    assert errors == []


def test_the_start_pages_form_runs_a_notebook_and_opens_its_report(server, tmp_path):
    shots = Path(os.environ.get("LAB_SHOTS", tmp_path))
    with live(server.replace("live.ipynb", "notebooks/00_start.ipynb")) as page:
        page.locator(".lm-MenuBar-item", has_text="Run").click()
        page.get_by_text("Run All Cells", exact=True).click()
        page.locator(".widget-dropdown select").first.wait_for()
        page.get_by_label("note", exact=True).fill("<i>seven</i> {x}")
        page.get_by_label("n", exact=True).fill("seven")
        page.keyboard.press("Tab")
        page.locator(".widget-button", has_text="Run").click()
        page.get_by_text("expected int, got 'seven'").wait_for()
        page.get_by_label("n", exact=True).fill("7")
        page.keyboard.press("Tab")
        page.locator(".widget-button", has_text="Run").click()
        link = page.get_by_role("link", name="Open the report")
        link.wait_for()
        link.scroll_into_view_if_needed()
        page.screenshot(path=shots / "start-form.png")
        with page.context.expect_page() as opened:
            link.click()
        report = opened.value
        report.locator(".verdict", has_text="n is 7, seven {x}").wait_for()
        report.bring_to_front()  # a tab behind another one may have painted nothing yet
        report.screenshot(path=shots / "start-report.png")


def test_an_explorer_lives_in_jupyterlab(server, tmp_path):
    shots = Path(os.environ.get("LAB_SHOTS", tmp_path))
    with live(server) as page:
        began = time.perf_counter()
        page.keyboard.press("Shift+Enter")
        shown = page.locator(".lab-widget")
        shown.wait_for()
        ready = "want => JSON.parse(document.querySelector('.lab-widget')?.dataset.shown ?? '[]')[0] === want"
        page.wait_for_function(ready, arg=2)
        first = time.perf_counter() - began
        shown.scroll_into_view_if_needed()
        page.screenshot(path=shots / "lab-first.png")

        slider = page.locator(".lab-widget input[type=range]").first
        rail = slider.bounding_box()
        began = time.perf_counter()
        page.mouse.click(rail["x"] + rail["width"] / 2, rail["y"] + rail["height"] / 2)
        page.wait_for_function(ready, arg=1)
        moved = time.perf_counter() - began
        page.keyboard.press("ArrowRight")  # JupyterLab has a command on that key; inside the widget it is the slider's
        page.wait_for_function(ready, arg=2)
        print(f"\nfirst figure {first:.1f} s after the cell was run, imports included; a layer on: {moved:.2f} s")

        canvas = page.locator(".lab-points")
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.locator(".lab-widget button", has_text="lasso").click()
        side = 0.47 * min(box["width"], box["height"])
        corners = [(-1, -1), (0.1, -1), (0.1, 1), (-1, 1), (-1, -0.95)]
        page.mouse.move(x - side * 1.05, y - side * 1.05)
        page.mouse.down()
        for dx, dy in corners:
            page.mouse.move(x + side * 1.05 * dx, y + side * 1.05 * dy, steps=3)
        page.mouse.up()
        page.locator(".lab-around").wait_for()
        page.locator(".lab-widget button", has_text="lasso").click()
        page.locator(".lab-widget input[type=search]").fill("text</b> 29")
        page.get_by_text("11 found").wait_for()
        for i in range(40):  # until a point is under the pointer
            page.mouse.move(x - side * 0.9 + 9 * i, y + 3)
            if page.locator(".lab-tip").is_visible():
                break
        page.locator(".lab-tip", has_text="<b onclick=alert(1)>text</b>").wait_for()
        page.mouse.down()
        page.mouse.up()
        page.locator(".lab-full", has_text="<b onclick=alert(1)>text</b>").wait_for()
        page.screenshot(path=shots / "lab-chosen.png")

        page.locator(".jp-Notebook .jp-CodeCell .cm-content").nth(1).click()
        page.keyboard.press("Shift+Enter")
        page.get_by_text("together").last.wait_for()
        told = page.locator(".jp-OutputArea-output pre").last.inner_text()
        page.locator(".jp-Notebook .jp-CodeCell .cm-content").nth(2).click()
        page.keyboard.press("Shift+Enter")  # from Python to the page
        page.wait_for_function(ready, arg=0)
        page.locator(".lab-widget select").first.select_option("tsne")
        page.wait_for_function("() => JSON.parse(document.querySelector('.lab-widget').dataset.shown)[2] === 'tsne'")
        page.locator(".lab-widget").screenshot(path=shots / "lab-tsne.png")
    words = told.split()
    assert "layer 2 pool mean query text</b> 29" in told
    assert int(words[words.index("focus") + 1]) >= 0
    assert 0 < int(words[words.index("together") - 1]) < 300


EACH = (
    "model, words = lab.models.tiny('bert', layers=2, dim=16), ['a red circle', 'a list of numbers', 'sorts numbers']\n"
    "lab.widgets.sinks(model, words)",
    "lab.widgets.layers(similarity=lab.geometry.cka(states), space=lab.geometry.measure(states, progress=False))",
    "lab.widgets.inspector(model, words, text='a circle of red numbers')",
    "source = lab.data.tasks.BigramBackcopy(symbols=12, length=16)\n"
    "recipe = lab.training.Recipe(layers=1, dim=16, heads=2, steps=6, batch=4)\n"
    "def train(**more):\n    return lab.training.language_model(source, recipe, every=2, device='cpu', **more)\n"
    "cockpit = lab.widgets.cockpit(train)\ncockpit.start()\ncockpit.wait()\ncockpit",
)


def test_a_report_has_a_figure_in_the_place_of_each_widget(window, tmp_path):
    cells = [shelf.code(source) for source in (SHOW, *EACH)]
    notebook = shelf.write(tmp_path / "walk.ipynb", shelf.text("# Walk\n\n**Question.** Where?"), *cells)
    done = lab.reports.run(notebook, tmp_path / "reports")
    assert not done.failed, done.problem
    page = window.open(tmp_path / "reports" / "walk.html")
    drawn = page.locator(".js-plotly-plot:has(.main-svg)").first
    drawn.wait_for()
    place = "() => document.querySelector('.js-plotly-plot')._fullData[0].x[7]"
    before = page.evaluate(place)
    rail = drawn.locator(".slider-rail-touch-rect").first.bounding_box()
    page.mouse.click(rail["x"] + 3, rail["y"] + rail["height"] / 2)
    page.wait_for_function(f"before => ({place})() !== before", arg=before)
    assert drawn.locator(".scatterlayer path.point").count() == 300
    window.draw_all()
    page.wait_for_timeout(700)
    page.screenshot(path=Path(os.environ.get("LAB_SHOTS", tmp_path)) / "report.png", full_page=True)
    told = [box.get_attribute("aria-label") for box in page.locator("[data-figure]").all()]
    assert len(told) == 6  # the first stands on top once more
    for words, label in zip(("300 examples", "Heads", "Layer by layer", "hears", "Training"), told[1:], strict=True):
        assert words in label
    keys = page.locator(".js-plotly-plot").last.locator(".legendtext").all_text_contents()
    assert keys[:2] == ["training", "held out"]
    assert window.requests == [(tmp_path / "reports" / "walk.html").as_uri()]
    assert window.errors == []
