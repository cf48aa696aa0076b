"""How good is an embedding, kind by kind? Scores of every example, of any encoder, or of every layer, pool and dim."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
import xarray as xr
from tqdm import tqdm

from lab.data.evaluation import Task, task_texts
from lab.probes.cells import checked_cells
from lab.probes.folds import chance
from lab.probes.measures import MEASURES, answers, v_shares

Encoder = Callable[[list[str]], object]


def evaluate(
    encode: Encoder | xr.Dataset | object,
    tasks: Iterable[Task],
    *,
    dims: Sequence[int] | None = None,
    measures: Mapping[str, str] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> xr.DataArray:
    """score[dataset, example]: what each example of each data set scores, the mean over examples being the measure.

    encode: a function from a list of texts to vectors [N, D]; a SentenceTransformer, or anything else with `encode`;
        or states that `lab.capture` took of `lab.data.task_texts(tasks)`: then score[dataset, example, layer, pool].
    dims: also for the first d numbers of each vector (Matryoshka), an axis `dim` more.
    measures: {kind: name}, for other ones of MEASURES than ndcg (at 10) for retrieval, spearman for similarity,
        accuracy for classification, v_measure for clustering. What the number of one example is stands there.

    Along dataset: kind, measure, and chance, the score of vectors that know nothing (of equal cosines for retrieval, 0
    for similarity, the commonest label's share, and the mean V-measure of labels shuffled). Data sets with fewer
    examples than the largest are NaN after their last; `lab.stats` refuses NaN, so select such data sets by
    themselves: scores.sel(dataset=name).dropna("example").

    Raises ValueError for no data set or two of one name, an unknown measure, dims beyond the width, and vectors that
    are not finite or not one for each text; TypeError for something that does not encode.
    """
    tasks = list(tasks)
    names = [task.name for task in tasks]
    if not tasks or len(set(names)) < len(names):
        raise ValueError(f"needed are data sets with names of their own; got {names}")
    chosen = _chosen(tasks, measures or {})
    began = time.perf_counter()
    texts = task_texts(tasks)
    number = {text: i for i, text in enumerate(texts)}
    cells = checked_cells(_states(encode, texts, progress))
    if cells.n != len(texts):
        raise ValueError(f"these data sets have {len(texts)} texts, the vectors are {cells.n}: "
                         "capture lab.data.task_texts(tasks), of the same tasks")  # fmt: skip
    widths = _widths(dims, int(cells.widths.min()))
    most = max(map(len, tasks))
    score = np.full((len(tasks), most, *cells.shape, max(1, len(widths))), np.nan)
    rows = [np.array([number[text] for text in task.texts]) for task in tasks]
    every = [(where, cut) for where in np.ndindex(*cells.shape) for cut in range(score.shape[-1])]
    bar = tqdm(every, desc="evaluate", unit="cell", leave=False, disable=not progress or len(every) == 1)
    for where, cut in bar:
        width = widths[cut] if widths else int(cells.widths[where[0]])
        h = torch.as_tensor(cells.h[where][:, :width].values).double()
        for i, (task, own) in enumerate(zip(tasks, rows, strict=True)):
            found = MEASURES[task.kind][chosen[i]](task, h[own], seed)
            score[(i, slice(0, len(task)), *where, cut)] = found
    return _labelled(score, tasks, chosen, cells.h, isinstance(encode, xr.Dataset), widths, seed).assign_attrs(
        seconds=time.perf_counter() - began, texts=len(texts)
    )


def _labelled(
    score: np.ndarray,
    tasks: list[Task],
    chosen: list[str],
    h: xr.DataArray,
    captured: bool,
    widths: list[int],
    seed: int,
) -> xr.DataArray:
    coords = {
        "dataset": [task.name for task in tasks],
        "kind": ("dataset", [task.kind for task in tasks]),
        "measure": ("dataset", chosen),
        "chance": ("dataset", [_chance(*pair, seed) for pair in zip(tasks, chosen, strict=True)]),
    }
    dims = ["dataset", "example", "layer", "pool", "dim"]
    if captured:
        coords |= {axis: h[axis].values for axis in ("layer", "pool")}
    else:
        score, dims = score[:, :, 0, 0], ["dataset", "example", "dim"]
    if widths:
        coords["dim"] = widths
    else:
        score, dims = score[..., 0], dims[:-1]
    return xr.DataArray(score, coords, dims, name="score")


def _chosen(tasks: list[Task], measures: Mapping[str, str]) -> list[str]:
    for kind, name in measures.items():
        if kind not in MEASURES or name not in MEASURES[kind]:
            there = {known: list(found) for known, found in MEASURES.items()}
            raise ValueError(f"no measure {name!r} of {kind!r}; there are {there}")
    return [measures.get(task.kind, next(iter(MEASURES[task.kind]))) for task in tasks]


def _states(encode: object, texts: list[str], progress: bool) -> xr.Dataset:
    if isinstance(encode, xr.Dataset):
        return encode
    if hasattr(encode, "encode"):
        vectors = encode.encode(texts, show_progress_bar=progress)
    elif callable(encode):
        vectors = encode(texts)
    else:
        raise TypeError(f"needed is a function of texts, a SentenceTransformer or states; got {type(encode).__name__}")
    vectors = vectors.detach().cpu().float().numpy() if isinstance(vectors, torch.Tensor) else np.asarray(vectors)
    if vectors.ndim != 2 or len(vectors) != len(texts):
        raise ValueError(f"encode must give one vector for each of {len(texts)} texts; got the shape {vectors.shape}")
    h = xr.DataArray(vectors[None, None], dims=("layer", "pool", "example", "dim"))
    return xr.Dataset({"h": h}, coords={"layer": [0], "pool": [""], "example": np.arange(len(texts))})


def _widths(dims: Sequence[int] | None, width: int) -> list[int]:
    found = [] if dims is None else [int(d) for d in dims]
    if dims is not None and (not found or min(found) < 1 or max(found) > width or len(set(found)) < len(found)):
        raise ValueError(f"dims are different numbers from 1 to {width}; got {list(dims)}")
    return found


def _chance(task: Task, measure: str, seed: int) -> float:
    """The score of vectors that know nothing."""
    match task.kind:
        case "retrieval":
            return float(answers(task, torch.ones(len(task.texts), 1).double(), seed, measure).mean())
        case "classification":
            return chance(task.target)
        case "clustering":
            label, draw = np.unique(task.target, return_inverse=True)[1], np.random.default_rng(seed)
            return float(np.mean([v_shares(label, draw.permutation(label)).mean() for _ in range(10)]))
    return 0.0
