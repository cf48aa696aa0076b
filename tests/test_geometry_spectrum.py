"""lab.geometry's numbers of the spectrum and of isotropy: definitions, closed forms, and the faults of others."""

import math

import numpy as np
import pytest
import torch

from lab import geometry

CENTRED = {"effective_rank": False, "rankme": False, "participation_ratio": True, "stable_rank": False}


def planted(values, n=40, seed=0):
    """A matrix with these singular values, and columns of mean zero."""
    generator = torch.Generator().manual_seed(seed)
    d = len(values)
    u = torch.randn(n, d, generator=generator, dtype=torch.float64)
    u = torch.linalg.qr(u - u.mean(0)).Q
    v = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64)).Q
    return u * torch.as_tensor(values, dtype=torch.float64) @ v


def sphere(n, d, seed=0):
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x / x.norm(dim=1, keepdim=True)


DEFINITIONS = {
    "effective_rank": lambda s: np.exp(-sum(p * np.log(p) for p in s / s.sum())),
    "rankme": lambda s: np.exp(-sum((p + 1e-7) * np.log(p + 1e-7) for p in s / s.sum())),
    "participation_ratio": lambda s: (s**2).sum() ** 2 / (s**4).sum(),
    "stable_rank": lambda s: (s**2).sum() / s[0] ** 2,
}


@pytest.mark.parametrize("name", DEFINITIONS)
@pytest.mark.parametrize("shape", [(30, 7), (7, 30), (12, 12)])
@pytest.mark.parametrize("centred", [False, True])
def test_ranks_are_their_definitions_on_an_svd(name, shape, centred):
    x = torch.randn(shape, dtype=torch.float64) + 0.7
    s = np.linalg.svd((x - x.mean(0) if centred else x).numpy(), compute_uv=False)
    s = s[s > 1e-9 * s[0]]  # a centred matrix of 7 rows has 6
    if name == "rankme":
        s = np.pad(s, (0, min(shape) - len(s)))
    want = DEFINITIONS[name](s)
    assert getattr(geometry, name)(x, centred=centred).item() == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize("name", DEFINITIONS)
def test_equal_values_are_counted_and_a_point_is_none(name):
    number = getattr(geometry, name)
    assert number(planted([2.0] * 5 + [0.0] * 3)).item() == pytest.approx(5, rel=1e-5)
    assert number(torch.full((9, 4), 3.7), centred=True).item() == 0
    assert number(torch.zeros(9, 4)).item() == 0
    assert number(torch.full((9, 4), 3.7), centred=False).item() == pytest.approx(1, abs=1e-5)


def test_equal_rows_are_one_point_whatever_their_mean_rounds_to():
    rows = torch.tensor([[0.1, 1e7 / 3, -7.3]], dtype=torch.float64).repeat(7, 1)
    assert (rows - rows.mean(0)).abs().max() > 0  # what a plain mean leaves
    assert geometry.participation_ratio(rows).item() == 0


def test_centring_is_what_each_says_it_is_by_default():
    x = torch.randn(40, 5) + 4
    for name, centred in CENTRED.items():
        number = getattr(geometry, name)
        assert number(x).item() == number(x, centred=centred).item()
        assert abs(number(x, centred=True) - number(x, centred=False)) > 0.5


def test_four_effective_ranks_of_one_matrix_are_four_numbers():
    x = planted(torch.arange(1, 33) ** -0.5, n=200)
    erank, ratio, stable = (
        f(x).item() for f in (geometry.effective_rank, geometry.participation_ratio, geometry.stable_rank)
    )
    entropy = geometry.matrix_entropy(x).exp().item()
    assert erank > 1.1 * entropy > 1.21 * ratio > 1.331 * stable


def test_rankme_is_not_the_entropy_of_centred_squares():
    """As reptrix has it, through the explained variances of a PCA: half of RankMe on data such as these."""
    x = planted(torch.arange(1.0, 33) ** -1, n=200) + 0.01
    s = torch.linalg.svdvals(x - x.mean(0)) ** 2
    faulty = torch.special.entr(s / s.sum()).sum().exp().item()
    assert geometry.rankme(x).item() > 1.3 * faulty


ALPHAS = [0.0, 0.5, 0.999, 1.0, 1.001, 2.0, 5.0]


@pytest.mark.parametrize("alpha", ALPHAS)
def test_matrix_entropy_is_the_same_from_gram_and_covariance(alpha):
    x = planted([3, 2, 1, 0.5, 0.1], n=25)
    for matrix in (x @ x.T, x.T @ x):
        p = torch.linalg.eigvalsh(matrix / matrix.trace())
        p = p[p > 1e-12].numpy()
        want = -sum(p * np.log(p)) if alpha == 1 else np.log(sum(p**alpha)) / (1 - alpha)
        assert geometry.matrix_entropy(x, alpha).item() == pytest.approx(want, rel=1e-9)
        assert geometry.matrix_entropy(x.T, alpha).item() == pytest.approx(want, rel=1e-9)


def test_matrix_entropy_limits_and_order():
    x = planted([3, 2, 1, 0.5, 0.1], n=25)
    values = [geometry.matrix_entropy(x, alpha).item() for alpha in ALPHAS]
    assert values[0] == pytest.approx(math.log(5))
    assert values == sorted(values, reverse=True)
    assert geometry.matrix_entropy(x, 1 + 1e-5).item() == pytest.approx(geometry.matrix_entropy(x).item(), abs=1e-4)
    assert geometry.matrix_entropy(x, 1 + 2e-6).item() == pytest.approx(geometry.matrix_entropy(x).item(), abs=1e-5)
    ratio = geometry.participation_ratio(x, centred=False).log().item()
    assert geometry.matrix_entropy(x, 2.0).item() == pytest.approx(ratio)
    assert geometry.matrix_entropy(planted([1.0] * 6)).item() == pytest.approx(math.log(6))
    assert geometry.matrix_entropy(torch.zeros(4, 3)).isnan()
    with pytest.raises(ValueError, match=r"alpha must be at least 0 .*got -1"):
        geometry.matrix_entropy(x, -1.0)


def test_matrix_entropy_takes_the_gram_matrix_as_it_is():
    """information_flow sets its negative entries to 0; repitl's alpha = 2 divides by N^2, right for unit rows only."""
    x = torch.randn(60, 10, dtype=torch.float64)
    k = (x @ x.T).clamp(min=0)
    p = torch.linalg.eigvalsh(k / k.trace()).clamp(min=0)
    clamped = torch.special.entr(p).sum().item()
    assert clamped - geometry.matrix_entropy(x).item() > 0.3
    cov = x.T @ x / (x.T @ x).trace()
    by_size = -math.log((cov.square().sum() / 10**2).item())
    assert by_size - geometry.matrix_entropy(x, 2.0).item() == pytest.approx(2 * math.log(10))


def test_spectral_exponent_finds_the_planted_power():
    for power in (0.3, 1.0, 2.5):
        x = planted(torch.arange(1.0, 61, dtype=torch.float64) ** (-power / 2), n=100)
        assert geometry.spectral_exponent(x).item() == pytest.approx(power, rel=1e-9)
        assert geometry.spectral_exponent(x + 9).item() == pytest.approx(power, rel=1e-6)
        bent = x @ torch.diag(torch.linspace(1, 3, 60).double())
        assert abs(geometry.spectral_exponent(bent).item() - power) > 1e-3
    values = torch.ones(60)
    values[30:] = torch.arange(31, 61) ** -1.0  # flat, then a power: the range decides
    assert geometry.spectral_exponent(planted(values, 100), ranks=(1, 30)).item() == pytest.approx(0, abs=1e-9)
    assert geometry.spectral_exponent(planted(values, 100), ranks=(31, 60)).item() == pytest.approx(2)
    assert geometry.spectral_exponent(planted([1.0] * 5 + [0.0] * 25)).isnan()
    assert geometry.spectral_exponent(torch.randn(5, 40)).isnan()  # 5 % to 50 % of 4 ranks are not three
    for ranks in ((0, 9), (5, 6), (5, 61)):
        with pytest.raises(ValueError, match="at least three ranks from 1 to min"):
            geometry.spectral_exponent(x, ranks=ranks)


@pytest.mark.parametrize("d", [4, 9])
def test_isoscore_is_the_papers_steps(d):
    x = torch.randn(50, d, dtype=torch.float64) * torch.linspace(0.3, 2, d) + 4
    variances = torch.linalg.eigvalsh(torch.cov(x.T, correction=0))
    hat = variances * math.sqrt(d) / variances.norm()
    delta = (hat - 1).norm() / math.sqrt(2 * (d - math.sqrt(d)))
    want = ((d - delta**2 * (d - math.sqrt(d))) ** 2 - d) / (d * (d - 1))
    assert geometry.isoscore(x).item() == pytest.approx(want.item(), rel=1e-12)
    assert geometry.isoscore(x.T).item() != pytest.approx(want.item(), rel=1e-2)  # rows are examples


def test_isoscore_limits():
    assert geometry.isoscore(planted([1.0] * 6)).item() == pytest.approx(1)
    assert geometry.isoscore(planted([1.0] + [0.0] * 5)).item() == pytest.approx(0, abs=1e-12)
    assert geometry.isoscore(torch.ones(9, 4)).isnan()
    assert geometry.isoscore(torch.randn(9, 1)).isnan()


def test_centring_takes_the_common_direction_out():
    x = torch.randn(500, 20) + 3
    assert geometry.anisotropy(x).item() > 0.8
    assert abs(geometry.anisotropy(x, centred=True).item()) < 0.01


@pytest.mark.parametrize("t", [0.5, 2.0, 900.0])
def test_uniformity_is_its_definition_without_the_diagonal(t, monkeypatch):
    monkeypatch.setattr("lab.geometry.isotropy.BLOCK", 200)  # several blocks of rows
    x = torch.randn(41, 6, dtype=torch.float64) + 0.4
    u = x / x.norm(dim=1, keepdim=True)
    square = torch.pdist(u).square()
    want = torch.logsumexp(-t * square, 0) - math.log(len(square))
    assert geometry.uniformity(x, t).item() == pytest.approx(want.item(), rel=1e-9)
    with_diagonal = torch.exp(-t * torch.cdist(u, u).square()).mean().log().item()
    assert with_diagonal - geometry.uniformity(x, t).item() > 0.01  # as resi's has it


def test_uniformity_and_alignment_on_the_sphere():
    x, d, t = sphere(3000, 3), 3, 2.0
    want = math.log((1 - math.exp(-4 * t)) / (4 * t))  # E exp(-t(2 - 2c)), c uniform on [-1, 1] in three dimensions
    assert geometry.uniformity(x, t).item() == pytest.approx(want, abs=0.01)
    assert geometry.uniformity(sphere(500, 2000)).item() == pytest.approx(-4, abs=0.01)  # -2 t in many dimensions
    assert geometry.uniformity(torch.ones(9, d)).item() == pytest.approx(0, abs=1e-12)
    two = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert geometry.uniformity(two).item() == pytest.approx(-8)
    turned = x @ torch.tensor([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]]).double()
    assert geometry.alignment(x, 5 * x).item() == pytest.approx(0, abs=1e-12)
    assert geometry.alignment(x, -x).item() == pytest.approx(4)
    assert geometry.alignment(x, -x, alpha=1.0).item() == pytest.approx(2)
    cosine = torch.nn.functional.cosine_similarity(x, turned).mean().item()
    assert geometry.alignment(x, turned).item() == pytest.approx(2 - 2 * cosine)
    q = torch.linalg.qr(torch.randn(3, 3).double()).Q
    assert geometry.alignment(x @ q, turned @ q).item() == pytest.approx(2 - 2 * cosine)
    assert geometry.alignment(x, turned[torch.randperm(3000)]).item() == pytest.approx(2, abs=0.1)


def test_bad_settings_are_refused():
    x = torch.randn(9, 3)
    with pytest.raises(ValueError, match=r"one shape; got \(9, 3\) and \(8, 3\)"):
        geometry.alignment(x, x[:8])
    with pytest.raises(ValueError, match="alpha must be above 0; got 0"):
        geometry.alignment(x, x, alpha=0.0)
    with pytest.raises(ValueError, match="t must be above 0; got 0"):
        geometry.uniformity(x, t=0.0)
