"""A report in a real browser with the network off: figures that move, no request, no error."""

import pytest
import shelf
from window import DRAWN, Window, needs_chromium

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def ran():
    return shelf.run()


@pytest.mark.parametrize("name", ["good", "index", "raises", "kills"])
def test_a_page_asks_for_nothing_and_has_no_error(ran, window, name):
    page = window.open(ran.out / f"{name}.html")
    window.draw_all()
    page.wait_for_load_state("networkidle")
    assert window.requests == [(ran.out / f"{name}.html").as_uri()]
    assert window.errors == []


def test_every_figure_is_drawn_and_only_when_near(ran, window):
    page = window.open(ran.out / "good.html")
    page.wait_for_selector(".js-plotly-plot .main-svg")
    assert page.locator(".js-plotly-plot").count() < page.locator("[data-figure]").count() == 4
    window.draw_all()
    assert page.locator(".js-plotly-plot:has(.main-svg)").count() == 4
    assert page.locator(".js-plotly-plot .scatterlayer .trace").count() == 2
    assert page.locator(".js-plotly-plot .heatmaplayer image").count() == 1
    assert page.locator(".js-plotly-plot .gl-canvas").count() >= 1
    assert page.get_by_text("WebGL is not supported").count() == 0


def test_the_first_screen_has_question_verdict_and_figure(ran, window):
    page = window.open(ran.out / "good.html")
    page.wait_for_selector(".js-plotly-plot .main-svg")
    for selector in ("h1", ".question", ".verdict", "header .plot"):
        box = page.locator(selector).first.bounding_box()
        assert box["y"] + box["height"] <= 900, selector


def test_dragging_zooms_a_figure(ran, window):
    page = window.open(ran.out / "good.html")
    page.wait_for_selector(".js-plotly-plot .main-svg")
    extent = "() => document.querySelector('.js-plotly-plot')._fullLayout.xaxis.range"
    before = page.evaluate(extent)
    area = page.locator(".js-plotly-plot .nsewdrag").first.bounding_box()
    page.mouse.move(area["x"] + area["width"] * 0.3, area["y"] + area["height"] * 0.3)
    page.mouse.down()
    page.mouse.move(area["x"] + area["width"] * 0.6, area["y"] + area["height"] * 0.7, steps=5)
    page.mouse.up()
    page.wait_for_function(f"before => ({extent})()[0] > before[0]", arg=before)
    after = page.evaluate(extent)
    assert before[0] < after[0] < after[1] < before[1]


def test_code_opens_on_a_click(ran, window):
    page = window.open(ran.out / "good.html")
    first = page.locator("details.code").first
    assert not first.locator("pre").is_visible()
    first.locator("summary").click()
    assert first.locator("pre").is_visible()
    page.get_by_role("button", name="Show all code").click()
    assert page.locator("details.code[open]").count() == page.locator("details.code").count() == 11
    page.get_by_role("button", name="Hide all code").click()
    assert page.locator("details.code[open]").count() == 0


@pytest.mark.parametrize("system", ["light", "dark"])
def test_the_theme_follows_system_and_toggle(ran, browser, system):
    window = Window(browser, color_scheme=system)
    page = window.open(ran.out / "good.html")
    page.wait_for_selector(".js-plotly-plot .main-svg")
    dark = system == "dark"
    for _ in range(2):
        paper = [int(v) for v in window.style("body", "backgroundColor")[4:-1].split(",")]
        ink = page.evaluate("document.querySelector('.js-plotly-plot')._fullLayout.font.color")
        assert (sum(paper) < 150) == dark
        assert (ink == "#dfe1e4") == dark
        assert page.evaluate("document.querySelector('.js-plotly-plot')._fullLayout.paper_bgcolor") == "rgba(0,0,0,0)"
        page.locator("#theme").click()
        page.wait_for_function(
            "theme => document.documentElement.dataset.theme === theme", arg="light" if dark else "dark"
        )
        dark = not dark
    assert window.errors == []
    window.context.close()


def test_zoom_survives_a_change_of_theme(ran, window):
    page = window.open(ran.out / "good.html")
    page.wait_for_selector(".js-plotly-plot .main-svg")
    page.evaluate("Plotly.relayout(document.querySelector('.js-plotly-plot'), {'xaxis.range': [0.5, 1.5]})")
    page.locator("#theme").click()
    assert page.evaluate("document.querySelector('.js-plotly-plot')._fullLayout.xaxis.range") == [0.5, 1.5]


def test_the_index_leads_to_a_report_and_back(ran, window):
    page = window.open(ran.out / "index.html")
    assert page.locator(".picture svg polyline").count() == 1
    page.get_by_role("link", name="Where does meaning live?").click()
    assert page.url == (ran.out / "good.html").as_uri()
    page.get_by_role("link", name="All reports").click()
    assert page.url == (ran.out / "index.html").as_uri()


def test_a_failed_report_leads_to_its_cell(ran, window):
    page = window.open(ran.out / "raises.html")
    assert page.get_by_role("alert").is_visible()
    page.get_by_role("link", name="cell 3").click()
    assert page.locator("#failed .traceback").is_visible()
    assert "division by zero" in page.locator("#failed").inner_text()


@pytest.mark.parametrize("name", ["good", "index", "raises"])
def test_a_phone_does_not_scroll_sideways(ran, browser, name):
    window = Window(browser, viewport={"width": 400, "height": 800})
    page = window.open(ran.out / f"{name}.html")
    window.draw_all()
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    window.context.close()


def test_a_report_loads_in_under_a_second(ran, window):
    page = window.open(ran.out / "good.html")
    loaded = page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
    assert loaded < 1000  # about 200 ms here


def test_numbers_stand_right_and_words_left(ran, window):
    page = window.open(ran.out / "good.html")
    align = "nodes => nodes.slice(1, 3).map(node => getComputedStyle(node).textAlign)"
    assert page.locator(".dataframe tbody tr:first-child > *").evaluate_all(align) == ["left", "right"]
    assert page.locator(".dataframe thead th").evaluate_all(align) == ["left", "right"]


def test_printing_draws_every_figure(ran, window):
    page = window.open(ran.out / "good.html")
    page.wait_for_selector(".js-plotly-plot .main-svg")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.wait_for_function(DRAWN)
