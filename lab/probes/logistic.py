"""Multinomial logistic regression at several penalties at once, from the rows."""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from lab.probes.fits import standardised
from lab.probes.sums import Sums

TOLERANCE, STEPS = 1e-4, 2000  # of the largest gradient of the mean loss, as scikit-learn has it


def logistic(x: Tensor, y: Tensor, penalties: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Weights [A, D, K] and intercepts [A, K] that minimise -sum_i ln softmax(x_i W + b)_(y_i) + a |S W|^2 / 2.

    x [n, D], y [n, K] one-hot; S holds the columns' standard deviations, so a is the inverse of scikit-learn's C on
    standardised columns. The Hessian is nowhere above Z'Z / 2 + a I (Z standardised, Boehning, 1992): steps by its
    inverse go down always, and Nesterov's momentum, dropped where it points uphill (O'Donoghue & Candes, 2015), makes
    them few. A class without a row has an intercept of minus infinity. Warns where the gradient stays large.
    """
    n, kinds = len(x), y.shape[1]
    count = y.sum(0)
    y, seen = y[:, count > 0], count > 0
    rows = torch.as_tensor(n, dtype=x.dtype, device=x.device)
    mean, inverse, scatter = standardised(Sums(rows, x.sum(0), x.mT @ x, count, x.mT @ y))
    z = (x - mean) * inverse
    alpha = torch.tensor(penalties, dtype=x.dtype, device=x.device)[:, None, None]
    eye = torch.eye(len(mean), dtype=x.dtype, device=x.device)
    bound = [torch.linalg.cholesky(scatter / 2 + float(a) * eye) for a in penalties]
    a, d, k = len(penalties), x.shape[1], y.shape[1]
    weights, bias = x.new_zeros(a, d, k), (y.mean(0)).log().expand(a, k).clone()
    ahead_w, ahead_b, momentum = weights, bias, x.new_ones(a)
    for _ in range(STEPS):
        off = (z @ ahead_w.transpose(0, 1).reshape(d, a * k)).view(n, a, k) + ahead_b
        off = off.softmax(-1) - y[:, None]
        slope_w = (z.mT @ off.view(n, a * k)).view(d, a, k).transpose(0, 1) + alpha * ahead_w
        slope_b = off.sum(0)
        steep = torch.maximum(slope_w.abs().amax((1, 2)), slope_b.abs().amax(1)) / n
        if bool((steep < TOLERANCE).all()):
            break
        step = torch.stack([torch.cholesky_solve(one, root) for one, root in zip(slope_w, bound, strict=True)])
        next_w, next_b = ahead_w - step, ahead_b - slope_b * (2 / n)
        uphill = (slope_w * (next_w - weights)).sum((1, 2)) + (slope_b * (next_b - bias)).sum(1) > 0
        momentum = torch.where(uphill, 1.0, momentum)
        longer = (1 + (1 + 4 * momentum**2).sqrt()) / 2
        beta = torch.where(uphill, 0.0, (momentum - 1) / longer)
        ahead_w = next_w + beta[:, None, None] * (next_w - weights)
        ahead_b = next_b + beta[:, None] * (next_b - bias)
        weights, bias, momentum = next_w, next_b, longer
    else:
        words = [f"{one:g}" for one, much in zip(penalties, steep.tolist(), strict=True) if much >= TOLERANCE]
        message = f"logistic regression did not settle at penalties {', '.join(words)}"
        warnings.warn(message, RuntimeWarning, stacklevel=2)
    found_w, found_b = x.new_zeros(a, d, kinds), x.new_full((a, kinds), -torch.inf)
    found_w[..., seen] = inverse[:, None] * ahead_w
    found_b[:, seen] = ahead_b - mean @ (inverse[:, None] * ahead_w)
    return found_w, found_b
