"""Two runs side by side: what differs is named, what is the same is folded, and what cannot be compared is refused."""

import dataclasses
import json
import re

import nbformat
import plotly.graph_objects as go
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from lab.reports import cli, compare, record

EVIL = '<script>alert("1")</script>'
FIGURE = "application/vnd.plotly.v1+json"


def made(**changes):
    plain = record.Record(
        name="tour", title="Tour", question="Where?", verdict="The **mean** wins.", figure=None, status="done",
        cell=None, error="", reason="", parameters={"preset": "quick", "n": 3}, changed={}, versions={"torch": "2.1"},
        device="a device", started="2026-11-21T10:00:00+00:00", seconds=61.0, source="tour.ipynb", sha256="ab" * 32,
        key="k", bytes=1, data=[], results={}, beside=0,
    )  # fmt: skip
    return dataclasses.replace(plain, **changes)


def shows(name, *data, tags=()):
    return new_code_cell(
        "x", id=name, outputs=[new_output("display_data", d) for d in data], metadata={"tags": list(tags)}
    )


def line(*y):
    return {FIGURE: json.loads(go.Figure(go.Scatter(y=list(y))).to_json())}


def run(folder, *cells, **changes):
    folder.mkdir(exist_ok=True)
    one = made(**changes)
    record.write(one, folder / f"{one.name}.json")
    nbformat.write(new_notebook(cells=list(cells)), folder / f"{one.name}.ipynb")
    return folder


@pytest.fixture
def two(tmp_path):
    table = {"text/html": "<table><tr><td>same</td></tr></table>", "text/plain": "same"}
    a = run(tmp_path / "a", shows("first-figure", line(1, 2)), shows("table", table), shows("old", line(5)))
    b = run(
        tmp_path / "b", shows("first-figure", line(1, 3)), shows("table", table), shows("new", {"text/markdown": EVIL}),
        parameters={"preset": "quick", "n": 4, "note": EVIL}, verdict=f"The max wins. {EVIL}", seconds=5.0,
        versions={"torch": "2.2"}, data=[{"name": EVIL, "rows": 3, "sha256": "cd" * 32}],
    )  # fmt: skip
    return a, b


def page(a, b, out):
    return compare.write(a, b, out).read_text(encoding="utf-8")


def rows(html):
    cells = re.findall(r'<th scope="row">(.*?)</th><td>(.*?)</td><td>(.*?)</td>', html)
    return {name: (left, right) for name, left, right in cells}


def test_what_differs_is_named(two, tmp_path):
    found = rows(page(*two, tmp_path / "out"))
    assert found["n"] == ("3", "4")
    assert "preset" not in found  # the same in both
    assert found["torch"] == ("2.1", "2.2")
    assert found["run time"] == ("61 s", "5.0 s")
    assert found["note"][0] == "none"
    assert "<strong>mean</strong> wins" in page(*two, tmp_path / "out")


def test_figures_stand_side_by_side_and_what_is_the_same_stands_once(two, tmp_path):
    html = page(*two, tmp_path / "out")
    drawn = re.findall(r'<script type="application/json" id="(figure-\d+)">(.*?)</script>', html)
    assert [json.loads(text)["data"][0]["y"] for _, text in drawn] == [[1, 2], [1, 3], [5]]
    assert html.count("data-figure=") == 3
    assert re.search(r'<details class="same"><summary>table: the same in both</summary>', html)
    assert html.count("<td>same</td>") == 1
    assert html.count("Nothing here in this run.") == 2  # old is not in b, new not in a
    assert html.count('id="plotly-gzip"') == 1


def test_the_headline_comes_first_and_the_verdict_is_not_said_twice(tmp_path):
    cells = shows("first", line(1)), shows("head", line(2), tags=["headline"]), shows("end", line(3), tags=["verdict"])
    html = page(run(tmp_path / "a", *cells), run(tmp_path / "b", *cells, seconds=2.0), tmp_path / "out")
    assert re.findall("<summary>(.*?): the same in both", html) == ["head", "first"]


def test_no_word_of_data_becomes_markup(two, tmp_path):
    html = page(*two, tmp_path / "out")
    assert EVIL not in html
    assert html.count("&lt;script&gt;") >= 4  # verdict, parameter, output, name of data


def test_files_are_compared_too_and_other_notebooks_are_refused(two, tmp_path):
    a, b = two
    assert "4" in rows(page(a / "tour.json", b / "tour.html", tmp_path / "out"))["n"]
    run(tmp_path / "c", name="sinks", source="sinks.ipynb")
    with pytest.raises(ValueError, match=r"no notebook has a report in both: .*\['tour'\].*\['sinks'\]"):
        compare.write(a, tmp_path / "c", tmp_path / "out")
    with pytest.raises(ValueError, match=r"runs of one notebook.*tour\.ipynb.*sinks\.ipynb"):
        compare.write(a / "tour.json", tmp_path / "c" / "sinks.json", tmp_path / "out")
    with pytest.raises(ValueError, match="two folders or two reports"):
        compare.write(a, b / "tour.json", tmp_path / "out")
    with pytest.raises(ValueError, match="neither a folder of reports nor a report"):
        compare.write(a / "gone.json", b, tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="there is no report in"):
        compare.write(a, tmp_path / "empty", tmp_path / "out")
    assert not (tmp_path / "out" / "gone").exists()


def test_a_failed_run_and_a_missing_notebook_are_said(two, tmp_path):
    a, b = two
    run(b, status="failed", cell=3, error="KeyError", reason="'x'", verdict="")
    (b / "tour.ipynb").unlink()
    html = page(a, b, tmp_path / "out")
    assert rows(html)["status"] == ("done", "failed: cell 3: KeyError: &#39;x&#39;")
    assert "No verdict: the run stopped before it." in html
    assert f"The executed notebook is not there: {b / 'tour.ipynb'}" in html


def test_the_command_line(two, tmp_path, capsys):
    a, b = map(str, two)
    assert cli.main(["report", "--compare", a, b, "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.strip() == str((tmp_path / "out" / "compare.html").resolve())
    assert cli.main(["report", "tour", "--compare", a, b]) == 2
    assert "it takes no notebook" in capsys.readouterr().err
    assert cli.main(["report", "--compare", a, str(tmp_path / "gone")]) == 2
    assert "neither a folder" in capsys.readouterr().err


def test_runs_in_folders_of_one_name_are_told_apart(two, tmp_path):
    a, b = two
    for place, side in (("x", a), ("y", b)):
        (tmp_path / place).mkdir()
        side.rename(tmp_path / place / "reports")
    html = page(tmp_path / "x" / "reports", tmp_path / "y" / "reports", tmp_path / "out")
    assert f'<th scope="col">{tmp_path / "x" / "reports"}</th>' in html
