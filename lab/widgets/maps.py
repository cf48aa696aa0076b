"""One map in the plane for each layer, pool and method: made when asked for, kept, and turned to lie like the others.

PCA maps form a chain: each is turned by Procrustes onto the one of the layer before it (the first layer of a pool
onto that of the first pool), all at a root mean square radius of 1. UMAP and t-SNE begin at the PCA map of their own
layer and are then turned onto it, so that all maps are the same whichever was asked for first.
"""

import threading

import numpy as np
import xarray as xr

from lab.geometry import align, coordinates, principal

METHODS = ("pca", "umap", "tsne")
MOST = {"umap": 20_000, "tsne": 5_000}  # rows: minutes on two cores
AXES = 20_000  # rows that the axes of a PCA map are fitted to
KEEP = 2**28  # bytes of maps in memory
Basis = tuple[np.ndarray, np.ndarray, np.ndarray]


class Maps:
    """maps(layer, pool, method): float32 [example, 2] in [-1, 1], by index; NaN for examples without finite states."""

    def __init__(self, states: xr.Dataset, seed: int = 0) -> None:
        self.h, self.seed = states.h.transpose("layer", "pool", "example", "dim"), seed
        self.widths = states["width"].values if "width" in states else np.full(len(self.h), self.h.sizes["dim"])
        n = self.h.sizes["example"]
        draw = np.random.default_rng(seed)
        self.sample = np.sort(draw.choice(n, min(n, AXES), replace=False))
        self.bases: dict[tuple[int, int], Basis | None] = {}
        self.kept: dict[tuple[int, int, str], np.ndarray] = {}
        self.lock = threading.RLock()

    def __call__(self, layer: int, pool: int, method: str = "pca") -> np.ndarray:
        with self.lock:
            if (layer, pool, method) not in self.kept:
                made = _fitted(self._made(layer, pool, method))
                while self.kept and sum(xy.nbytes for xy in self.kept.values()) + made.nbytes > KEEP:
                    self.kept.pop(next(iter(self.kept)))  # the oldest
                self.kept[layer, pool, method] = made
            return self.kept[layer, pool, method]

    def rows(self, layer: int, pool: int) -> np.ndarray:
        """States [example, dim] at the layer's own width."""
        return self.h[layer, pool, :, : int(self.widths[layer])].values

    def _made(self, layer: int, pool: int, method: str) -> np.ndarray:
        x = self.rows(layer, pool)
        basis = self._basis(layer, pool)
        if basis is None:
            where = f"layer {self.h.layer.values[layer]}, pool {self.h['pool'].values[pool]}"
            raise ValueError(f"{where}: no example has finite states")
        mean, axes, _ = basis
        straight = (x - mean) @ axes
        if method == "pca":
            return straight
        there = np.isfinite(x).all(1)
        n = int(there.sum())
        if n > MOST[method]:
            raise ValueError(
                f"{method} takes at most {MOST[method]:,} examples here, more would be minutes; got {n:,}. Give a "
                "sample, states.isel(example=...) and its rows of the table, or look at pca"
            )
        if n < 6:
            raise ValueError(f"{method} needs six examples with finite states; got {n}")
        start = straight[there]
        xy = coordinates(x[there], method, seed=self.seed, neighbours=min(15, n - 2), start=start)
        xy = _radius(xy - xy.mean(0))
        found = np.full((len(x), 2), np.nan, np.float32)
        found[there] = xy @ align(xy, start)
        return found

    def _basis(self, layer: int, pool: int) -> Basis | None:
        """Mean, turned and scaled axes, and the sample's places [sample, 2]; None where no example is finite."""
        if (layer, pool) not in self.bases:
            self.bases[layer, pool] = self._based(layer, pool)
        return self.bases[layer, pool]

    def _based(self, layer: int, pool: int) -> Basis | None:
        x = self.rows(layer, pool)[self.sample].astype(np.float32, copy=False)
        there = np.isfinite(x).all(1)
        if not there.any():
            return None
        mean, axes = principal(x[there], self.seed)
        xy = (x - mean) @ axes
        size = float(np.sqrt(np.square(xy[there]).sum(1).mean()))
        axes = axes / (size if size > 0 else 1)
        earlier = [(i, pool) for i in range(layer - 1, -1, -1)] or [(0, p) for p in range(pool - 1, -1, -1)]
        before = next((basis for place in earlier if (basis := self._basis(*place)) is not None), None)
        if before is not None:
            both = there & np.isfinite(before[2]).all(1)
            if both.any():
                axes = axes @ align(xy[both], before[2][both])
        return mean, axes, (x - mean) @ axes


def _radius(xy: np.ndarray) -> np.ndarray:
    size = float(np.sqrt(np.square(xy).sum(1).mean()))
    return xy / (size if size > 0 else 1)


def _fitted(xy: np.ndarray) -> np.ndarray:
    """Shrunk so that the farthest point is at the edge of [-1, 1]."""
    xy = np.where(np.isfinite(xy).all(1, keepdims=True), xy, np.nan)
    far = np.nanmax(np.abs(xy)) if np.isfinite(xy).any() else 0
    return (xy / (far if far > 0 else 1)).astype(np.float32)
