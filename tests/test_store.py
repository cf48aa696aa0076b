"""lab.capture.to_zarr: the same content as states, whatever happened while it was written."""

import copy
import errno
import functools
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import xarray as xr

import lab
from lab.capture.reduction import fingerprint as pool_fingerprint
from lab.capture.store import Shards, missing_shards
from lab.models.fingerprint import answer, fingerprint
from lab.pooling import POOLS

TEXTS = [f"text number {i} " * (i * 7 % 11 + 1) for i in range(45)]
ASKED = {"pools": ("mean", "max"), "shard": 8, "progress": False}
WRITER = """
    import sys
    import lab
    from test_store import ASKED, TEXTS, small
    if __name__ == "__main__":
        lab.capture.to_zarr(small(), TEXTS, sys.argv[1], **ASKED)
"""
FORKS = """
    import os, sys
    import torch
    import lab
    from test_store import ASKED, TEXTS, small
    torch.set_num_threads(1)  # a forked child has none of its parent's threads
    model = small()
    for path in sys.stdin:
        child = os.fork()
        if not child:
            lab.capture.to_zarr(model, TEXTS, path.strip(), **ASKED)
            os._exit(0)
        print(child, flush=True)
        os.waitpid(child, 0)
        print("gone", flush=True)
"""


def small():
    return lab.models.tiny("bert", layers=2, dim=16, heads=2)


def files(store):
    """Every file's bytes: stores are compared whole."""
    return {
        str(path.relative_to(store)): path.read_bytes() for path in sorted(Path(store).rglob("*")) if path.is_file()
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The store of a run that nothing disturbed."""
    path = tmp_path_factory.mktemp("whole") / "states.zarr"
    lab.capture.to_zarr(small(), TEXTS, path, **ASKED)
    return path


def start(tmp_path, target, *launcher, code=WRITER, stdin=subprocess.DEVNULL, **environment):
    script = tmp_path / "writer.py"
    script.write_text(textwrap.dedent(code))
    paths = os.pathsep.join([str(Path(lab.__file__).parents[1]), str(Path(__file__).parent)])
    return subprocess.Popen(
        [sys.executable, *launcher, script, target],
        env={**os.environ, "PYTHONPATH": paths, **environment},
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_holds_what_states_returns(whole):
    store, want = lab.capture.open_store(whole), lab.capture.states(small(), TEXTS, pools=("mean", "max"))
    for name in ("h", "tokens", "truncated", "normed", "width"):
        np.testing.assert_allclose(store[name], want[name], rtol=1e-4, atol=1e-5)
    assert store.h.dims == want.h.dims
    assert store.pool.values.tolist() == ["mean", "max"]
    assert store.h.encoding["chunks"] == (1, 1, 8, 16)
    attrs = store.attrs
    assert (attrs["model"], attrs["n"], attrs["n_truncated"]) == ("tiny-bert", 45, 0)
    assert all(len(attrs[name]) == 64 for name in ("weights", "tokenizer", "texts"))
    assert set(attrs["pools"]) == {"mean", "max"}


def test_is_read_piece_by_piece(whole):
    """Selecting one layer opens the chunks of that layer alone."""
    store = lab.capture.open_store(whole)
    for layer in (0, 1):
        for chunk in (whole / "h" / "c" / str(layer)).rglob("*"):
            if chunk.is_file():
                os.utime(chunk, (0, 0))
    hidden = whole / "h" / "c" / "0"
    hidden.rename(whole / "h" / "c" / "away")
    try:
        assert np.isfinite(store.h.sel(layer=1)).all()  # layer 0 is not even there
    finally:
        (whole / "h" / "c" / "away").rename(hidden)


def test_a_second_call_reads_nothing_again(whole, monkeypatch):
    model, before = small(), files(whole)
    forward = model.model.forward

    def only_its_example(**given):
        assert np.array_equal(given["input_ids"], model.example["input_ids"]), "texts were read"
        return forward(**given)

    monkeypatch.setattr(model.model, "forward", only_its_example)
    lab.capture.to_zarr(model, TEXTS, whole, **ASKED)
    assert files(whole) == before


@pytest.fixture(scope="module")
def writers(tmp_path_factory):
    """A process that has imported everything, and forks a writer for each path it is told."""
    process = start(
        tmp_path_factory.mktemp("writers"), "none", code=FORKS, stdin=subprocess.PIPE, TOKENIZERS_PARALLELISM="0"
    )
    yield process
    process.communicate(timeout=30)  # its input closes, so it ends


@pytest.mark.parametrize("seed", range(4))
def test_killed_at_any_moment_it_resumes_to_the_same_bytes(whole, tmp_path, writers, seed):
    target, chance, kills = tmp_path / "states.zarr", np.random.default_rng(seed), 0
    want = lab.capture.open_store(whole)
    while missing_of(target):
        already = missing_of(target)
        writers.stdin.write(f"{target}\n")
        writers.stdin.flush()
        child = int(writers.stdout.readline())
        if kills % 2:  # every second one dies while it writes, the others wherever they are
            while len(missing_of(target)) == len(already):
                time.sleep(0.001)
        time.sleep(chance.random() * (0.02 if kills % 2 else 0.3))
        os.kill(child, signal.SIGKILL)
        writers.stdout.readline()  # it is gone
        kills += 1
        assert kills < 50
        for number in set(range(6)) - set(missing_of(target)):  # what is marked is whole
            rows = slice(number * 8, number * 8 + 8)
            h = xr.open_zarr(target, consolidated=False, chunks=None).h[:, :, rows]
            np.testing.assert_array_equal(h, want.h[:, :, rows])
    lab.capture.to_zarr(small(), TEXTS, target, **ASKED)
    assert files(target) == files(whole)


def missing_of(target):
    """Of a store that may not be made yet."""
    if not (target / "done" / "zarr.json").exists():
        return list(range(6))
    return missing_shards(target)


def test_torn_chunks_are_cleared_away_and_a_half_made_store_is_made_again(whole, tmp_path):
    target = tmp_path / "states.zarr"
    (target / "h").mkdir(parents=True)
    (target / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    (target / "h" / "0.cafe.partial").write_bytes(b"half a chunk")
    lab.capture.to_zarr(small(), TEXTS, target, **ASKED)
    assert files(target) == files(whole)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"texts": TEXTS[:-1]}, "n: 45 in the store, 44 now"),
        ({"texts": [*TEXTS[:-1], "another"]}, "texts: '.*' in the store"),
        ({"pools": ("mean",)}, "pools: .*'max'"),
        ({"pools": {"mean": POOLS["mean"](), "max": POOLS["gem"](16)}}, r"pools: .*GeM\("),
        ({"layers": [0, 1]}, r"layers: \[0, 1, 2\] in the store, \[0, 1\] now"),
        ({"max_length": 5}, "max_length: 512 in the store, 5 now"),
        ({"batch_tokens": 100}, "batch_tokens: 0 in the store, 100 now"),
        ({"dtype": "float16"}, "dtype: 'float32' in the store, 'float16' now"),
        ({"shard": 9}, "shard: 8 in the store, 9 now"),
        ({"model": "other weights"}, "weights: '.*' in the store"),
    ],
)
def test_another_order_is_refused_and_nothing_changes(whole, changed, says):
    before = files(whole)
    given = {"texts": TEXTS, **ASKED, **changed}
    model = small() if given.pop("model", None) is None else lab.models.tiny("bert", layers=2, dim=16, heads=2, seed=1)
    with pytest.raises(ValueError, match=f"made by another order.*{says}"):
        lab.capture.to_zarr(model, given.pop("texts"), whole, **given)
    assert files(whole) == before


def test_borders_between_texts_count():
    model = small()
    assert Shards(["ab", "c"], 2).digest(model) != Shards(["a", "bc"], 2).digest(model)
    assert Shards(["ab", "c"], 2).digest(model) == Shards(["ab", "c"], 1).digest(model)


def summed(x, mask, times=1):
    return POOLS["mean"]()(x, mask) * times


def scaled(times):
    return lambda x, mask: POOLS["mean"]()(x, mask) * times


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda x, _: x[:, 0], lambda x, _: x[:, 1]),
        (scaled(1), scaled(2)),
        (functools.partial(summed, times=1), functools.partial(summed, times=2)),
        (POOLS["concat"](16, pools=("mean", "max")), POOLS["concat"](16, pools=("mean", "min"))),
        (POOLS["concat"](16, pools=(POOLS["gem"](), POOLS["max"]())), POOLS["concat"](16, pools=("gem", "max"))),
        (POOLS["gsp"](16), POOLS["gsp"](16)),
        (lab.geometry.PerText(lab.geometry.curvature), lab.geometry.PerText(lab.geometry.prompt_entropy)),
    ],
    ids=["lambda", "closure", "partial", "parts", "settings of parts", "weights", "function"],
)
def test_pools_that_differ_in_anything_are_told_apart_and_equal_ones_are_not(one, other, tmp_path):
    told = pool_fingerprint(one)
    assert told != pool_fingerprint(other)
    assert told == pool_fingerprint(copy.deepcopy(one))
    lab.capture.to_zarr(small(), TEXTS[:3], tmp_path / "store", pools={"a": one}, progress=False)
    with pytest.raises(ValueError, match=r"made by another order.*pools: "):
        lab.capture.to_zarr(small(), TEXTS[:3], tmp_path / "store", pools={"a": other}, progress=False)


def test_a_model_changed_in_more_than_its_weights_is_refused(tmp_path):
    model, path = lab.models.tiny("llama", layers=2, dim=16, heads=2), tmp_path / "states.zarr"

    def write():
        lab.capture.to_zarr(model, TEXTS[:3], path, max_length=9, progress=False)

    write()
    before = files(path)
    with lab.attention.use(model, "softpick"), pytest.raises(ValueError, match=r"another order.*answer: "):
        write()
    with lab.models.bidirectional(model), pytest.raises(ValueError, match=r"another order.*answer: "):
        write()
    model.tokenizer.truncation_side = "left"
    with pytest.raises(ValueError, match=r"another order.*tokenizer: "):
        write()
    model.tokenizer.truncation_side = "right"
    model.model.rotary_emb.inv_freq.mul_(3)  # in no state_dict
    with pytest.raises(ValueError, match=r"another order.*answer: "):
        write()
    model.model.rotary_emb.inv_freq.div_(3)
    write()
    assert files(path) == before


def test_half_precision_is_stated_and_refuses_what_it_cannot_hold(tmp_path):
    model = small()
    store = lab.capture.to_zarr(model, TEXTS, tmp_path / "half.zarr", dtype="float16", **ASKED)
    assert (store.h.dtype, store.attrs["dtype"]) == (np.float16, "float16")
    want = lab.capture.states(model, TEXTS, pools=("mean", "max"))
    np.testing.assert_allclose(store.h, want.h, rtol=1e-3, atol=1e-3)
    loud = {"loud": lambda x, mask: POOLS["mean"]()(x, mask) * 1e6}
    with pytest.raises(ValueError, match="do not fit float16, which ends at 65504"):
        lab.capture.to_zarr(model, TEXTS, tmp_path / "loud.zarr", pools=loud, dtype="float16", shard=8)


def test_a_full_disk_says_what_is_safe_and_loses_nothing(whole, tmp_path):
    """The disk is a limit on file sizes that the next chunk exceeds."""
    limited = WRITER.replace(
        "lab.capture.to_zarr(small()",
        """import resource, signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        import lab.capture.store as store
        write, count = store.write_shard, []
        def until_full(*arguments):
            count.append(1)
            if len(count) == 3:
                resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
            return write(*arguments)
        store.write_shard = until_full
        lab.capture.to_zarr(small()""",
    )
    target = tmp_path / "states.zarr"
    process = start(tmp_path, target, code=limited)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 1, said
    assert "all shards but 4 are safe; make room and call again" in said
    lab.capture.to_zarr(small(), TEXTS, target, **ASKED)
    assert files(target) == files(whole)


def test_places_that_cannot_be_written_to_are_refused(whole, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OSError, match=r"cannot write to .*: not made"):
        lab.capture.to_zarr(small(), TEXTS, tmp_path / "file" / "states.zarr", **ASKED)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    with pytest.raises(ValueError, match="holds something else"):
        lab.capture.to_zarr(small(), TEXTS, tmp_path / "mine", **ASKED)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "precious"

    import zarr.storage._local as local

    def read_only(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    before = files(whole)
    monkeypatch.setattr(local, "_put", read_only)
    with pytest.raises(OSError, match=r"Read-only file system.*: not made"):
        lab.capture.to_zarr(small(), TEXTS, tmp_path / "ro.zarr", **ASKED)
    assert files(whole) == before


def test_what_is_no_finished_store_is_not_opened(whole, tmp_path):
    import shutil

    import zarr

    with pytest.raises(ValueError, match=r"no store of states: there is no zarr\.json"):
        lab.capture.open_store(tmp_path)
    zarr.open_group(tmp_path / "other.zarr", mode="w")
    with pytest.raises(ValueError, match="its format is None"):
        lab.capture.open_store(tmp_path / "other.zarr")
    copy = shutil.copytree(whole, tmp_path / "copy.zarr")
    zarr.open_group(copy, mode="r+")["done"][2] = False
    with pytest.raises(ValueError, match="not finished: 1 of 6 shards are missing"):
        lab.capture.open_store(copy)


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({"dtype": "bfloat16"}, ValueError, "dtype must be one of"),
        ({"shard": 0}, ValueError, "shard must be at least 1"),
        ({"texts": []}, ValueError, "texts is empty"),
        ({"texts": "one"}, TypeError, "one string"),
        ({"texts": ["a", 3]}, TypeError, "1 are not"),
        ({"texts": {"text": TEXTS}}, TypeError, "got a dict: pass one of its columns"),
        ({"texts": pd.DataFrame({"text": TEXTS})}, TypeError, "got a DataFrame: pass one of its columns"),
        ({"shard": 2.5}, TypeError, "shard must be a whole number, at least 1; got 2.5"),
        ({"client": "tcp://a:1"}, TypeError, r"must be a dask.distributed.Client; got 'tcp://a:1'"),
    ],
)
def test_bad_input_is_refused(tmp_path, given, error, says):
    given = {"texts": TEXTS, **ASKED, **given}
    with pytest.raises(error, match=says):
        lab.capture.to_zarr(small(), given.pop("texts"), tmp_path / "states.zarr", **given)
    assert not (tmp_path / "states.zarr").exists()


def test_images_and_columns_of_tables_are_stored_too(tmp_path):
    images, _ = lab.data.digits()
    vit = lab.models.tiny("vit", layers=1, dim=16, heads=2)
    store = lab.capture.to_zarr(vit, images[:20], tmp_path / "vit.zarr", shard=8, progress=False)
    np.testing.assert_allclose(store.h, lab.capture.states(vit, images[:20]).h, rtol=1e-4, atol=1e-5)
    import datasets

    column = datasets.Dataset.from_dict({"text": TEXTS})["text"]
    for name, texts in {"pandas": pd.Series(TEXTS), "datasets": column, "generator": (t for t in TEXTS)}.items():
        store = lab.capture.to_zarr(small(), texts, tmp_path / name, **ASKED)
        assert store.attrs["texts"] == Shards(TEXTS, 8).digest(small())


def test_processes_of_a_launcher_share_the_work(whole, tmp_path):
    """torchrun and accelerate set the same variables; on a CPU the processes meet through gloo."""
    target = tmp_path / "states.zarr"
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d"]
    launcher += ["--rdzv-endpoint=localhost:0", "--local-addr=localhost"]
    counted = WRITER.replace(
        "lab.capture.to_zarr(small()",
        """import os
        import lab.capture.store as store
        write = store.write_shard
        def told(*arguments):
            print("process", os.environ["RANK"], "writes", arguments[-1], flush=True)
            return write(*arguments)
        store.write_shard = told
        lab.capture.to_zarr(small()""",
    )
    process = start(tmp_path, target, *launcher, code=counted, OMP_NUM_THREADS="1")
    said = process.communicate(timeout=90)[0]
    assert process.returncode == 0, said
    for rank in (0, 1):  # each its own half, none twice
        assert sorted(re.findall(rf"process {rank} writes (\d)", said)) == [str(i) for i in range(rank, 6, 2)]
    assert files(target) == files(whole)


def test_dask_workers_write_the_same_bytes_though_one_is_killed(whole, tmp_path):
    """A worker dies with its task under way: another does it again, and nothing shows."""
    distributed = pytest.importorskip("distributed")
    target = tmp_path / "states.zarr"
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        victim = next(iter(client.run(os.getpid).values()))
        killer = threading.Thread(target=kill_once_written, args=(victim, target))
        killer.start()
        lab.capture.to_zarr(small(), TEXTS, target, **ASKED, client=client)
        killer.join()
    assert not psutil.pid_exists(victim)
    assert files(target) == files(whole)


def kill_once_written(pid, target):
    while len(missing_of(target)) == 6:
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)


def test_a_model_changed_since_it_was_loaded_is_not_read_by_workers(tmp_path):
    from distributed.protocol.pickle import dumps

    from lab.capture.cluster import _plan

    model = small()
    with pytest.raises(ValueError, match=r"has weights .* not 0000.*save the model to a folder"):
        _plan(dumps((model.recipe, "0" * 64, [], {})))
    said = [-number for number in answer(model)]
    with pytest.raises(ValueError, match=r"as loaded here answers otherwise.*write without a client"):
        _plan(dumps((model.recipe, fingerprint(model), said, {})))


def test_probes_and_geometry_read_a_store_a_layer_at_a_time(whole, monkeypatch):
    """What is larger than memory as a whole never is in it as a whole."""
    store, memory = lab.capture.open_store(whole), lab.capture.states(small(), TEXTS, pools=("mean", "max"))
    labels = [i % 2 for i in range(len(TEXTS))]
    largest = []
    load = xr.Variable.values.fget
    monkeypatch.setattr(xr.Variable, "values", property(lambda self: largest.append(self.size) or load(self)))
    space, probe = lab.geometry.measure(store), lab.probes.linear(store, labels, folds=2, progress=False)
    assert max(largest) <= len(TEXTS) * 16
    monkeypatch.undo()
    want = lab.geometry.measure(memory)
    for name in want:
        np.testing.assert_allclose(space[name], want[name], rtol=1e-4)
    np.testing.assert_allclose(probe.score, lab.probes.linear(memory, labels, folds=2, progress=False).score, atol=0.1)
