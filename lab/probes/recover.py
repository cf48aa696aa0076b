"""How much of one set of vectors a linear map can get back from another: ridge regression, judged on held-out rows."""

from collections.abc import Mapping

import numpy as np
import xarray as xr
from jaxtyping import Float

PENALTIES = np.array([1e-7, 1e-5, 1e-3, 1e-2, 1e-1, 1.0])  # shares of the mean variance of the standardised input


def recover(
    sources: Mapping[str, Float[np.ndarray, "_ _"]],
    targets: Mapping[str, Float[np.ndarray, "_ _"]],
    *,
    held_out: float = 0.25,
    seed: int = 0,
) -> xr.DataArray:
    """R^2[source, target] = 1 - sum |y - y'|^2 / sum |y - mean|^2 on held-out rows, y' the ridge regression on source.

    Inputs are standardised and the penalty is chosen, for each pair, on the training rows by leave-one-out error,
    e_i / (1 - H_ii) in closed form. 1 is a perfect copy, 0 no better than the mean, below 0 worse. With fewer
    training rows than dimensions even a copy is not seen to be one.

    Raises ValueError where the rows differ in number, or are too few to hold two out.
    """
    sizes = {name: len(values) for name, values in (*sources.items(), *targets.items())}
    if len(set(sizes.values())) != 1:
        raise ValueError(f"sources and targets need the same rows; got {sizes}")
    n = next(iter(sizes.values()))
    test = int(held_out * n)
    if test < 2 or n - test < 2:
        raise ValueError(f"two rows or more to train on and to test on are needed; {held_out} of {n} leaves {test}")
    order = np.random.default_rng(seed).permutation(n)
    train, test = order[test:], order[:test]
    score = np.array([_scores(np.asarray(x, float), targets, train, test) for x in sources.values()])
    return xr.DataArray(score, dims=("source", "target"), coords={"source": list(sources), "target": list(targets)})


def _scores(x: np.ndarray, targets: Mapping[str, np.ndarray], train: np.ndarray, test: np.ndarray) -> list[float]:
    mean, spread = x[train].mean(0), x[train].std(0)
    z = (x - mean) / np.where(spread > 1e-9 * np.abs(mean).max(initial=1e-30), spread, np.inf)  # constants are dropped
    u, s, vt = np.linalg.svd(z[train], full_matrices=False)
    ahead = z[test] @ vt.T  # the held-out rows in the same directions
    found = []
    for y in targets.values():
        y = np.asarray(y, float)
        centre = y[train].mean(0)
        along = u.T @ (y[train] - centre)
        fits = [_leave_one_out(u, s, along, y[train] - centre, penalty) for penalty in PENALTIES * len(train)]
        _, weights = min(fits, key=lambda fit: fit[0])
        error = y[test] - centre - ahead @ (weights[:, None] * along)
        found.append(1 - np.square(error).sum() / np.square(y[test] - y[test].mean(0)).sum())
    return found


def _leave_one_out(u, s, along, y, penalty: float) -> tuple[float, np.ndarray]:
    """The squared error of predicting each row from the others, and s / (s^2 + penalty), the fit in u's directions."""
    shrink = s**2 / (s**2 + penalty)
    left = 1 - 1 / len(y) - (np.square(u) * shrink).sum(1)  # 1/n is the mean's, which each row moves too
    error = (y - u @ (shrink[:, None] * along)) / np.maximum(left, 1e-12)[:, None]
    return float(np.square(error).sum()), s / (s**2 + penalty)
