"""Pages for every reader: contrast computed from the style sheet, landmarks, heading order, a name for each figure."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import shelf

from lab.reports import figures

CSS = (Path(figures.__file__).parent / "template" / "page.css").read_text(encoding="utf-8")
READ = ("--ink", "--quiet", "--accent", "--bad", "--keyword", "--string", "--number")
GROUNDS = ("--paper", "--soft")


def colours(theme):
    """{variable: #rrggbb} of a theme; the dark one changes the light one's."""
    blocks = re.findall(r':root(\[data-theme="dark"\])? \{(.*?)\n\}', CSS, re.DOTALL)
    found = {}
    for dark, block in blocks:
        if not dark or theme == "dark":
            found |= dict(re.findall(r"(--[a-z-]+): (#[0-9a-f]{6});", block))
    return found


def luminance(colour):
    """WCAG 2.2's relative luminance."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a, b):
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_counted_as_the_standard_counts_it():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)  # the well-known grey that just fails


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("ground", GROUNDS)
@pytest.mark.parametrize("name", READ)
def test_words_can_be_read(theme, ground, name):
    found = colours(theme)
    assert contrast(found[name], found[ground]) >= 4.5


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_failure_and_a_control_can_be_seen(theme):
    found = colours(theme)
    assert contrast(found["--bad"], found["--bad-soft"]) >= 4.5
    assert contrast(found["--edge"], found["--paper"]) >= 3  # a field's border
    assert contrast(found["--accent"], found["--paper"]) >= 3  # the ring of what has the focus


def test_the_dark_theme_changes_every_colour():
    light, dark = colours("light"), colours("dark")
    assert set(light) == set(dark)
    assert [name for name in light if light[name] == dark[name]] == []


class Outline(HTMLParser):
    """What a screen reader goes by."""

    def __init__(self, page):
        super().__init__()
        self.levels, self.elements, self.lang = [], [], None
        self.feed(re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL))

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.elements.append((tag, given))
        if re.fullmatch(r"h[1-6]", tag):
            self.levels.append(int(tag[1]))
        if tag == "html":
            self.lang = given.get("lang")

    def all(self, tag):
        return [given for name, given in self.elements if name == tag]


@pytest.fixture(scope="module")
def outlines():
    ran = shelf.run()
    return {name: Outline(ran.html(name)) for name in ("good", "raises", "index")}


@pytest.mark.parametrize("name", ["good", "raises", "index"])
def test_a_page_has_a_language_landmarks_and_an_order(outlines, name):
    page = outlines[name]
    assert page.lang == "en"
    assert len(page.all("main")) == 1
    assert all(nav.get("aria-label") for nav in page.all("nav"))
    assert len({nav["aria-label"] for nav in page.all("nav")}) == len(page.all("nav"))
    assert page.levels[0] == 1
    assert page.levels.count(1) == 1
    assert [b for a, b in zip(page.levels, page.levels[1:], strict=False) if b > a + 1] == []
    first = page.all("a")[0]
    assert first["class"] == "skip"
    assert first["href"] == f"#{page.all('main')[0]['id']}"


@pytest.mark.parametrize("name", ["good", "raises", "index"])
def test_every_figure_image_and_field_has_a_name(outlines, name):
    page = outlines[name]
    pictures = [given for _, given in page.elements if given.get("role") == "img"]
    assert all(given.get("aria-label") for given in pictures)
    assert len(pictures) >= len([1 for _, given in page.elements if "data-figure" in given])
    assert all("alt" in given for given in page.all("img"))
    depth = [tag for tag, _ in page.elements if tag in ("label", "input", "select")]
    assert "input" not in [b for a, b in zip(["", *depth], depth, strict=False) if a != "label"]


@pytest.mark.parametrize(
    ("figure", "said"),
    [
        ({"layout": {"title": {"text": "<b>Score</b>"}, "meta": {"caption": "It rises."}}}, "Score. It rises"),
        ({"layout": {"meta": {"caption": "It rises."}}}, "It rises"),
        ({"data": [{"type": "bar"}], "layout": {"xaxis": {"title": {"text": "layer"}}, "yaxis": {"title": "MRR"}}},
         "figure: bar of layer and MRR"),
        ({"data": [{}, {"type": "bar"}]}, "figure: scatter and bar"),
        ({}, "figure: empty"),
    ],
)  # fmt: skip
def test_a_figure_is_told_by_its_title_and_caption_else_by_its_axes(figure, said):
    assert figures.label(figure) == said
