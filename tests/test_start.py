"""The start page: its list, its map and its form say what the notebooks say, and a run from the form is a run."""

import hashlib
import json
import os
import time
from pathlib import Path

import ipywidgets
import pytest
from shelf import EVIL, PARAMETERS, code, text, write

from lab import reports
from lab.reports import cli, form, notebook, parameters, record, start

USES = "import lab\nfrom lab.pooling import POOLS\nlab.data, lab.data\nPOOLS"
NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


@pytest.fixture
def folder(tmp_path):
    """Two notebooks, of which one waits until it is stopped, beside the start page."""
    place = tmp_path / "notebooks"
    write(place / "00_start.ipynb", text("# Start"))
    write(
        place / "quick.ipynb", text(f"# Quick {EVIL}\n\n**Question.** How many? {EVIL}"),
        code(f"import os\nos.write(1, b'noise')\n{USES}"),
        code("from IPython.display import Markdown\nMarkdown(f'n is {n}, {note}')", "verdict"),
    )  # fmt: skip
    write(place / "waits.ipynb", text("# Waits"), code("import time\nopen('begun', 'w').close()\ntime.sleep(600)"))
    return place


def until(ready, seconds=60):
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def test_the_list_is_what_the_notebooks_say(folder, tmp_path):
    table = reports.questions(folder)
    assert list(table.index) == ["quick", "waits"]
    assert table.question["quick"] == f"How many? {EVIL}"
    assert table.parameters["quick"] == "preset, n, rate, pools, note, deep"
    assert list(table.status) == ["not run", "not run"]
    assert table.attrs == {"notebooks": str(folder), "reports": str(tmp_path / "reports")}


def test_the_list_is_plain_words_with_links_only_where_they_lead_somewhere(folder, monkeypatch):
    table = reports.questions(folder)
    shown = reports.contents(table).data
    assert "[quick](quick.ipynb)" in shown
    assert "\\<script\\>" in shown
    monkeypatch.setenv("LAB_LEDGER", "somewhere")  # as in a report
    assert "](" not in reports.contents(table).data


def test_uses_are_counted_by_room(folder):
    calls = reports.uses(folder)
    assert calls.sel(notebook="quick", room="data") == 2
    assert calls.sel(notebook="quick", room="pooling") == 1
    assert calls.sel(notebook="waits").sum() == 0
    ours = reports.uses(NOTEBOOKS)
    assert (ours.sum("room") > 0).all()


def test_a_folder_without_notebooks_is_refused(tmp_path):
    for call in (reports.questions, reports.uses, reports.Form):
        with pytest.raises(ValueError, match=r"there is no notebook in .*; name the folder"):
            call(tmp_path)


def test_the_folder_is_found_from_both_sides(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert start.folder() == folder
    monkeypatch.chdir(folder.parent)
    assert start.folder() == folder


def test_the_form_has_a_control_for_each_parameter(folder):
    shown = reports.Form(folder)
    assert [value for _, value in shown.choice.options] == ["quick", "waits"]
    kinds = {name: type(control).__name__ for name, control in shown.controls.items()}
    texts = dict.fromkeys(("n", "rate", "pools", "note"), "Text")
    assert kinds == {"preset": "Dropdown", "deep": "Checkbox"} | texts
    defaults = {name: known.default for name, known in parameters.read(PARAMETERS).items()}
    assert shown.values() == defaults
    assert "<script>" not in shown.question.value
    shown.controls["pools"].value = "max"
    shown.controls["note"].value = "7"
    assert (shown.values()["pools"], shown.values()["note"]) == (("max",), "7")
    with pytest.raises(ValueError, match="there is no notebook 'gone'"):
        shown.chosen = "gone"


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_every_default_of_ours_survives_being_typed(path):
    for name, known in notebook.load(path).known.items():
        if known.type != "bool":
            assert parameters.parse(path.name, known, form.as_text(known.default)) == known.default, name


def test_what_does_not_fit_is_said_and_nothing_starts(folder, monkeypatch):
    monkeypatch.setattr(form.subprocess, "Popen", lambda *_, **__: pytest.fail("a run was started"))
    shown = reports.Form(folder)
    shown.controls["n"].value = "three <b>"
    shown.run_button.click()
    assert "parameter &#x27;n&#x27;: expected int, got &#x27;three &lt;b&gt;&#x27;" in shown.said.value
    assert not shown.running
    assert shown.wait(0) is None


def test_a_run_from_the_form_is_the_run_of_the_command(folder, tmp_path, monkeypatch):
    shown = reports.Form(folder)
    shown.controls["n"].value = "5"
    shown.controls["note"].value = EVIL
    seen = []
    shown.progress.observe(lambda change: seen.append(change.new), "value")
    shown.run_button.click()
    assert shown.running
    assert (shown.run_button.disabled, shown.stop_button.disabled) == (True, False)
    shown.start()
    assert "A run is going" in shown.said.value
    done = shown.wait(120)
    assert done.status == "done", done.problem
    assert done.verdict == f"n is 5, {EVIL}"
    assert done.changed == {"n": 3, "note": None}
    assert seen == [1, 2, 3, 4]  # papermill's own cell among them
    assert (tmp_path / "reports" / "quick.html").is_file()
    assert "Done in" in shown.said.value
    assert 'href="file://' in shown.said.value
    assert (shown.run_button.disabled, shown.stop_button.disabled) == (False, True)
    monkeypatch.chdir(tmp_path)
    lines = []
    monkeypatch.setattr(cli, "_say", lines.append)
    assert cli.main(["report", "quick", "-p", "n", "5", "-p", "note", EVIL]) == 0
    assert lines == ["up to date: quick"]  # the same key: nothing tells the two runs apart
    assert reports.questions(folder).status["quick"] == "done"


def test_stop_leaves_the_part_it_got_through(folder, tmp_path):
    shown = reports.Form(folder)
    shown.chosen = "waits"
    shown.run_button.click()
    until((tmp_path / "begun").exists)
    shown.stop_button.click()
    stopped = shown.wait(60)
    assert (stopped.status, stopped.error) == ("failed", "KeyboardInterrupt")
    assert "Failed: cell 3: KeyboardInterrupt" in shown.said.value
    assert record.read(tmp_path / "reports" / "waits.json") == stopped


def test_a_run_that_dies_is_said_and_not_taken_for_an_older_one(folder, tmp_path, monkeypatch):
    shown = reports.Form(folder)
    monkeypatch.setattr(form, "WORK", "raise SystemExit('broken <b>')")
    shown.run_button.click()
    assert shown.wait(60) is None
    assert "The run ended without a report: broken &lt;b&gt;" in shown.said.value


def test_a_report_shows_a_table_and_a_page_the_form(folder, monkeypatch):
    shown = reports.Form(folder)
    assert "application/vnd.jupyter.widget-view+json" in shown._repr_mimebundle_()
    assert isinstance(shown.view, ipywidgets.Widget)
    monkeypatch.setenv("LAB_LEDGER", "somewhere")  # as in a report
    bundle = shown._repr_mimebundle_()
    assert set(bundle) == {"text/html", "text/plain"}
    assert "smoke | quick | full" in bundle["text/html"]
    assert list(shown.table().loc["quick"].index) == ["preset", "n", "rate", "pools", "note", "deep"]


def test_a_report_is_addressed_through_the_server_that_started_the_kernel(tmp_path, monkeypatch):
    page = tmp_path / "reports" / "a b.html"
    assert form.address(page) == page.as_uri()  # no kernel, no server
    server = {"url": "http://127.0.0.1:8888/", "root_dir": str(tmp_path)}
    (tmp_path / f"jpserver-{os.getppid()}.json").write_text(json.dumps(server))
    monkeypatch.setattr("ipykernel.connect.get_connection_file", lambda: str(tmp_path / "kernel-1.json"))
    assert form.address(page) == "http://127.0.0.1:8888/files/reports/a%20b.html"
    assert form.address(Path("/elsewhere/a.html")) == "file:///elsewhere/a.html"


def test_data_that_a_notebook_read_stand_in_its_record_and_report(tmp_path):
    (tmp_path / "pairs.csv").write_text("text\nhello\nworld\n")
    path = write(
        tmp_path / "reads.ipynb", text("# Reads"),
        code(f"import lab\nlab.data.read({str(tmp_path / 'pairs.csv')!r}, n=1)"),
        code(f"lab.data.read({str(tmp_path / 'pairs.csv')!r})"),
    )  # fmt: skip
    done = reports.run(path, tmp_path / "out")
    (read,) = done.data
    assert (read["name"], read["rows"]) == (str(tmp_path / "pairs.csv"), 2)
    assert read["sha256"] == hashlib.sha256(b"text\nhello\nworld\n").hexdigest()
    assert f'<code class="hash">{read["sha256"]}</code>' in (tmp_path / "out" / "reads.html").read_text()
