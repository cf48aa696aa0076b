"""lab.geometry's numbers of augmented views: LiDAR, DiME and InfoNCE against matrices written out."""

import math

import numpy as np
import pytest
import torch

from lab import geometry


def views(n=30, q=4, d=6, noise=0.5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centre = torch.randn(n, 1, d, generator=generator, dtype=torch.float64) * torch.linspace(2, 0.2, d)
    return centre + noise * torch.randn(n, q, d, generator=generator, dtype=torch.float64)


def lda(x, delta=1e-4):
    n, q, d = x.shape
    mu = x.mean(1)
    sb = sum(np.outer(m, m) for m in mu - mu.mean(0)) / n
    sw = sum(np.outer(r, r) for r in (x - mu[:, None]).reshape(-1, d)) / (n * q) + delta * np.eye(d)
    values, vectors = np.linalg.eigh(sw)
    root = vectors @ np.diag(values**-0.5) @ vectors.T
    return root @ sb @ root


@pytest.mark.parametrize("shape", [(30, 4, 6), (5, 2, 9)])
def test_lidar_is_the_entropy_of_the_discriminants_eigenvalues(shape):
    x = views(*shape)
    values = np.linalg.eigvalsh(lda(x.numpy()))
    p = values[values > 1e-10 * values.max()] / values.sum()
    assert geometry.lidar(x).item() == pytest.approx(np.exp(-sum(p * np.log(p))), rel=1e-6)


def test_lidar_is_not_the_spectrum_of_the_discriminants_principal_components():
    """As reptrix has it: a PCA of the matrix itself, whose centring and squaring lose half of the number."""
    x = views(200, 4, 24)
    matrix = lda(x.numpy())
    share = np.linalg.svd(matrix - matrix.mean(0), compute_uv=False) ** 2
    p = share[share > 1e-12] / share.sum()
    assert geometry.lidar(x).item() > 1.3 * np.exp(-sum(p * np.log(p)))


def test_lidar_counts_directions_that_views_share():
    x = views(300, 8, 6, noise=0.0)
    x = torch.nn.functional.pad(x[..., :3] / x[..., :3].std((0, 1)), (0, 3)) + 0.1 * torch.randn(300, 8, 6)
    assert geometry.lidar(x).item() == pytest.approx(3, abs=0.3)
    assert geometry.lidar(x.expand(2, 1, -1, -1, -1)).shape == (2, 1)
    assert geometry.lidar(torch.ones(5, 2, 3)).item() == 0
    q = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
    was = geometry.lidar(x)
    torch.testing.assert_close(geometry.lidar(x @ q + 5), was)
    torch.testing.assert_close(geometry.lidar(x[torch.randperm(300)]), was)
    assert abs(geometry.lidar(1e-3 * views()) - geometry.lidar(views())) > 0.01  # delta is not scaled along
    assert abs(geometry.lidar(x.flatten(0, 1)[torch.randperm(2400)].view(300, 8, 6)) - was) > 0.5  # strangers


def kernel(x):
    square = ((x[:, None] - x[None]) ** 2).sum(-1)
    return np.exp(-square / (2 * np.sort(square[np.triu_indices(len(x), 1)])[(len(x) * (len(x) - 1) // 2 - 1) // 2]))


def entropy(k, alpha):
    p = np.linalg.eigvalsh(k / len(k)).clip(1e-16)
    return -sum(p * np.log(p)) if alpha == 1 else np.log(sum(p**alpha)) / (1 - alpha)


@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_dime_is_its_definition(alpha):
    x = views(12, 2, 4)
    a, b = kernel(x[:, 0].numpy()), kernel(x[:, 1].numpy())
    generator = torch.Generator().manual_seed(3)
    orders = [torch.randperm(12, generator=generator).numpy() for _ in range(5)]
    want = np.mean([entropy(a * b[p][:, p], alpha) for p in orders]) - entropy(a * b, alpha)
    assert geometry.dime(x, alpha, permutations=5, seed=3).item() == pytest.approx(want, rel=1e-7)


def test_dime_is_about_zero_for_strangers_and_grows_as_views_agree():
    far, near = geometry.dime(views(80, 2, noise=3.0)).item(), geometry.dime(views(80, 2, noise=0.1)).item()
    strangers = geometry.dime(torch.randn(80, 2, 6)).item()
    assert near > far + 0.2
    assert abs(strangers) < 0.1
    x = views(40, 2)
    q = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
    one_turned = torch.stack([x[:, 0] @ q + 3, 2 * x[:, 1]], 1)
    torch.testing.assert_close(geometry.dime(one_turned), geometry.dime(x))
    assert abs(geometry.dime(x, bandwidth=4.0) - geometry.dime(2 * x, bandwidth=4.0)) > 1e-3
    assert geometry.dime(torch.ones(5, 2, 3)).item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("q", [2, 3])
def test_infonce_is_its_definition(q):
    x = views(9, q)
    u = torch.nn.functional.normalize(x, dim=-1)
    labels = torch.arange(9)
    pairs = [(a, b) for a in range(q) for b in range(q) if a != b]
    losses = [torch.nn.functional.cross_entropy(u[:, a] @ u[:, b].T / 0.1, labels) for a, b in pairs]
    assert geometry.infonce(x).item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-9)
    # information_flow leaves the rows at their lengths
    raw = torch.nn.functional.cross_entropy(x[:, 0] @ x[:, 1].T / 0.1, labels).item()
    assert abs(geometry.infonce(x).item() - raw) > 0.1


def test_infonce_limits():
    assert geometry.infonce(torch.ones(20, 2, 4)).item() == pytest.approx(math.log(20))
    frame = torch.eye(20)[:, None].expand(20, 2, 20)
    assert geometry.infonce(frame).item() == pytest.approx(math.log(1 + 19 * math.exp(-10)))
    x = views()
    q = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
    torch.testing.assert_close(geometry.infonce(x @ q * torch.rand(30, 4, 1).double()), geometry.infonce(x))
    assert geometry.infonce(torch.stack([x[:, 0] @ q, x[:, 1]], 1)) > geometry.infonce(x[:, :2]) + 0.5
    assert abs(geometry.infonce(x + 5) - geometry.infonce(x)) > 0.1


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: geometry.lidar(torch.randn(5, 1, 3)), "at least two of both; got"),
        (lambda: geometry.infonce(torch.randn(5, 3)), "at least two of both; got"),
        (lambda: geometry.lidar(torch.randn(5, 2, 3), delta=0.0), "delta must be above 0"),
        (lambda: geometry.infonce(torch.randn(5, 2, 3), 0.0), "temperature must be above 0"),
        (lambda: geometry.dime(torch.randn(5, 3, 3)), "two views of at least three examples"),
        (lambda: geometry.dime(torch.randn(5, 2, 3), permutations=0), "at least one permutation"),
        (lambda: geometry.lidar(torch.full((5, 2, 3), torch.nan)), "NaN or infinite"),
    ],
)
def test_bad_input_is_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()
