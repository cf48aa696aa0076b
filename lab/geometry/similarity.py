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
    x, y = _centred(x), _centred(y)
    return _aligned(x, y, _hsic(x, x), _hsic(y, y))


def _centred(x: Tensor) -> Tensor:
    """In float64, around its mean: a shift changes nothing but the rounding."""
    return x.double() - x.double().mean(0)


def _aligned(x: Tensor, y: Tensor, xx: float, yy: float) -> float:
    """The alignment of two centred spaces, xx and yy being what each has with itself."""
    return float(_hsic(x, y) / np.sqrt(xx * yy)) if min(xx, yy) > 0 else float("nan")


def _hsic(x: Tensor, y: Tensor) -> float:
    n = len(x)
    xx, yy = x.square().sum(1), y.square().sum(1)
    k, l = x @ x.sum(0) - xx, y @ y.sum(0) - yy  # noqa: E741 (rows sums of K and L without their diagonals)
    trace = (x.T @ y).square().sum() - xx @ yy
    return float((trace + k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k @ l)) / (n * (n - 3)))


def cka(states: xr.Dataset, other: xr.Dataset | None = None) -> xr.DataArray:
    """linear_cka of every layer with every layer, in each pool: cka[pool, layer, layer_].

    other: states of the same examples from another model or checkpoint, for layer_; the same states when not given.
    Two layers are in memory at a time. Raises ValueError for other examples or pools, and for fewer than four examples.
    """
    a, b = states, states if other is None else other
    if a.sizes["example"] != b.sizes["example"] or a.pool.values.tolist() != b.pool.values.tolist():
        raise ValueError(
            f"states must have the same examples and pools; got {a.sizes['example']} and {b.sizes['example']}, "
            f"{a.pool.values.tolist()} and {b.pool.values.tolist()}"
        )
    if a.sizes["example"] < 4:
        raise ValueError(f"states must be of at least four examples; got {a.sizes['example']}: capture more texts")
    own_a = _own(a)
    own_b = own_a if other is None else _own(b)
    found = np.empty((*own_a.shape, b.sizes["layer"]))
    for p, i in np.ndindex(own_a.shape):
        x = _space(a, i, p)
        for j in range(found.shape[2]):
            if other is None and j < i:
                found[p, i, j] = found[p, j, i]
            else:
                found[p, i, j] = _aligned(x, _space(b, j, p), own_a[p, i], own_b[p, j])
    coords = {"pool": a.pool, "layer": a.layer, "layer_": b.layer.values}
    return xr.DataArray(found, dims=("pool", "layer", "layer_"), coords=coords, name="cka")


def _own(states: xr.Dataset) -> np.ndarray:
    """HSIC_1 of every space with itself, [pool, layer]."""
    found = np.empty((states.sizes["pool"], states.sizes["layer"]))
    for p, i in np.ndindex(found.shape):
        x = _space(states, i, p)
        found[p, i] = _hsic(x, x)
    return found


def _space(states: xr.Dataset, layer: int, pool: int) -> Tensor:
    """One layer's vectors, centred."""
    width = int(states["width"][layer]) if "width" in states else states.sizes["dim"]
    vectors = states.h.isel(layer=layer, pool=pool).transpose("example", "dim").values[:, :width]
    return _centred(torch.from_numpy(vectors))
