"""Tables of a user's own, and what is wrong with them; the digits."""

import gzip
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_digits

import lab.data

ROWS = [
    {"text": "one", "y": 1},
    {"text": "NA", "y": 2},
    {"text": "2020-01-01", "y": 3},
    {"text": "zwölf, 12\n", "y": 4},
]


def write(path, rows=ROWS):
    frame = pd.DataFrame(rows)
    match path.suffix.lower():
        case ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        case ".json":
            path.write_text(json.dumps(rows))
        case ".csv":
            frame.to_csv(path, index=False)
        case ".parquet":
            frame.to_parquet(path)
    return path


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    """Temporary files of the reader land here, so that a test can see that none stays."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.glob("lab-read-*")) == []


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet", "A.CSV"])
def test_formats(tmp_path, name):
    path = write(tmp_path / name)
    for source in (path, str(path)):
        table = lab.data.read(source)
        assert table.to_dict("records") == ROWS
        assert list(table.index) == [0, 1, 2, 3]


def test_no_copy_stays_and_changes_are_seen(tmp_path):
    path = write(tmp_path / "a.jsonl")
    os.utime(path, (1, 1))
    before = lab.data.read(path)
    write(path, [{"text": "new", "y": 9}] * 4)
    os.utime(path, (1, 1))
    assert list(lab.data.read(path).text) == ["new"] * 4
    assert list(before.text) == [row["text"] for row in ROWS]


def test_nothing_is_written_below_home(tmp_path):
    folder, home = tmp_path / "folder", tmp_path / "home"
    folder.mkdir()
    home.mkdir()
    write(folder / "train.jsonl")
    read = f"import lab.data; lab.data.read({str(folder / 'train.jsonl')!r}); lab.data.read({str(folder)!r})"
    environment = {"HOME": str(home), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", read], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert [path for path in home.rglob("*") if path.is_file()] == []


def test_folder_in_the_form_of_the_hub(tmp_path):
    write(tmp_path / "train.jsonl")
    write(tmp_path / "test.jsonl", ROWS[:1])
    assert lab.data.read(tmp_path).to_dict("records") == ROWS
    assert len(lab.data.read(str(tmp_path), split="test")) == 1
    with pytest.raises(ValueError, match=r"no split 'dev'; it has \['test', 'train'\]"):
        lab.data.read(tmp_path, split="dev")
    write(tmp_path / "train.jsonl", ROWS[1:3])
    assert len(lab.data.read(tmp_path)) == 2


def test_columns(tmp_path):
    path = write(tmp_path / "a.jsonl")
    assert list(lab.data.read(path, columns=("y", "text")).columns) == ["text", "y"]
    assert len(lab.data.read(path, columns="y")) == 4
    assert len(lab.data.read(path, columns=())) == 4
    with pytest.raises(ValueError, match=r"a\.jsonl has no column \['query', 'z'\]; it has \['text', 'y'\]"):
        lab.data.read(path, columns=("query", "text", "z"))


def test_holes(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"y": 1}\n{"text": "", "y": 1}\n{"text": null}\n')
    with pytest.raises(ValueError, match=r"column 'text' has no value in 2 of 4 rows, counted from 0: 1, 3;"):
        lab.data.read(tmp_path / "a.jsonl")
    assert len(lab.data.read(tmp_path / "a.jsonl", columns=())) == 4
    (tmp_path / "b.csv").write_text("text,y\n" + ",1\n" * 11 + "NA,1\nnull,1\n")
    with pytest.raises(ValueError, match=r"in 11 of 13 rows, counted from 0: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, \.\.\.;"):
        lab.data.read(tmp_path / "b.csv")


BROKEN = {
    "a.jsonl": (b'{"text": "a"}\n{"text": oops\n', "a.jsonl does not parse as json: .*JSON", True),
    "a.json": (b'{"text": ', "a.json does not parse as json", True),
    "a.csv": (b"text,y\na,1\nb,2,3\n", "a.csv does not parse as csv: .*Expected 2 fields in line 3", True),
    "b.csv": (b"text\n\xff\xfe\n", "b.csv does not parse as csv: .*utf-8", True),
    "a.parquet": (b"no parquet at all", "a.parquet does not parse as parquet", True),
    "empty.jsonl": (b"", r"empty.jsonl is empty \(0 bytes\)", False),
    "header.csv": (b"text,y\n", "header.csv has no rows", True),
    "list.json": (b"[]", "list.json has no rows", True),
    "a.txt": (b"words", r"unknown suffix '.txt'; known are \['.jsonl', '.json', '.csv', '.parquet'\]", False),
    "a.jsonl.gz": (gzip.compress(b'{"text": "a"}'), "unknown suffix '.gz'", False),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files(tmp_path, name, capfd):
    content, message, chained = BROKEN[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as raised:
        lab.data.read(tmp_path / name)
    assert (raised.value.__cause__ is not None) is chained
    assert capfd.readouterr() == ("", "")


def test_half_a_parquet_file(tmp_path):
    path = write(tmp_path / "a.parquet")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="does not parse as parquet"):
        lab.data.read(path)


def test_what_is_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"no file .*gone\.csv"):
        lab.data.read(str(tmp_path / "gone.csv"))
    with pytest.raises(ValueError, match="unknown suffix"):
        lab.data.read(Path("owner/name"))  # a Path is never a name on the hub
    with pytest.raises(ValueError, match="has the one split 'train', not 'test'"):
        lab.data.read(write(tmp_path / "a.jsonl"), split="test")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match=r"folder .* cannot be read as a data set") as raised:
        lab.data.read(tmp_path / "folder")
    assert isinstance(raised.value.__cause__, FileNotFoundError)


def test_script_of_a_data_set_never_runs(tmp_path):
    folder = tmp_path / "scripted"
    folder.mkdir()
    (folder / "scripted.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ValueError, match="cannot be read as a data set"):
        lab.data.read(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["owner/name", "name-1.5", "a/b/c", "two words"])
def test_hub_out_of_reach(name):
    """conftest sets HF_HUB_OFFLINE."""
    with pytest.raises(ValueError, match=f"'{name}' is no file here and cannot be read as a hub data set") as raised:
        lab.data.read(name)
    assert raised.value.__cause__ is not None


def test_bars_come_back(tmp_path):
    import datasets

    datasets.logging.set_verbosity(datasets.logging.WARNING)
    before = datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    lab.data.read(write(tmp_path / "a.csv"))
    with pytest.raises(ValueError, match="hub"):
        lab.data.read("owner/name")
    assert (datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()) == before


def test_draw(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"text": str(i), "y": i} for i in range(50)])
    drawn = lab.data.read(path, n=20, seed=1)
    assert list(drawn.index) == list(range(20))
    assert drawn.y.is_monotonic_increasing
    assert drawn.y.is_unique
    pd.testing.assert_frame_equal(drawn, lab.data.read(path, n=20, seed=1))
    assert not drawn.equals(lab.data.read(path, n=20, seed=2))
    assert len(lab.data.read(path, n=50)) == 50
    with pytest.raises(ValueError, match=r"n=51 rows asked for, but .* has 50"):
        lab.data.read(path, n=51)
    with pytest.raises(ValueError, match="n=0"):
        lab.data.read(path, n=0)


def test_digits():
    images, labels = lab.data.digits()
    assert images.shape == (1797, 1, 8, 8)
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert (images.min(), images.max()) == (0, 1)
    assert sorted(set(labels.tolist())) == list(range(10))
    np.testing.assert_array_equal(images.numpy().reshape(1797, 64) * 16, load_digits().data)
    np.testing.assert_array_equal(labels.numpy(), load_digits().target)
