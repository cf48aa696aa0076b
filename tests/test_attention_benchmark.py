"""The attention benchmark runs, and says of every variant what it found. Nothing here looks at a time."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run(*arguments):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, str(ROOT / "benchmarks" / "attention.py"), "--lengths", "24", "--rounds", "1"]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, env=environment, check=False)


def test_a_row_for_each_variant_that_was_asked_for(tmp_path):
    done = run("--only", "lab.attention.watch, tiles", "--folder", str(tmp_path))
    assert done.returncode == 0, done.stderr
    (stored,) = tmp_path.glob("attention-*.md")
    rows = [line.split("|") for line in stored.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    assert [row[1].strip() for row in rows[1:]] == ["plain SDPA", "lab.attention.watch, tiles"]
    assert all(float(row[7]) > 0 for row in rows[1:])
    assert "## 24 tokens, 1 rounds" in done.stdout


def test_what_is_not_there_is_refused(tmp_path):
    done = run("--only", "slow", "--folder", str(tmp_path))
    assert done.returncode == 2
    assert "invalid choice: 'slow'" in done.stderr
