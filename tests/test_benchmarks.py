"""The benchmarks run, and leave out no operator without saying so. Nothing here looks at a time."""

import argparse
import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lab import geometry
from lab.pooling import LAYER_POOLS, MAP_POOLS, POOLS, cost, textbook

ROOT = Path(__file__).parents[1]


def run(*arguments: str) -> subprocess.CompletedProcess:
    # the interpreter would be measured, and the folder of this checkout has to win over an installed one
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, str(ROOT / "benchmarks" / "pooling.py"), "--tiny", "--rounds", "2", "--cpu", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    done = run("--no-compile", "--folder", str(folder))
    assert done.returncode == 0, done.stderr
    (stored,) = folder.glob("pooling-*.json")
    (page,) = folder.glob("pooling-*.md")
    return json.loads(stored.read_text(encoding="utf-8")), page.read_text(encoding="utf-8"), done.stdout


def test_every_operator_has_a_row(found):
    rows = [(row["family"], row["name"]) for row in found[0]["rows"]]
    families = {"tokens": POOLS, "layers": LAYER_POOLS, "maps": MAP_POOLS}
    assert rows == [(family, name) for family, registry in families.items() for name in registry]


def test_what_is_not_measured_says_why(found):
    forms = {"tokens": textbook.TOKENS, "layers": textbook.LAYERS, "maps": textbook.MAPS}
    for row in found[0]["rows"]:
        has_form = row["name"] in forms[row["family"]]
        assert ("no textbook form" in row["eager_missing"]) == (not has_form), row["name"]
        assert ("eager_forward_ratio" in row) == has_form, row["name"]
        assert row["compile_missing"], row["name"]
        assert ("peer_forward_ratio" in row) == (not row["peer_missing"]), row["name"]


def test_the_page_names_the_device_and_what_there_was_no_device_for(found):
    stored, page, printed = found
    assert page.startswith(f"# Pooling on {stored['device']}\n")
    assert page in printed
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    assert len(lines) == 1 + len(stored["rows"])
    assert stored["words"] in page


def test_no_row_claims_more_bytes_than_the_machine_moved(found):
    for row in found[0]["rows"]:
        assert row["forward_bytes"] > 0
        assert row["backward_bytes"] >= row["forward_bytes"] or row["name"] not in {"mean", "max", "soft", "gem"}


def test_some_operators_are_stored_apart_and_unknown_ones_refused(tmp_path):
    assert run("--no-compile", "--only", "mean", "--folder", str(tmp_path)).returncode == 0
    (stored,) = tmp_path.glob("pooling-some-*.json")
    assert {row["name"] for row in json.loads(stored.read_text())["rows"]} == {"mean"}
    refused = run("--no-compile", "--only", "meen", "--folder", str(tmp_path))
    assert refused.returncode == 2
    assert "no operator is named ['meen']" in refused.stderr


def test_rows_without_padding_have_a_table_of_their_own(tmp_path):
    done = run("--no-compile", "--no-padding", "--only", "softmax", "pick", "--folder", str(tmp_path))
    assert done.returncode == 0, done.stderr
    (stored,) = tmp_path.glob("*.json")
    assert stored.name.startswith("unpadded-")
    assert [row["name"] for row in json.loads(stored.read_text())["rows"]] == ["softmax"]
    assert done.stdout.count("Pooling of rows without padding") == 1


def test_the_interpreter_is_not_measured(monkeypatch):
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "pooling.py"), "--tiny"],
        capture_output=True,
        text=True,
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH')}"},
        check=False,
    )
    assert done.returncode == 2
    assert "would measure the interpreter" in done.stderr


@pytest.fixture
def benchmark(monkeypatch, tmp_path):
    """benchmarks/pooling.py in this process: called with arguments, its table in tmp_path."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    spec = importlib.util.spec_from_file_location("benchmarks_pooling", ROOT / "benchmarks" / "pooling.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "os", SimpleNamespace(environ={}))  # the interpreter stays: torch looks for it as well
    monkeypatch.setattr(module, "keep_heap", lambda: False)  # it would be for all tests after this one
    command = ["pooling.py", "--tiny", "--cpu", "--rounds", "1", "--no-compile", "--folder", str(tmp_path)]

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", [*command, *arguments])
        module.main()

    module.call = call
    return module


def test_a_run_that_was_stopped_goes_on_where_it_was(benchmark, monkeypatch, tmp_path, capsys):
    honest, seen = benchmark.measured, []

    def stopped(case, *rest):
        if case.name == "max":
            raise KeyboardInterrupt
        return honest(case, *rest)

    monkeypatch.setattr(benchmark, "measured", stopped)
    with pytest.raises(KeyboardInterrupt):
        benchmark.call("--only", "mean", "max")
    (partial,) = tmp_path.glob("pooling-some-*.partial.jsonl")
    partial.write_text(partial.read_text() + '{"cut sho')  # killed while it wrote
    monkeypatch.setattr(benchmark, "measured", lambda case, *rest: seen.append(case.label) or honest(case, *rest))
    benchmark.call("--only", "mean", "max")
    assert seen == ["tokens max", "layers mean", "layers max"]
    (stored,) = tmp_path.glob("pooling-some-*.json")
    rows = json.loads(stored.read_text())["rows"]
    assert [f"{row['family']} {row['name']}" for row in rows] == ["tokens mean", *seen]
    assert not partial.exists()
    assert "tokens mean" in capsys.readouterr().out


def test_rows_of_another_measurement_are_not_taken(benchmark, monkeypatch, tmp_path):
    honest, seen = benchmark.measured, []
    monkeypatch.setattr(benchmark, "measured", lambda case, *rest: seen.append(case.label) or honest(case, *rest))
    where = tmp_path / "rows.jsonl"
    assert benchmark.resumed(where, {"code": "a"}) == []
    benchmark.append(where, {"row": math.inf})
    assert benchmark.resumed(where, {"code": "a"}) == [{"row": math.inf}]
    assert benchmark.resumed(where, {"code": "b"}) == []
    assert benchmark.resumed(where, {"code": "a"}) == []
    given = argparse.Namespace(rounds=3, folder=tmp_path)
    assert benchmark.terms(given) != benchmark.terms(argparse.Namespace(rounds=4, folder=tmp_path))
    assert benchmark.terms(given) == benchmark.terms(argparse.Namespace(rounds=3, folder=ROOT))


def test_what_the_compiler_cannot_take_is_said_in_the_row(benchmark, monkeypatch):
    def refuses(*given, **options):
        def compiled(*inputs):
            raise RuntimeError("no lowering for this\nand a long story")

        return compiled

    monkeypatch.setattr(torch, "compile", refuses)
    case = next(cost.cases(cost.TINY, names=["mean"]))
    row = benchmark.measured(case, "cpu", 1, True, 1e9)
    assert row["compile_missing"] == "RuntimeError: no lowering for this"
    assert "compile_forward_ratio" not in row
    assert row["eager_forward_ratio"] > 0


def test_every_number_of_a_space_is_timed_and_its_plain_form_answers_alike(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / "geometry.py"), "--layers", "2", "--examples", "60"]
    done = subprocess.run(
        [*command, "--dim", "16", "--rounds", "1", "--folder", str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH')}"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (page,) = tmp_path.glob("geometry-*.md")
    rows = [line.strip("| ").split(" | ") for line in page.read_text(encoding="utf-8").splitlines() if "|" in line]
    names = {row[0] for row in rows}
    assert names >= {*geometry.METRICS, *geometry.COLLAPSE, *geometry.SIMILARITIES}
    apart = {row[0]: float(row[4]) for row in rows if len(row) == 5 and row[0] != "number"}
    assert len(apart) > 20
    assert {name: far for name, far in apart.items() if far > 1e-3} == {}


def test_the_probes_benchmark_holds_each_against_ours(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    sizes = ["--tiny", "--texts", "120", "--classes", "3", "--rounds", "1", "--folder", str(tmp_path)]
    command = [sys.executable, str(ROOT / "benchmarks" / "probes.py"), *sizes]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    (page,) = tmp_path.glob("probes-*.md")
    rows = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| ")][1:]
    assert [row.split(" | ")[0].strip("| ") for row in rows if " 1.0 |" in row][:1] == ["lab, one penalty"]
    goals = [row.strip("| ").split(" | ") for row in rows if "times faster" in row]
    assert sum("LogisticRegression" in row for row in rows) == 3 + len(goals)
    assert [int(least) for _, least, *_ in goals] == [8, 50]
    for _, least, *ratios, points, reached in goals:
        enough = [float(ratio) >= int(least) and float(points) >= -0.5 for ratio in ratios]
        assert reached == ", ".join("yes" if yes else "no" for yes in enough)
        assert len(ratios) == 2  # by processor and by clock
    assert page.read_text(encoding="utf-8") in done.stdout


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
def test_the_peak_of_memory_is_of_this_program_and_of_this_run():
    """Two programs, the first holding 400 MiB while it starts the second; then 200 MiB that come and go."""
    folder = str(ROOT / "benchmarks")
    second = (
        f"import sys; sys.path.insert(0, {folder!r})\nfrom shared.memory import anew, highest\n"
        "small = highest(); large = b'x' * 2**21 * 100; there = highest(); del large; anew(); gone = highest()\n"
        "print(small, there, gone)"
    )
    first = f"import subprocess, sys; large = b'x' * 2**22 * 100; subprocess.run([sys.executable, '-c', {second!r}])"
    done = subprocess.run([sys.executable, "-c", first], capture_output=True, text=True, timeout=120, check=True)
    small, there, gone = map(float, done.stdout.split())
    assert small < 300
    assert there > small + 190
    assert gone < small + 20
