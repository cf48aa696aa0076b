"""Long texts in a page: the ends stay, what is left out is counted, tags and what they hold are whole."""

import html
import time

import plotly.graph_objects as go
from nbformat.v4 import new_output

from lab.reports import figures, length, markdown, outputs

EVIL = "<script>alert('1')</script>\"'>\u202etxet\U0001f9ea<img src=x onerror=alert(2)>"
LONG = EVIL * 15_000  # a megabyte


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
