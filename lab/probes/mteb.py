"""MTEB's own tasks, by MTEB's own rules, asked of any encoder or of every layer and pool at once."""

import random
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
import xarray as xr
from tqdm import tqdm

from lab.data.undisturbed import undisturbed
from lab.probes.cells import checked_cells


def mteb(encode: object, tasks: object, *, progress: bool = True) -> xr.DataArray:
    """score[dataset]: the main score of each task, subset and split, as the package `mteb` computes it.

    encode: a SentenceTransformer, which gets the prompts that mteb has for it; a function from a list of texts to
        vectors [N, D], compared by cosine; or one from texts to states, such as
        partial(lab.capture.states, model, pools=("mean", "max")): then score[dataset, layer, pool], each text captured
        once for all of them.
    tasks: names, such as ["STS12", "NFCorpus"], or tasks as mteb.get_tasks gives them, a user's own among them. Their
        data is read from the cache of `datasets`, and downloaded where it is not there and the hub can be reached.

    Along dataset: kind (mteb's type, such as Retrieval) and measure (its main_score). These are scores of whole data
    sets: for intervals over examples ask lab.probes.evaluate. The random states of the caller stay as they were.
    MTEB: Muennighoff et al., 2023. https://arxiv.org/abs/2210.07316

    Raises ImportError without mteb (`pip install ".[mteb]"`), ValueError for an unknown task, one whose data can be
    neither found nor fetched, and one that is not about texts alone; TypeError for what does not encode.
    """
    if find_spec("mteb") is None:
        raise ImportError('MTEB\'s tasks need the package mteb, which is not installed: pip install ".[mteb]"')
    if not callable(encode) and not hasattr(encode, "encode"):
        raise TypeError(f"needed is a function of texts or a SentenceTransformer; got {type(encode).__name__}")
    with undisturbed():  # importing mteb seeds all there is, and so does every task
        chosen = _tasks(tasks)
        found = [
            row for task in tqdm(chosen, desc="mteb", disable=not progress, leave=False) for row in _asked(encode, task)
        ]
    return xr.concat(found, "dataset", coords="different", compat="equals", join="exact").rename("score")


def _tasks(tasks: object) -> list[Any]:
    import mteb
    from mteb.abstasks import AbsTask

    given = [tasks] if isinstance(tasks, str | AbsTask) else list(tasks) if isinstance(tasks, Iterable) else []
    if not given:
        raise ValueError(f"needed are names of MTEB's tasks, or tasks; got {tasks!r}")
    chosen = []
    for one in given:
        if not isinstance(one, str):
            chosen.append(one)
            continue
        try:
            chosen.append(mteb.get_task(one))
        except KeyError as error:
            raise ValueError(f"mteb knows no task {one!r}; mteb.get_tasks(languages=['eng']) lists them") from error
    for task in chosen:
        if not isinstance(task, AbsTask):
            raise TypeError(f"needed are names of MTEB's tasks, or tasks; got {type(task).__name__}")
        if task.metadata.modalities != ["text"]:
            raise ValueError(f"{task.metadata.name} is about {task.metadata.modalities}; only texts are encoded here")
    return chosen


def _asked(encode: Any, task: Any) -> Iterator[xr.DataArray]:
    name = task.metadata.name
    try:
        task.load_data()
    except (OSError, ValueError) as error:  # what datasets raises without a cache, without a hub, or offline
        raise ValueError(
            f"the data of {name} is not on this disk and cannot be fetched ({error}); on a machine with a network, "
            f"mteb.get_task({name!r}).load_data() leaves it in the cache of `datasets`, which can be copied"
        ) from error
    asker = _sentence_transformer(encode) if hasattr(encode, "encode") else _Texts(encode)
    splits = list(task.eval_splits)
    for split in splits:
        cells = _cells(asker, task, split)
        for subset, scores in cells.items():
            label = [name] + ([subset] if len(cells) > 1 else []) + ([split] if len(splits) > 1 else [])
            yield scores.expand_dims(dataset=["/".join(label)]).assign_coords(
                kind=("dataset", [task.metadata.type]), measure=("dataset", [task.metadata.main_score])
            )


def _cells(asker: Any, task: Any, split: str) -> dict[str, xr.DataArray]:
    """{subset: score, or score[layer, pool]} of one split."""
    first = _once(asker, task, split)
    h = getattr(asker, "h", None)
    if h is None:
        return {subset: xr.DataArray(score) for subset, score in first.items()}
    axes = {axis: h[axis].values for axis in ("layer", "pool")}
    shape = tuple(map(len, axes.values()))
    found = {subset: xr.DataArray(np.empty(shape), axes, ("layer", "pool")) for subset in first}
    for where in np.ndindex(*shape):
        asker.cell = where
        for subset, score in _once(asker, task, split).items():
            found[subset][where] = score
    asker.cell = (0, 0)
    return found


def _once(asker: Any, task: Any, split: str) -> dict[str, float]:
    # a task draws its samples from states of its own: the same for each cell
    task.rng_state, task.np_rng = random.Random(task.seed), np.random.default_rng(task.seed)  # noqa: S311
    scores = task.evaluate(asker, split, encode_kwargs={"batch_size": 32, "show_progress_bar": False})
    return {subset: float(found["main_score"]) for subset, found in scores.items()}


def _sentence_transformer(model: Any) -> Any:
    from mteb.models import SentenceTransformerEncoderWrapper

    return SentenceTransformerEncoderWrapper(model)


class _Texts:
    """A function of texts in the form of mteb's encoders; of states, the vectors of one cell at a time."""

    def __init__(self, encode: Callable[[list[str]], object]) -> None:
        from mteb.models import ModelMeta

        self.ask, self.mteb_model_meta = encode, ModelMeta.create_empty()
        self.cell, self.h = (0, 0), None  # h: of the latest states, for the names of its cells
        self.seen: dict[str, list[torch.Tensor]] = {}  # each text's [layer][pool, D], asked for once

    def encode(self, inputs: Any, **_: Any) -> np.ndarray:
        texts = [text for batch in inputs for text in batch["text"]]
        new = [text for text in dict.fromkeys(texts) if text not in self.seen]
        if new:
            self._ask(new)
        layer, pool = self.cell
        return np.stack([self.seen[text][layer][pool] for text in texts])

    def _ask(self, texts: list[str]) -> None:
        found = self.ask(texts)
        if isinstance(found, xr.Dataset):
            cells = checked_cells(found)
            if cells.n != len(texts):
                raise ValueError(f"encode must give the states of {len(texts)} texts; got those of {cells.n}")
            self.h = cells.h
            wide = [
                cells.h.isel(layer=i, dim=slice(int(width))).transpose("example", "pool", "dim").values
                for i, width in enumerate(cells.widths)
            ]
        else:
            plain = found.detach().cpu().float().numpy() if isinstance(found, torch.Tensor) else np.asarray(found)
            if plain.ndim != 2 or len(plain) != len(texts) or not np.isfinite(plain).all():
                raise ValueError(
                    f"encode must give one finite vector for each of {len(texts)} texts; got the shape {plain.shape}"
                )
            wide = [plain[:, None]]
        self.seen |= {text: [layer[i] for layer in wide] for i, text in enumerate(texts)}

    def similarity(self, first: Any, second: Any) -> torch.Tensor:
        return _unit(first) @ _unit(second).T

    def similarity_pairwise(self, first: Any, second: Any) -> torch.Tensor:
        return (_unit(first) * _unit(second)).sum(-1)


def _unit(vectors: Any) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.as_tensor(vectors).float(), dim=-1)
