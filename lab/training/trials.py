"""Designs x seeds: every one trained and asked the same, on several cores, each run kept: a killed call goes on."""

import hashlib
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import xarray as xr
from tqdm import tqdm

from lab.models import identity
from lab.models.load import resolve
from lab.training.contrastive import contrastive, told
from lab.training.designs import Design
from lab.training.embedder import embedder
from lab.training.layer_weights import layer_weights
from lab.training.pairs import checksum
from lab.training.remembered import remembered

SEEN = 64  # texts by which the weights of the layers are read


def trials(
    bases: Mapping[int, Path] | Path | str,
    designs: Mapping[str, Design],
    seeds: Iterable[int],
    pairs: pd.DataFrame,
    evaluate: Callable[[Any], xr.DataArray],
    *,
    folder: str | Path,
    window: int | None = None,
    lora: int | None = None,
    workers: int | None = None,
    progress: bool = True,
    **options: Any,
) -> xr.Dataset:
    """Train every design from every seed on the pairs, and evaluate each model.

    bases: one base for all, or one for each seed. evaluate: of a module, such as partial(lab.probes.evaluate,
    tasks=tasks): it gets the trained SentenceTransformer and gives an array, the same axes for all. options: those of
    lab.training.contrastive, such as steps, batch, rate, loss, held_out; window and lora: of lab.training.embedder.
    folder: where each run is kept, in a file of its own that is whole or not there, named by design, seed and a
        checksum of what it was made of: all arguments, and of a base the bytes of the files in its folder, wherever
        that lies, or the commit of a hub id. Not in it is the code, of this lab and of the libraries: after a change
        there give another folder. Called again, only what is missing is run.
    workers: processes, each on one thread; where not given as many as torch would have threads here, so that what was
        given one core keeps to it; 1 on a GPU, and to stay in this process. They are started anew, so a script that
        calls this needs the usual `if __name__ == "__main__":`.

    Returns score[design, seed, ...], curve variables loss, held_out ...[design, seed, step], layer_weight[design, seed,
    layer], and over [design, seed] parameters (trained), head (those of the pooling), seconds and cpu_seconds (of the
    training) and evaluate_cpu_seconds.
    Raises ValueError for no design or seed, a base that a seed lacks, and what a run raises.
    """
    seeds, folder = list(seeds), Path(folder)
    if not designs or not seeds:
        raise ValueError(f"got {len(designs)} designs and {len(seeds)} seeds; at least one of each is needed")
    if isinstance(bases, Mapping) and (missing := [seed for seed in seeds if seed not in bases]):
        raise ValueError(f"no base for the seeds {missing}; there are some for {list(bases)}")
    folder.mkdir(parents=True, exist_ok=True)
    places = bases.values() if isinstance(bases, Mapping) else [bases]
    contents = {place: _contents(place) for place in dict.fromkeys(map(str, places))}  # read once: it may be gigabytes
    jobs = {}
    for seed in seeds:
        place = bases[seed] if isinstance(bases, Mapping) else bases
        for name, design in designs.items():
            job = {"base": str(place), "design": design, "seed": seed, "pairs": pairs, "evaluate": evaluate,
                   "window": window, "lora": lora, "options": options}  # fmt: skip
            jobs[name, seed] = job | {"path": str(folder / _name(name, job, contents[str(place)]))}
    left = [job for job in jobs.values() if not Path(job["path"]).exists()]
    bar = tqdm(total=len(jobs), initial=len(jobs) - len(left), desc="runs", disable=not progress, leave=False)
    with bar:
        for _ in _done(left, workers):
            bar.update()
    found = {key: xr.Dataset.from_dict(json.loads(Path(job["path"]).read_text())) for key, job in jobs.items()}
    rows = [
        xr.concat([found[name, seed] for seed in seeds], pd.Index(seeds, name="seed"), join="outer") for name in designs
    ]
    return xr.concat(rows, pd.Index(list(designs), name="design", dtype=object), join="outer")


def _done(left: list[dict[str, Any]], workers: int | None) -> Iterator[None]:
    if workers is None:
        workers = 1 if torch.cuda.is_available() else torch.get_num_threads()
    workers = min(workers, len(left))
    if workers <= 1:
        for job in left:
            yield _run(job)
        return
    spawned = multiprocessing.get_context("spawn")  # a fork below torch's threads is unsafe
    with ProcessPoolExecutor(workers, mp_context=spawned, initializer=_one_thread) as pool:
        running = [pool.submit(_run, job) for job in left]
        try:
            for one in as_completed(running):
                yield one.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _one_thread() -> None:
    """A process a core: small tensors gain more from that than from threads."""
    from transformers.utils import logging

    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    logging.disable_progress_bar()


def _run(job: dict[str, Any]) -> None:
    model = embedder(job["base"], job["design"], seed=job["seed"], window=job["window"], lora=job["lora"])
    options = {"truncate": True, "progress": False} | job["options"]
    tuned = contrastive(job["pairs"], model, seed=job["seed"], **options)
    began = time.process_time()
    with remembered(model):
        score = job["evaluate"](model)
    numbers = {
        "parameters": tuned.parameters, "head": sum(value.numel() for value in model[1].parameters()),
        "seconds": tuned.seconds, "cpu_seconds": tuned.cpu_seconds, "evaluate_cpu_seconds": time.process_time() - began,
    }  # fmt: skip
    weights = layer_weights(model, job["pairs"]["query"].iloc[:SEEN].tolist())
    found = tuned.curve.assign(score=score.drop_attrs(), layer_weight=weights).assign(numbers)
    path = Path(job["path"])
    part = path.with_name(f"{path.name}.{os.getpid()}")
    part.write_text(json.dumps(found.to_dict()), encoding="utf-8")
    os.replace(part, path)


def _contents(base: str) -> str:
    """What a base is, not where it lies: a folder's files by name and bytes, a hub id by its commit."""
    where, folder = resolve(base)
    if folder is None:
        from transformers import AutoConfig

        return f"{where}@{AutoConfig.from_pretrained(where)._commit_hash}"
    digest = hashlib.sha256()
    for path in sorted(path for path in Path(folder).iterdir() if path.is_file()):
        with path.open("rb") as file:
            digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()};".encode())
    return digest.hexdigest()


def _name(name: str, job: dict[str, Any], contents: str) -> str:
    """What tells a run from another: a checksum of all that it is made of, but for the code."""
    options = job["options"]
    plain = {key: told(value) for key, value in options.items() if key not in ("held_out", "see", "progress")}
    said = [contents, repr(job["design"]), job["seed"], job["window"], job["lora"], sorted(plain.items())]
    said += [checksum(job["pairs"].astype(str)), checksum(options.get("held_out")), identity.checksum(job["evaluate"])]
    digest = hashlib.sha256(repr(said).encode()).hexdigest()[:12]
    return f"{''.join(c if c.isalnum() else '-' for c in name)}-seed{job['seed']}-{digest}.json"
