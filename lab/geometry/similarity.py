"""How alike two spaces of the same examples are, whatever their widths and rotations."""

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor


def linear_cka(x: Float[Tensor, "N D"], y: Float[Tensor, "M E"]) -> float:
    """Debiased linear centred kernel alignment: HSIC_1(K, L) / sqrt(HSIC_1(K, K) HSIC_1(L, L)), K = X X', L = Y Y'.

    With the diagonals of K and L set to zero,
        HSIC_1 = [tr(K L) + (1'K1)(1'L1) / ((n-1)(n-2)) - 2 / (n-2) 1'K L 1] / (n (n-3)),
    here from X'Y, so that no n x n matrix is made. 1 for spaces equal up to rotation, shift and scale; about 0 for
    independent ones at any n, where the biased form still gives .60 for n = 256 Gaussian rows of width 384. Slightly
    below 0 is possible. One coordinate that dwarfs all others makes any two spaces that share it alike.

    HSIC_1: Song et al., 2012, Feature selection via dependence maximization, eq. 5 (number recalled). CKA: Kornblith
    et al., 2019. https://arxiv.org/abs/1905.00414
    Raises ValueError for fewer than four rows, or another number of rows in y. NaN where a space is a single point.
    """
    if len(x) != len(y) or len(x) < 4:
        raise ValueError(f"x and y must have the same rows, at least four; got {len(x)} and {len(y)}")
    x, y = (side.double() - side.double().mean(0) for side in (x, y))  # a shift changes nothing but the rounding
    own = _hsic(x, x), _hsic(y, y)
    return float(_hsic(x, y) / np.sqrt(own[0] * own[1])) if min(own) > 0 else float("nan")


def _hsic(x: Tensor, y: Tensor) -> float:
    n = len(x)
    xx, yy = x.square().sum(1), y.square().sum(1)
    k, l = x @ x.sum(0) - xx, y @ y.sum(0) - yy  # noqa: E741 (rows sums of K and L without their diagonals)
    trace = (x.T @ y).square().sum() - xx @ yy
    return float((trace + k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k @ l)) / (n * (n - 3)))


def cka(states: xr.Dataset, other: xr.Dataset | None = None) -> xr.DataArray:
    """linear_cka of every layer with every layer, in each pool: cka[pool, layer, layer_].

    other: states of the same examples from another model or checkpoint, for layer_; the same states when not given.
    Two layers are in memory at a time. Raises ValueError for other examples or pools.
    """
    a, b = states, states if other is None else other
    if a.sizes["example"] != b.sizes["example"] or a.pool.values.tolist() != b.pool.values.tolist():
        raise ValueError(
            f"states must have the same examples and pools; got {a.sizes['example']} and {b.sizes['example']}, "
            f"{a.pool.values.tolist()} and {b.pool.values.tolist()}"
        )
    found = np.empty((a.sizes["pool"], a.sizes["layer"], b.sizes["layer"]))
    for p, i in np.ndindex(found.shape[:2]):
        x = _space(a, i, p)
        for j in range(found.shape[2]):
            if other is None and j < i:
                found[p, i, j] = found[p, j, i]
            else:
                found[p, i, j] = linear_cka(x, _space(b, j, p))
    coords = {"pool": a.pool, "layer": a.layer, "layer_": b.layer.values}
    return xr.DataArray(found, dims=("pool", "layer", "layer_"), coords=coords, name="cka")


def _space(states: xr.Dataset, layer: int, pool: int) -> Tensor:
    width = int(states["width"][layer]) if "width" in states else states.sizes["dim"]
    return torch.from_numpy(states.h.isel(layer=layer, pool=pool).transpose("example", "dim").values[:, :width])
