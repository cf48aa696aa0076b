"""Long texts in a page: the ends stay, what is left out is counted, tags and what they hold are whole."""

import html
import time

import plotly.graph_objects as go
import pytest
from nbformat.v4 import new_output
from test_browser_share import report

from lab.reports import compare, figures, index, length, markdown, outputs

EVIL = "<script>alert('1')</script>\"'>\u202etxet\U0001f9ea<img src=x onerror=alert(2)>"
LONG = EVIL * 15_000  # a megabyte
HOSTILE = {
    "markup": EVIL, "open tags": "<div>", "attributes": "<p" + " a" * 1000,
    "styles": "<style>", "comments": "<!--a-->", "formulas": "$x$ ",
    "emphasis": "*a ", "brackets": "[", "backticks": "`a ", "quotes": "> ", "table": "| a | b |\n",
    "headings": "## a\n\n",
}  # fmt: skip


def test_a_text_keeps_its_ends_and_says_what_is_gone():
    assert length.cut("abcdef", 6) == "abcdef"
    assert length.cut("abcdefg", 4) == "ab … [3 characters left out] … fg"


def test_tags_and_attributes_are_whole():
    image = f'<img alt="a" src="data:image/png;base64,{"A" * 50_000}">'
    assert length.cut_runs(image) == image
    assert length.cut_runs("<p>" + "b" * 20_000 + "</p>") == "<p>" + "b" * 20_000 + "</p>"
    cut = length.cut_runs("<p>" + "b" * 20_001 + "</p>")
    assert cut.startswith("<p>bbb")
    assert cut.endswith("bbb</p>")
    assert "[1 characters left out]" in cut


def test_a_megabyte_becomes_a_page_that_opens():
    began = time.process_time()
    table = markdown.safe(f"<table><tr><th>{html.escape(LONG)}</th></tr></table>")
    figure = go.Figure(go.Scatter(y=[1, 2], text=[LONG, "short"])).update_layout(title=LONG, meta={"caption": LONG})
    figure.frames = [go.Frame(data=[go.Scatter(y=[2, 1], text=[LONG, "short"])])]
    drawn = figures.data(figure.to_plotly_json(), "a") + figures.box(figure.to_plotly_json(), "a")
    printed = outputs.shown(new_output("stream", text=LONG), "a")
    assert time.process_time() - began < 20  # uncut, the table alone took minutes
    assert len(table) < 50_000
    assert len(drawn) < 30_000
    assert len(printed) < 400_000
    for piece in (table, drawn, printed):
        assert "<script>alert" not in piece
        assert "characters left out" in piece


def test_tags_in_the_middle_are_left_out():
    assert length.cut_tags("<b>" * length.TAGS) == "<b>" * length.TAGS
    cut = length.cut_tags("<b>a" * (length.TAGS + 2))
    half = "<b>a" * (length.TAGS // 2)
    assert cut == f"{half} … [2 tags left out] … {half}"


def test_an_image_in_markdown_is_whole_however_long():
    image = "![a](data:image/png;base64," + "A" * 300_000 + ")"
    assert length.cut_source(image + "b" * 200) == image + "b" * 200
    assert "characters left out" in length.cut_source(image + "b" * 50_001)


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_megabyte_of_markdown_or_html_of_any_kind_opens(kind):
    text = HOSTILE[kind] * (1_000_000 // len(HOSTILE[kind]))
    began = time.process_time()
    pieces = markdown.html(text), outputs.shown(new_output("display_data", {"text/html": text}), "a")
    assert time.process_time() - began < 15
    for piece in pieces:
        assert len(piece) < 800_000
        assert "<script>alert" not in piece


def test_a_formula_nested_too_deep_shows_its_source():
    deep = "{" * 5_000 + "x" + "}" * 5_000
    assert (
        markdown.mathml(deep, "inline")
        == f'<code class="broken-math" title="this equation could not be read">{deep}</code>'
    )


def test_a_gallery_and_a_comparison_of_megabytes_open(tmp_path):
    figure = go.Figure(go.Scatter(y=[1, 2], text=[LONG, "short"])).update_layout(title=LONG, meta={"caption": LONG})
    long = {
        "title": LONG, "question": LONG, "verdict": LONG, "device": LONG, "source": LONG,
        "results": {"mrr": LONG, LONG: 1}, "parameters": {"preset": LONG, LONG: 3}, "changed": {"preset": LONG},
        "versions": {"torch": LONG, LONG: "2"}, "data": [{"name": LONG, "rows": 1, "sha256": "cd"}],
    }  # fmt: skip
    began = time.process_time()
    pages = [
        report(tmp_path / side, figure, **long, status=status, error="KeyError", reason=LONG)
        for side, status in (("a", "done"), ("b", "failed"))
    ]
    pages += [index.write(tmp_path / "b"), compare.write(tmp_path / "a", tmp_path / "b", tmp_path)]
    assert time.process_time() - began < 60
    for page in pages:
        shown = page.read_text().partition("<script type=")[0]
        assert len(shown) < 1_500_000, page
        assert shown.count("characters left out") >= 4
        assert "<script>alert" not in shown
