"""Generalised means: their formulas on single rows in float64, the ends of their scales, and a peer that is wrong."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.pooling.generalized import GNP, GeM, GroupGeM, LSEPool, NormWeightedMeanPool, SoftmaxPool

EPS = 1e-6
# a pool of width 4, and its formula on the real tokens of one row [n, 4]
DEFINITIONS = {
    "gem": (GeM(4, p=3.0), lambda row: row.clamp(min=EPS).pow(3).mean(0).pow(1 / 3)),
    "gem, p = 0.4": (GeM(4, p=0.4), lambda row: row.clamp(min=EPS).pow(0.4).mean(0).pow(2.5)),
    "group_gem": (
        GroupGeM(4, num_groups=2, p=2.0),
        lambda row: row.clamp(min=EPS).square().mean(0).sqrt(),
    ),
    "lse": (LSEPool(4, r=2.0), lambda row: (2 * row).exp().mean(0).log() / 2),
    "softmax": (SoftmaxPool(4, beta=-0.5), lambda row: ((-0.5 * row).exp() * row).sum(0) / (-0.5 * row).exp().sum(0)),
    "gnp": (GNP(4, p=2.0, q=0.3), lambda row: row.square().sum(0).sqrt() / len(row) ** 0.3),
    "gnp, p = -2": (GNP(4, p=-2.0, q=0.3), lambda row: row.abs().pow(-2).sum(0).pow(-0.5) / len(row) ** 0.3),
    "norm": (
        NormWeightedMeanPool(4, alpha=2.0),
        lambda row: sum(x.square().sum() * x for x in row) / row.square().sum(),
    ),
}


def one_row(n=6, scale=1.0, seed=0):
    g = torch.Generator().manual_seed(seed)
    return scale * torch.randn(1, n, 4, generator=g, dtype=torch.float64), torch.ones(1, n, dtype=torch.bool)


@pytest.mark.parametrize("name", DEFINITIONS)
@settings(max_examples=10)
@given(n=st.integers(1, 9), seed=st.integers(0, 99))
def test_the_formula(name, n, seed):
    pool, definition = DEFINITIONS[name]
    x, mask = one_row(n, seed=seed)
    torch.testing.assert_close(pool.double()(x, mask)[0], definition(x[0]), rtol=1e-6, atol=1e-9)


def test_each_group_and_each_coordinate_has_its_own_p():
    x, mask = one_row()
    pool = GroupGeM(4, num_groups=2).double()
    raw = torch.tensor([1.0, 5.0], dtype=torch.float64)
    pool.raw_p.data = raw + torch.log(-torch.expm1(-raw))
    got = pool(x, mask)
    for group, p in enumerate((1.0, 5.0)):
        columns = slice(2 * group, 2 * group + 2)
        torch.testing.assert_close(got[:, columns], GeM(2, p=p).double()(x[..., columns], mask), rtol=1e-6, atol=0)
    swapped = [1, 0, 3, 2]  # inside the groups
    torch.testing.assert_close(pool(x[..., swapped], mask), got[:, swapped])
    across = [2, 3, 0, 1]
    assert not torch.allclose(pool(x[..., across], mask), got[:, across])
    assert [GroupGeM(4, num_groups=g).p.numel() for g in (1, 2, None)] == [1, 2, 4]


def test_a_permutation_inside_the_groups_permutes_the_result_and_one_across_them_does_not():
    """GGeM: coordinates of a group share their p, whatever their order."""
    x, mask = one_row()
    pool = GroupGeM(4, num_groups=2).double()
    with torch.no_grad():
        pool.raw_p.copy_(torch.tensor([0.5, 4.0]))
    for order, inside in (([1, 0, 2, 3], True), ([1, 0, 3, 2], True), ([0, 2, 1, 3], False), ([2, 3, 0, 1], False)):
        assert torch.allclose(pool(x[..., order], mask), pool(x, mask)[:, order], rtol=1e-12) == inside


def test_one_group_is_gem():
    x, mask = one_row()
    torch.testing.assert_close(GroupGeM(4, num_groups=1)(x, mask), GeM(4)(x, mask))


def test_gem_goes_from_the_geometric_mean_through_the_mean_to_the_maximum():
    x, mask = one_row()
    x = x.abs() + 0.1
    found = [GeM(4, p=p).double()(x, mask) for p in (1e-4, 1.0, 2.0, 300.0)]
    ends = (x.log().mean(1).exp(), x.mean(1), x.square().mean(1).sqrt(), x.amax(1))
    for got, want, rtol in zip(found, ends, (1e-3, 1e-6, 1e-6, 1e-2), strict=True):
        torch.testing.assert_close(got, want, rtol=rtol, atol=0)
    assert all((low < high).all() for low, high in pairwise(found))


def test_gem_is_homogeneous_and_its_gradient_gives_the_value_back():
    x, mask = one_row()
    x = (x.abs() + 0.1).requires_grad_()
    pool = GeM(4).double()
    y = pool(x, mask)
    torch.testing.assert_close(pool(7 * x, mask), 7 * y)
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close((x * slope).sum(1), y)  # Euler's theorem


def test_gem_learns_p_with_the_closed_gradient():
    x, mask = one_row()
    x = x.abs() + 0.1
    pool = GeM(4).double()
    y = pool(x, mask)[0]
    (slope,) = torch.autograd.grad(y.sum(), pool.raw_p)
    p = pool.p.detach()
    w = (p * x[0].log()).softmax(0)
    want = (y / p * ((w * x[0].log()).sum(0) - y.log())).sum() * torch.sigmoid(pool.raw_p.detach())
    torch.testing.assert_close(slope, want.detach())


def test_gem_below_eps_is_flat():
    x = torch.tensor([[[-5.0], [2.0]]], dtype=torch.float64, requires_grad=True)
    y = GeM(1, p=1.0)(x, torch.ones(1, 2, dtype=torch.bool))
    torch.testing.assert_close(y, torch.tensor([[1.0]], dtype=torch.float64), rtol=1e-5, atol=0)
    assert torch.autograd.grad(y.sum(), x)[0][0, 0] == 0


def test_naive_gem_overflows_in_half_precision_from_41_on():
    x, mask = torch.full((1, 3, 1), 50.0, dtype=torch.float16), torch.ones(1, 3, dtype=torch.bool)
    assert x.pow(3).mean(1).pow(1 / 3).isinf().all()
    assert GeM(1)(x, mask).item() == pytest.approx(50, rel=1e-3)


def test_lse_lies_between_mean_and_maximum_and_reaches_both():
    x, mask = one_row()
    for r in (1e-7, 0.1, 3.0, 1e5):
        y = LSEPool(4, r=r).double()(x, mask)
        assert (y >= x.mean(1) - 1e-12).all()
        assert (y <= x.amax(1)).all()
    torch.testing.assert_close(LSEPool(4, r=1e-7).double()(x, mask), x.mean(1), rtol=1e-5, atol=0)
    torch.testing.assert_close(LSEPool(4, r=1e5).double()(x, mask), x.amax(1), rtol=1e-4, atol=0)


def test_lse_with_a_small_r_keeps_its_digits():
    """(LSE(r x) - ln n) / r takes two equal numbers from each other and divides what is left by r."""
    x, mask = one_row(1000)
    naive = (torch.logsumexp(1e-5 * x.float(), 1) - math.log(1000)) / 1e-5
    assert (naive - x.mean(1)).abs().max() > 0.005
    torch.testing.assert_close(LSEPool(4, r=1e-5)(x.float(), mask).double(), x.mean(1), rtol=1e-3, atol=1e-5)


def test_softmax_goes_from_the_minimum_through_the_mean_to_the_maximum():
    x, mask = one_row()
    for beta, want in ((-1e5, x.amin(1)), (0.0, x.mean(1)), (1e5, x.amax(1))):
        torch.testing.assert_close(SoftmaxPool(4, beta=beta).double()(x, mask), want)


def test_softmax_has_the_gradient_of_the_closed_form():
    x, mask = one_row()
    x.requires_grad_()
    y = SoftmaxPool(4)(x, mask)
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(slope, (x.softmax(1) * (1 + x - y[:, None])).detach())


@pytest.mark.parametrize(
    ("p", "q", "limit"),
    [
        (1.0, 0.0, lambda x: x.sum(1)),
        (1.0, 1.0, lambda x: x.mean(1)),
        (1e4, 0.0, lambda x: x.amax(1)),
        (-1e4, 0.0, lambda x: x.amin(1)),
    ],
    ids=["sum", "mean", "max", "min"],
)
def test_gnp_has_four_limits(p, q, limit):
    x, mask = one_row()
    x = x.abs() + 0.1
    torch.testing.assert_close(GNP(4, p=p, q=q).double()(x, mask), limit(x), rtol=1e-3, atol=0)


@pytest.mark.parametrize(("p", "q"), [(2.0, 0.3), (-1.5, 0.0), (1.0, 1.0)])
def test_gnp_of_a_set_taken_twice(p, q):
    x, mask = one_row()
    pool = GNP(4, p=p, q=q).double()
    twice = pool(torch.cat([x, x], 1), torch.cat([mask, mask], 1))
    torch.testing.assert_close(twice, 2 ** (1 / p - q) * pool(x, mask), rtol=1e-6, atol=0)


def test_norm_weights_go_to_the_mean_and_survive_half_precision():
    x, mask = one_row()
    torch.testing.assert_close(NormWeightedMeanPool(4, alpha=0.0)(x, mask), x.mean(1))
    huge = torch.full((1, 3, 4), 6e4, dtype=torch.float16)  # the norm is inf in float16
    assert torch.equal(NormWeightedMeanPool(4)(huge, torch.ones(1, 3, dtype=torch.bool)), huge[:, 0])


@pytest.mark.parametrize(
    "build",
    [
        lambda: GeM(4, p=0.0),
        lambda: GeM(4, p=-1.0),
        lambda: GeM(4, p=math.nan),
        lambda: GeM(4, eps=0.0),
        lambda: LSEPool(4, r=0.0),
        lambda: GNP(4, p=0.0),
        lambda: SoftmaxPool(4, beta=math.inf),
        lambda: NormWeightedMeanPool(4, alpha=math.nan),
    ],
)
def test_scales_without_a_value_are_refused(build):
    with pytest.raises(ValueError, match=r"must .*; got"):
        build()


def test_groups_must_divide_the_width():
    with pytest.raises(ValueError, match="dim 4 and num_groups 3"):
        GroupGeM(4, num_groups=3)


@pytest.mark.parametrize("way", ["kernel", "plain"])
@pytest.mark.parametrize("p", [1e-6, 1e-4, 1e-3, 1e-2, 0.1, 0.39, 0.41, 3.0])
def test_gem_keeps_its_digits_at_every_p(p, way, request):
    """(LSE - ln n) / p took two equal numbers from each other: 16 % off at p = 1e-6, in float32."""
    if way == "plain":
        request.getfixturevalue("plain_torch")
    x = torch.rand(2, 1000, 4) * 3 + 1e-3
    x[:, ::7] = -1.0  # below eps
    mask = torch.ones(2, 1000, dtype=torch.bool)
    mask[1, 700:] = False
    pools = GeM(4, p=p), GroupGeM(4, num_groups=2, p=p)
    with torch.no_grad():
        pools[1].raw_p[1] = 0.6  # another group's p, on the other side of where the way changes for most
    for pool in pools:
        given = x.clone().requires_grad_()
        y = pool(given, mask)
        slope, slope_p = torch.autograd.grad(y.sum(), [given, pool.raw_p])
        exact, raw = x.double().requires_grad_(), pool.raw_p.detach().double().requires_grad_()
        power = torch.nn.functional.softplus(raw).repeat_interleave(4 // raw.numel())
        want = torch.stack(
            [row[real].clamp(min=EPS).pow(power).mean(0).pow(1 / power) for row, real in zip(exact, mask, strict=True)]
        )
        wanted, wanted_p = torch.autograd.grad(want.sum(), [exact, raw])
        torch.testing.assert_close(y.double(), want, rtol=4e-6, atol=0)
        torch.testing.assert_close(slope.double(), wanted, rtol=2e-5, atol=0)
        # the mean of u and of u^2 are roundings of the largest |u| apart, over p
        torch.testing.assert_close(slope_p.double(), wanted_p, rtol=1e-4 + 1e-7 / p, atol=0)


def test_gem_at_a_small_p_of_the_widest_states_does_not_overflow():
    """ln(max / min) of float32 is 102 above eps and 190 in all; exp ends at 88."""
    x = torch.tensor([[[1e-6, 1e-44], [3e38, 3e38]]])
    mask = torch.ones(1, 2, dtype=torch.bool)
    for p in (1e-3, 0.3, 0.399, 0.4, 0.5, 1.0):
        pool = GeM(2, p=p, eps=1e-44)
        want = ((x.double().pow(pool.p.double()).mean(1)).log() / pool.p.double()).exp()
        torch.testing.assert_close(pool(x, mask).double(), want, rtol=1e-4, atol=0)
    assert GeM(1, p=0.1)(torch.tensor([[[1.0], [torch.inf]]]), mask).isinf()
    assert GeM(1, p=0.1)(torch.full((1, 2, 1), torch.nan), mask).isnan()
    assert not GeM(1, p=0.1)(torch.full((1, 2, 1), torch.nan), ~mask).any()
