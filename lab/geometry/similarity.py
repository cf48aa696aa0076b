"""How alike two layers are, for all pairs of layers at once: each layer is read once, then compared."""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import xarray as xr
from tqdm import tqdm

from lab.geometry import agreement, cca, gram, pairs, shape
from lab.geometry.abreast import abreast
from lab.geometry.layers import Layers
from lab.geometry.pairs import Pair, Part


class Similarity(NamedTuple):
    """score(pair) -> float, from these parts of each side."""

    score: Callable[[Pair], float]
    parts: tuple[Part, ...]
    rows: int = 2  # fewest examples
    back: Callable[[Pair], float] | None = None  # the number of (b, a), where it is another


SIMILARITIES = {
    "linear_cka": Similarity(gram.linear_score, ((pairs.coordinates,), (gram.linear_sums,)), rows=4),
    "rbf_cka": Similarity(gram.rbf_score, ((gram.kernel, gram.FRACTION),), rows=4),
    "svcca": Similarity(cca.svcca_score, ((cca.basis,),), rows=3),
    "pwcca": Similarity(cca.pwcca_score, ((cca.basis,), (cca.seen,)), rows=3, back=cca.pwcca_back),
    "procrustes": Similarity(shape.procrustes_score, ((pairs.coordinates,), (shape.length,))),
    "angular": Similarity(shape.angular_score, ((pairs.coordinates,), (shape.length,))),
    "mutual_knn": Similarity(agreement.mutual_score, ((agreement.near, agreement.K),)),
    "cknna": Similarity(agreement.cknna_score, ((agreement.near, agreement.K), (agreement.likeness, agreement.K))),
    "rsa": Similarity(agreement.rsa_score, ((agreement.ranks,),), rows=3),
}


def compare(
    states: xr.Dataset,
    other: xr.Dataset | None = None,
    by: str | Sequence[str] = "linear_cka",
    *,
    progress: bool = True,
) -> xr.DataArray | xr.Dataset:
    """Numbers of SIMILARITIES, at their defaults, of every layer with every layer in each pool: [pool, layer, layer_].

    other: states of the same examples from another model or checkpoint, for layer_; the same states when not given.
    by: a name, for one array, or several, for a data set with a variable for each; asked together they share what
    they are made of (X'Y, canonical directions, distances, lists of neighbours): all nine cost three fifths of nine
    calls at 7 layers of 2,000 x 384.
    procrustes and angular are distances, the others similarities; pwcca takes its weights from `layer`. What is read
    of the layers is held up to 1 GiB. As many layers as torch has threads are read, and compared, at once.

    Raises ValueError for no name or an unknown one, other examples or pools, and states that are not finite.
    """
    names = [by] if isinstance(by, str) else list(dict.fromkeys(by))
    unknown = [name for name in names if name not in SIMILARITIES]
    if unknown or not names:
        raise ValueError(f"no similarity {(unknown or [by])[0]!r}; there are {list(SIMILARITIES)}")
    a, b = states, states if other is None else other
    if a.sizes["example"] != b.sizes["example"] or a.pool.values.tolist() != b.pool.values.tolist():
        raise ValueError(
            f"states must have the same examples and pools; got {a.sizes['example']} and {b.sizes['example']}, "
            f"{a.pool.values.tolist()} and {b.pool.values.tolist()}"
        )
    for name in names:
        if a.sizes["example"] < SIMILARITIES[name].rows:
            raise ValueError(f"{name} needs at least {SIMILARITIES[name].rows} examples; got {a.sizes['example']}")
    found = {name: np.empty((a.sizes["pool"], a.sizes["layer"], b.sizes["layer"])) for name in names}
    title = names[0] if len(names) == 1 else f"{len(names)} similarities"
    total = a.sizes["pool"] * a.sizes["layer"]
    parts = dict.fromkeys(chain.from_iterable(SIMILARITIES[name].parts for name in names))
    with tqdm(total=total, unit="layer", desc=title, leave=False, disable=not progress) as bar:
        for p in range(a.sizes["pool"]):
            first = Layers(a, p, parts)
            _one_pool(first, first if other is None else Layers(b, p, parts), found, bar)
    coords = {"pool": a.pool, "layer": a.layer, "layer_": b.layer.values}
    dims = ("pool", "layer", "layer_")
    if isinstance(by, str):
        return xr.DataArray(found[by], dims=dims, coords=coords, name=by)
    return xr.Dataset({name: (dims, values) for name, values in found.items()}, coords=coords)


def _one_pool(first: Layers, second: Layers, found: dict[str, np.ndarray], bar: tqdm) -> None:
    same = second is first
    for layers in (first,) if same else (first, second):
        abreast(layers.keep, range(len(layers)), layers.room)

    def row(i: int) -> None:
        one = first(i)
        for j in range(i if same else 0, len(second)):
            both = Pair(one, one if same and i == j else second(j))
            for name, values in found.items():
                kind = SIMILARITIES[name]
                values[first.pool, i, j] = kind.score(both)
                if same:
                    values[first.pool, j, i] = kind.back(both) if kind.back else values[first.pool, i, j]
        bar.update()

    abreast(row, range(len(first)), first.room)


def cka(states: xr.Dataset, other: xr.Dataset | None = None) -> xr.DataArray:
    """linear_cka of every layer with every layer, in each pool: cka[pool, layer, layer_]. `compare` has the others.

    other: states of the same examples from another model or checkpoint, for layer_; the same states when not given.
    Raises ValueError for other examples or pools, and for fewer than four examples.
    """
    return compare(states, other, "linear_cka", progress=False).rename("cka")
