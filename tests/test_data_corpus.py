"""The corpus: which files are read, what is kept, the cache, the draws; on made-up packages and on the real stack."""

import ast
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import filelock
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lab.data
from lab.data import cache, stack, texts

COLUMNS = ["name", "text", "summary", "code", "package", "module", "parent"]


def function(name, words):
    return f'def {name}(x):\n    """Adds {words} to x."""\n    {name} = x + 1\n    return {name}\n\n\n'


def write(root, files):
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content if isinstance(content, bytes) else content.encode())


def install(site, package, version="1.0"):
    for old in site.glob(f"{package}-*.dist-info/METADATA"):
        old.unlink()
        old.parent.rmdir()
    write(
        site,
        {f"{package}-{version}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n"},
    )


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Three installed packages and one that is not; importing any would leave a file behind and raise."""
    site, trap = tmp_path / "site", f"open({str(tmp_path / 'imported')!r}, 'w').close()\nraise RuntimeError\n\n\n"
    write(
        site,
        {
            "big/__init__.py": trap + function("top", "zero"),
            "big/b.py": "".join(function(f"f{i}", f"number {i}") for i in range(20)),
            "big/a/__init__.py": function("inner", "one and a bit"),
            "big/a/z.py": function("same", "number 3"),  # a later summary again
            "big/broken.py": "def f(:\n",
            "big/bytes.py": b"\n\n\nx = '\xff'\n",
            "big/null.py": b"x = 1\0\n",
            "big/tests/test_a.py": function("in_tests", "two"),
            "big/testing/a.py": function("in_testing", "three"),
            "big/test_b.py": function("in_test_module", "four"),
            "big/b_test.py": function("in_module_test", "five"),
            "big/conftest.py": function("in_conftest", "six"),
            "big/_vendor/other/a.py": function("vendored", "seven"),
            "big/not-a-name/a.py": function("in_data", "eight"),
            "big/data.txt": function("no_source", "nine"),
            "big/contest.py": function("in_contest", "ten"),
            "small/__init__.py": trap + "".join(function(f"g{i}", f"small {i}") for i in range(4)),
            "single.py": trap + "".join(function(f"h{i}", f"single {i}") for i in range(7)),
            "nameless/__init__.py": function("no_metadata", "eleven"),
            "namespace/a.py": function("no_init", "twelve"),
        },
    )
    for package in ("big", "small", "single", "namespace"):
        install(site, package)
    monkeypatch.syspath_prepend(site)
    names = ("small", "single", "nameless", "namespace", "big", "absent")
    monkeypatch.setattr(stack, "STACK", {name: name for name in names})
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(texts, "_unsaved", {})
    yield site
    assert not (tmp_path / "imported").exists()


@pytest.fixture
def harvests(monkeypatch):
    """The versions of each harvest that really happens."""
    calls, real = [], texts._harvest
    monkeypatch.setattr(texts, "_harvest", lambda versions: calls.append(versions) or real(versions))
    return calls


@pytest.fixture(scope="session")
def real():
    """The real corpus; a harvest where this machine has none yet."""
    return lab.data.corpus()


def test_which_files_and_rows_count(site):
    table = lab.data.corpus()
    assert list(table.columns) == COLUMNS
    assert list(table.package.unique()) == ["big", "single", "small"]
    assert list(table.module[table.package == "big"].unique()) == ["big", "big.a", "big.a.z", "big.b", "big.contest"]
    assert list(table.name[table.module == "big.b"]) == [f"f{i}" for i in range(20) if i != 3]  # big.a.z is first
    assert len(table) == 23 + 7 + 4
    assert table.attrs["unreadable"] == ["big.broken", "big.bytes", "big.null"]
    assert lab.data.manifest().to_dict("list") == {
        "package": ["big", "single", "small"],
        "version": ["1.0"] * 3,
        "files": [8, 1, 1],
        "docstrings": [23, 7, 4],
    }


def test_nothing_installed(site, monkeypatch):
    monkeypatch.setattr(stack, "STACK", {"absent": "absent"})
    with pytest.raises(ValueError, match=r"none of \['absent'\] is installed"):
        lab.data.docstrings(1)


def test_same_whatever_the_workers_and_the_chunks(site, monkeypatch, tmp_path):
    contents = []
    for cores, chunk in ((1, 10**9), (3, 1), (2, 500)):
        monkeypatch.setenv("LAB_CACHE", str(tmp_path / f"cache{cores}"))
        monkeypatch.setattr(texts, "_cores", lambda cores=cores: cores)
        monkeypatch.setattr(texts, "CHUNK", chunk)
        lab.data.corpus()
        (path,) = cache.folder().iterdir()
        contents.append(path.read_bytes())
    assert contents[0] == contents[1] == contents[2]


def test_second_call_reads_the_cache(site, harvests):
    first, second = lab.data.corpus(), lab.data.corpus()
    assert len(harvests) == 1
    pd.testing.assert_frame_equal(first, second)
    assert first.attrs == second.attrs
    assert [path.suffix for path in cache.folder().iterdir()] == [".parquet"]


def test_two_that_start_on_an_empty_cache_harvest_once(site, harvests, monkeypatch):
    waiting, harvest = threading.Event(), texts._harvest
    lock = filelock.FileLock.acquire

    def acquire(self, *given, **named):
        if threading.current_thread() is second:
            waiting.set()
        return lock(self, *given, **named)

    def harvested(versions):
        second.start()
        assert waiting.wait(60)  # the other has looked, found nothing and stands before the lock
        return harvest(versions)

    got = []
    second = threading.Thread(target=lambda: got.append(lab.data.corpus()))
    monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
    monkeypatch.setattr(texts, "_harvest", harvested)
    first = lab.data.corpus()
    second.join(60)
    assert len(harvests) == 1
    pd.testing.assert_frame_equal(first, got[0])


def test_other_versions_packages_and_rules_harvest_again(site, harvests, monkeypatch, tmp_path):
    lab.data.corpus()
    install(site, "small", "1.1")
    assert lab.data.corpus().attrs["versions"]["small"] == "1.1"
    monkeypatch.setattr(stack, "STACK", {"small": "small"})
    assert set(lab.data.corpus().package) == {"small"}
    changed = tmp_path / "harvest.py"
    changed.write_text(Path(texts.harvest.__file__).read_text() + "\nLINES = 3, 3\n")
    monkeypatch.setattr(texts.harvest, "__file__", str(changed))
    lab.data.corpus()
    monkeypatch.setattr(texts.platform, "python_version_tuple", lambda: ("3", "99", "0"))
    lab.data.corpus()
    assert len(harvests) == 5
    lab.data.corpus()
    assert len(harvests) == 5


def _truncated(path):
    path.write_bytes(path.read_bytes()[:-100])


def _other_columns(path):
    pd.DataFrame({"text": ["a"]}).to_parquet(path)


def _unlabelled(path):
    pd.DataFrame({name: ["a"] for name in COLUMNS}).to_parquet(path)


@pytest.mark.parametrize(
    "damage",
    [_truncated, _other_columns, _unlabelled, lambda path: path.write_bytes(b"")],
    ids=["truncated", "columns", "unlabelled", "empty"],
)
def test_damaged_cache_is_replaced(site, harvests, damage, caplog):
    caplog.set_level(logging.INFO, "lab.data")
    whole = lab.data.corpus()
    (path,) = cache.folder().iterdir()
    content = path.read_bytes()
    damage(path)
    assert path.read_bytes() != content
    pd.testing.assert_frame_equal(lab.data.corpus(), whole)
    assert len(harvests) == 2
    assert path.read_bytes() == content
    (record,) = caplog.records
    assert (record.levelname, path.name in record.getMessage()) == ("INFO", True)


def test_no_flipped_bit_reaches_the_table(site):
    whole = lab.data.corpus()
    (path,) = cache.folder().iterdir()
    content = path.read_bytes()
    pages = len(content) - 8 - int.from_bytes(content[-8:-4], "little")  # the footer is parsed, not summed
    refused = 0
    for place in range(4, pages, 29):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        table = texts._load(path)
        refused += table is None
        assert table is None or table.equals(whole)
    assert refused > pages / 29 / 2


def test_folder_that_cannot_be_written(site, harvests, monkeypatch, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "file" / "cache"))
    first = lab.data.corpus()
    first["name"] = "changed by its user"
    second = lab.data.corpus()
    second["name"] = "changed again"
    second.attrs.clear()
    third = lab.data.corpus()
    assert (len(first), len(second), len(third), len(harvests)) == (34, 34, 34, 1)
    assert third.name[0] == "top"
    assert third.attrs["versions"]["big"] == "1.0"
    (record,) = caplog.records  # says so once
    assert (record.levelname, "LAB_CACHE" in record.getMessage()) == ("WARNING", True)


def test_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError("disk full")

    texts._write(tmp_path / "a.parquet", b"old")
    monkeypatch.setattr(texts.os, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        texts._write(tmp_path / "a.parquet", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.parquet", b"old")]


def test_kill_in_the_middle_of_a_write(tmp_path):
    """A process that writes for ever is killed: what stands under the name is a whole content."""
    path = tmp_path / "a.parquet"
    program = (
        "import sys, pathlib; from lab.data import texts\n"
        "while True:\n for c in b'ab': texts._write(pathlib.Path(sys.argv[1]), bytes([c]) * 30_000_000)"
    )
    writer = subprocess.Popen([sys.executable, "-c", program, str(path)])
    try:
        while not path.exists():
            assert writer.poll() is None
            time.sleep(0.01)
        for _ in range(20):
            content = path.read_bytes()
            assert content in (b"a" * 30_000_000, b"b" * 30_000_000)
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    assert path.read_bytes() in (b"a" * 30_000_000, b"b" * 30_000_000)


def test_two_processes_at_once(site):
    program = (
        "import sys; from lab.data import corpus, stack\n"
        "stack.STACK = {name: name for name in ('big', 'small', 'single')}; print(len(corpus()))"
    )
    environment = os.environ | {"PYTHONPATH": str(site)}
    runs = [
        subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [run.communicate()[0] for run in runs] == ["34\n", "34\n"]
    assert [path.suffix for path in cache.folder().iterdir()] == [".parquet"]


def test_worker_that_dies(site, monkeypatch, tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("raise SystemExit('no way')")
    monkeypatch.setattr(texts.harvest, "__file__", str(broken))
    with pytest.raises(RuntimeError, match="code 1: no way"):
        lab.data.corpus()


@pytest.mark.parametrize(
    ("variables", "where"),
    [
        ({"LAB_CACHE": "/a/b", "XDG_CACHE_HOME": "/x"}, "/a/b"),
        ({"LAB_CACHE": "~/c"}, "/home/me/c"),
        ({"LAB_CACHE": "", "XDG_CACHE_HOME": "/x"}, "/x/lab"),
        ({"XDG_CACHE_HOME": ""}, "/home/me/.cache/lab"),
        ({}, "/home/me/.cache/lab"),
    ],
)
def test_cache_folder(monkeypatch, variables, where):
    for name in ("LAB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/me")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache.folder() == Path(where)


def test_draw(site):
    drawn = lab.data.docstrings(18, seed=3)
    assert list(drawn.columns) == COLUMNS
    assert list(drawn.index) == list(range(18))
    assert drawn.package.value_counts().to_dict() == {"big": 7, "single": 7, "small": 4}
    pd.testing.assert_frame_equal(drawn, lab.data.docstrings(18, seed=3))
    assert not drawn.equals(lab.data.docstrings(18, seed=4))
    assert not drawn.package.is_monotonic_increasing
    whole = lab.data.docstrings(34)
    assert sorted(whole.module + whole.name) == sorted(lab.data.corpus().module + lab.data.corpus().name)
    assert set(lab.data.docstrings(11, packages=("small", "single")).package) == {"small", "single"}
    assert set(lab.data.docstrings(4, packages="small").package) == {"small"}
    assert drawn.attrs["versions"] == {"big": "1.0", "single": "1.0", "small": "1.0"}


def test_draw_refuses(site):
    with pytest.raises(ValueError, match="n=35 docstrings asked for, but there are 34"):
        lab.data.docstrings(35)
    with pytest.raises(ValueError, match="n=5 docstrings asked for, but there are 4"):
        lab.data.docstrings(5, packages=["small"])
    with pytest.raises(
        ValueError, match=r"no docstrings of \['bog', 'nameless'\]; the corpus has \['big', 'single', 'sm"
    ):
        lab.data.docstrings(5, packages=["nameless", "small", "bog"])
    for n in (0, -1):
        with pytest.raises(ValueError, match=f"n={n}: ask for at least one"):
            lab.data.docstrings(n)


@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=12), part=st.floats(0, 1), seed=st.integers(0, 9))
def test_shares_fill_like_water(sizes, part, seed):
    n = max(1, round(part * sum(sizes)))
    shares = texts.even_shares(sizes, n, np.random.default_rng(seed))
    assert shares.sum() == n
    assert (shares <= sizes).all()
    partial = shares[shares < sizes]
    if len(partial):  # whoever has some left got as much as anyone, up to one
        assert shares.max() <= partial.min() + 1
        assert partial.max() <= partial.min() + 1
    np.testing.assert_array_equal(shares, texts.even_shares(sizes, n, np.random.default_rng(seed)))


def test_remainder_is_not_always_the_first_packages():
    draws = {tuple(texts.even_shares([5, 5, 5], 4, np.random.default_rng(seed))) for seed in range(20)}
    assert draws == {(2, 1, 1), (1, 2, 1), (1, 1, 2)}


def test_real_corpus(real):
    assert len(real) > 10_000
    assert real.package.nunique() > 25
    assert "lab" not in set(real.package)
    assert "lab" not in stack.STACK
    assert not real.isna().any().any()
    assert (real[["name", "text", "summary", "code", "package", "module"]] != "").all().all()
    assert not real.duplicated(["module", "name"]).any()
    assert not real.code.str.split().str.join(" ").duplicated().any()
    assert not real.summary.str.lower().str.findall("[a-z0-9]+").str.join(" ").duplicated().any()
    assert real.summary.str.isascii().all()
    assert real.summary.str.split().str.len().between(3, 60).all()
    assert real.summary.str.contains(r":\w+:`|``\w").sum() < 20  # marks that their authors never closed
    assert real.code.str.findall(r"\S.*").str.len().between(3, 200).all()
    assert not real.module.str.contains(r"\.(?:tests?|testing|_vendor|externals)(?:\.|$)").any()
    assert (real.parent == real.name.str.rpartition(".")[0]).all()
    assert len(real.attrs["unreadable"]) < 20


def test_real_code_parses_without_its_docstring(real):
    for row in real.sample(1500, random_state=0).itertuples():
        (definition,) = ast.parse(row.code).body
        assert definition.name == row.name.rpartition(".")[2]
        constants = [getattr(part, "value", None) for part in definition.body if isinstance(part, ast.Expr)]
        assert row.text not in [getattr(constant, "value", None) for constant in constants]
    # a few comments say the same as the docstring; no more than a few
    assert sum(text in code for text, code in zip(real.text, real.code, strict=True)) < len(real) / 500


def test_real_draw_is_even(real):
    drawn = lab.data.docstrings(1000, seed=1)
    counts = drawn.package.value_counts()
    sizes = real.package.value_counts()
    level = counts.max()
    assert all(counts[name] >= min(level - 1, sizes[name]) for name in sizes.index)
    assert not drawn.duplicated(["module", "name"]).any()


def test_works_from_a_script_without_a_main_guard(site):
    script = site / "script.py"
    script.write_text(
        "from lab.data import docstrings, stack\nstack.STACK = {'small': 'small'}\nprint(len(docstrings(4)))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert done.stdout == "4\n"


def test_import_is_light():
    program = "import sys, lab.data; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert {"torch", "datasets", "sklearn", "transformers"}.isdisjoint(modules)
