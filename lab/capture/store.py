"""Hidden states on disk: written shard by shard, so that a killed run goes on where it was, to the same bytes."""

import hashlib
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from tqdm import tqdm

from lab.capture.checks import Count, Layers, checked_count, checked_examples, checked_texts
from lab.capture.reduction import Pools
from lab.capture.reduction import fingerprint as pool_fingerprint
from lab.capture.states import Plan, planned
from lab.models import Loaded
from lab.models.fingerprint import answer, fingerprint, same_answer, tokenizer_fingerprint

FORMAT = "lab states 1"
DTYPES = ("float32", "float16")


@dataclass(frozen=True)
class Shards:
    """The examples in runs of equal length, each a unit of work and of writing."""

    examples: Any  # anything with a length and slices: a list, a pandas or datasets column, a tensor
    size: int

    @property
    def n(self) -> int:
        return len(self.examples)

    def __len__(self) -> int:
        return math.ceil(self.n / self.size)

    def bounds(self, number: int) -> tuple[int, int]:
        return number * self.size, min((number + 1) * self.size, self.n)

    def read(self, number: int) -> list[Any] | Tensor:
        lo, hi = self.bounds(number)
        part = self.examples[lo:hi]
        return part if isinstance(part, Tensor | np.ndarray) and part.ndim > 1 else list(part)

    def digest(self, model: Loaded) -> str:
        """SHA-256 of all examples, order and borders included; TypeError if one is not what the model reads."""
        digest = hashlib.sha256()
        for number in range(len(self)):
            for item in checked_examples(model, self.read(number)):
                data = item.encode() if isinstance(item, str) else np.ascontiguousarray(item).tobytes()
                digest.update(len(data).to_bytes(8, "little") + data)
        return digest.hexdigest()


def to_zarr(
    model: Loaded,
    texts: Any,
    path: str | os.PathLike,
    pools: Pools = ("mean",),
    layers: Layers = "all",
    *,
    site: str = "layer",
    max_length: Count | None = None,
    batch_tokens: Count | None = None,
    packed: bool = False,
    autocast: torch.dtype | None = None,
    dtype: str = "float32",
    shard: Count = 1024,
    client: Any = None,
    progress: bool = True,
) -> xr.Dataset:
    """`states`, on disk: the same content, for a corpus larger than memory. Call again after a kill, and it goes on.

    texts: anything with a length and slices. path: a zarr (format 3) folder, made here or by an earlier call.
    dtype: "float32", or "float16" for half the room (ValueError for states it cannot hold).
    shard: examples per chunk. A shard's texts are sorted by length, read, and written whole; memory is that of the
        forward pass and of one shard of pooled states, whatever the number of texts.
    client: a dask.distributed Client, whose workers then read the shards, each loading the model by itself. Under
        `accelerate launch` or torchrun each process takes its part of them.

    What was asked is in the store's attributes: model, source, checksums of weights, tokenizer and texts, what the
    model answers to its example (which tells one whose attention was exchanged from one as it was), the pools with
    their settings and a checksum, and all that bears on the numbers. A store of another order is refused, not mixed.

    Returns the store, opened lazily (see open_store). Raises as `states` does; ValueError for another store;
    OSError, with what was written, when the disk is full or not to be written to.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {DTYPES}; got {dtype!r}")
    checked_count("shard", shard)
    if client is not None and not hasattr(client, "wait_for_workers"):
        raise TypeError(f"client must be a dask.distributed.Client; got {client!r}: Client(address) makes one")
    plan = planned(model, pools, layers, site, max_length, batch_tokens, packed, autocast)
    if not hasattr(checked_texts(texts), "__getitem__"):  # a generator, a set
        texts = checked_examples(model, texts)
    shards = Shards(texts.tolist() if hasattr(texts, "tolist") and np.ndim(texts) == 1 else texts, shard)
    if not shards.n:
        raise ValueError("texts is empty; at least one text is needed")
    path, asked = Path(path), order_of(plan, shards, dtype)
    rank, world, meet = _processes()
    with _explained(path):
        if rank == 0:
            _prepare(path, plan, shards, dtype, asked)
        meet()
        missing = missing_shards(path)[rank::world]
        with tqdm(total=shards.n, unit="example", desc=model.name, leave=False, disable=not progress) as bar:
            bar.update(shards.n - sum(np.subtract(*shards.bounds(number)[::-1]) for number in missing))
            for number in _finished(path, plan, shards, missing, client, asked):
                bar.update(np.subtract(*shards.bounds(number)[::-1]))
        meet()
    return open_store(path)


def open_store(path: str | os.PathLike) -> xr.Dataset:
    """A store as `states` would have returned it, read from disk piece by piece as it is used.

    Raises ValueError for a folder that is no such store, and for one whose writing was never finished.
    """
    path = Path(path)
    if not (path / "zarr.json").is_file():
        raise ValueError(f"{path} is no store of states: there is no zarr.json in it")
    store = xr.open_zarr(path, consolidated=False, chunks=None)
    if store.attrs.get("format") != FORMAT:
        raise ValueError(f"{path} is no store of states: its format is {store.attrs.get('format')!r}, not {FORMAT!r}")
    if missing := int((~store.done).sum()):
        raise ValueError(f"{path} is not finished: {missing} of {store.done.size} shards are missing; to_zarr goes on")
    store = store.drop_vars("done").assign_coords(example=np.arange(store.sizes["example"]))
    return store.assign_attrs(n_truncated=int(store.truncated.sum()))


def missing_shards(path: Path) -> list[int]:
    import zarr

    return np.flatnonzero(zarr.open_group(path, mode="r")["done"][:] == 0).tolist()


def write_shard(path: Path, plan: Plan, examples: list | Tensor, bounds: tuple[int, int], number: int) -> int:
    """Read one shard and write it; only then is it marked as done, so what is marked is whole."""
    import zarr

    source = plan.source(checked_examples(plan.model, examples))
    h, _ = plan.run(source)
    group = zarr.open_group(path, mode="r+")
    if group["h"].dtype == np.float16 and np.abs(h[np.isfinite(h)]).max(initial=0) > np.finfo(np.float16).max:
        raise ValueError(
            f"states of up to {np.nanmax(np.abs(h)):.0f} do not fit float16, which ends at 65504: use float32"
        )
    group["h"][:, :, slice(*bounds)] = h.astype(group["h"].dtype)
    group["tokens"][slice(*bounds)] = source.lengths
    group["truncated"][slice(*bounds)] = source.truncated
    group["done"][number] = True
    return number


def order_of(plan: Plan, shards: Shards, dtype: str) -> dict[str, Any]:
    """All that decides what the store holds, in words and checksums."""
    model, reduction = plan.model, plan.reductions[0]
    return {
        "format": FORMAT,
        "model": model.name,
        "source": model.source,
        "weights": fingerprint(model),
        "answer": answer(model),
        "model dtype": str(next(model.model.parameters()).dtype),
        "device": model.device.type,
        "torch": torch.__version__,
        "tokenizer": tokenizer_fingerprint(model.tokenizer),
        "layers": list(plan.layers),
        "site": plan.site,
        "pools": {name: pool_fingerprint(pool) for name, pool in reduction.pools.items()},
        "max_length": plan.window or 0,
        "batch_tokens": plan.budget or 0,
        "packed": plan.packed,
        "autocast": str(plan.autocast),
        "dtype": dtype,
        "shard": shards.size,
        "n": shards.n,
        "texts": shards.digest(model),
    }


def _prepare(path: Path, plan: Plan, shards: Shards, dtype: str, asked: dict[str, Any]) -> None:
    """Make the store, or see that the one that is there is of the same order."""
    import zarr

    made = (path / "zarr.json").is_file()
    if not made and path.exists() and any(path.iterdir()):
        raise ValueError(f"{path} holds something else, and no store of states; choose another folder")
    there = dict(zarr.open_group(path, mode="r").attrs) if made else {}
    if not there:
        _make(path, plan, shards, dtype)
        # last: a store without them was killed while it was made
        zarr.open_group(path, mode="r+").update_attributes(asked)
        return
    differs = [
        f"{name}: {there.get(name)!r} in the store, {asked.get(name)!r} now"
        for name in dict.fromkeys([*asked, *there])
        if there.get(name) != asked.get(name)
        and not (name == "answer" and same_answer(plan.model, there.get(name), asked[name]))
    ]
    if differs:
        raise ValueError(
            f"{path} was made by another order, and is left as it is; choose another path. " + "; ".join(differs)
        )
    for torn in path.rglob("*.partial"):  # what a kill left of a chunk that was being written
        torn.unlink()


def _make(path: Path, plan: Plan, shards: Shards, dtype: str) -> None:
    import zarr

    group = zarr.open_group(path, mode="w", zarr_format=3)
    names, n, width = plan.pools, shards.n, int(max(plan.widths))
    h = {"shape": (len(plan.layers), len(names), n, width), "chunks": (1, 1, shards.size, width), "fill_value": np.nan}
    group.create_array("h", dtype=dtype, dimension_names=("layer", "pool", "example", "dim"), **h)
    for name, kind in (("tokens", "int64"), ("truncated", "bool")):
        group.create_array(name, dtype=kind, shape=(n,), chunks=(shards.size,), dimension_names=("example",))
    for name, values in {"layer": np.array(plan.layers), "normed": plan.normed, "width": plan.widths}.items():
        group.create_array(name, data=values, dimension_names=("layer",))
    group.create_array("pool", shape=(len(names),), dtype=str, dimension_names=("pool",))[:] = np.array(names)
    # a file for each shard, so that those who write side by side never write the same one
    group.create_array("done", shape=(len(shards),), chunks=(1,), dtype="bool", dimension_names=("shard",))


def _finished(
    path: Path, plan: Plan, shards: Shards, missing: list[int], client: Any, asked: dict[str, Any]
) -> Iterator[int]:
    if client is not None:
        from lab.capture.cluster import write_on

        yield from write_on(client, path, plan, shards, missing, asked["weights"], asked["answer"])
        return
    for number in missing:
        yield write_shard(path, plan, shards.read(number), shards.bounds(number), number)


def _processes() -> tuple[int, int, Any]:
    """This process's number, how many there are, and how they wait for each other."""
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched == 1:
        return 0, 1, lambda: None
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available())
    if state.num_processes != launched:  # each would believe to be alone, and write what the others write
        raise ValueError(f"WORLD_SIZE is {launched}, but accelerate sees {state.num_processes} process: {state}")
    return state.process_index, state.num_processes, state.wait_for_everyone


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """An error of the disk, with what is safe."""
    try:
        yield
    except OSError as error:
        made = (path / "done" / "zarr.json").is_file()
        safe = f"all shards but {len(missing_shards(path))} are safe; make room and call again" if made else "not made"
        raise OSError(error.errno, f"cannot write to {path} ({error.strerror or error}): {safe}") from error
