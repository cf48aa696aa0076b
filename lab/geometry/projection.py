"""Maps of a space in two dimensions, each with a number for how far it can be trusted."""

import warnings

import numpy as np
import xarray as xr
from jaxtyping import Float


def coordinates(
    x: Float[np.ndarray, "N D"],
    method: str = "pca",
    *,
    seed: int = 0,
    neighbours: int = 15,
    start: Float[np.ndarray, "N 2"] | None = None,
) -> Float[np.ndarray, "N 2"]:
    """Places of the rows of x in the plane, without the number that says how far they can be trusted; see `project`.

    start: where umap and tsne begin, in place of their own spectral and principal beginnings, so that maps of several
    layers lie alike; pca has no beginning. Rows that are all equal are one place, (0, 0).

    Raises ValueError for an unknown method, no rows, and rows that are not finite.
    """
    if method not in METHODS:
        raise ValueError(f"no projection {method!r}; there are {sorted(METHODS)}")
    if not len(x) or not np.isfinite(x).all():
        odd = int((~np.isfinite(x).all(1)).sum())
        raise ValueError(f"a projection takes rows of finite numbers, one or more; got {len(x)}, {odd} not finite")
    if (x == x[:1]).all():
        return np.zeros((len(x), 2), np.float32)
    return METHODS[method](x, seed, neighbours, start).astype(np.float32)


def principal(x: Float[np.ndarray, "N D"], seed: int = 0) -> tuple[Float[np.ndarray, " D"], Float[np.ndarray, "D 2"]]:
    """The mean and the two directions of largest variance, so that (x - mean) @ axes is the pca map of any rows.

    With fewer than two rows or dimensions the axes that are not there are zeros.
    """
    from sklearn.decomposition import PCA

    axes = np.zeros((x.shape[1], 2), x.dtype)
    some = min(2, len(x) - 1, x.shape[1])
    if some > 0 and (x != x[:1]).any():
        axes[:, :some] = PCA(some, random_state=seed).fit(x).components_.T
    return x.mean(0), axes


def align(x: Float[np.ndarray, "N 2"], onto: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, "2 2"]:
    """The rotation or reflection R that brings x nearest to `onto`, min_R |x R - onto| over R' R = 1.

    R = U V' of the singular vectors x' onto = U S V'. Both should be centred. Schönemann, 1966, on the orthogonal
    Procrustes problem, https://doi.org/10.1007/BF02289451.
    """
    left, _, right = np.linalg.svd(x.T.astype(float) @ onto.astype(float))
    return (left @ right).astype(x.dtype)


def project(x: Float[np.ndarray, "N D"], method: str = "pca", *, seed: int = 0, neighbours: int = 15) -> xr.DataArray:
    """Coordinates [example, axis] of the rows of x in the plane, with attrs method, trustworthiness, neighbours.

    method: "pca" (linear, instant), "umap" (McInnes et al., 2018, https://arxiv.org/abs/1802.03426; cosine distance;
    about half a minute for the first map of a process, which compiles it) or "tsne" (van der Maaten & Hinton, 2008,
    JMLR 9; Barnes-Hut, cosine distance, twice `neighbours` as perplexity). Same seed and same kind of machine: same
    map.

    trustworthiness: in [0, 1], 1 when every near neighbour on the map is near in the space too, 0.5 about what
    chance gives (Venna & Kaski, 2001, eq. 1 (number recalled); scikit-learn's), measured at `neighbours` by cosine.

    Raises ValueError for an unknown method, or too few rows for the neighbours asked for.
    """
    from sklearn.manifold import trustworthiness

    if not 2 <= neighbours < len(x) / 2:
        raise ValueError(f"neighbours must be from 2 to below half the {len(x)} rows; got {neighbours}")
    xy = coordinates(x, method, seed=seed, neighbours=neighbours)
    trust = trustworthiness(x, xy, n_neighbors=neighbours, metric="cosine")
    return xr.DataArray(
        xy,
        dims=("example", "axis"),
        attrs={"method": method, "trustworthiness": float(trust), "neighbours": neighbours},
    )


def _pca(x: np.ndarray, seed: int, _neighbours: int, _start: np.ndarray | None) -> np.ndarray:
    mean, axes = principal(x, seed)
    return (x - mean) @ axes


def _umap(x: np.ndarray, seed: int, neighbours: int, start: np.ndarray | None) -> np.ndarray:
    from threadpoolctl import threadpool_limits

    # numba raises OpenMP's number of threads for the whole process; left so, a t-SNE after it took 30 s of a busy
    # processor instead of 2
    with warnings.catch_warnings(), threadpool_limits(1, user_api="openmp"):
        # said by umap at every seeded fit, and by its import of a TensorFlow it does not need here
        warnings.filterwarnings("ignore", message="n_jobs value .* overridden", category=UserWarning)
        warnings.filterwarnings("ignore", message="Tensorflow not installed", category=ImportWarning)
        import umap

        begin = "spectral" if start is None else 10 * start / max(float(np.abs(start).max()), 1e-12)
        mapper = umap.UMAP(n_neighbors=neighbours, metric="cosine", random_state=seed, n_jobs=1, init=begin)
        return mapper.fit_transform(x)


def _tsne(x: np.ndarray, seed: int, neighbours: int, start: np.ndarray | None) -> np.ndarray:
    from sklearn.manifold import TSNE

    # a small beginning, as its authors advise: a deviation of 1e-4 along the first axis
    begin = "pca" if start is None else 1e-4 * start / max(float(start[:, 0].std()), 1e-12)
    if isinstance(begin, str) and min(x.shape) < 2:
        begin = "random"
    perplexity = max(1.0, min(2.0 * neighbours, (len(x) - 1) / 3))
    return TSNE(2, perplexity=perplexity, metric="cosine", init=begin, random_state=seed).fit_transform(x)


METHODS = {"pca": _pca, "umap": _umap, "tsne": _tsne}
