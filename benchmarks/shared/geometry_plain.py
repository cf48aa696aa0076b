"""The numbers of lab.geometry as a script would have them: each in a few lines of what everyone has installed."""

import numpy as np
from scipy import stats
from scipy.spatial import procrustes as scipy_procrustes
from scipy.spatial.distance import pdist
from sklearn.metrics.pairwise import cosine_similarity, rbf_kernel
from sklearn.neighbors import NearestCentroid, NearestNeighbors


def _svd(x: np.ndarray) -> np.ndarray:
    return np.linalg.svd(x, compute_uv=False)


def _entropy_rank(s: np.ndarray) -> float:
    p = s / s.sum()
    return float(np.exp(-(p * np.log(p + 1e-30)).sum()))


def _cosine(x: np.ndarray) -> float:
    c = cosine_similarity(x)
    return float((c.sum() - np.trace(c)) / (len(x) * (len(x) - 1)))


def _covariance(x: np.ndarray) -> np.ndarray:
    return np.linalg.eigvalsh(np.cov(x.T))


def _neighbours(x: np.ndarray, k: int, metric: str = "euclidean") -> tuple[np.ndarray, np.ndarray]:
    distance, index = NearestNeighbors(n_neighbors=k + 1, metric=metric).fit(x).kneighbors(x)
    return distance[:, 1:], index[:, 1:]


def _two_nn(x: np.ndarray) -> float:
    r = _neighbours(x, 2)[0]
    mu = np.sort(r[:, 1] / r[:, 0])[: int(0.9 * len(x))]
    rise = -np.log(1 - np.arange(1, len(mu) + 1) / len(x))
    return float(np.linalg.lstsq(np.log(mu)[:, None], rise)[0][0])


def _levina_bickel(x: np.ndarray) -> float:
    t = _neighbours(x, 20)[0]
    return float(1 / np.log(t[:, -1:] / t[:, :-1]).mean())


def _popularity(x: np.ndarray) -> np.ndarray:
    return np.bincount(_neighbours(x, 10)[1].ravel(), minlength=len(x))


def _nc1(x: np.ndarray, y: np.ndarray) -> float:
    x = x.astype(np.float64)  # in float32, and at pinv's own rcond, the directions that S_B lacks are counted
    mu = np.stack([x[y == c].mean(0) for c in np.unique(y)])
    away, between = x - mu[y], mu - mu.mean(0)
    within = away.T @ away / len(x)
    return float(np.trace(within @ np.linalg.pinv(between.T @ between / len(mu), 1e-10, hermitian=True)) / len(mu))


def _exponent(x: np.ndarray) -> float:
    values = _covariance(x)[::-1]
    i = np.arange(max(1, len(values) // 20), len(values) // 2 + 1)
    return float(-np.polyfit(np.log(i), np.log(values[i - 1]), 1)[0])


SPACES = {  # (rows, labels) -> number
    "anisotropy": lambda x, _: _cosine(x),
    "anisotropy_centred": lambda x, _: _cosine(x - x.mean(0)),
    "isoscore": lambda x, _: (_covariance(x).sum() ** 2 / (_covariance(x) ** 2).sum() - 1) / (x.shape[1] - 1),
    "uniformity": lambda x, _: np.log(
        np.exp(-2 * pdist(x / np.linalg.norm(x, axis=1, keepdims=True), "sqeuclidean")).mean()
    ),
    "effective_rank": lambda x, _: _entropy_rank(_svd(x)),
    "effective_rank_centred": lambda x, _: _entropy_rank(_svd(x - x.mean(0))),
    "rankme": lambda x, _: _entropy_rank(_svd(x)),
    "participation_ratio": lambda x, _: _covariance(x).sum() ** 2 / (_covariance(x) ** 2).sum(),
    "stable_rank": lambda x, _: np.linalg.norm(x) ** 2 / np.linalg.norm(x, 2) ** 2,
    "matrix_entropy": lambda x, _: np.log(_entropy_rank(_svd(x) ** 2)),
    "spectral_exponent": lambda x, _: _exponent(x),
    "two_nn": lambda x, _: _two_nn(x),
    "levina_bickel": lambda x, _: _levina_bickel(x),
    "hubness": lambda x, _: stats.skew(_popularity(x)),
    "antihubs": lambda x, _: (_popularity(x) == 0).mean(),
    "duplicates": lambda x, _: 1 - len(np.unique(x, axis=0)) / len(x),
    "nc1": _nc1,
    "nearest_centre": lambda x, y: NearestCentroid().fit(x, y).score(x, y),
}


def _debiased(k: np.ndarray, l: np.ndarray) -> float:  # noqa: E741
    n = len(k)
    k, l = k - np.diag(np.diag(k)), l - np.diag(np.diag(l))  # noqa: E741
    middle = k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k.sum(0) @ l.sum(0))
    return float((np.sum(k * l) + middle) / (n * (n - 3)))


def _cka(k: np.ndarray, l: np.ndarray) -> float:  # noqa: E741
    return _debiased(k, l) / np.sqrt(_debiased(k, k) * _debiased(l, l))


def _rbf(x: np.ndarray) -> np.ndarray:
    return rbf_kernel(x, gamma=1 / (2 * (0.4 * np.median(pdist(x))) ** 2))


def _basis(x: np.ndarray) -> np.ndarray:
    u, s, _ = np.linalg.svd(x - x.mean(0), full_matrices=False)
    return u[:, : int((np.cumsum(s**2) / np.sum(s**2) < 0.99).sum()) + 1]


def _mutual(x: np.ndarray, y: np.ndarray) -> float:
    a, b = (_neighbours(side, 10, "cosine")[1] for side in (x, y))
    shared = np.mean([len(set(i) & set(j)) / 10 for i, j in zip(a, b, strict=True)])
    return float(shared - 10 / (len(x) - 1))


PAIRS = {
    "linear_cka": lambda x, y: _cka(x @ x.T, y @ y.T),
    "rbf_cka": lambda x, y: _cka(_rbf(x), _rbf(y)),
    "svcca": lambda x, y: _svd(_basis(x).T @ _basis(y)).mean(),
    "procrustes": lambda x, y: np.sqrt(2 - 2 * np.sqrt(1 - scipy_procrustes(x, y)[2])),
    "mutual_knn": _mutual,
    "rsa": lambda x, y: stats.spearmanr(pdist(x), pdist(y)).statistic,
}
