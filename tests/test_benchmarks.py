"""The benchmarks run, and leave out no operator without saying so. Nothing here looks at a time."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lab.pooling import LAYER_POOLS, MAP_POOLS, POOLS, textbook

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


def test_the_probes_benchmark_holds_each_against_ours(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    sizes = ["--tiny", "--texts", "120", "--classes", "3", "--rounds", "1", "--folder", str(tmp_path)]
    command = [sys.executable, str(ROOT / "benchmarks" / "probes.py"), *sizes]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    (page,) = tmp_path.glob("probes-*.md")
    rows = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| ")][1:]
    assert [row.split(" | ")[0].strip("| ") for row in rows if " 1.0 |" in row][:1] == ["lab, one penalty"]
    assert sum("LogisticRegression" in row for row in rows) == 3
    assert page.read_text(encoding="utf-8") in done.stdout
