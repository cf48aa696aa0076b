"""How alike two layers are, for all pairs of layers at once: each layer is prepared once, then compared."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from tqdm import tqdm

from lab.geometry import agreement, cca, gram, shape
from lab.geometry.space import Space

HOLD = 2**30  # bytes of prepared layers in memory at once; beyond them a layer is read and prepared again


class Similarity(NamedTuple):
    """prepare(rows) -> what one layer gives, score(a, b) -> float."""

    prepare: Callable[[Tensor], Any]
    score: Callable[[Any, Any], float]
    rows: int = 2  # fewest examples
    centred: bool = True  # what prepare is given
    symmetric: bool = True


SIMILARITIES = {
    "linear_cka": Similarity(gram.linear_prepare, gram.linear_score, rows=4),
    "rbf_cka": Similarity(gram.rbf_prepare, gram.rbf_score, rows=4),
    "svcca": Similarity(cca.svcca_prepare, cca.svcca_score, rows=3),
    "pwcca": Similarity(cca.pwcca_prepare, cca.pwcca_score, rows=3, symmetric=False),
    "procrustes": Similarity(shape.procrustes_prepare, shape.procrustes_score),
    "angular": Similarity(shape.procrustes_prepare, shape.angular_score),
    "mutual_knn": Similarity(agreement.mutual_prepare, agreement.mutual_score, centred=False),
    "cknna": Similarity(agreement.cknna_prepare, agreement.cknna_score, centred=False),
    "rsa": Similarity(agreement.rsa_prepare, agreement.rsa_score, rows=3),
}


def compare(
    states: xr.Dataset, other: xr.Dataset | None = None, by: str = "linear_cka", *, progress: bool = True
) -> xr.DataArray:
    """A number of SIMILARITIES, at its defaults, of every layer with every layer in each pool: [pool, layer, layer_].

    other: states of the same examples from another model or checkpoint, for layer_; the same states when not given.
    procrustes and angular are distances, the others similarities; pwcca takes its weights from `layer`. Layers are
    read one at a time; what is prepared of them is held up to 1 GiB. Raises ValueError for an unknown name, other
    examples or pools, and states that are not finite.
    """
    if by not in SIMILARITIES:
        raise ValueError(f"no similarity {by!r}; there are {list(SIMILARITIES)}")
    a, b = states, states if other is None else other
    if a.sizes["example"] != b.sizes["example"] or a.pool.values.tolist() != b.pool.values.tolist():
        raise ValueError(
            f"states must have the same examples and pools; got {a.sizes['example']} and {b.sizes['example']}, "
            f"{a.pool.values.tolist()} and {b.pool.values.tolist()}"
        )
    kind = SIMILARITIES[by]
    if a.sizes["example"] < kind.rows:
        raise ValueError(f"{by} needs at least {kind.rows} examples; got {a.sizes['example']}")
    halved = other is None and kind.symmetric
    found = np.empty((a.sizes["pool"], a.sizes["layer"], b.sizes["layer"]))
    with tqdm(total=found.shape[0] * found.shape[1], unit="layer", desc=by, leave=False, disable=not progress) as bar:
        for p in range(found.shape[0]):
            first = _Prepared(a, p, kind)
            second = first if other is None else _Prepared(b, p, kind)
            for i in range(found.shape[1]):
                one = first(i)
                for j in range(i if halved else 0, found.shape[2]):
                    found[p, i, j] = kind.score(one, second(j))
                    if halved:
                        found[p, j, i] = found[p, i, j]
                bar.update()
    coords = {"pool": a.pool, "layer": a.layer, "layer_": b.layer.values}
    return xr.DataArray(found, dims=("pool", "layer", "layer_"), coords=coords, name=by)


class _Prepared:
    """Prepared layers of one pool, kept while they fit."""

    def __init__(self, states: xr.Dataset, pool: int, kind: Similarity) -> None:
        self.states, self.pool, self.kind = states, pool, kind
        self.kept: dict[int, Any] = {}
        self.held = 0

    def __call__(self, layer: int) -> Any:
        if layer in self.kept:
            return self.kept[layer]
        here = Space(rows(self.states, layer, self.pool))
        made = self.kind.prepare(here.centred.x if self.kind.centred else here.x)
        size = sum(part.nbytes for part in (made if isinstance(made, tuple) else (made,)))
        if self.held + size <= HOLD:
            self.kept[layer] = made
            self.held += size
        return made


def cka(states: xr.Dataset, other: xr.Dataset | None = None) -> xr.DataArray:
    """linear_cka of every layer with every layer, in each pool: cka[pool, layer, layer_]. `compare` has the others.

    other: states of the same examples from another model or checkpoint, for layer_; the same states when not given.
    Raises ValueError for other examples or pools, and for fewer than four examples.
    """
    return compare(states, other, "linear_cka", progress=False).rename("cka")


def rows(states: xr.Dataset, layer: int, pool: int) -> Tensor:
    """The rows of one layer and pool [example, dim], at the layer's own width."""
    width = int(states["width"][layer]) if "width" in states else states.sizes["dim"]
    return torch.from_numpy(states.h.isel(layer=layer, pool=pool).transpose("example", "dim").values[:, :width])
