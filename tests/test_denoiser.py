"""A denoiser's process against its formulas in float64, its net, its training, and its states under the lab's hooks."""

import math

import numpy as np
import pytest
import torch

import lab
from lab.pooling import GridMean
from lab.training import UNet, denoiser, noising
from lab.training.diffusion import SCHEDULES
from lab.training.unet import waves


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_noise_put_on_step_by_step_is_the_noise_put_on_at_once(schedule):
    process = noising(20, schedule)
    a = process.kept
    assert a[0] == 1
    assert (a.diff() < 0).all()
    b = 1 - a[1:] / a[:-1]
    assert float(b.max()) <= 0.999 + 1e-9
    mean, variance = (
        torch.tensor(3.0).double(),
        torch.tensor(0.0).double(),
    )  # of x_0 = 3, through x_t = sqrt(1 - b) x_{t-1} + sqrt(b) e
    for t in range(1, 21):
        mean, variance = (1 - b[t - 1]).sqrt() * mean, (1 - b[t - 1]) * variance + b[t - 1]
        x = torch.full((2, 1), 3.0).double()
        at = torch.full((2,), t)
        still = process.noised(x, at, torch.zeros(2, 1).double())
        torch.testing.assert_close(still, mean.expand(2, 1))
        moved = process.noised(x, at, torch.ones(2, 1).double()) - still
        torch.testing.assert_close(moved.square(), variance.expand(2, 1))


def test_the_schedules_are_the_published_ones():
    linear, cosine = noising(1000, "linear").kept, noising(1000).kept
    torch.testing.assert_close(
        1 - linear[1:] / linear[:-1], torch.linspace(1e-4, 0.02, 1000).double(), atol=1e-9, rtol=1e-6
    )
    assert noising(100, "linear").kept[-1] == pytest.approx(float(linear[-1]), rel=0.5)  # as little is left
    f = [math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for t in (0, 500)]
    assert float(cosine[500]) == pytest.approx(f[1] / f[0], rel=1e-9)
    assert 0 < float(cosine[-1]) < 1e-5


def test_the_posterior_is_bayes():
    """Prior N(sqrt(a_{t-1}) x_0, 1 - a_{t-1}), likelihood N(x_t; sqrt(1 - b) x_{t-1}, b): precisions add."""
    process = noising(12)
    x0, xt = torch.randn(11, 3).double(), torch.randn(11, 3).double()
    t = torch.arange(2, 13)
    before, b = process.kept[t - 1][:, None], (1 - process.kept[t] / process.kept[t - 1])[:, None]
    precision = 1 / (1 - before) + (1 - b) / b
    mean = (before.sqrt() * x0 / (1 - before) + (1 - b).sqrt() * xt / b) / precision
    got_mean, got_variance = process.posterior(xt, t, x0)
    torch.testing.assert_close(got_mean, mean)
    torch.testing.assert_close(got_variance, 1 / precision)
    first, none = process.posterior(xt, torch.ones(11, dtype=torch.long), x0)
    torch.testing.assert_close(first, x0)  # the first step's posterior is the data itself
    assert (none == 0).all()


def test_clean_undoes_noised_and_rows_have_their_own_step():
    process, x, noise = noising(30), torch.randn(4, 1, 2, 2).double(), torch.randn(4, 1, 2, 2).double()
    t = torch.tensor([0, 1, 15, 29])
    there = process.noised(x, t, noise)
    torch.testing.assert_close(process.clean(there, t, noise), x)
    torch.testing.assert_close(there[2:3], process.noised(x[2:3], t[2:3], noise[2:3]))
    assert torch.equal(there[0], x[0])


def test_the_loss_is_the_mean_square_of_what_is_missed():
    process, x, noise = noising(9), torch.randn(5, 2).double(), torch.randn(5, 2).double()
    t, w = torch.tensor([1, 3, 5, 7, 9]), torch.tensor(0.3).double().requires_grad_()
    loss = process.loss(lambda x, _: w * x, x, t, noise)
    a = process.kept[t][:, None]
    there = a.sqrt() * x + (1 - a).sqrt() * noise
    torch.testing.assert_close(loss, ((noise - w * there) ** 2).sum() / 10)
    (slope,) = torch.autograd.grad(loss, w)
    torch.testing.assert_close(slope, (-2 * there * (noise - w * there)).sum() / 10)


def test_the_right_prediction_samples_the_data():
    """Of data N(m, s^2) the noise is known: E[e | x_t] = sqrt(1 - a) (x_t - sqrt(a) m) / (a s^2 + 1 - a)."""
    process, m, s = noising(60), 0.5, 0.2

    def right(x, t):
        a = process.kept[t][:, None]
        return (1 - a).sqrt() * (x - a.sqrt() * m) / (a * s**2 + 1 - a)

    found = process.sample(right, torch.randn(5000, 1).double(), seed=1)
    assert float(found.mean()) == pytest.approx(m, abs=0.02)
    variance = 1.0  # of a chain whose steps are linear in x and end at 60, not in the limit: a little narrow
    for t in range(60, 0, -1):
        a, before = process.kept[t], process.kept[t - 1]
        b, slope = 1 - a / before, a.sqrt() * s**2 / (a * s**2 + 1 - a)  # of the x_0 that is said
        turned = (before.sqrt() * b * slope + (1 - b).sqrt() * (1 - before)) / (1 - a)
        variance = float(turned**2 * variance + (1 - before) / (1 - a) * b)
    assert float(found.std()) == pytest.approx(variance**0.5, rel=0.04)
    assert variance**0.5 == pytest.approx(s, rel=0.15)
    held = process.sample(right, torch.randn(500, 1).double(), bound=0.55)
    assert float(held.max()) <= 0.55 + 1e-9
    one, other = (process.sample(right, torch.ones(3, 1).double()) for _ in range(2))
    assert torch.equal(one, other)


def test_a_schedule_must_be_one():
    with pytest.raises(ValueError, match="schedule must be one of"):
        noising(10, "square")
    with pytest.raises(ValueError, match="2 steps or more; got 'cosine', 1"):
        noising(1)


def test_the_net_has_its_shape_and_begins_at_zero():
    net, x, t = UNet(channels=2, width=8, depth=1), torch.randn(3, 2, 6, 4), torch.tensor([0, 7, 50])
    assert torch.equal(net(x, t), torch.zeros_like(x))
    assert len(net.blocks) == 5
    assert len(UNet().blocks) == 9
    assert sum(p.numel() for p in UNet().parameters()) < 150_000
    net.leave[-1].weight.data.normal_()
    for block in net.blocks:
        block.two[-1].weight.data.normal_(std=0.1)
    out = net(x, t)
    torch.testing.assert_close(out[1:2], net(x[1:2], t[1:2]))  # rows do not mix
    assert not torch.allclose(net(x, t + 1), out)  # the step is heard
    out.square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in net.parameters())
    with pytest.raises(ValueError, match="must be even"):
        net(torch.randn(1, 2, 5, 4), t[:1])
    for wrong in ({"width": 6}, {"width": 4}, {"depth": 0}, {"channels": 0}):
        with pytest.raises(ValueError, match="width must be a multiple of 4"):
            UNet(**wrong)


def test_skips_bring_what_the_block_opposite_left():
    net = UNet(width=8, depth=2)
    seen = {}
    for i, block in enumerate(net.blocks):
        block.register_forward_hook(lambda _, args, out, i=i: seen.update({i: (args[0], out)}))
    net(torch.randn(2, 1, 8, 8), torch.tensor([1, 2]))
    for up, down in ((5, 3), (6, 2), (7, 1), (8, 0)):
        beside = seen[down][1]
        assert torch.equal(seen[up][0][:, -beside.shape[1] :], beside)
        assert seen[up][1].shape == beside.shape
    assert [seen[i][1].shape[-1] for i in range(9)] == [8, 8, 4, 4, 4, 4, 4, 8, 8]


def test_waves_are_cosines_and_sines():
    found = waves(torch.tensor([0, 3]), 4)
    torch.testing.assert_close(found[0], torch.tensor([1.0, 1, 0, 0]))
    torch.testing.assert_close(found[1], torch.tensor([math.cos(3), math.cos(0.03), math.sin(3), math.sin(0.03)]))


@pytest.fixture(scope="module")
def trained():
    images, _ = lab.data.digits()
    return denoiser(images[:200], noise_steps=20, width=8, depth=1, steps=25, batch=32, progress=False)


def test_training_learns_and_is_the_same_again(trained):
    assert trained.losses[-5:].mean() < 0.8 * trained.losses[:3].mean()
    images, _ = lab.data.digits()
    again = denoiser(images[:200], noise_steps=20, width=8, depth=1, steps=25, batch=32, progress=False)
    assert np.array_equal(again.losses, trained.losses)
    drawn = trained.samples(3, seed=4)
    assert drawn.shape == (3, 1, 8, 8)
    assert torch.equal(drawn, trained.samples(3, seed=4))
    assert bool(((drawn >= 0) & (drawn <= 1)).all())


def test_states_of_every_block_are_what_the_net_makes(trained):
    images = lab.data.digits()[0][:7]
    there = trained.noised(images, 5, seed=3)
    states = lab.capture.states(trained.at(5), there, pools={"1": GridMean(1)}, progress=False)
    assert states.layer.size == 6
    seen = {}
    handle = trained.net.blocks[1].register_forward_hook(lambda _m, _a, out: seen.update(out=out))
    with torch.no_grad():
        trained.net(there, torch.full((7,), 5))
    handle.remove()
    np.testing.assert_allclose(states.h[2, 0, :, :16], seen["out"].mean((2, 3)), atol=1e-5)
    at_once = trained.process.noised(2 * images - 1, torch.full((7,), 5), (trained.noised(images, 20, seed=3)
        - trained.process.kept[20].sqrt() * (2 * images - 1)) / (1 - trained.process.kept[20]).sqrt())  # fmt: skip
    torch.testing.assert_close(there, at_once.float(), atol=1e-5, rtol=1e-4)  # the noise is the same at every step
    torch.testing.assert_close(trained.noised(images, 0), 2 * images - 1)
    with pytest.raises(ValueError, match=r"steps are 0 \(none\) to 20; got 21"):
        trained.at(21)


@pytest.mark.parametrize(
    ("images", "how", "says"),
    [
        (torch.rand(4, 8, 8), {}, "must be"),
        (torch.rand(4, 1, 8, 8) * 2, {}, "from 0 to 1"),
        (torch.full((4, 1, 8, 8), torch.nan), {}, "none NaN"),
        (torch.rand(0, 1, 8, 8), {}, r"got \[0, 1, 8, 8\]"),
        (torch.rand(4, 1, 8, 8), {"steps": 0}, "one step"),
        (torch.rand(4, 1, 8, 8), {"rate": 0.0}, "a positive rate"),
        (torch.rand(4, 1, 8, 8), {"schedule": "none"}, "schedule must be one of"),
        (torch.rand(4, 1, 7, 8), {}, "must be even"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(images, how, says):
    with pytest.raises(ValueError, match=says):
        denoiser(images, **{"steps": 1, "progress": False, **how})
