"""Every notebook runs to its end at its smallest size, and its report says what was asked and found."""

from pathlib import Path

import nbformat
import pytest

from lab import reports

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_at_smoke(notebook, tmp_path, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[1])
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)  # a reader's notebook does not run on the interpreter
    record = reports.run(notebook, tmp_path, preset="smoke")
    assert record.status == "done", record.problem
    assert record.title
    assert record.question
    assert record.verdict
    assert record.figure
    page = (tmp_path / f"{notebook.stem}.html").read_text(encoding="utf-8")
    assert record.bytes == len(page.encode())
    assert record.bytes < 3_000_000
    executed = nbformat.read(tmp_path / notebook.name, as_version=4)
    outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
    said = "".join(output["text"] for output in outputs if output.get("name") == "stderr")
    assert "Warning" not in said, said
