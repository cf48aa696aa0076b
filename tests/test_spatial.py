"""The spatial pooling modules: the limits each must have, torch's own pools, and where official code is wrong.

On torch's path, which is quick; that the kernels compute the same is test_window_pool.py's.
"""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the field's name

from lab.kernels import window_pool as reductions
from lab.kernels import windows
from lab.kernels.window_pool import window_pool
from lab.pooling import adapool, gem, lip, mixers, poset, spatial, spatial_learned, stochastic
from lab.pooling.spatial import tiles

POOLS = {  # with C = 4 channels on even maps
    "soft": spatial.SoftPool2d,
    "edscw": spatial.EDSCWPool2d,
    "ada": adapool.AdaPool2d,
    "mixed": spatial_learned.MixedPool2d,
    "gated": spatial_learned.GatedPool2d,
    "tree2": lambda: spatial_learned.TreePool2d(depth=2),
    "tree3": lambda: spatial_learned.TreePool2d(depth=3),
    "gem": gem.GeM2d,
    "gem windows": lambda: gem.GeM2d(kernel_size=2),
    "pyramid": spatial.SpatialPyramidPool2d,
    "poset": poset.PosetPool2d,
    "lip": lambda: lip.LIP2d(4),
    "stochastic": stochastic.StochasticPool2d,
    "s3": stochastic.S3Pool2d,
    "mixer": spatial.PoolMixer2d,
    "pf": lambda: mixers.PfLayer(4, 8),
    "inception": lambda: mixers.InceptionMixer(8, num_heads=4, attention_heads=2),
    "rgem": gem.RegionalGeM,
    "relup": gem.ReLUP,
}


pytestmark = pytest.mark.usefixtures("plain_torch")  # the kernels are tested against it in test_window_pool


every_pool = pytest.mark.parametrize("name", POOLS)
averages = pytest.mark.parametrize("name", ["soft", "edscw", "ada", "mixed", "gated", "gem windows", "lip"])


def maps(*shape, positive=False):
    x = torch.randn(*shape)
    return x.abs() + 0.1 if positive else x


def map_for(name):
    return maps(2, 8, 8, 8) if name == "inception" else maps(2, 4, 8, 8)


@every_pool
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_types_gradients_and_untouched_inputs(name, dtype):
    pool = POOLS[name]().eval()
    if any(isinstance(m, nn.Conv2d | nn.Linear) for m in pool.modules()):
        pool = pool.to(dtype)
    x = map_for(name).to(dtype)
    copy = x.clone()
    y = pool(x.requires_grad_())
    assert y.dtype == dtype
    (grad,) = torch.autograd.grad(y.float().square().sum(), x)
    assert y.isfinite().all()
    assert grad.isfinite().all()
    assert grad.abs().sum() > 0
    assert torch.equal(x.detach(), copy)


@every_pool
def test_a_batch_is_its_examples(name):
    pool, x = POOLS[name]().eval(), map_for(name)
    torch.testing.assert_close(pool(x), torch.cat([pool(one[None]) for one in x]))


@every_pool
def test_memory_layout_does_not_matter(name):
    pool, x = POOLS[name]().eval(), map_for(name)
    torch.testing.assert_close(pool(x.to(memory_format=torch.channels_last)), pool(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [name for name, make in POOLS.items() if list(make().parameters())])
def test_parameters_have_gradients(name):
    pool = POOLS[name]()
    parameters = dict(pool.named_parameters())
    pool(map_for(name)).square().sum().backward()
    if name == "lip":  # constant logits: their shift and scale change nothing
        parameters = {k: v for k, v in parameters.items() if k.endswith("conv.weight")}
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in parameters.values())


@every_pool
def test_saved_and_loaded_it_is_the_same(name):
    torch.manual_seed(1)
    first = POOLS[name]().eval()
    second, x = POOLS[name]().eval(), map_for(name)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(x), second(x))


@every_pool
def test_other_ranks_are_refused(name):
    if name != "relup":
        with pytest.raises(ValueError, match="spatial axes"):
            bare_forward(POOLS[name]())(torch.zeros(4, 8))


def bare_forward(pool):
    """forward behind the shape types, which would answer first in tests."""
    forward = type(pool).forward
    while hasattr(forward, "__wrapped__"):
        forward = forward.__wrapped__
    return lambda x: forward(pool, x)


@averages
def test_a_constant_region_is_its_value(name):
    x = torch.full((1, 4, 6, 6), 2.5)
    y = POOLS[name]()(x)
    torch.testing.assert_close(y, torch.full_like(y, 2.5))


def test_windows_of_one_change_nothing():
    x = maps(2, 4, 5, 5)
    one = (1, 1)
    pools = [spatial.SoftPool2d(1), spatial.EDSCWPool2d(1), adapool.AdaPool2d(1), spatial_learned.MixedPool2d(1)]
    for pool in (*pools, spatial_learned.GatedPool2d(1), lip.LIP2d(4, *one, 0)):
        torch.testing.assert_close(pool(x), x)
    torch.testing.assert_close(gem.GeM2d(kernel_size=1)(x.abs()), x.abs())


@pytest.mark.parametrize("pool", ["soft", "edscw", "ada", "mixed", "gated", "tree3", "gem windows", "poset"])
def test_moving_the_map_moves_the_result(pool):
    """Shift by one window: the same values, one place on."""
    x, module = maps(1, 4, 8, 8), POOLS[pool]().eval()
    y, moved = module(x), module(x.roll((2, 2), (2, 3)))
    torch.testing.assert_close(moved[..., 1:-1, 1:-1], y.roll((1, 1), (2, 3))[..., 1:-1, 1:-1])


# --- SoftPool ---


def test_softpool_in_one_two_and_three_dimensions():
    x = maps(2, 3, 4, 6, 8)
    flat = x.flatten(2)[..., None, :]
    torch.testing.assert_close(spatial.SoftPool1d(2)(x.flatten(2)), spatial.SoftPool2d((1, 2))(flat)[:, :, 0])
    torch.testing.assert_close(
        spatial.SoftPool3d((1, 2, 2))(x)[:, :, 1], spatial.SoftPool2d()(x[:, :, 1]), rtol=1e-6, atol=1e-6
    )


def test_softpool_lies_between_mean_and_max_and_moves_with_a_constant():
    x = maps(2, 4, 7, 9)
    y = spatial.SoftPool2d(3, 2, 1)(x)
    assert (y >= F.avg_pool2d(x, 3, 2, 1, count_include_pad=False) - 1e-6).all()
    assert (y <= F.max_pool2d(x, 3, 2, 1) + 1e-6).all()
    torch.testing.assert_close(spatial.SoftPool2d(3, 2, 1)(x + 5), y + 5)


def test_softpool_is_lip_of_its_own_input_with_limits_in_temperature():
    x = maps(1, 4, 6, 6)
    torch.testing.assert_close(window_pool(x, "softmax", 2, logit=x), spatial.SoftPool2d()(x))
    torch.testing.assert_close(window_pool(x, "softmax", 2, logit=0 * x), F.avg_pool2d(x, 2))
    torch.testing.assert_close(window_pool(x, "softmax", 2, logit=1e5 * x), F.max_pool2d(x, 2))
    torch.testing.assert_close(window_pool(x, "softmax", 2, logit=-1e5 * x), -F.max_pool2d(-x, 2))


def test_softpool_gradient_is_w_1_plus_x_minus_y_and_sums_to_one():
    x = torch.tensor([[[[0.0, 3.0]]]], requires_grad=True)
    (grad,) = torch.autograd.grad(spatial.SoftPool2d((1, 2))(x).sum(), x)
    torch.testing.assert_close(grad.flatten(), torch.tensor([-0.088, 1.088]), rtol=0, atol=1e-3)  # it is not monotone
    x = maps(1, 2, 8, 8).requires_grad_()
    (grad,) = torch.autograd.grad(spatial.SoftPool2d()(x).sum(), x)
    torch.testing.assert_close(tiles(grad, 2).sum((-2, -1)), torch.ones(1, 2, 4, 4))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_softpool_gradients_of_a_half_map_far_from_zero_sum_to_one_too(dtype):
    x = (torch.randn(2, 8, 32, 32) + 100).to(dtype).requires_grad_()
    (grad,) = torch.autograd.grad(spatial.SoftPool2d()(x).sum(), x)
    sums = tiles(grad.float(), 2).sum((-2, -1))
    # each of the four is rounded once, and all are below 4
    torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0, atol=8 * torch.finfo(dtype).eps)


def test_official_softpool_backward_drops_the_softmax_jacobian():
    """Fault: the CUDA backward returns w dy; the gradient of sum softmax(x) x is w (1 + x - y) dy."""
    x = torch.randn(4, 8, 32, 32, requires_grad=True)
    (grad,) = torch.autograd.grad(spatial.SoftPool2d()(x).sum(), x)
    official = tiles(x.detach(), 2).flatten(-2).softmax(-1)
    ours = tiles(grad, 2).flatten(-2)
    relative = (official - ours).norm() / ours.norm()
    assert relative == pytest.approx(0.35, abs=0.05)


def test_official_softpool_cpu_path_is_another_operator():
    """Fault: off the GPU the weights are e^x summed over channels, and the result is clamped to >= 0."""
    x = maps(2, 3, 8, 8)
    e = x.exp().sum(1, keepdim=True)
    official = (F.avg_pool2d(x * e, 2) / F.avg_pool2d(e, 2)).clamp(min=0)
    assert (official - spatial.SoftPool2d()(x)).abs().max() > 0.5
    assert (spatial.SoftPool2d()(x) < 0).any()


def test_official_softpool_overflows_at_89():
    """Fault: no maximum is subtracted, so e^89 is inf and inf / inf is NaN in the Python path."""
    x = torch.tensor([[[[89.0, 88.0], [87.0, 100.0]]]])
    assert (F.avg_pool2d(x * x.exp(), 2) / F.avg_pool2d(x.exp(), 2)).isnan().all()
    torch.testing.assert_close(spatial.SoftPool2d()(x), torch.full((1, 1, 1, 1), 100.0), rtol=1e-4, atol=0)


@pytest.mark.parametrize(("size", "kernel", "stride"), [(7, 3, 2), (8, 3, 1), (9, 2, 3)])
def test_official_softpool_grid_has_another_size_than_its_output(size, kernel, stride):
    """Fault: the launch counts W // s windows, the output has (W - k) // s + 1: wrong rows, writes out of range."""
    y = spatial.SoftPool2d(kernel, stride)(maps(1, 1, size, size))
    assert y.shape[-1] == (size - kernel) // stride + 1
    assert (y.shape[-1] == size // stride) == ((size, kernel, stride) in {(7, 3, 2), (9, 2, 3)})


# --- eDSCW and AdaPool ---


def test_dice_is_one_for_equals_blind_to_signs_and_bounded():
    a, b = torch.randn(2, 1000)
    d = reductions.dice(a, b)
    assert (d >= 0).all()
    assert (d <= 1).all()
    torch.testing.assert_close(reductions.dice(a, -a), torch.ones(1000))
    torch.testing.assert_close(reductions.dice(-a, b), d)
    assert reductions.dice(torch.zeros(1), torch.zeros(1)) == 1


def test_edscw_weights_are_bounded_and_it_scales_with_its_input():
    """n = 4: each weight in [1 / (1 + 3e), e / (e + 3)] = [.109, .475]."""
    x = maps(2, 4, 8, 8)
    weights, _, _ = adapool.AdaPool2d().masks(x)
    assert weights.min() >= 1 / (1 + 3 * math.e) - 1e-6
    assert weights.max() <= math.e / (math.e + 3) + 1e-6
    torch.testing.assert_close(spatial.EDSCWPool2d()(-3 * x), -3 * spatial.EDSCWPool2d()(x))
    volume = maps(1, 2, 4, 4, 4)
    torch.testing.assert_close(spatial.EDSCWPool3d((1, 2, 2))(volume)[:, :, 2], spatial.EDSCWPool2d()(volume[:, :, 2]))
    row = volume.flatten(2)
    torch.testing.assert_close(spatial.EDSCWPool1d()(row), spatial.EDSCWPool2d((1, 2))(row[:, :, None])[:, :, 0])


def test_official_adapool_divides_zero_by_zero():
    """Fault: DSC(0, 0) = 0 / 0, hidden by nan_to_num. A region of zeros is 0 with a finite gradient."""
    zero = torch.zeros(1)
    assert (2 * (zero * zero).abs() / (zero**2 + zero**2)).isnan().all()
    x = torch.zeros(1, 2, 4, 4)
    x[0, 0, :2, :2] = 1
    x.requires_grad_()
    for pool in (spatial.EDSCWPool2d(), adapool.AdaPool2d()):
        y = pool(x)
        (grad,) = torch.autograd.grad(y.sum(), x)
        assert (y[0, 1] == 0).all()
        torch.testing.assert_close(tiles(grad, 2).sum((-2, -1)), torch.ones(1, 2, 2, 2))


def test_adapool_is_softpool_at_beta_0_and_edscw_at_beta_1():
    x = maps(2, 4, 7, 7)
    args = (3, 2, 1)
    torch.testing.assert_close(adapool.AdaPool2d(*args, beta=0.0)(x), spatial.SoftPool2d(*args)(x))
    torch.testing.assert_close(adapool.AdaPool2d(*args, beta=1.0)(x), spatial.EDSCWPool2d(*args)(x))


@pytest.mark.parametrize("beta_size", [(), (4,), (3, 4)], ids=["one", "channels", "regions"])
def test_adapool_mixes_by_beta(beta_size):
    x, pool = maps(2, 4, 6, 8), adapool.AdaPool2d(beta_size=beta_size)
    nn.init.normal_(pool.raw_beta)
    beta = pool.raw_beta.sigmoid().reshape({0: (1, 1, 1, 1), 1: (1, 4, 1, 1), 2: (1, 1, 3, 4)}[len(beta_size)])
    e, s = spatial.EDSCWPool2d()(x), spatial.SoftPool2d()(x)
    torch.testing.assert_close(pool(x), beta * e + (1 - beta) * s)
    dy = torch.randn_like(e)
    (grad,) = torch.autograd.grad(pool(x), pool.raw_beta, dy)
    want = ((e - s) * dy * beta * (1 - beta)).sum_to_size(beta.shape).reshape(beta_size)
    torch.testing.assert_close(grad, want, rtol=1e-4, atol=1e-5)


def test_official_adapool_leaves_beta_unconstrained():
    """Fault: `beta.data.clamp(0, 1)` clamps a copy. Ours is a sigmoid: after any step it is in [0, 1]."""
    beta = nn.Parameter(torch.tensor(3.0))
    beta.data.clamp(0, 1)
    assert beta == 3
    pool = adapool.AdaPool2d()
    pool.raw_beta.data.fill_(300)
    assert 0 <= pool.beta <= 1


def test_official_adapool_native_path_has_no_gradient_for_beta():
    """Fault: native=True never writes grad_beta. d/dbeta = sum (eDSCW - SoftPool) dy, which is not zero."""
    x, pool = maps(1, 4, 8, 8), adapool.AdaPool2d()
    pool(x).sum().backward()
    slope = (spatial.EDSCWPool2d()(x) - spatial.SoftPool2d()(x)).sum()
    torch.testing.assert_close(pool.raw_beta.grad, slope / 4)
    assert pool.raw_beta.grad.abs() > 0


def test_official_adapool_starts_half_of_beta_at_zero():
    """Fault: clamp(randn, 0, 1) is 0 half of the time. Ours starts at beta = 0.5 everywhere."""
    assert (torch.randn(1000).clamp(0, 1) == 0).float().mean() > 0.4
    assert (adapool.AdaPool2d(beta_size=(7, 7)).beta == 0.5).all()


def test_official_adapool_masks_are_one_plane_for_all_channels():
    """Fault: all examples and channels write one [kH oH, kW oW] plane, a data race. Ours has one plane each."""
    x = maps(2, 4, 6, 6)
    for weights in adapool.AdaPool2d().masks(x)[:2]:
        assert weights.shape == x.shape
        assert (weights[0, 0] - weights[1, 3]).abs().max() > 0.01


@pytest.mark.parametrize("scale", [1e-36, 1e-30, 1e30])
def test_adapool_masks_are_blind_to_the_scale_that_squares_would_overflow_at(scale):
    x = maps(2, 4, 6, 6)
    edscw, em, beta = adapool.AdaPool2d().masks(scale * x)
    torch.testing.assert_close(edscw, adapool.AdaPool2d().masks(x)[0], rtol=1e-5, atol=0)
    pooled = tiles(beta * edscw * (scale * x) + (1 - beta) * em * (scale * x), 2).sum((-2, -1))
    torch.testing.assert_close(pooled / scale, adapool.AdaPool2d()(scale * x) / scale, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("kernel", "stride"), [([2, 3], None), ((2, 2), 2), (2, (2, 2)), (2, [2, 2])])
def test_adapool_masks_take_windows_side_by_side_however_they_are_written(kernel, stride):
    x = maps(2, 4, 6, 6)
    pool = adapool.AdaPool2d(kernel, stride, (0, 0))
    masks = pool.masks(x)
    torch.testing.assert_close(adapool.AdaUnpool2d(kernel)(pool(x), masks).sum((2, 3)), pool(x).sum((2, 3)))


@pytest.mark.parametrize("size", [(6, 8), (7, 9)], ids=["even", "odd"])
def test_unpooling_keeps_the_sum_of_each_region(size):
    x = maps(2, 4, *size)
    pool = adapool.AdaPool2d(beta=0.3)
    masks, y = pool.masks(x), pool(x)
    back = adapool.AdaUnpool2d()(y, masks)
    assert back.shape == x.shape
    torch.testing.assert_close(tiles(back, 2).sum((-2, -1)), y)
    torch.testing.assert_close(back[..., size[0] // 2 * 2 :, :], torch.zeros_like(back[..., size[0] // 2 * 2 :, :]))
    # the weights are those that the pooling used
    pooled = tiles(masks[2] * masks[0] * x + (1 - masks[2]) * masks[1] * x, 2).sum((-2, -1))
    torch.testing.assert_close(pooled, y)


# --- mixed, gated, tree ---


def test_mixed_is_max_mean_and_their_middle():
    x = maps(2, 4, 7, 7)
    top, mean = F.max_pool2d(x, 3, 2, 1), F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)
    for alpha, want in ((1.0, top), (0.0, mean), (0.5, (top + mean) / 2)):
        torch.testing.assert_close(spatial_learned.MixedPool2d(3, 2, 1, alpha=alpha)(x), want)
    many = spatial_learned.MixedPool2d(3, 2, 1, channels=4)
    many.alpha.data = torch.tensor([0.0, 1.0, 0.5, 7.0])  # a step out of [0, 1] is a clamp away
    torch.testing.assert_close(many(x)[:, 1], top[:, 1])
    torch.testing.assert_close(many(x)[:, 3], top[:, 3])


@pytest.mark.parametrize(("start", "end"), [(1.0, 0.0), (0.0, 1.0)])
def test_mixed_that_overshoots_an_end_comes_back_and_never_drifts_away(start, end):
    """A clamp's gradient is 0 beyond: what one step took out would stay out."""
    x, pool = maps(2, 4, 6, 6), spatial_learned.MixedPool2d(channels=4, alpha=start)
    descent = torch.optim.SGD(pool.parameters(), lr=1.0)

    def step(target):
        loss = (pool(x) - spatial_learned.MixedPool2d(alpha=target)(x)).square().sum()
        (pool.alpha.grad,) = torch.autograd.grad(loss, pool.alpha)
        descent.step()

    assert (torch.autograd.grad(pool(x).sum(), pool.alpha)[0] > 0).all()  # at the end itself
    pool.alpha.data += 0.3 * (start - end)
    for _ in range(3):  # its best place is this end: it stays
        step(start)
    torch.testing.assert_close(pool.alpha.detach(), torch.full((4,), start + 0.3 * (start - end)))
    torch.testing.assert_close(pool(x), spatial_learned.MixedPool2d(alpha=start)(x))
    descent.param_groups[0]["lr"] = 1e-2
    for _ in range(200):
        step(0.5)
    torch.testing.assert_close(pool.alpha.detach(), torch.full((4,), 0.5), rtol=0, atol=1e-3)


def test_mixed_has_the_gradient_of_its_formula_inside():
    x, pool = maps(2, 4, 4, 4).double(), spatial_learned.MixedPool2d(channels=4).double()
    weight = torch.rand(4, dtype=torch.float64)
    apply = lambda alpha: torch.func.functional_call(pool, {"alpha": alpha}, (x,))  # noqa: E731
    assert torch.autograd.gradcheck(apply, (weight.requires_grad_(),))


def test_gated_is_the_middle_at_zero_weights_and_saturates_to_max_or_mean():
    x, pool = maps(2, 4, 7, 7, positive=True), spatial_learned.GatedPool2d(2)
    top, mean = F.max_pool2d(x, 2, ceil_mode=True), F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)
    for weight, want in ((0.0, (top + mean) / 2), (1e4, top), (-1e4, mean)):
        nn.init.constant_(pool.weight, weight)
        torch.testing.assert_close(pool(x), want)


@pytest.mark.parametrize("depth", [2, 3])
def test_tree_of_equal_means_is_the_mean_whatever_the_gates(depth):
    x, pool = maps(2, 4, 6, 6), spatial_learned.TreePool2d(depth=depth)
    assert len(pool.leaves) == 2 ** (depth - 1)
    assert len(pool.gates) == len(pool.leaves) - 1
    nn.init.constant_(pool.leaves, 1 / 4)
    nn.init.normal_(pool.gates, std=3)
    torch.testing.assert_close(pool(x), F.avg_pool2d(x, 2))
    nn.init.normal_(pool.leaves)
    assert (pool(x) - F.avg_pool2d(x, 2)).abs().max() > 0.1


# --- generalized means ---


def globally(x, p, eps=1e-6):
    return gem.GeM2d(p, eps)(x), gem.GeM2d(p, eps, kernel_size=tuple(x.shape[2:]))(x)


def test_gem_over_the_whole_map_by_both_routes():
    x = maps(2, 4, 5, 6)
    for p in (0.3, 1.0, 3.0, 9.0):
        a, b = globally(x, p)
        torch.testing.assert_close(a, b)
        torch.testing.assert_close(a, (x.clamp(min=1e-6) ** p).mean((2, 3), keepdim=True) ** (1 / p))


def test_gem_limits():
    x = maps(2, 4, 5, 6, positive=True)
    whole = (2, 3)
    for y in globally(x, 1.0):
        torch.testing.assert_close(y, x.mean(whole, keepdim=True))
    for y in globally(x, 2.0):
        torch.testing.assert_close(y, x.square().mean(whole, keepdim=True).sqrt())
    for y in globally(x, 1e6):
        torch.testing.assert_close(y, x.amax(whole, keepdim=True), rtol=1e-5, atol=0)
    for p in (1e-30, 1e-9):  # p -> 0: the geometric mean
        for y in globally(x, p):
            torch.testing.assert_close(y, x.double().log().mean(whole, keepdim=True).exp().float(), rtol=2e-6, atol=0)
    for y, scaled in zip(globally(x, 3.0), globally(7 * x, 3.0), strict=True):
        torch.testing.assert_close(scaled, 7 * y)
    rising = [gem.GeM2d(p)(x) for p in (0.5, 1.0, 2.0, 4.0, 8.0)]
    assert all((b > a).all() for a, b in itertools.pairwise(rising))


@pytest.mark.parametrize("kernel_size", [None, (5, 6)], ids=["global", "windows"])
def test_gem_gradient_follows_euler_and_reaches_p(kernel_size):
    x = maps(2, 4, 5, 6, positive=True).double().requires_grad_()
    pool = gem.GeM2d(kernel_size=kernel_size, channels=4).double()
    y = pool(x)
    (grad,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
    torch.testing.assert_close((grad * x).sum((2, 3), keepdim=True), y)  # homogeneous of degree 1
    torch.testing.assert_close(grad, (x / y) ** 2 / 30)
    (slope,) = torch.autograd.grad(y.sum(), pool.log_p)
    w = x**3 / (x**3).sum((2, 3), keepdim=True)
    want = y / 3 * ((w * x.log()).sum((2, 3), keepdim=True) - y.log())
    torch.testing.assert_close(slope, 3 * want.sum((0, 2, 3)))


@pytest.mark.parametrize("kernel_size", [None, 8], ids=["global", "windows"])
@pytest.mark.parametrize("p", [1e-4, 1e-3, 1e-2, 0.1, 0.3, 3.0])
def test_gem_of_a_small_p_keeps_its_digits(kernel_size, p):
    """y, dy/dx and p dy/dp in float32 against the definition in float64."""
    x = 3 * torch.rand(2, 4, 8, 8) + 1e-3
    pool = gem.GeM2d(p, kernel_size=kernel_size, channels=4)
    exact, log_p = x.double().requires_grad_(), pool.log_p.detach().double().requires_grad_()
    power = log_p.exp().view(-1, 1, 1)
    want = ((power * exact.log()).exp().mean((2, 3), keepdim=True).log() / power).exp()
    y = pool(x.requires_grad_())
    grads = torch.autograd.grad(y.sum(), (x, pool.log_p)), torch.autograd.grad(want.sum(), (exact, log_p))
    torch.testing.assert_close(y.double(), want, rtol=2e-6, atol=0)
    torch.testing.assert_close(grads[0][0].double(), grads[1][0], rtol=1e-5, atol=0)
    torch.testing.assert_close(grads[0][1].double(), grads[1][1], rtol=1e-4, atol=0)


def test_the_second_derivative_of_gem_over_the_map_is_right_for_small_p_too():
    x = (torch.rand(1, 2, 2, 2, dtype=torch.float64) + 0.1).requires_grad_()
    p = torch.tensor([0.01, 2.0], dtype=torch.float64, requires_grad=True)

    def mean(x, p):
        return gem.power_mean(x, p.view(-1, 1, 1), (2, 3), 1e-6)

    assert torch.autograd.gradgradcheck(mean, (x, p))


@pytest.mark.parametrize("kernel_size", [None, 2], ids=["global", "windows"])
def test_gem_refuses_a_power_that_training_took_out_of_range_and_an_eps_that_float32_lacks(kernel_size):
    x, pool = maps(1, 4, 4, 4), gem.GeM2d(kernel_size=kernel_size)
    for log_p, says in ((-math.inf, "p must be > 0; got 0.0"), (200.0, "p must be finite"), (math.nan, "got nan")):
        nn.init.constant_(pool.log_p, log_p)
        with pytest.raises(ValueError, match=says):
            pool(x)
    with pytest.raises(ValueError, match=r"eps must be in .*float32; got 1e-60"):
        gem.GeM2d(eps=1e-60, kernel_size=kernel_size)(x)


@pytest.mark.parametrize(("value", "official"), [(5.0, 4.64), (50.0, 4.64), (0.02, 0.0464)])
def test_pyg_power_mean_clamps_the_mean(value, official):
    """Fault: PyG clamps the mean of powers to [1e-4, 100] before the root, so a constant is not its own mean."""
    x = torch.full((1, 1, 4, 4), value)
    assert (x**3).mean().clamp(1e-4, 100).item() ** (1 / 3) == pytest.approx(official, rel=1e-2)
    for y in globally(x, 3.0):
        torch.testing.assert_close(y, x[..., :1, :1])


def test_naive_gem_overflows_in_half_precision_from_41():
    x = torch.full((1, 1, 4, 4), 50.0, dtype=torch.float16)
    assert (x**3).isinf().all()
    for y in globally(x, 3.0):
        torch.testing.assert_close(y, x[..., :1, :1])


def test_regional_gem_limits():
    x = maps(2, 4, 7, 8, positive=True)
    box = F.avg_pool2d(F.pad(x, [2] * 4, mode="reflect"), 5, 1)
    torch.testing.assert_close(gem.RegionalGeM(p=1.0)(x), (box + x) / 2)
    constant = torch.full((1, 2, 6, 6), 3.0)
    torch.testing.assert_close(gem.RegionalGeM()(constant), constant)


def test_official_regional_gem_is_nan_for_negative_values():
    """Fault: a fractional power of a negative number. Ours takes the power of max(x, eps)."""
    x = -torch.ones(1, 1, 6, 6)
    assert (x**2.5).isnan().all()
    torch.testing.assert_close(gem.RegionalGeM()(x), torch.full_like(x, -0.5), rtol=0, atol=1e-5)


def test_scale_gem_limits():
    x = maps(3, 4, 16)
    torch.testing.assert_close(gem.ScaleGeM(1.0)(x), x.mean(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gem.ScaleGeM(1e5)(x), x.amax(1), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(gem.ScaleGeM(math.inf)(x), F.normalize(x, dim=-1).amax(1))
    torch.testing.assert_close(gem.ScaleGeM()(x), torch.cat([gem.ScaleGeM()(one[None]) for one in x]))
    low = x.amin((1, 2), keepdim=True)
    torch.testing.assert_close(gem.ScaleGeM()(x), (((x - low) ** 10).mean(1) ** 0.1 + low[:, 0]))
    grad = torch.autograd.grad(gem.ScaleGeM()(x.requires_grad_()).sum(), x)[0]
    assert grad.isfinite().all()


def test_relup_is_a_shifted_clamp_not_a_power():
    """The name reads like relu(x)^p; the code is max(x, 0.014)."""
    x = maps(1000)
    torch.testing.assert_close(gem.ReLUP()(x), x.clamp(min=0.014))
    torch.testing.assert_close(gem.ReLUP(0.0)(x), x.relu())


# --- pyramid ---


def test_pyramid_limits():
    x = maps(2, 4, 12, 12)
    torch.testing.assert_close(spatial.SpatialPyramidPool2d((1,))(x), x.amax((2, 3)))
    for bins in ("adaptive", "paper"):
        got = spatial.SpatialPyramidPool2d((3,), bins=bins)(x)
        torch.testing.assert_close(got, F.max_pool2d(x, 4).flatten(1))
        torch.testing.assert_close(spatial.SpatialPyramidPool2d((3,), "mean", bins)(x), F.avg_pool2d(x, 4).flatten(1))
    for size in ((12, 12), (7, 10), (13, 6)):
        for bins in ("adaptive", "paper"):
            assert spatial.SpatialPyramidPool2d(bins=bins)(maps(1, 4, *size)).shape == (1, 4 * 50)
            assert spatial.SpatialPyramidPool2d((4, 2, 1), bins=bins)(maps(1, 4, *size)).shape == (1, 4 * 21)


def test_paper_bins_leave_the_tenth_column_unseen():
    """ceil(10/4) = 3 every floor(10/4) = 2: columns 0 .. 8. Adaptive bins see all ten."""
    x = torch.zeros(1, 1, 10, 10)
    x[..., 9] = 1
    assert spatial.SpatialPyramidPool2d((4,), bins="paper")(x).sum() == 0
    assert spatial.SpatialPyramidPool2d((4,), bins="adaptive")(x).sum() == 4
    x[..., 8] = 1
    assert spatial.SpatialPyramidPool2d((4,), bins="paper")(x).sum() == 4


@pytest.mark.parametrize("reduce", ["max", "mean"])
def test_torchs_adaptive_maximum_once_wrote_channels_last_maps_in_another_order(reduce):
    """pytorch#67239, on a GPU: a dense result was written to memory that is read channels last."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x, pool = maps(2, 4, 7, 10).to(device), spatial.SpatialPyramidPool2d((1, 3), reduce)
    for size in (1, 4):  # with one channel the strides say both
        dense = x[:, :size].contiguous().requires_grad_()
        last = dense.detach().to(memory_format=torch.channels_last).requires_grad_()
        y, dy = pool(dense), torch.randn(2, size * 10, device=device)
        torch.testing.assert_close(pool(last), y)
        grads = [torch.autograd.grad(pool(leaf), leaf, dy)[0] for leaf in (dense, last)]
        torch.testing.assert_close(*grads)
    level = y[:, 4:].view(2, 4, 3, 3)
    misread = level.flatten().as_strided(level.shape, (36, 1, 12, 4))
    assert (misread - level).abs().max() > 0.1


# --- posets ---

COUNTS = [9, 16, 12, 6, 10, 10, 9, 6, 8, 9, 7, 7, 8, 5, 6, 7]  # filters of the authors' posets 0 .. 15


def test_sixteen_posets_with_as_many_filters_as_the_authors():
    assert [len(poset.filters(r)) for r in poset.POSETS.values()] == COUNTS


def test_the_posets_are_all_that_there_are_and_no_two_alike():
    """Up to relabelling: the sorted rows of each, smallest over the 24 permutations, are 16 different things."""

    def shape(relation):
        rows = poset.filters(relation)
        return min(tuple(sorted(map(tuple, rows[:, list(p)].tolist()))) for p in itertools.permutations(range(4)))

    assert len({shape(r) for r in poset.POSETS.values()}) == 16


@pytest.mark.parametrize("relation", poset.POSETS.values(), ids=poset.POSETS)
def test_filters_are_closed_upwards_and_under_union_and_intersection(relation):
    rows = {tuple(row) for row in poset.filters(relation).int().tolist()}
    for pair in relation.split():
        low, high = (poset.PLACES.index(place) for place in pair.split("<"))
        assert all(row[high] >= row[low] for row in rows)
    for a, b in itertools.product(rows, repeat=2):
        assert tuple(map(max, a, b)) in rows
        assert tuple(map(min, a, b)) in rows


def test_antichain_is_the_sum_of_relus_and_chain_the_largest_suffix():
    x = maps(2, 4, 6, 6)
    torch.testing.assert_close(poset.PosetPool2d("antichain")(x), 4 * F.avg_pool2d(x.relu(), 2))
    suffixes = tiles(x, 2).flatten(-2).flip(-1).cumsum(-1).amax(-1).clamp(min=0)
    torch.testing.assert_close(poset.PosetPool2d("chain")(x), suffixes)


@pytest.mark.parametrize("name", poset.POSETS)
def test_poset_pool_is_positive_homogeneous_convex_and_never_negative(name):
    pool, (x, z) = poset.PosetPool2d(name), maps(2, 1, 4, 6, 6)
    torch.testing.assert_close(pool(3 * x), 3 * pool(x))
    assert (pool((x + z) / 2) <= (pool(x) + pool(z)) / 2 + 1e-6).all()
    assert (pool(x) >= 0).all()
    torch.testing.assert_close(pool(-x.abs()), torch.zeros(1, 4, 3, 3))
    assert (pool(x) - F.max_pool2d(x, 2).relu()).abs().max() > 0.1  # max pooling is not in the family


def test_poset_pool_continues_odd_sizes_by_zeros():
    x, pool = maps(1, 4, 5, 7), poset.PosetPool2d("chain")
    torch.testing.assert_close(pool(x), pool(F.pad(x, [0, 1, 0, 1])))


# --- LIP ---


def test_lip_starts_as_the_mean_and_does_not_see_a_shift_of_its_logits():
    x = maps(2, 4, 7, 9)
    torch.testing.assert_close(lip.LIP2d(4)(x), F.avg_pool2d(x, 3, 2, 1, count_include_pad=False))
    logit = maps(2, 1, 7, 9)
    y = window_pool(x, "softmax", 3, 2, 1, logit=logit)
    torch.testing.assert_close(window_pool(x, "softmax", 3, 2, 1, logit=logit + 40), y, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(window_pool(x, "softmax", 3, 2, 1, logit=logit.expand_as(x)), y)
    shared = nn.Conv2d(4, 1, 1)
    torch.testing.assert_close(lip.LIP2d(4, logit=shared)(x), window_pool(x, "softmax", 3, 2, 1, logit=shared(x)))


def test_lip_of_one_place_is_that_place():
    """torch's instance norm refuses it, in evaluation too; a place alone has no weight to share."""
    pool = lip.LIP2d(4)
    nn.init.normal_(pool.logit.conv.weight)
    for x in (maps(2, 4, 1, 1), maps(1, 4, 1, 1)):
        y = pool(x.requires_grad_())
        torch.testing.assert_close(y, x)
        assert (torch.autograd.grad(y.sum(), x)[0] == 1).all()
    nn.init.constant_(pool.logit.norm.bias, 1.0)
    torch.testing.assert_close(pool.logit(maps(2, 4, 1, 1)), torch.full((2, 4, 1, 1), 12 / (1 + math.exp(-1))))
    pool.eval()(maps(1, 4, 1, 1)).sum().backward()
    assert all(p.grad is not None for p in pool.parameters())


def test_lip_learns():
    """The zero convolution is a start, not a stop."""
    pool, x = lip.LIP2d(4), maps(2, 4, 8, 8)
    nn.init.normal_(pool.logit.conv.weight)
    assert (pool(x) - F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)).abs().max() > 0.1
    pool(x).square().sum().backward()
    assert pool.logit.conv.weight.grad.abs().sum() > 0


def test_official_lip_ignores_its_padding():
    """Fault: the CUDA code pads k // 2 whatever was asked, and has H // s rows; torch has ceil(H / 2) for 3/2/1."""
    assert lip.LIP2d(4, padding=0)(maps(1, 4, 7, 7)).shape[2:] == (3, 3)
    assert lip.LIP2d(4)(maps(1, 4, 7, 7)).shape[2:] == (4, 4)


# --- stochastic ---


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def test_stochastic_pool_in_evaluation_is_its_expectation():
    x = maps(2, 4, 7, 7)
    a = tiles(x.relu(), 2).flatten(-2)
    mass = a.sum(-1)
    want = torch.where(mass > 0, (a * a).sum(-1) / mass.clamp(min=1e-30), 0)
    torch.testing.assert_close(stochastic.StochasticPool2d().eval()(x), want)
    draws = stochastic.StochasticPool2d(generator=seeded(0))
    mean = torch.stack([draws(x) for _ in range(3000)]).mean(0)
    assert (mean - want).abs().max() < 6 * x.max() / 2 / math.sqrt(3000)


def test_stochastic_pool_draws_one_positive_activation_which_has_the_gradient():
    x = maps(2, 4, 6, 6).requires_grad_()
    y = stochastic.StochasticPool2d(generator=seeded(3))(x)
    (grad,) = torch.autograd.grad(y.sum(), x)
    drawn = tiles(grad, 2).flatten(-2)
    positive = (tiles(x, 2).flatten(-2) > 0).any(-1)
    assert torch.equal(drawn.sum(-1), positive.float())
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close((drawn * tiles(x, 2).flatten(-2)).sum(-1), y)


def test_stochastic_pools_repeat_under_their_generator():
    x = maps(2, 4, 8, 8)
    for make in (stochastic.StochasticPool2d, stochastic.S3Pool2d):
        first, second, other = (make(generator=seeded(s))(x) for s in (5, 5, 6))
        assert torch.equal(first, second)
        assert not torch.equal(first, other)
        assert torch.equal(make().eval()(x), make().eval()(x))


def test_stochastic_pool_of_zeros_is_zero():
    x = -torch.rand(1, 2, 4, 4)
    x.requires_grad_()
    for pool in (stochastic.StochasticPool2d(), stochastic.StochasticPool2d().eval()):
        y = pool(x)
        assert (y == 0).all()
        assert (torch.autograd.grad(y.sum(), x)[0] == 0).all()


def test_s3_identities_and_expectation():
    x = maps(1, 2, 6, 6)
    assert torch.equal(stochastic.S3Pool2d(1)(x), x)
    assert torch.equal(stochastic.S3Pool2d(1).eval()(x), x)
    pool = stochastic.S3Pool2d(2, generator=seeded(0))
    mean = torch.stack([pool(x) for _ in range(2000)]).mean(0)
    torch.testing.assert_close(mean, pool.eval()(x), rtol=0, atol=0.15)
    tops = F.max_pool2d(F.pad(x, [0, 1, 0, 1], value=-math.inf), 2, 1)
    torch.testing.assert_close(pool(x), F.avg_pool2d(tops, 2))


def test_s3_keeps_rows_and_columns_in_order_and_none_twice():
    pool = stochastic.S3Pool2d(2, 4, generator=seeded(1))
    for _ in range(20):
        kept = pool._draw(12, torch.device("cpu"))
        assert (kept.diff() > 0).all()
        assert (kept // 4).bincount().tolist() == [2, 2, 2]


# --- mixers ---


def test_pool_mixer_is_linear_and_zero_on_a_constant():
    x, z = maps(2, 1, 4, 6, 7)
    mixer = spatial.PoolMixer2d()
    torch.testing.assert_close(mixer(torch.full((1, 4, 6, 7), 3.0)), torch.zeros(1, 4, 6, 7))
    torch.testing.assert_close(mixer(2 * x + z), 2 * mixer(x) + mixer(z), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mixer(x), F.avg_pool2d(x, 3, 1, 1, count_include_pad=False) - x)
    assert (spatial.PoolMixer2d(1)(x) == 0).all()


def test_pf_layer_is_its_convolutions_without_a_window_and_halves_with_a_stride():
    x = maps(2, 4, 7, 7)
    layer = mixers.PfLayer(4, 8, 6, kernel_size=1).eval()
    torch.testing.assert_close(layer(x), layer.expand(layer.reduce(x)))
    layer = mixers.PfLayer(4, 8, 6, stride=2).eval()
    torch.testing.assert_close(layer(x), layer.expand(F.max_pool2d(layer.reduce(x), 3, 2, 1)))
    assert layer(x).shape == (2, 6, 4, 4)


def neighbours(rows, columns, prefix, reach):
    """[T, T] bool: which tokens a token's maximum is over, written out place by place."""
    near = torch.eye(prefix + rows * columns, dtype=torch.bool)
    for a, b in itertools.product(range(rows * columns), repeat=2):
        apart = abs(a // columns - b // columns), abs(a % columns - b % columns)
        near[prefix + a, prefix + b] = max(apart) <= reach
    return near


@pytest.mark.parametrize(
    ("grid", "prefix", "kernel_size"), [(None, 0, 3), ((3, 5), 0, 3), ((4, 3), 2, 5), (None, 1, 1)]
)
def test_pf_token_layer_is_its_formula(grid, prefix, kernel_size):
    rows, columns = grid or (4, 4)
    layer = mixers.PfTokenLayer(6, 2, kernel_size, grid, prefix).double()
    x = torch.randn(2, prefix + rows * columns, 6, dtype=torch.float64, requires_grad=True)
    h = F.gelu(x @ layer.expand.weight.T + layer.expand.bias)
    near = neighbours(rows, columns, prefix, kernel_size // 2)
    most = h[:, None].masked_fill(~near[None, :, :, None], -math.inf).amax(2)
    want = F.gelu(most) @ layer.reduce.weight.T + layer.reduce.bias
    dy, leaves = torch.randn_like(want), [x, *layer.parameters()]
    ours = layer(x)
    torch.testing.assert_close(ours, want)
    torch.testing.assert_close(torch.autograd.grad(ours, leaves, dy), torch.autograd.grad(want, leaves, dy))


def test_pf_token_layer_sees_neighbours_and_nothing_else():
    layer = mixers.PfTokenLayer(6, grid=(4, 5), prefix=1)
    x = torch.randn(1, 21, 6)
    for token, seen in ((0, [0]), (1, [1, 2, 6, 7])):  # the class token; the upper left corner
        moved = x.clone()
        moved[:, token] = 5.0 * torch.randn(6)
        changed = (layer(moved) != layer(x)).any(-1)[0].nonzero().flatten().tolist()
        assert changed == seen


def test_inception_mixer_maps_any_size_and_its_parts_see_what_they_should():
    mixer = mixers.InceptionMixer(8, num_heads=4, attention_heads=2).eval()
    x = maps(1, 5, 7, 8)
    assert mixer(x).shape == x.shape
    far = x.clone()
    far[0, 4, 6, :4] += 1  # the sharp channels look at 3 x 3 twice
    assert torch.equal(mixer(far)[0, 0, 0], mixer(x)[0, 0, 0])
    far[0, 4, 6, 4:] += torch.randn(4)  # attention looks everywhere
    assert not torch.equal(mixer(far)[0, 0, 0], mixer(x)[0, 0, 0])
    # equal values have nothing to mix
    one = x[:, :1, :1].expand(1, 4, 4, 8)
    low = one.movedim(-1, 1)[:, 4:]
    torch.testing.assert_close(mixer._attend(low), mixer._attend(low[..., :2, :2]).repeat(1, 1, 2, 2))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: adapool.AdaPool2d(beta=1.5), r"beta must be in \[0, 1\].*1.5"),
        (lambda: adapool.AdaPool2d(2, 1).masks(maps(1, 1, 4, 4)), "side by side"),
        (lambda: adapool.AdaPool2d(beta_size=(3,))(maps(1, 4, 4, 4)), "beta has 3 channels; x has 4"),
        (lambda: adapool.AdaPool2d(beta_size=(3, 3))(maps(1, 4, 4, 4)), r"\(3, 3\).*output is \(2, 2\)"),
        (lambda: adapool.AdaUnpool2d(3)(maps(1, 4, 2, 2), (*maps(2, 1, 4, 4, 4), torch.ones(()))), "masks must be"),
        (lambda: spatial_learned.MixedPool2d(alpha=-1.0), r"alpha must be in \[0, 1\]; got -1.0"),
        (lambda: spatial_learned.TreePool2d(depth=4), "depth must be 2 or 3.*got 4"),
        (lambda: gem.GeM2d(p=0.0), "p must be > 0"),
        (lambda: gem.RegionalGeM(kernel_size=4), "kernel_size odd"),
        (lambda: gem.RegionalGeM()(maps(1, 1, 2, 2)), r"reflection of 2.*got \(2, 2\)"),
        (lambda: gem.ScaleGeM(p=-1.0), "p must be > 0; got -1.0"),
        (lambda: spatial.SpatialPyramidPool2d(()), r"one or more.*got \(\)"),
        (lambda: spatial.SpatialPyramidPool2d(reduce="sum"), "reduce is 'max' or 'mean'.*'sum'"),
        (lambda: spatial.SpatialPyramidPool2d((6,), bins="paper")(maps(1, 1, 5, 9)), "paper bins need H, W >= 6"),
        (lambda: poset.PosetPool2d("ring"), "poset must be one of.*'chain'.*got 'ring'"),
        (lambda: poset.PosetPool2d("a<e"), "a relation speaks of a, b, c and d.*'e'"),
        (lambda: poset.PosetPool2d("a<b b<a"), "no cycle"),
        (lambda: poset.PosetPool2d()(maps(1, 1, 1, 4)), "at least 2 rows"),
        (lambda: stochastic.S3Pool2d(2, 3), "multiple of it.*grid_size=3"),
        (lambda: stochastic.S3Pool2d(2)(maps(1, 1, 5, 4)), r"multiples of grid_size 2; got \(5, 4\)"),
        (lambda: spatial.PoolMixer2d(4), "pool_size must be odd.*got 4"),
        (lambda: mixers.PfLayer(4, 8, kernel_size=2), "kernel_size must be odd"),
        (lambda: mixers.PfTokenLayer(4, kernel_size=2), "kernel_size must be odd"),
        (lambda: mixers.PfTokenLayer(4)(torch.zeros(1, 5, 4)), "0 and a square number of tokens.*got 5"),
        (lambda: mixers.PfTokenLayer(4, grid=(2, 3), prefix=1)(torch.zeros(1, 6, 4)), "1 and 2 x 3 tokens.*got 6"),
        (lambda: mixers.InceptionMixer(10, num_heads=4), "num_heads must divide dim"),
        (lambda: spatial.SoftPool2d(5)(maps(1, 1, 4, 4)), r"must fit into the padded input, \(4, 4\)"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_windows_side_by_side_are_a_view():
    x = maps(1, 2, 5, 4)
    assert tiles(x, 2).data_ptr() == x.data_ptr()
    assert tiles(x, 2).shape == (1, 2, 2, 2, 2, 2)
    assert windows.plan(x, 2, None, 0, False).out == (1, 2, 2)
