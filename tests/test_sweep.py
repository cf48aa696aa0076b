"""Sweeps and reports side by side: a cell of the grid is lost alone, what is done is not done again."""

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
import pandas as pd
import psutil
import pytest
import shelf
from shelf import EVIL, code, text, write

from lab.reports import cli, kernel, pool, prepare, record, run_all
from lab.reports import result as hand_over

sweeps = importlib.import_module("lab.reports.sweep")  # the package's attribute of that name is the function
quiet = {"say": lambda _: None}
GRID = {"n": [1, 2, 3]}
PARAMETERS = 'preset: str = "quick"  # smoke | quick | full\nn: int = 3  # how many\nrate: float = 0.5\nnote: str = ""'


def sums(path, *cells):
    """Hands over n + rate; what stands in `cells` runs before."""
    last = code("from lab.reports import result\nresult(total=n + rate, word=note)")
    return write(path, text(f"# Sums {EVIL}\n\n**Question.** How much?"), *cells, last, parameters=PARAMETERS)


def kernels():
    return [p for p in psutil.Process().children(recursive=True) if "ipykernel_launcher" in " ".join(p.cmdline())]


def until(ready, seconds=90):
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


# ---- the grid


def test_a_grid_is_each_value_with_each_other_or_several_such():
    assert sweeps.expand({"a": [1, 2], "b": "x"}) == [{"a": 1, "b": "x"}, {"a": 2, "b": "x"}]
    assert sweeps.expand({"a": [1, 2], "b": [3, 4]}) == [{"a": a, "b": b} for a in (1, 2) for b in (3, 4)]
    assert sweeps.expand([{"a": 1, "b": [2, 3]}, {"a": 4}]) == [{"a": 1, "b": 2}, {"a": 1, "b": 3}, {"a": 4}]


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        ({}, "a grid is"),
        ([], "a grid is"),
        ("n", "there is no grid n"),
        (["n"], r"a grid is .* got 'n'"),
        ({1: [2]}, "a grid is"),
        ({"n": []}, "no value for n"),
        ({"n": [1, 1]}, r"a cell twice: {'n': 1}"),
        ([{"n": 3}, {"rate": 0.5}], "a cell twice"),
        ({"bogus": [1]}, "no parameter 'bogus'"),
        ({"n": ["many"]}, "'n': expected int, got 'many'"),
        ({"n": [2.5]}, "'n': expected int, got 2.5"),
    ],
    ids=str,
)
def test_a_grid_that_cannot_run_is_refused_before_anything_does(tmp_path, monkeypatch, grid, said):
    monkeypatch.setattr(kernel, "execute", lambda *_, **__: pytest.fail("a kernel was started"))
    with pytest.raises(ValueError, match=said):
        sweeps.sweep(sums(tmp_path / "a.ipynb"), grid, tmp_path / "out", **quiet)
    assert not (tmp_path / "out").exists()


def test_a_parameter_has_one_place(tmp_path):
    with pytest.raises(ValueError, match="n is in the grid, and given beside it"):
        sweeps.sweep(sums(tmp_path / "a.ipynb"), GRID, tmp_path / "out", n=3, **quiet)


@pytest.mark.parametrize(("content", "said"), [("n: [1", "is not yaml"), ("n: \x00", "is not yaml"), ("", "a grid is")])
def test_a_file_that_is_no_grid_is_refused(tmp_path, content, said):
    (tmp_path / "grid.yml").write_text(content)
    with pytest.raises(ValueError, match=said):
        sweeps.sweep(sums(tmp_path / "a.ipynb"), tmp_path / "grid.yml", tmp_path / "out", **quiet)


# ---- what a notebook hands over


def test_results_are_numbers_and_words():
    import numpy as np
    import xarray as xr

    made = hand_over(a=np.float32(0.5), b=xr.DataArray(2), c="x", d=float("nan"), e=np.bool_(True), f=None)
    bundle = made._repr_mimebundle_()
    assert json.loads(json.dumps(bundle["application/vnd.lab.result+json"])) == {
        "a": 0.5, "b": 2, "c": "x", "d": None, "e": True, "f": None,
    }  # fmt: skip
    assert bundle["text/plain"] == "a = 0.5, b = 2, c = x, d = None, e = True, f = None"
    with pytest.raises(ValueError, match="score must be one number, truth value or word; got DataArray"):
        hand_over(score=xr.DataArray([1, 2]))


def test_a_result_cannot_take_a_parameters_name(tmp_path):
    taken = write(tmp_path / "a.ipynb", code("from lab.reports import result\nresult(n=1)"), parameters=PARAMETERS)
    with pytest.raises(ValueError, match="the name of another column, n"):
        sweeps.sweep(taken, GRID, tmp_path / "out", workers=1, **quiet)
    assert kernels() == []


# ---- running


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Four cells in two kernels: one raises, one kills its kernel at first, one always does."""
    folder = tmp_path_factory.mktemp("sweep")
    trouble = code(
        "import os, signal\nfrom pathlib import Path\n"
        "1 / (n - 2)\n"
        "once = n == 3 and not Path('seen').exists()\n"
        "Path('seen').write_text('') if n == 3 else None\n"
        "os.kill(os.getpid(), signal.SIGKILL) if once or n == 4 else None"
    )
    sums(folder / "a.ipynb", trouble)
    (folder / "grid.yml").write_text("n: [1, 2, 3, 4]\nrate: [1e-1]\n")
    said = []
    with contextlib.chdir(folder):
        found = sweeps.sweep("a.ipynb", "grid.yml", workers=2, note=EVIL, say=said.append)
    return folder, found, said


def test_a_cell_of_the_grid_is_lost_alone(swept):
    _, found, _ = swept
    assert found.n.tolist() == [1, 2, 3, 4]
    assert found.status.tolist() == ["done", "failed", "done", "failed"]
    assert found.total.tolist()[::2] == [1.1, 3.1]
    assert found.total.isna().tolist() == [False, True, False, True]
    assert found.problem[1] == "cell 3: ZeroDivisionError: division by zero"
    assert found.problem[3].startswith("cell 3: DeadKernelError: the kernel was killed (SIGKILL)")
    assert kernels() == []


def test_the_table_and_the_page_say_what_was_found(swept):
    folder, found, said = swept
    kept = pd.read_csv(folder / "sweeps" / "a" / "results.csv")
    assert kept.columns.tolist() == ["n", "rate", "total", "word", "status", "seconds", "problem", "report"]
    for name in ("n", "rate", "status", "report"):
        assert kept[name].tolist() == found[name].tolist()
    assert kept.total.dropna().tolist() == [1.1, 3.1]
    page = (folder / "sweeps" / "a" / "index.html").read_text()
    assert "4 of 4 done" in page
    assert "2 failed" in page
    assert EVIL not in page
    for name in found.report:
        assert (folder / "sweeps" / "a" / name).is_file()
        assert f'href="{name}"' in page
    assert sorted(line.split(":")[0] for line in said) == ["done", "done", "failed", "failed"]
    assert "<code>1.1</code>" in (folder / "sweeps" / "a" / found.report[0]).read_text()


def test_what_is_done_is_not_done_again_and_a_grid_may_grow(swept, monkeypatch):
    folder, found, _ = swept
    ran = []
    execute = kernel.execute
    monkeypatch.setattr(
        kernel, "execute", lambda node, given, **rest: ran.append(given["n"]) or execute(node, given, **rest)
    )
    with contextlib.chdir(folder):
        more = sweeps.sweep("a.ipynb", {"n": [5, 1, 3], "rate": 0.1}, workers=1, note=EVIL, **quiet)
    assert ran == [5]
    assert more.total.tolist() == [5.1, 1.1, 3.1]
    assert more.report.tolist()[1:] == found.report.tolist()[::2]


def test_a_kernel_killed_from_outside_costs_a_try_and_not_the_sweep(tmp_path):
    wait = code("import os, time\nfrom pathlib import Path\nhere = Path(f'pid-{n}-{os.getpid()}')\nhere.touch()\n"
                "time.sleep(600 if n == 1 and len(list(Path().glob('pid-1-*'))) == 1 else 0)")  # fmt: skip
    sums(tmp_path / "a.ipynb", wait)

    def shoot():
        until(lambda: list(tmp_path.glob("pid-1-*")))
        os.kill(int(next(tmp_path.glob("pid-1-*")).name.split("-")[2]), signal.SIGKILL)

    thread = threading.Thread(target=shoot)
    thread.start()
    with contextlib.chdir(tmp_path):
        found = sweeps.sweep("a.ipynb", {"n": [1, 2]}, workers=2, **quiet)
    thread.join()
    assert found.status.tolist() == ["done", "done"]
    assert len(list(tmp_path.glob("pid-1-*"))) == 2


def test_a_killed_dask_worker_costs_a_try_and_not_the_sweep(tmp_path):
    """kill -9 of the one worker, where all wait in a row: once for n = 1, and each time it takes n = 3."""
    kill = code("import os, signal, time\nfrom pathlib import Path\n"
                "here = Path(f'seen-{n}-{os.getpid()}')\nhere.touch()\n"
                "again = len(list(Path().glob(f'seen-{n}-*'))) > 1\n"
                "lost = (n == 1 and not again) or n == 3\n"
                "os.kill(os.getppid(), signal.SIGKILL) if lost else None\ntime.sleep(600 if lost else 0)")  # fmt: skip
    sums(tmp_path / "a.ipynb", kill)
    with contextlib.ExitStack() as stack, contextlib.chdir(tmp_path):
        stack.enter_context(
            contextlib.redirect_stderr(stack.enter_context(open(os.devnull, "w")))
        )  # it laments the dead
        client = sweeps.cluster(stack, None, 1)
        found = sweeps.sweep("a.ipynb", {"n": [1, 2, 3]}, client=client, **quiet)
    assert found.status.tolist() == ["done", "done", "failed"]
    assert found.problem[2].startswith("KilledWorker: the worker was lost")
    assert found.total.tolist()[:2] == [1.5, 2.5]


def test_a_scheduler_that_is_not_there_is_said():
    with contextlib.ExitStack() as stack, pytest.raises(ValueError, match="no dask scheduler answers at nowhere"):
        sweeps.cluster(stack, "nowhere://x", 1)


def test_the_command_line_sweeps(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sums(tmp_path / "notebooks" / "a.ipynb")
    (tmp_path / "grid.yml").write_text("- {preset: [smoke, quick], n: 1}\n")
    assert cli.main(["sweep", "a", "grid.yml", "-p", "rate", "2", "--workers", "1"]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[-1] == str(tmp_path / "sweeps" / "a" / "index.html")
    rows = pd.read_csv(tmp_path / "sweeps" / "a" / "results.csv")
    assert rows[["preset", "n", "total"]].values.tolist() == [["smoke", 1, 3.0], ["quick", 1, 3.0]]
    assert cli.main(["sweep", "a", "none.yml"]) == 2
    assert cli.main(["sweep", "a", "grid.yml", "--cluster", "--scheduler", "tcp://127.0.0.1:1"]) == 2
    assert cli.main(["sweep", "a", "grid.yml", "--workers", "0"]) == 2


# ---- reports side by side


def test_reports_run_side_by_side_each_with_its_share_of_the_cores(tmp_path, monkeypatch):
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pool.machine, "threads", lambda: 6)
    meet = code("import os, time\nfrom pathlib import Path\nprint('threads', os.environ.get('OMP_NUM_THREADS'))\n"
                "Path(f'here-{os.getpid()}').touch()\nend = time.monotonic() + 60\n"
                "while len(list(Path().glob('here-*'))) < 2 and time.monotonic() < end:\n    time.sleep(0.05)\n"
                "assert len(list(Path().glob('here-*'))) == 2")  # fmt: skip
    jobs = [prepare(sums(tmp_path / f"{name}.ipynb", meet)) for name in ("a", "b")]
    alone = sums(tmp_path / "c.ipynb", code("import os\nprint('threads', os.environ.get('OMP_NUM_THREADS'))"))
    node = nbformat.read(alone, as_version=4)
    node.metadata["lab"] = {"alone": True}
    nbformat.write(node, alone)
    said = []
    with contextlib.chdir(tmp_path):
        records = run_all([prepare(alone), *jobs], "out", workers=2, say=said.append)
    assert [one.name for one in records] == ["c", "a", "b"]
    assert [one.status for one in records] == ["done"] * 3
    assert [one.beside for one in records] == [0, 1, 1]
    assert said[-1].startswith("done: c")  # after the others, by itself
    pages = {one.name: (tmp_path / "out" / f"{one.name}.html").read_text() for one in records}
    assert "threads 3" in pages["a"]
    assert "threads None" in pages["c"]
    assert "beside 1 other, with a share of the cores" in pages["a"]
    assert "with a share of the cores" not in pages["c"]


def test_the_users_own_word_on_threads_counts(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    node = prepare(sums(tmp_path / "a.ipynb", code("import os\nprint('threads', os.environ['OMP_NUM_THREADS'])")))
    executed = kernel.execute(node.source.node, {}, timeout=60, threads=1)
    assert executed.failure is None
    assert "threads 5" in str(executed.notebook)


def test_stopped_by_hand_all_kernels_end_and_say_so(tmp_path):
    sleep = code("import os, time\nfrom pathlib import Path\nPath(f'pid-{os.getpid()}').touch()\ntime.sleep(600)")
    for name in ("a", "b", "c"):
        sums(tmp_path / "notebooks" / f"{name}.ipynb", sleep)
    hears = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    command = [sys.executable, "-c", hears + "from lab.reports.cli import main; sys.exit(main())", "report"]
    pipe = subprocess.PIPE
    with subprocess.Popen([*command, "--workers", "2"], cwd=tmp_path, stdout=pipe, stderr=pipe, text=True) as run:
        try:
            until(lambda: len(list(tmp_path.glob("pid-*"))) == 2)
            run.send_signal(signal.SIGINT)
            said = run.communicate(timeout=60)
        finally:
            run.kill()
    assert run.returncode == 130, said
    assert not [path for path in tmp_path.glob("pid-*") if psutil.pid_exists(int(path.name[4:]))]
    told = {path.stem: record.read(path) for path in (tmp_path / "reports").glob("*.json")}
    assert len(told) == 2  # the third had not begun
    assert {(one.status, one.error, one.cell) for one in told.values()} == {("failed", "KeyboardInterrupt", 3)}
    assert "Failed." in (tmp_path / "reports" / "index.html").read_text()


def test_a_worker_too_few_is_refused(tmp_path):
    with pytest.raises(ValueError, match="one worker or more; got 0"):
        run_all([prepare(sums(tmp_path / "a.ipynb"))], tmp_path / "out", workers=0, **quiet)


def test_the_shelf_runs_as_before(tmp_path):
    """Failures side by side with what goes well."""
    made = [getattr(shelf, name)(tmp_path / f"{name}.ipynb") for name in ("raises", "good", "kills")]
    with contextlib.chdir(tmp_path):
        found = run_all([prepare(path) for path in made], "out", workers=3, **quiet)
    assert [one.status for one in found] == ["failed", "done", "failed"]
    assert found[2].error == "DeadKernelError"
    assert Path(tmp_path / "out" / "index.html").read_text().count('class="entry') == 3
