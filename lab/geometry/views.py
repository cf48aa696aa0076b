"""What augmented views of the same examples tell: is the signal that views share larger than what they differ in?

x [*L, N, Q, D]: Q views of each of N examples. All are unchanged by the order of examples and by one rotation of all.
"""

import torch
from torch import Tensor

from lab.geometry.space import Space
from lab.geometry.spectrum import renyi


def lidar(x: Tensor, delta: float = 1e-4) -> Tensor:
    """exp of the entropy of the eigenvalues of S_w^-1/2 S_b S_w^-1/2 over their sum. [*L, N, Q, D] -> [*L].

    With mu_i the mean of example i's views and mu that of all: S_b = 1/N sum_i (mu_i - mu)(mu_i - mu)',
    S_w = 1/(NQ) sum_ij (x_ij - mu_i)(x_ij - mu_i)' + delta I. A rank of the linear discriminant: in
    [1, min(N - 1, D)], 0 where all examples are one point. Unchanged by shift and rotation; by scale only as far as
    delta is small beside S_w. The published eps on each share (as in RankMe) is left out.

    By a Cholesky factor S_w = C C', whose C^-1 S_b C^-T has the same eigenvalues.

    Thilak et al., 2023, eqs. 1-4 (numbers recalled). https://arxiv.org/abs/2312.04000
    ValueError for fewer than two examples or views, and delta <= 0.
    """
    if not delta > 0:
        raise ValueError(f"delta must be above 0, or S_w may have no inverse; got {delta}")
    views = _views(x)
    means = views.mean(-2)
    away = (views - means[..., None, :]).flatten(-3, -2)
    between = Space(means).centred.x
    within = away.mT @ away / away.shape[-2] + delta * torch.eye(views.shape[-1], dtype=views.dtype, device=x.device)
    root = torch.linalg.cholesky(within)
    squares = Space(torch.linalg.solve_triangular(root, between.mT, upper=False)).squares
    total = squares.sum(-1, keepdim=True)
    return torch.where(total[..., 0] > 0, renyi(squares / torch.where(total > 0, total, 1), 1.0).exp(), 0)


def dime(
    x: Tensor, alpha: float = 1.0, permutations: int = 10, seed: int = 0, bandwidth: float | None = None
) -> Tensor:
    """Difference of matrix entropies: E_P S(K_A o P K_B P') - S(K_A o K_B), in nats. [*L, N, 2, D] -> [*L].

    K_A, K_B [N, N] are Gaussian kernels exp(-|x_i - x_j|^2 / (2 s^2)) of the two views, s the `bandwidth` (None: the
    median distance within each view), o the entrywise product, S Renyi's entropy of K / N, P a random order of the
    examples. At 0 the views are no more alike than strangers; higher is more mutual information. Unchanged by shift
    and rotation of either view alone; by scale with the median bandwidth. N^3 a permutation: a few hundred examples.

    Skean et al., 2023. https://arxiv.org/abs/2301.08164 (the kernel's bandwidth is a choice there)
    ValueError for other than two views, fewer than three examples, permutations < 1.
    """
    views = _views(x)
    n = views.shape[-3]
    if views.shape[-2] != 2 or n < 3 or permutations < 1:
        raise ValueError(
            f"DiME compares two views of at least three examples over at least one permutation; got x of shape "
            f"{tuple(x.shape)} and permutations={permutations}"
        )
    a, b = (_gaussian(views[..., view, :], bandwidth) for view in (0, 1))
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(n, generator=generator).to(x.device) for _ in range(permutations)]
    strangers = torch.stack([_entropy(a * b[..., p, :][..., p], alpha) for p in orders]).mean(0)
    return strangers - _entropy(a * b, alpha)


def _gaussian(x: Tensor, bandwidth: float | None) -> Tensor:
    square = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").square()
    i, j = torch.triu_indices(*square.shape[-2:], 1, device=x.device)
    middle = square[..., i, j].median(-1).values if bandwidth is None else square.new_tensor(bandwidth**2)
    # all rows one point: every entry is 1 whatever the bandwidth
    return (-square / (2 * torch.where(middle > 0, middle, 1)[..., None, None])).exp()


def _entropy(kernel: Tensor, alpha: float) -> Tensor:
    """Of a kernel with ones on its diagonal."""
    return renyi(torch.linalg.eigvalsh(kernel / kernel.shape[-1]).clamp(min=0), alpha)


def infonce(x: Tensor, temperature: float = 0.1) -> Tensor:
    """-mean_i ln(e^(u_i.v_i/t) / sum_j e^(u_i.v_j/t)), u and v the unit rows of two views. [*L, N, Q, D] -> [*L].

    Averaged over all ordered pairs of the Q views. ln N when views tell nothing, towards 0 when each finds its partner
    among the N; ln N minus it bounds the mutual information from below. Unchanged by scaling single rows and by one
    rotation of all views; changed by rotating one and by a shift. A zero row stays zero.

    Van den Oord et al., 2018, eq. 4 (number recalled). https://arxiv.org/abs/1807.03748
    ValueError for fewer than two examples or views, and a temperature that is not above 0.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0; got {temperature}")
    views = Space(_views(x)).units.movedim(-2, 0)  # [Q, *L, N, D]
    pairs = [(a, b) for a in range(len(views)) for b in range(len(views)) if a != b]
    losses = []
    for a, b in pairs:
        logits = views[a] @ views[b].mT / temperature
        losses.append((logits.logsumexp(-1) - logits.diagonal(dim1=-2, dim2=-1)).mean(-1))
    return torch.stack(losses).mean(0)


def _views(x: Tensor) -> Tensor:
    if x.ndim < 3 or x.shape[-3] < 2 or x.shape[-2] < 2:
        raise ValueError(f"x must be [..., examples, views, dim] with at least two of both; got {tuple(x.shape)}")
    return Space(x).x
