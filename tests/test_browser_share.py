"""What people send each other, in a real browser with the network off: printed, compared, filtered, by keyboard."""

import dataclasses
import json
import re
import time
from pathlib import Path

import nbformat
import plotly.graph_objects as go
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from window import DRAWN, Window, needs_chromium

from lab.reports import compare, index, outputs, record, reference, render
from lab.reports.figures import MIME

pytestmark = needs_chromium

RTL, EMOJI, NUL = "\u202etxet", "\U0001f9ea", "a\0b"
EVIL = f"<script>alert('1')</script>\"'>{RTL}{EMOJI}{NUL}<img src=x onerror=alert(2)>"
TABLE = f"<table><tr><td>{EVIL}</td></tr></table>"


def slider():
    """Two frames under a slider, as a report's own control."""
    figure = go.Figure(go.Scatter(x=[0, 1, 2], y=[1, 2, 3], mode="lines+markers", name="layer", text=[EVIL] * 3))
    figure.frames = [go.Frame(name=str(n), data=[go.Scatter(y=[n, n + 1, n + 5])]) for n in range(3)]
    steps = [
        {
            "method": "animate",
            "label": str(n),
            "args": [[str(n)], {"mode": "immediate", "frame": {"duration": 0}, "transition": {"duration": 0}}],
        }
        for n in range(3)
    ]
    return figure.update_layout(sliders=[{"steps": steps}], title=f"Moves {EVIL}", meta={"caption": EVIL})


def shown(figure):
    return new_output("display_data", {MIME: json.loads(figure.to_json())})


def line(*y):
    return go.Figure(go.Scatter(y=list(y))).update_layout(title="Score", xaxis_title="layer", yaxis_title="MRR")


def rows(*names):
    """A figure whose rows are names: its height is no scale."""
    figure = go.Figure(go.Scatter(x=[1] * len(names), y=list(range(len(names)))))
    return figure.update_yaxes(tickvals=list(range(len(names))), ticktext=names, range=[len(names) - 0.5, -0.5])


def report(folder, *figures, name="evil", **changes):
    """A report of hand-made outputs: no kernel is needed to look at a page. Its path."""
    folder.mkdir(exist_ok=True)
    headline = new_code_cell("figure", id="headline", outputs=[shown(figures[0])], metadata={"tags": ["headline"]})
    cells = [
        new_markdown_cell(f"# {EVIL}\n\n**Question.** {EVIL}", id="opening"),
        headline,
        new_markdown_cell(f"## Below {EVIL}", id="below"),
        *(new_code_cell("more", id=f"more-{n}", outputs=[shown(one)]) for n, one in enumerate(figures[1:])),
        new_code_cell("print(text)", id="words", outputs=[new_output("stream", text=EVIL + "x" * 2000)]),
        new_code_cell("raise", id="table", outputs=[new_output("display_data", {"text/html": TABLE})]),
    ]  # fmt: skip
    notebook = new_notebook(cells=cells)
    one = record.Record(
        name=name, title=EVIL, question=EVIL, verdict=f"It is {EVIL}", figure=outputs.headline(notebook["cells"]),
        status="done", cell=None, error="", reason="", parameters={"preset": "quick", "note": EVIL},
        changed={"note": EVIL},
        versions={"torch": "2"}, device=EVIL, started="2026-11-21T10:00:00+00:00", seconds=1.0,
        source=f"{name}.ipynb",
        sha256="ab" * 32, key="k", bytes=1, results={}, beside=0, data=[{"name": EVIL, "rows": 1, "sha256": "cd" * 32}],
    )  # fmt: skip
    one = dataclasses.replace(one, **changes)
    record.replace(folder / f"{name}.html", render.page(notebook, one, folder))
    record.write(one, folder / f"{name}.json")
    nbformat.write(notebook, folder / f"{name}.ipynb")
    return folder / f"{name}.html"


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    report(folder, slider(), line(1, 2), line(3, 4), line(5, 6))
    report(folder, line(1, 2), name="plain", title="Where is it?", question="Sinks?", verdict="Here.", status="failed",
           cell=2, error="KeyError", reason=EVIL)  # fmt: skip
    index.write(folder)
    report(folder / "a", line(1, 2, 3), rows("one", "two"))
    report(folder / "b", line(10, 20, 30), rows("one", "two", "three"))
    compare.write(folder / "a", folder / "b", folder)
    return folder


@pytest.mark.parametrize("name", ["evil", "plain", "index", "compare"])
def test_hostile_text_is_text_everywhere(pages, window, name):
    page = window.open(pages / f"{name}.html")
    window.draw_all()
    page.wait_for_load_state("networkidle")
    assert window.errors == []  # an alert would be one
    assert window.requests == [(pages / f"{name}.html").as_uri()]
    words = page.locator("body").inner_text()
    for part in ("<script>alert('1')</script>", RTL, EMOJI, "a\ufffdb"):
        assert part in words
    assert page.locator("main script, main img[onerror]").count() == 0


def test_a_slider_moves_the_figure_and_hover_tells_a_point(pages, window):
    page = window.open(pages / "evil.html")
    page.wait_for_selector(".js-plotly-plot .slider-rail-touch-rect")
    first = "() => Array.from(document.querySelector('.js-plotly-plot')._fullData[0].y)"
    assert page.evaluate(first) == [1, 2, 3]
    rail = page.locator(".slider-rail-touch-rect").first.bounding_box()
    page.mouse.click(rail["x"] + rail["width"] - 2, rail["y"] + rail["height"] / 2)
    page.wait_for_function(f"() => ({first})()[2] === 7")
    point = page.locator(".js-plotly-plot .scatterlayer .point").nth(1).bounding_box()
    page.mouse.move(point["x"] + point["width"] / 2, point["y"] + point["height"] / 2)
    page.wait_for_selector(".hoverlayer .hovertext")
    assert "3" in page.locator(".hoverlayer").first.text_content()


def test_time_to_the_first_figure_and_to_the_first_answer(pages, window):
    page = window.page
    meter = page.context.new_cdp_session(page)
    meter.send("Performance.enable", {"timeDomain": "threadTicks"})  # what the page computed, not what it waited for
    window.open(pages / "evil.html")
    page.wait_for_function("document.documentElement.dataset.firstFigure")
    first = int(page.evaluate("document.documentElement.dataset.firstFigure"))

    def spent():
        return {one["name"]: one["value"] for one in meter.send("Performance.getMetrics")["metrics"]}["TaskDuration"]

    drawn = spent()
    rail = page.locator(".slider-rail-touch-rect").first.bounding_box()
    began = time.perf_counter()
    page.mouse.click(rail["x"] + rail["width"] - 2, rail["y"] + rail["height"] / 2)
    page.wait_for_function("() => document.querySelector('.js-plotly-plot')._fullData[0].y[2] === 7")
    answer, whole = time.perf_counter() - began, spent()
    print(f"\nfirst figure after {first} ms, of which the page computed {1000 * drawn:.0f} ms")
    print(f"a slider answers after {1000 * answer:.0f} ms, of which it computed {1000 * (whole - drawn):.0f} ms")
    assert 0 < drawn < whole < 5


def test_paper_is_light_as_wide_as_the_page_and_whole(pages, browser):
    window = Window(browser, color_scheme="dark")
    page = window.open(pages / "evil.html")
    page.wait_for_selector(".js-plotly-plot .main-svg")
    assert page.evaluate(DRAWN) is False  # those below are not drawn yet
    printed = page.pdf(format="A4", print_background=True)
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) >= 2
    page.wait_for_function(DRAWN)
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"  # and back again
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    widths = page.locator(".js-plotly-plot .main-svg:first-child").evaluate_all(
        "all => all.map(svg => svg.clientWidth)"
    )
    assert len(widths) == 5
    assert set(widths) == {680}
    ink = page.evaluate("document.querySelector('.js-plotly-plot')._fullLayout.font.color")
    assert ink == "#1c1e21"
    assert not page.locator("details.code").first.is_visible()
    assert not page.locator(".bar").is_visible()
    page.emulate_media(media="screen")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    page.wait_for_function("document.querySelector('.js-plotly-plot .main-svg').clientWidth > 680")
    assert window.errors == []
    window.context.close()


def test_the_gallery_is_filtered_by_word_and_status(pages, window):
    page = window.open(pages / "index.html")
    entries = page.locator(".entry")
    assert entries.count() == 2
    assert page.locator(".picture svg").count() == 2
    page.get_by_label("Find").fill("SINKS where")
    assert [entry.is_visible() for entry in entries.all()] == [False, True]
    assert page.locator("#found").inner_text() == "1 of 2"
    page.get_by_label("Status").select_option("done")
    assert [entry.is_visible() for entry in entries.all()] == [False, False]
    page.get_by_label("Find").fill("")
    assert [entry.is_visible() for entry in entries.all()] == [True, False]
    page.get_by_label("Status").select_option("")
    assert page.locator("#found").inner_text() == ""


def test_a_long_verdict_is_folded_in_the_gallery(pages, window, tmp_path):
    short, long = (json.loads(path.read_text()) for path in sorted(pages.glob("*.json"))[:2])
    for told in (short, long | {"verdict": "It depends. " * 200}):
        (tmp_path / f"{told['name']}.json").write_text(json.dumps(told))
    index.write(tmp_path)
    page = window.open(tmp_path / "index.html")
    more = page.locator("button.more")
    assert more.all_inner_texts() == ["The whole verdict"]
    verdict = page.locator(".entry", has=more).locator(".verdict")
    folded = verdict.bounding_box()["height"]
    more.press("Enter")
    assert verdict.bounding_box()["height"] > 2 * folded
    assert more.get_attribute("aria-expanded") == "true"
    page.get_by_role("button", name="Less").click()
    assert verdict.bounding_box()["height"] == folded
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert verdict.bounding_box()["height"] > 2 * folded
    assert window.errors == []


def test_two_runs_share_their_scales(pages, window):
    page = window.open(pages / "compare.html")
    window.draw_all()
    ranges = "() => [...document.querySelectorAll('.js-plotly-plot')].map(plot => plot._fullLayout.yaxis.range)"
    page.wait_for_function(f"() => {{ const [a, b] = ({ranges})(); return a[0] === b[0] && a[1] === b[1]; }}")
    low, high = page.evaluate(ranges)[0]
    assert low < 1
    assert high > 30
    assert page.evaluate(ranges)[2:] == [[1.5, -0.5], [2.5, -0.5]]
    left, right = (box.bounding_box() for box in page.locator(".js-plotly-plot").all()[:2])
    assert left["x"] + left["width"] <= right["x"]
    assert left["y"] == right["y"]


@pytest.mark.parametrize("name", ["evil", "index", "compare"])
def test_the_keyboard_reaches_everything(pages, window, name):
    page = window.open(pages / f"{name}.html")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.locator(".skip").bounding_box()["x"] >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == f"#{page.locator('main').get_attribute('id')}"
    reached = set()
    for _ in range(60):  # each figure has a row of buttons of its own
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.tagName"))
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none" or page.evaluate("document.activeElement === document.body")
    assert {"evil": "SUMMARY", "index": "SELECT", "compare": "SUMMARY"}[name] in reached
    window.context.close()


def test_what_scrolls_can_have_the_focus(pages, window):
    page = window.open(pages / "evil.html")
    long = page.locator(".output > pre").first
    assert long.evaluate("node => node.scrollWidth > node.clientWidth && node.tabIndex === 0")


def test_the_reference_opens_and_its_names_are_found(window, tmp_path):
    path = reference.write(tmp_path)
    page = window.open(path)
    page.get_by_label("Find").fill("sign_flip")
    names = page.locator(".names li")
    assert [name.inner_text().split()[0] for name in names.all() if name.is_visible()] == ["lab.stats.sign_flip"]
    page.get_by_role("link", name="lab.stats.sign_flip").click()
    assert page.url == f"{(Path(path).parent / 'stats.html').as_uri()}#lab.stats.sign_flip"
    assert page.locator("[id='lab.stats.sign_flip'] .signature").is_visible()
    page.get_by_role("link", name="Reference", exact=True).click()
    assert window.errors == []
    assert {url.split("#")[0] for url in window.requests} == {path.as_uri(), (path.parent / "stats.html").as_uri()}
