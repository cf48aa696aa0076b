"""Views of a digit: windows of it, and nets that draw it again, in one stage or two."""

import pytest
import torch

import lab
from lab.data import views
from lab.training import VIEW_POOLS, view_reader
from lab.training.descend import descend
from lab.training.views import LastState, ViewNet

pytestmark = pytest.mark.usefixtures("plain_torch")

QUIET = {"progress": False}


@pytest.fixture(scope="module")
def digits():
    return lab.data.digits()


def test_a_view_is_a_window_of_its_image(digits):
    images = digits[0][:5] + 0.1
    seen = views.draw(images, 40, side=3, noise=0, seed=1).unflatten(2, (2, 8, 8))
    pixels, shown = seen[:, :, 0], seen[:, :, 1]
    torch.testing.assert_close(pixels, images * shown)
    assert (shown.sum((-1, -2)) == 9).all()
    corners = set()
    for one in shown.flatten(0, 1):
        row, column = one.nonzero().min(0).values.tolist()
        assert (one[row : row + 3, column : column + 3] == 1).all()
        corners.add((row, column))
    assert len(corners) == 36
    with_noise, without = (views.draw(images, 400, side=3, noise=noise, seed=1)[..., :64] for noise in (0.5, 0))
    noise = with_noise - without
    assert float(noise[noise != 0].std()) == pytest.approx(0.5, rel=0.02)


@pytest.mark.parametrize("wrong", [{"views": 0}, {"side": 9}, {"side": 0}, {"noise": -0.1}])
def test_views_that_cannot_be_drawn_are_refused(digits, wrong):
    with pytest.raises(ValueError, match="1 view or more, side from 1 to 8 and noise 0 or more; got"):
        views.draw(digits[0][:2], **{"views": 2} | wrong)


@pytest.mark.parametrize("pool", VIEW_POOLS)
@torch.no_grad()
def test_only_the_gru_hears_an_order_and_changes_a_single_view(pool):
    net, others = ViewNet(12, 6, pool, 8), [ViewNet(12, 6, name, 8) for name in VIEW_POOLS]
    seen = torch.randn(3, 5, 12)
    turned = (net(seen) - net(seen.flip(1))).abs().max()
    alone = net.encode(seen[:, :1])
    kept = (net.pool(alone, torch.ones(3, 1, dtype=torch.bool)) - alone[:, 0]).abs().max()
    assert (float(turned) > 1e-3) == (pool == "gru") == (float(kept) > 1e-3)
    assert len({sum(p.numel() for p in other.encode.parameters()) for other in others}) == 1


def test_the_last_state_is_that_of_the_last_real_view():
    pool, x = LastState(4), torch.randn(2, 5, 4)
    mask = torch.tensor([[True] * 3 + [False] * 2, [True] * 5])
    y = pool(x, mask)
    torch.testing.assert_close(y[0], pool.gru(x[:1, :3])[0][0, -1])
    torch.testing.assert_close(y[1], pool.gru(x[1:])[0][0, -1])


@pytest.mark.parametrize("pool", VIEW_POOLS)
def test_a_view_reader_learns_and_a_seed_is_a_run(digits, pool):
    images, how = digits[0][:300], {"dim": 32, "batch": 32, "rate": 2e-2, "noise": 0.1, "seed": 3} | QUIET
    made, first, again = (view_reader(images, pool, steps=steps, **how) for steps in (80, 2, 2))
    assert first.error(images, 3) == again.error(images, 3) != made.error(images, 3)
    four = made.error(images, 4)
    assert four < made.error(images, 1)
    assert four < 0.95 * float((images - images.mean(0)).square().mean())
    seen = views.draw(images, 4, noise=0.1, seed=1_000_003)
    read = made.net(seen).detach()
    assert four == pytest.approx(float((read - images.flatten(1)).square().mean()), rel=1e-6)
    assert torch.equal(made.drawn(images, 4).flatten(1), read)


def test_the_second_stage_moves_attsets_alone(digits, monkeypatch):
    images, stages, draw = digits[0][:100], [], views.draw

    def noted(loss, parameters, steps, **options):
        weights, asked = list(parameters), []

        def seen(images, count, **how):
            asked.append((count, len(images)))
            return draw(images, count, **how)

        monkeypatch.setattr(views, "draw", seen)
        stages.append((sum(weight.numel() for weight in weights), asked))
        return descend(loss, weights, steps, **options)

    monkeypatch.setattr("lab.training.views.descend", noted)
    net = view_reader(images, "attsets", "two stages", most=3, dim=8, steps=6, batch=10, **QUIET).net
    sizes = [sum(p.numel() for p in part.parameters()) for part in (net.encode, net.decode, net.pool)]
    (base, single), (pool, several) = stages
    assert (base, pool) == (sizes[0] + sizes[1], sizes[2])
    assert single == [(1, 20)] * 6
    assert several == [(count, 10) for count in (1, 2, 3, 1, 2, 3)]
    assert not any(p.requires_grad for part in (net.encode, net.decode) for p in part.parameters())
    assert net.pool.score.bias.abs().max() > 0  # it began at zero


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (("sum",), "a pool of"),
        (("mean", "three stages"), "a schedule of"),
        (("mean", "two stages"), "'attsets'; got 'mean'"),
    ],
)
def test_views_cannot_be_read_by_what_is_not_there(digits, wrong, says):
    with pytest.raises(ValueError, match=says):
        view_reader(digits[0][:9], *wrong, **QUIET)
