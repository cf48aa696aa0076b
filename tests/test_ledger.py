"""What a process has read is written down where it was asked to, once, and nowhere else."""

import hashlib

import numpy as np
import pandas as pd
import pytest

from lab import data
from lab.data import ledger


@pytest.fixture
def book(tmp_path, monkeypatch):
    path = tmp_path / "read.jsonl"
    monkeypatch.setenv("LAB_LEDGER", str(path))
    return path


def test_a_file_is_told_by_its_bytes_and_once(book, tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("text\none\ntwo\n")
    for n in (None, 1):
        data.read(path, n=n)
    (read,) = ledger.readings(book)
    assert read == {"name": str(path), "rows": 2, "sha256": hashlib.sha256(b"text\none\ntwo\n").hexdigest()}
    path.write_text("text\none\nthree\n")
    data.read(path)
    assert len({read["sha256"] for read in ledger.readings(book)}) == 2


def test_digits_and_a_folder_are_told(book, tmp_path):
    data.digits()
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "train.jsonl").write_text('{"text": "a", "n": 1}\n{"text": "b", "n": 2}\n')
    data.read(tmp_path / "own")
    digits, own = ledger.readings(book)
    assert (digits["name"], digits["rows"]) == ("scikit-learn's digits", 1797)
    assert own["sha256"] == ledger.of_table(pd.DataFrame({"text": ["a", "b"], "n": [1, 2]}))


def test_nothing_is_hashed_unless_asked(monkeypatch):
    monkeypatch.delenv("LAB_LEDGER", raising=False)
    ledger.note("x", 1, lambda: pytest.fail("hashed"))


def test_no_ledger_is_no_readings(tmp_path):
    assert ledger.readings(tmp_path / "gone") == []


def test_a_table_is_told_by_its_rows_their_order_and_its_columns():
    table = pd.DataFrame({"text": ["a", "b"], "score": [0.5, np.nan]})
    others = [
        table.iloc[::-1],
        table.rename(columns={"text": "words"}),
        table.assign(text=["a", "c"]),
        table.assign(score=[0.5, 1.0]),
        table.iloc[:1],
    ]
    digests = [ledger.of_table(one) for one in (table, *others)]
    assert len(set(digests)) == 6
    assert ledger.of_table(table.copy()) == digests[0]
    assert ledger.of_table(table.astype({"text": object})) == digests[0]


def test_texts_are_told_by_their_borders_and_their_order():
    texts = ["ab", "c", "", "\0"]
    others = [["a", "bc", "", "\0"], ["c", "ab", "", "\0"], ["ab", "c", "\0"], ["ab", "c", "\0", ""], ["ab", "c"]]
    digests = {ledger.of_texts(some) for some in (texts, *others)}
    assert len(digests) == 1 + len(others)
    assert ledger.of_texts(iter(texts)) in digests
