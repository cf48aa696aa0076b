"""Reports: parameters are checked first, a failure is told honestly, a report is one safe file, a rerun resumes."""

import contextlib
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
import shelf
from shelf import EVIL, code, text, write

import lab
from lab.reports import cli, doctor, index, kernel, markdown, outputs, parameters, record, run_all, runner
from lab.reports import run as run_one
from lab.reports.runner import prepare


@pytest.fixture
def no_kernel(monkeypatch):
    def started(*_, **__):
        pytest.fail("a kernel was started")

    monkeypatch.setattr(kernel, "execute", started)


@pytest.fixture(scope="module")
def ran():
    return shelf.run()


def kernels():
    return [p.pid for p in psutil.Process().children(recursive=True) if "ipykernel_launcher" in " ".join(p.cmdline())]


def unfolded(page):
    """A report without its code."""
    return re.sub(r'<details class="code">.*?</details>', "", page, flags=re.DOTALL)


# ---- before a kernel starts


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"bogus": 1}, r"good.ipynb has no parameter 'bogus'; it has:\n  preset: str = 'quick'  # smoke \| quick"),
        ({"n": "three"}, r"parameter 'n': expected int, got 'three' \(str\)"),
        ({"n": True}, r"'n': expected int, got True \(bool\)"),
        ({"n": 2.5}, r"'n': expected int, got 2.5"),
        ({"rate": "0.1"}, r"'rate': expected float"),
        ({"pools": "mean"}, r"'pools': expected tuple, got 'mean'"),
        ({"pools": (1, 2)}, r"'pools': expected str, got 1"),
        ({"note": 3}, r"'note': expected str \| None, got 3"),
        ({"preset": "huge"}, r"'preset': expected smoke \| quick \| full, got 'huge'"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_wrong_parameter_is_refused(tmp_path, no_kernel, given, said):
    with pytest.raises(ValueError, match=said):
        run_one(shelf.good(tmp_path / "good.ipynb"), tmp_path / "reports", **given)
    assert not (tmp_path / "reports").exists()


def test_a_notebook_without_parameters_cell_is_refused(tmp_path, no_kernel):
    with pytest.raises(ValueError, match="has no cell tagged 'parameters'"):
        run_one(write(tmp_path / "bare.ipynb", code("n = 3"), parameters=None), tmp_path / "reports")


@pytest.mark.parametrize("content", [None, "", "{}", "[]", "3", "# text", '{"cells": 3, "nbformat": 4}'], ids=repr)
def test_what_is_no_notebook_is_refused(tmp_path, no_kernel, content):
    path = tmp_path / "odd.ipynb"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=r"there is no notebook|is not a notebook"):
        run_one(path, tmp_path / "reports")


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("n: int = 'a'", "n: expected int, got 'a'"),
        ("n: int = len([])", "default of n must be a literal"),
        ("n: Path = 'a'", "cannot have the type Path"),
        ("n: int = ", "is not Python"),
    ],
)
def test_a_broken_parameters_cell_is_refused(tmp_path, no_kernel, cell, said):
    with pytest.raises(ValueError, match=said):
        prepare(write(tmp_path / "broken.ipynb", parameters=cell))


@pytest.mark.parametrize(
    ("line", "words", "value"),
    [
        ("x: int = 1", "8", 8),
        ("x: float = 1.0", "1e-3", 1e-3),
        ("x: bool = False", "True", True),
        ("x: bool = True", "no", False),
        ("x: str = 'a'", "8", "8"),
        ("x: tuple[int, ...] = (1,)", "4, 5", (4, 5)),
        ("x: tuple[str, int] = ('a', 1)", "(b,2)", ("b", 2)),
        ("x: list = []", "a,2", ["a", 2]),
        ("x: int | None = None", "none", None),
        ("x: int | None = None", "7", 7),
        ("x = 2", "3", 3),
    ],
)
def test_text_is_read_as_the_type_says(line, words, value):
    known = parameters.read(line + "  # help # more")
    assert parameters.parse("nb", known["x"], words) == value
    assert type(parameters.parse("nb", known["x"], words)) is type(value)
    assert known["x"].help == "help # more"


@pytest.mark.parametrize(
    ("line", "words"), [("x: int = 1", "a"), ("x: bool = True", "2"), ("x: tuple[int, ...] = ()", "a,b")]
)
def test_text_that_does_not_fit_is_refused(line, words):
    with pytest.raises(ValueError, match="nb: parameter 'x': expected"):
        parameters.parse("nb", parameters.read(line)["x"], words)


def test_the_command_line_checks_all_notebooks_first(tmp_path, monkeypatch, no_kernel, capsys):
    monkeypatch.chdir(tmp_path)
    shelf.good(Path("notebooks/a.ipynb"))
    write(Path("notebooks/b.ipynb"), parameters="m: int = 3")
    assert cli.main(["report", "-p", "n", "5"]) == 2
    assert "b.ipynb has no parameter 'n'; it has:\n  m: int = 3" in capsys.readouterr().err
    assert cli.main(["report", "a", "-p", "n", "five"]) == 2
    assert "expected int, got 'five'" in capsys.readouterr().err
    assert cli.main(["report", "c"]) == 2
    assert "there is no notebook 'c'; in notebooks/ there is: a, b" in capsys.readouterr().err
    assert cli.main(["report", "a", str(shelf.good(tmp_path / "a.ipynb"))]) == 2
    assert "two notebooks would write the same report: a" in capsys.readouterr().err


def test_list_shows_the_interface(tmp_path, monkeypatch, no_kernel, capsys):
    monkeypatch.chdir(tmp_path)
    write(Path("notebooks/a.ipynb"), text("# Sinks\n\n**Question.** Where\nare they?"))
    assert cli.main(["list"]) == 0
    said = capsys.readouterr().out
    assert "a: Sinks\n  Where are they?" in said
    assert "-p n: int = 3  # how many" in said


# ---- failures


def test_failures_do_not_stop_the_others(ran):
    assert ran.exit_code == 1
    assert [ran.record(name).status for name in ("raises", "kills", "leaves", "good")] == ["failed"] * 3 + ["done"]
    assert ran.said.splitlines()[-1] == str(ran.out / "index.html")
    assert kernels() == []


@pytest.mark.parametrize(
    ("name", "error", "reason"),
    [
        ("raises", "ZeroDivisionError", "division by zero"),
        ("kills", "DeadKernelError", "the kernel was killed (SIGKILL)"),
        ("leaves", "SystemExit", "the cell ended the notebook early, with exit code 0"),
    ],
)
def test_a_failure_is_told_in_record_report_and_index(ran, name, error, reason):
    told = ran.record(name)
    assert (told.cell, told.error) == (3, error)  # parameters, title, then the guilty one
    assert told.reason.startswith(reason)
    page = ran.html(name)
    assert 'This run failed in <a href="#failed">cell 3</a>' in page
    assert f"<code>{error}</code> {reason}" in page
    assert page.count('id="failed"') == 1
    assert "No verdict: the run stopped before it." in page
    assert f"cell 3: {error}: {reason}" in ran.html("index")


@pytest.mark.parametrize("name", ["raises", "kills", "leaves"])
def test_the_executed_notebook_says_where_it_stopped(ran, name):
    executed = nbformat.read(ran.out / f"{name}.ipynb", as_version=4)
    cells = [cell for cell in executed.cells if cell.cell_type == "code"]
    assert [c.metadata.papermill.status for c in cells] == ["completed", "completed", "failed", "pending"]
    assert executed.cells[0].source.startswith("**This run failed.** cell 3: ")
    assert not (ran.folder / "never").exists()


def test_what_came_before_a_kernel_died_is_kept(ran):
    assert "last words" in ran.html("kills")


def test_the_deadline_is_for_the_whole_notebook(tmp_path):
    hangs, after = shelf.hangs(tmp_path / "hangs.ipynb"), write(tmp_path / "later.ipynb", code("1"))
    began = time.monotonic()
    records = run_all([prepare(hangs), prepare(after)], tmp_path / "reports", timeout=7, say=lambda _: None)
    assert time.monotonic() - began < 25
    assert [r.status for r in records] == ["failed", "done"]
    assert records[0].problem == "cell 4: TimeoutError: the notebook's limit of 7 s passed in this cell"
    assert kernels() == []


def test_a_kernel_that_cannot_start_is_a_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    told = run_one(write(tmp_path / "a.ipynb"), tmp_path / "reports")
    assert (told.status, told.cell, told.error) == ("failed", None, "KernelStartError")
    assert "This run failed" in (tmp_path / "reports" / "a.html").read_text()


def test_a_report_that_is_too_large_is_a_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "LIMIT", 400_000)
    pictured = code("from IPython.display import Image\nImage(bytes(375_000), format='png')")  # words would be cut
    told = run_one(write(tmp_path / "a.ipynb", code("print('small')"), pictured), tmp_path / "out")
    assert (told.status, told.error) == ("failed", "ReportTooLarge")
    page = (tmp_path / "out" / "a.html").read_text()
    assert told.bytes == len(page.encode()) < 400_000
    assert "[left out: this output has 0.5 MB]" in page
    assert "small" in page


# ---- what a report holds


def test_the_kernel_is_this_python_in_this_folder(ran):
    assert f"running in {ran.folder.resolve()}" in ran.html("good")
    assert f"running on {sys.executable}" in ran.html("good")


def test_record_and_page_tell_the_run(ran):
    told = ran.record("good")
    assert told.parameters == {
        "preset": "quick", "n": 4, "rate": 0.5, "pools": ["mean", "last"], "note": EVIL, "deep": False,
    }  # fmt: skip
    assert told.changed == {"n": 3, "note": None}
    assert told.verdict == f"The **mean** wins with n = 4 ($p < 0.01$). {EVIL}"
    assert told.figure["data"][0]["y"] == [1, 3, 4]
    page = ran.html("good")
    assert re.search(
        r'<tr class="changed"><th scope="row">n</th><td><code>4</code></td><td>changed from <code>3<', page
    )
    assert '<tr><th scope="row">rate</th><td><code>0.5</code></td><td></td></tr>' in page
    assert told.sha256 in page
    assert f"python {sys.version.split()[0]}" in page
    assert told.device in page
    assert "slowest cells" in page


def test_no_text_from_data_becomes_a_script(ran):
    for name in ("good", "index"):
        page = ran.html(name)
        assert EVIL not in page
        # ours: one script per page, one packed plotly, and data
        kinds = re.findall(r"<script([^>]*)>", page)
        assert len([kind for kind in kinds if "nonce=" in kind]) == 1
        assert all("nonce=" in k or 'type="application/' in k for k in kinds)
        assert not re.search(r"<[^>]*\son\w+=", re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL))
        assert "<iframe" not in page
    assert ran.html("good").count("&lt;script&gt;alert") >= 5  # stream, table, html, markdown, parameter


def test_nothing_in_a_page_can_be_fetched(ran):
    for name in ("good", "raises", "index"):
        page = re.sub(r'<script type="application/octet-stream".*?</script>', "", ran.html(name), flags=re.DOTALL)
        assert not re.findall(r"""<[^>]*\s(?:src|srcset|data|poster|action)\s*=\s*["']?(?!["']?data:)""", page)
        assert not re.findall(r"<link[^>]*href=[\"'](?!data:)", page)
        assert not re.findall(r"@import|url\(|\bimport\s*\(", page)
        assert "default-src 'none'" in page


def test_equations_are_mathml(ran):
    page = ran.html("good")
    assert page.count("<math") >= 3
    assert '<code class="broken-math" title="this equation could not be read">x_a_b</code>' in page
    assert "<code>$code$</code>" in page


def test_the_story_is_folded_and_has_contents(ran):
    page = ran.html("good")
    assert page.count('<details class="code">') == 11  # ten cells and the parameters, none open
    assert "injected" not in page
    for anchor in ("s-by-layer", "s-below", "s-by-layer-2"):
        assert page.count(f'id="{anchor}"') == 1
        assert f'href="#{anchor}"' in page
    assert page.count("Which layer?") == 1  # at the top only
    assert "The rest of the opening." in page
    assert "dead widget" not in unfolded(page)
    assert "only a warning" in page


def test_streams_read_as_in_a_terminal(ran):
    page = unfolded(ran.html("good"))
    assert '<span class="ansi-red-fg">red</span>' in page
    assert "100%" in page
    assert "10%" not in page
    assert "\x1b" not in page


def test_figures_are_drawn_from_data(ran):
    page = ran.html("good")
    boxes = re.findall(r'role="img" aria-label="([^"]*)" data-figure="([^"]*)"', page)
    assert [anchor for _, anchor in boxes] == [
        "figure-1",
        "figure-1",
        "figure-2",
        "figure-3",
    ]  # the headline stands twice
    assert boxes[0][0].startswith("Score by layer")
    assert "<figcaption>Notice the second layer.</figcaption>" in page
    data = re.search(r'<script type="application/json" id="figure-1">(.*?)</script>', page, re.DOTALL)[1]
    assert json.loads(data)["data"][0]["text"] == [EVIL] * 3


def test_plotly_comes_once_and_only_with_a_figure(ran):
    assert ran.html("good").count('id="plotly-gzip"') == 1
    assert 1_500_000 < ran.record("good").bytes == len(ran.html("good").encode()) < 2_500_000
    for name in ("raises", "index"):
        assert 'plotly-gzip">' not in ran.html(name)
    assert len(ran.html("index")) < 100_000
    assert ran.record("raises").bytes < 50_000


def test_the_index_lists_every_report(ran):
    page = ran.html("index")
    assert re.findall(r'<h2><a href="([^"]*)"', page) == ["good.html", "kills.html", "leaves.html", "raises.html"]
    assert "4 notebooks" in page
    assert "3 failed" in page
    assert "Which layer?" in page
    assert "The <strong>mean</strong> wins" in page


HARMFUL = [
    '<img src=x onerror="alert(1)">',
    '<a href="javascript:alert(1)">x</a>',
    "[x](javascript:alert(1))",
    "<svg onload=alert(1)>",
    "<style>@import 'x'</style>",
    '<div style="background:url(http://example.org)">x</div>',
    "<script>alert(1)</script>",
    "# <script>alert(1)</script>",
    "## <img src=x onerror=alert(1)>",
    "$</span><script>alert(1)</script>$",
    "<!-- <script> -->x",
    "```mermaid\n<script>alert(1)</script>\n```",
    '<p id="failed" class="banner">x</p>',
    "<form action=http://example.org><input></form>",
    "<math><mtext></p><img src=x onerror=alert(1)>",
    "<iframe srcdoc='<script>alert(1)</script>'>",
]
BAD = r"<(script|style|svg|iframe|form|input)|\son\w+|javascript:|url\(|class=.banner|failed"


@pytest.mark.parametrize("dirty", HARMFUL)
def test_markdown_is_harmless(dirty):
    html = markdown.html(dirty)
    assert [tag for tag in re.findall(r"<[^>]*>", html) if re.search(BAD, tag)] == []


def test_an_image_beside_the_notebook_moves_into_the_page(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "dot.png").write_bytes(b"\x89PNG")
    (tmp_path / "secret.png").write_bytes(b"\x89PNG")
    page = markdown.page("![dot](dot.png) ![no](../secret.png)", folder=tmp_path / "in").html
    assert '<img src="data:image/png;base64,iVBORw==" alt="dot">' in page
    assert page.count("data:") == 1


# ---- again


def test_what_is_up_to_date_is_skipped(tmp_path, monkeypatch):
    path = write(tmp_path / "a.ipynb", code("print(n)"))
    lines = []

    def again(force=False, **given):
        return run_all([prepare(path, **given)], tmp_path / "out", force=force, say=lines.append)[0]

    first = again()
    assert again() == first
    assert lines[-1] == "up to date: a"
    assert again(n=5).parameters["n"] == 5
    assert lines[-1].startswith("done: a")
    assert again(n=5, force=True).started >= first.started
    assert lines[-1].startswith("done: a")
    with monkeypatch.context() as patch:
        patch.setattr(kernel, "execute", lambda *_, **__: pytest.fail("ran"))
        again(n=5)
        (tmp_path / "out" / "a.html").unlink()
        with pytest.raises(pytest.fail.Exception):
            again(n=5)


def test_the_key_follows_everything_that_can_change_a_result(monkeypatch):
    base = ("00", {"n": 1}, {"torch": "2"}, "cpu")
    others = [
        ("01", *base[1:]),
        ("00", {"n": 2}, *base[2:]),
        ("00", {"n": 1}, {"torch": "3"}, "cpu"),
        (*base[:3], "gpu"),
    ]
    assert record.key(*base) == record.key(*base)
    assert len({record.key(*arguments) for arguments in (base, *others)}) == 5
    before = record.key(*base)
    monkeypatch.setattr(record, "_code", lambda: "other code")
    assert record.key(*base) != before


def test_an_interrupted_and_a_killed_run_carry_on(tmp_path):
    write(tmp_path / "notebooks" / "a.ipynb", code("1"))
    wait = "from pathlib import Path\nimport os, time\nPath('pid').write_text(str(os.getpid()))\n"
    write(tmp_path / "notebooks" / "b.ipynb", code(wait + "time.sleep(0 if Path('go').exists() else 600)"))
    # a shell's background job ignores Ctrl-C, and so would what it starts: this one shall hear it all the same
    hears = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    main = hears + "from lab.reports.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", main, "report", "--workers", "1"]

    @contextlib.contextmanager
    def start():
        (tmp_path / "pid").unlink(missing_ok=True)
        pipe = subprocess.PIPE
        with subprocess.Popen(command, cwd=tmp_path, stdout=pipe, stderr=pipe, text=True) as run:
            try:
                yield run
            finally:
                run.kill()  # leaving the block waits for its end, which a failed check may have left far away

    def until(ready, seconds=40):
        end = time.monotonic() + seconds
        while not ready():
            assert time.monotonic() < end, "waited too long"
            time.sleep(0.05)

    def kernel_in(run):
        until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() and run.poll() is None)
        return int((tmp_path / "pid").read_text())

    with start() as run:
        pid = kernel_in(run)
        run.send_signal(signal.SIGINT)
        said = run.communicate(timeout=40)
    assert run.returncode == 130, said
    assert "done: a" in said[0]
    assert not psutil.pid_exists(pid)
    stopped = record.read(tmp_path / "reports" / "b.json")
    assert (stopped.status, stopped.cell, stopped.error) == ("failed", 2, "KeyboardInterrupt")

    with start() as run:
        pid = kernel_in(run)
        os.kill(run.pid, signal.SIGKILL)
        assert "up to date: a" in run.communicate(timeout=40)[0]
    until(lambda: not psutil.pid_exists(pid))  # it looks for its parent every few seconds

    (tmp_path / "go").touch()
    with start() as run:
        said, _ = run.communicate(timeout=60)
    assert run.returncode == 0
    assert "up to date: a\ndone: b" in said
    assert not [p.name for p in (tmp_path / "reports").iterdir() if p.name.startswith(".")]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.html"
    record.replace(path, "old")
    with pytest.raises(UnicodeEncodeError):
        record.replace(path, "new \ud800")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.html"]


def test_the_index_passes_over_what_is_no_record(tmp_path):
    (tmp_path / "odd.json").write_text("{")
    (tmp_path / "other.json").write_text('{"title": "x"}')
    assert "No report yet" in index.write(tmp_path).read_text()


# ---- the doctor, and how light all this is to import


def test_the_doctor_tells_what_is_there(capsys):
    assert doctor.examine() == 0
    said = capsys.readouterr().out
    for line in ("python", "torch", "processor", "as published", "folder"):
        assert line in said


def test_the_doctor_sees_a_wrong_model(tmp_path, monkeypatch, capsys):
    (tmp_path / "model.safetensors").write_bytes(b"other")
    monkeypatch.setattr(doctor, "bundled", lambda: tmp_path)
    assert doctor.examine() == 1
    assert "broken: the bundled model is not the published one" in capsys.readouterr().out


def test_importing_reports_is_light():
    heavy = "{'torch', 'papermill', 'nbconvert', 'plotly', 'nbformat', 'pandas'}"
    check = f"import sys, lab.reports.cli; print(sorted({heavy} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout == "[]\n"
    assert lab.reports.run is run_one


def stream(text, name="stderr"):
    return {"output_type": "stream", "name": name, "text": text}


def test_a_progress_bar_that_came_in_pieces_is_one_line_and_a_cleared_one_is_none():
    bar = [stream(f"\rstates: {n}%") for n in (0, 50, 100)]
    (one,) = outputs.joined(bar)
    assert outputs.shown(one, "") == '<pre class="stderr">states: 100%</pre>'
    (cleared,) = outputs.joined([*bar, stream("\r            \r")])
    assert outputs.shown(cleared, "") == ""
    kept = outputs.joined([stream("a", "stdout"), stream("b"), stream("c"), stream("d", "stdout")])
    assert [(output["name"], output["text"]) for output in kept] == [("stdout", "a"), ("stderr", "bc"), ("stdout", "d")]
    assert bar[0]["text"] == "\rstates: 0%"  # the executed notebook keeps what it has


def test_the_doctor_looks_for_the_model_that_is_loaded():
    """It looks by itself, so that it can still speak where torch cannot be imported."""
    assert doctor.bundled() == lab.models.bundled()
    assert importlib.import_module("lab.models.load").MINILM_SHA256 == doctor.WEIGHTS


def test_a_kernel_ends_at_once_and_yet_does_what_waits_for_its_end(tmp_path):
    """Exit handlers, folders for the time being and other threads: all but Python taking itself apart."""
    late = tmp_path / "late"
    late.mkdir()
    source = f"""
import atexit, sys, tempfile, threading, time, types
from pathlib import Path
late = Path({str(late)!r})
kept = tempfile.TemporaryDirectory(dir=late)
atexit.register((late / "exit").touch)
threading.Thread(target=lambda: (time.sleep(0.3), (late / "thread").touch())).start()

class Torn:
    def __del__(self, told=late / "torn"):
        told.touch()

sys.modules["apart"] = types.ModuleType("apart")
sys.modules["apart"].torn = Torn()
"""
    path = write(tmp_path / "ends.ipynb", code(source))
    executed = kernel.execute(prepare(path).source.node, {}, timeout=60)
    assert executed.failure is None
    assert sorted(one.name for one in late.iterdir()) == ["exit", "thread"]
