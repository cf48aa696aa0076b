"""Neural collapse without a network: features that are free to move, linear layers over them, and what theory says."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class FreeFeatures:
    """What was found: features [N, D] with their labels, and the outputs [N, D] of each linear layer but the last."""

    features: Tensor
    labels: Tensor
    layers: list[Tensor]  # the features first
    loss: float


def free_features(
    counts: Sequence[int],
    *,
    layers: int = 1,
    dim: int = 16,
    decay_weight: float = 5e-3,
    decay_features: float = 5e-3,
    iterations: int = 500,
    seed: int = 0,
) -> FreeFeatures:
    """Minimise |W_M .. W_1 H - Y|^2 / (2 N) + decay_weight / 2 sum |W|^2 + decay_features / 2 |H|^2.

    H [D, N] holds counts[k] free columns of class k, Y their one-hot targets; there is no bias. L-BFGS in float64
    from a random start. It stands for a network that could give every example whatever features it likes. Compare with
    `expected_lengths`.

    Dang et al., ICML 2023, Neural collapse in deep linear networks: from balanced to imbalanced data (problem and
    claims recalled). https://arxiv.org/abs/2301.00437
    ValueError for counts below 1, fewer than two classes, fewer dimensions than classes, and decays that are not
    positive.
    """
    _check(counts, layers, decay_weight, decay_features)
    if dim < len(counts):
        raise ValueError(f"{len(counts)} classes need as many dimensions to be orthogonal in; got dim={dim}")
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(list(counts)))
    wanted = torch.nn.functional.one_hot(labels).double()
    generator = torch.Generator().manual_seed(seed)
    sizes = [dim] * layers + [len(counts)]
    h = torch.randn(len(labels), dim, dtype=torch.float64, generator=generator).mul(dim**-0.5).requires_grad_()
    weights = [
        torch.randn(b, a, dtype=torch.float64, generator=generator).mul(a**-0.5).requires_grad_()
        for a, b in pairwise(sizes)
    ]
    optimiser = torch.optim.LBFGS(
        [h, *weights], max_iter=iterations, history_size=20, line_search_fn="strong_wolfe", tolerance_grad=1e-10,
        tolerance_change=1e-14,
    )  # fmt: skip

    def closure() -> Tensor:
        optimiser.zero_grad()
        out = h
        for weight in weights:
            out = out @ weight.T
        fit = (out - wanted).square().sum() / (2 * len(labels))
        size = decay_weight * sum(w.square().sum() for w in weights) + decay_features * h.square().sum()
        loss = fit + size / 2
        loss.backward()
        return loss

    optimiser.step(closure)
    loss = float(closure().detach())
    passed = [h.detach()]
    for weight in weights[:-1]:
        passed.append(passed[-1] @ weight.detach().T)
    return FreeFeatures(passed[0], labels, passed, loss)


def expected_lengths(
    counts: Sequence[int], *, layers: int = 1, decay_weight: float = 5e-3, decay_features: float = 5e-3
) -> Tensor:
    """|h_k| of each class at the minimum of `free_features`: orthogonal class means whose lengths the counts set. [K].

    Classes part into problems of one number each, the product p of the singular values that serve class k:
    n / (2 N) (p - 1)^2 + c p^(2 / (M + 1)), c = (M + 1) / 2 (decay_features n decay_weight^M)^(1 / (M + 1)), and then
    |h|^2 = 2 c p^(2 / (M + 1)) / ((M + 1) decay_features n). For one layer p = 1 - N sqrt(decay_weight decay_features
    / n), 0 where that is negative: a class of n <= N^2 decay_weight decay_features examples vanishes. With more layers
    p = 0 is always a local minimum; it is taken where it is the lower one.

    Derived here from the two terms' inequality of means; the result is that of Dang et al., 2023, theorem 4.4 (number
    recalled). ValueError as free_features.
    """
    _check(counts, layers, decay_weight, decay_features)
    total, m = sum(counts), layers
    n = torch.tensor(list(counts), dtype=torch.float64)
    power = 2 / (m + 1)
    c = (decay_features * n * decay_weight**m) ** (1 / (m + 1)) / power
    if m == 1:
        p = (1 - total * (decay_weight * decay_features / n).sqrt()).clamp(min=0)
    else:
        # n / N (1 - p) = c power p^(power - 1) has two roots around the top of (1 - p) p^(1 - power); the upper one
        low, high = torch.full_like(n, (1 - power) / (2 - power)), torch.ones_like(n)
        for _ in range(60):
            middle = (low + high) / 2
            above = n / total * (1 - middle) * middle ** (1 - power) > c * power
            low, high = torch.where(above, middle, low), torch.where(above, high, middle)
        lower = n / (2 * total) * (low - 1) ** 2 + c * low**power < n / (2 * total)
        p = torch.where(lower, low, 0)
    return (c * power * p**power / (decay_features * n)).sqrt()


def _check(counts: Sequence[int], layers: int, decay_weight: float, decay_features: float) -> None:
    if len(counts) < 2 or min(counts) < 1 or layers < 1 or min(decay_weight, decay_features) <= 0:
        raise ValueError(
            f"got counts={list(counts)}, layers={layers}, decay_weight={decay_weight}, decay_features="
            f"{decay_features}; needed are two classes or more of at least one example, one layer, and positive decays"
        )
