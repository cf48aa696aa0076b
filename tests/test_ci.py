"""What runs before a commit and after a push: the files parse, and what they call exists."""

import os
import re
import shlex
import shutil
import subprocess
import sysconfig
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).parents[1]
BIN = Path(sysconfig.get_path("scripts"))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.y*ml"))


def load(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def hooks() -> dict[str, list[str]]:
    (repo,) = load(ROOT / ".pre-commit-config.yaml")["repos"]
    assert repo["repo"] == "local"  # nothing is downloaded
    assert {hook["language"] for hook in repo["hooks"]} == {"system"}
    return {hook["id"]: shlex.split(hook["entry"]) for hook in repo["hooks"]}


def test_pre_commit_accepts_its_file():
    command = [BIN / "pre-commit", "validate-config", ROOT / ".pre-commit-config.yaml"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout + run.stderr) == (0, "")


def test_pre_commit_runs_programs_of_the_environment():
    assert list(hooks()) == ["nbstripout", "ruff-check", "ruff-format"]
    for program, *_ in hooks().values():
        assert Path(program).parent == Path(".venv/bin")
        assert os.access(BIN / Path(program).name, os.X_OK)


def test_the_strip_hook_leaves_nothing_of_a_run_and_keeps_the_tags(tmp_path):
    cell = nbformat.v4.new_code_cell("1 + 1", id="kept", metadata={"tags": ["parameters"]}, execution_count=3)
    cell.outputs = [nbformat.v4.new_output("execute_result", {"text/plain": "2"}, execution_count=3)]
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"widgets": {"state": {}}})
    path = tmp_path / "run.ipynb"
    nbformat.write(notebook, path)
    program, *options = hooks()["nbstripout"]
    subprocess.run([BIN / Path(program).name, *options, path], check=True)
    (stripped,) = nbformat.read(path, as_version=4).cells
    assert (stripped.id, stripped.metadata.tags) == ("kept", ["parameters"])
    assert (stripped.outputs, stripped.execution_count) == ([], None)
    assert "widgets" not in nbformat.read(path, as_version=4).metadata


def test_there_is_a_workflow():
    assert WORKFLOWS


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_is_bounded_and_may_only_read(path):
    workflow = load(path)
    assert set(workflow[True]) == {"push", "pull_request"}  # YAML 1.1 reads the key `on` as true
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["concurrency"]["cancel-in-progress"] is True
    assert workflow["defaults"]["run"]["shell"] == "bash"  # the default one drops a pipe's failure
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 90
        assert "permissions" not in job
        for step in job["steps"]:
            assert not step.get("continue-on-error")
            if "uses" in step:
                assert re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"])
            if "run" in step:
                check_bash(re.sub(r"\$\{\{.*?\}\}", "x", step["run"]))


def test_a_push_tests_and_reports():
    (job,) = load(ROOT / ".github" / "workflows" / "ci.yml")["jobs"].values()
    text = [step.get("run", step.get("uses", "")) for step in job["steps"]]
    tests = next(i for i, run in enumerate(text) if "bash .ci/run" in run)
    reports = next(i for i, run in enumerate(text) if "make report ARGS='--preset quick'" in run)
    upload = next(i for i, run in enumerate(text) if run.startswith("actions/upload-artifact"))
    assert tests < reports < upload
    assert job["steps"][upload]["if"] == "always()"
    assert job["steps"][upload]["with"]["path"] == "reports/"
    setup = next(step for step in job["steps"] if "setup-python" in step.get("uses", ""))
    # the Makefile asks for this one first: torch's CPU wheel is sure to fit it
    assert f"for p in python{setup['with']['python-version']} " in (ROOT / "Makefile").read_text(encoding="utf-8")


def check_bash(script: str) -> None:
    run = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_the_ci_script_is_a_program_that_stops_at_the_first_failure():
    path = ROOT / ".ci" / "run"
    assert os.access(path, os.X_OK)
    check_bash(path.read_text(encoding="utf-8"))
    assert "set -euo pipefail" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(("make_says", "status"), [("exit 0", 0), ("exit 2", 2)])
def test_the_ci_script_ends_with_pytests_summary_and_status(tmp_path, make_says, status):
    folder = tmp_path / "bin"
    folder.mkdir()
    summary = "=== 1 failed, 3 passed in 0.21s ==="
    for name, body in {"make": f"echo '{summary}'; echo noise; {make_says}", "chromium": "true"}.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    env = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "CI": "true"}
    run = subprocess.run([ROOT / ".ci" / "run"], env=env, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout.splitlines()[-1]) == (status, summary)


@pytest.mark.parametrize(("user", "says"), [("0", "could not be installed"), ("1000", "no right to install")])
def test_a_missing_browser_is_said_aloud_and_does_not_end_the_run(tmp_path, user, says):
    tools = ("bash", "dirname", "mktemp", "tee", "grep", "tail", "rm")
    for name in tools:
        (tmp_path / name).symlink_to(shutil.which(name))
    for name, body in {"make": "true", "apt-get": "exit 100", "id": f"echo {user}"}.items():
        (tmp_path / name).write_text(f"#!{shutil.which('bash')}\n{body}\n")
        (tmp_path / name).chmod(0o755)
    env = {"PATH": str(tmp_path), "CI": "true"}
    run = subprocess.run([ROOT / ".ci" / "run"], env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 0
    assert "!!!" in run.stderr
    assert says in run.stderr
