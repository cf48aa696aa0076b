"""Maps of a space in two dimensions, each with a number for how far it can be trusted."""

import warnings

import numpy as np
import xarray as xr
from jaxtyping import Float


def project(x: Float[np.ndarray, "N D"], method: str = "pca", *, seed: int = 0, neighbours: int = 15) -> xr.DataArray:
    """Coordinates [example, axis] of the rows of x in the plane, with attrs method, trustworthiness, neighbours.

    method: "pca" (linear, instant), or "umap" (McInnes et al., 2018, https://arxiv.org/abs/1802.03426; cosine
    distance; about half a minute for the first map of a process, which compiles it). Same seed and same kind of
    machine: same map.

    trustworthiness: in [0, 1], 1 when every near neighbour on the map is near in the space too, 0.5 about what
    chance gives (Venna & Kaski, 2001, eq. 1 (number recalled); scikit-learn's), measured at `neighbours` by cosine.

    Raises ValueError for an unknown method, or too few rows for the neighbours asked for.
    """
    from sklearn.manifold import trustworthiness

    if method not in METHODS:
        raise ValueError(f"no projection {method!r}; there are {sorted(METHODS)}")
    if not 2 <= neighbours < len(x) / 2:
        raise ValueError(f"neighbours must be from 2 to below half the {len(x)} rows; got {neighbours}")
    xy = METHODS[method](x, seed, neighbours)
    trust = trustworthiness(x, xy, n_neighbors=neighbours, metric="cosine")
    return xr.DataArray(
        xy.astype(np.float32),
        dims=("example", "axis"),
        attrs={"method": method, "trustworthiness": float(trust), "neighbours": neighbours},
    )


def _pca(x: np.ndarray, seed: int, _neighbours: int) -> np.ndarray:
    from sklearn.decomposition import PCA

    return PCA(2, random_state=seed).fit_transform(x)


def _umap(x: np.ndarray, seed: int, neighbours: int) -> np.ndarray:
    with warnings.catch_warnings():
        # said by umap at every seeded fit, and by its import of a TensorFlow it does not need here
        warnings.filterwarnings("ignore", message="n_jobs value .* overridden", category=UserWarning)
        warnings.filterwarnings("ignore", message="Tensorflow not installed", category=ImportWarning)
        import umap

        mapper = umap.UMAP(n_neighbors=neighbours, metric="cosine", random_state=seed, n_jobs=1)
        return mapper.fit_transform(x)


METHODS = {"pca": _pca, "umap": _umap}
