"""All numbers of one space at once, for every layer and pool of captured states."""

from functools import partial

import numpy as np
import torch
import xarray as xr
from tqdm import tqdm

from lab.geometry import collapse, isotropy, neighbours, spectrum
from lab.geometry.abreast import abreast
from lab.geometry.classes import Classes
from lab.geometry.space import Space

METRICS = {
    "anisotropy": isotropy.anisotropy,
    "anisotropy_centred": partial(isotropy.anisotropy, centred=True),
    "isoscore": isotropy.isoscore,
    "uniformity": isotropy.uniformity,
    "effective_rank": spectrum.effective_rank,
    "effective_rank_centred": partial(spectrum.effective_rank, centred=True),
    "rankme": spectrum.rankme,
    "participation_ratio": spectrum.participation_ratio,
    "stable_rank": spectrum.stable_rank,
    "matrix_entropy": spectrum.matrix_entropy,
    "spectral_exponent": spectrum.spectral_exponent,
    "two_nn": neighbours.two_nn,
    "two_nn_mle": neighbours.two_nn_mle,
    "levina_bickel": neighbours.levina_bickel,
    "hubness": neighbours.hubness,
    "antihubs": neighbours.antihubs,
    "duplicates": neighbours.duplicates,
}
COLLAPSE = {  # beside those, where there are labels
    "nc1": collapse.nc1,
    "nc2_norms": collapse.nc2_norms,
    "nc2_angles": collapse.nc2_angles,
    "cdnv": collapse.cdnv,
    "nearest_centre": collapse.nearest_centre,
}
NEEDS = {"two_nn": 3, "two_nn_mle": 3, "levina_bickel": 21, "hubness": 11, "antihubs": 11}  # examples; others two
WIDEST = 20  # neighbours searched for: the most that a number asks for
FORMS = 6  # copies of its rows that a space makes in being measured: centred, of unit length, less class means


def measure(states: xr.Dataset, labels: object = None, *, progress: bool = True) -> xr.Dataset:
    """Every metric of METRICS for every layer and pool of captured states: one variable per metric [layer, pool].

    states: what lab.capture.states or open_store returns; all numbers of a layer and pool share one spectrum and one
    search for neighbours. As many layers as torch has threads are in memory at a time, large ones one by one. Layers
    narrower than the widest are measured at their own width. labels, one for each example, adds the numbers of
    COLLAPSE. All at their defaults; each has its formula in its own docstring. NaN where a number needs more examples
    than there are (NEEDS).

    Raises ValueError for fewer than two examples, states that are not finite, and labels as Classes does.
    """
    h = states["h"].transpose("layer", "pool", "example", "dim")
    n = h.sizes["example"]
    if n < 2:
        raise ValueError(f"a space needs at least two examples; got {n}")
    widths = states["width"].values if "width" in states else np.full(h.sizes["layer"], h.sizes["dim"])
    found = {name: np.full(h.shape[:2], np.nan) for name in (*METRICS, *(COLLAPSE if labels is not None else ()))}
    cells = list(np.ndindex(*h.shape[:2]))
    with tqdm(total=len(cells), unit="space", desc="geometry", leave=False, disable=not progress) as bar:

        def one(cell: tuple[int, int]) -> None:
            for name, value in _numbers(_space(h, cell, int(widths[cell[0]])), labels).items():
                found[name][cell] = value
            bar.update()

        abreast(one, cells, FORMS * 8 * n * h.sizes["dim"])
    return xr.Dataset(
        {name: (("layer", "pool"), values) for name, values in found.items()},
        coords={axis: h[axis] for axis in ("layer", "pool")},
    )


def _numbers(space: Space, labels: object) -> dict[str, float]:
    if space.n > WIDEST:
        space.nearest(WIDEST)
    found = {name: metric(space).item() for name, metric in METRICS.items() if space.n >= NEEDS.get(name, 2)}
    if labels is not None:
        grouped = Classes(space, labels)
        found |= {name: metric(grouped).item() for name, metric in COLLAPSE.items()}
    return found


def _space(h: xr.DataArray, cell: tuple[int, int], width: int) -> Space:
    try:
        return Space(torch.from_numpy(h[cell][:, :width].values))
    except ValueError as error:
        layer, pool = h.layer.values[cell[0]], h.pool.values[cell[1]]
        raise ValueError(f"layer {layer}, pool {pool}: {error}") from error
