"""Small networks on images: how maps shrink, what is kept, regions of one map, and where shrinking stands."""

import numpy as np
import pytest
import torch
from torch import nn

import lab
from lab import training
from lab.pooling import AdaPool2d, EDSCWPool2d, SoftPool2d
from lab.training import MapNet, PlacedNet, map_classifier, supernets
from lab.training.placements import balanced

pytestmark = pytest.mark.usefixtures("plain_torch")  # the kernels are tested in test_window_pool


@pytest.fixture(scope="module")
def digits():
    return lab.data.digits()


# the network


def test_a_seed_is_the_same_network_with_every_pool():
    first = None
    for pool in training.SHRINKING:
        torch.manual_seed(3)
        net = MapNet(pool)
        own = [net.maps[0].weight, net.maps[3].weight, net.head.weight, net.head.bias]
        first = first or own
        assert all(torch.equal(one, other) for one, other in zip(own, first, strict=True))
        assert net(torch.rand(2, 1, 8, 8)).shape == (2, 10)


def test_the_order_and_the_shape_are_as_said():
    images = torch.rand(2, 3, 8, 12)
    net = MapNet("average", entering=3, channels=4, relu_first=False, pools=1, levels=(1, 2), classes=5)
    one, two = net.maps[0], net.maps[3]
    want = two(nn.functional.avg_pool2d(one(images), 2).relu()).relu()
    torch.testing.assert_close(net.maps(images), want)
    bins = torch.cat([nn.functional.adaptive_max_pool2d(want, n).flatten(1) for n in (1, 2)], 1)
    torch.testing.assert_close(net(images), net.head(bins))
    net = MapNet("average", entering=3)
    want = nn.functional.avg_pool2d(net.maps[3](nn.functional.avg_pool2d(net.maps[0](images).relu(), 2)).relu(), 2)
    torch.testing.assert_close(net.maps(images), want)
    assert (MapNet().stride, MapNet(pools=1).stride) == (4, 2)


def test_one_length_for_every_size_under_a_pyramid():
    net = MapNet(pools=1, levels=(1, 2, 4))
    shapes = {tuple(net.read(net.maps(torch.rand(2, 1, *size))).shape) for size in ((6, 6), (8, 14), (19, 10))}
    assert shapes == {(2, 16 * 21)}


def test_after_a_relu_every_poset_is_four_times_the_average():
    maps = torch.rand(3, 4, 8, 8).double() * (torch.rand(3, 4, 8, 8) < 0.6)
    posets = [name for name in training.SHRINKING if name.startswith("poset ")]
    assert len(posets) == 16
    for name in posets:
        torch.testing.assert_close(training.SHRINKING[name]()(maps), 4 * nn.functional.avg_pool2d(maps, 2))
    signed = maps - 0.5
    assert not torch.allclose(training.SHRINKING["poset n"]()(signed), 4 * nn.functional.avg_pool2d(signed, 2).relu())


def test_training_learns_is_the_same_again_and_goes_by_its_seed(digits):
    images, labels = digits[0][:200], digits[1][:200]
    how = {"steps": 30, "progress": False}
    net = map_classifier(images, labels, "max", **how)
    assert net.correct(images, labels).mean() > 0.5
    again, other = map_classifier(images, labels, "max", **how), map_classifier(images, labels, "max", seed=1, **how)
    assert torch.equal(net(images), again(images))
    assert not torch.equal(net(images), other(images))
    several = map_classifier(images, labels, "max", sizes=[(6, 6), (12, 12)], **how)
    assert not torch.equal(net(images), several(images))
    assert not net.training


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"pool": "middle"}, "no pool 'middle'; there are"),
        ({"pools": 3}, "pools must be 1 or 2"),
        ({"channels": 0}, "channels 1 or more"),
        ({"levels": ()}, "levels must be"),
    ],
)
def test_what_cannot_be_built_is_refused(how, says):
    with pytest.raises(ValueError, match=says):
        map_classifier(torch.rand(4, 1, 8, 8), torch.arange(4), steps=1, progress=False, **how)


def test_labels_must_fit():
    with pytest.raises(ValueError, match="a label for each image is needed, one or more; got 4 and 3"):
        map_classifier(torch.rand(4, 1, 8, 8), torch.arange(3), steps=1, progress=False)


# what a smaller map keeps


def test_ways_back_are_torchs():
    y = torch.rand(2, 3, 4, 5)
    assert torch.equal(training.enlarged(y, (8, 10)), y.repeat_interleave(2, 2).repeat_interleave(2, 3))
    want = nn.functional.interpolate(y, size=(8, 10), mode="bilinear", align_corners=False)
    assert torch.equal(training.enlarged(y, (8, 10), "bilinear"), want)
    with pytest.raises(ValueError, match="way must be one of"):
        training.enlarged(y, (8, 10), "cubic")


def test_variance_lost_at_its_ends():
    x = torch.rand(3, 1, 4, 4)
    assert training.variance_lost(x, x) == 0
    assert training.variance_lost(x.mean().expand_as(x), x) == pytest.approx(1, rel=1e-5)
    assert training.variance_lost(2 * x.mean() - x, x) == pytest.approx(4, rel=1e-5)
    with pytest.raises(ValueError, match="the maps' shape"):
        training.variance_lost(x[:1], x)
    with pytest.raises(ValueError, match="one constant"):
        training.variance_lost(x, torch.ones_like(x))


def test_the_decoder_is_least_squares_and_finds_what_is_linear():
    y = torch.randn(50, 2, 2, 3)
    weight, bias = torch.randn(6, 20).double(), torch.randn(20).double()
    maps = (y.double().flatten(2) @ weight + bias).view(50, 2, 4, 5).float()
    decode = training.linear_decoder(y, maps, ridge=1e-12)
    new = torch.randn(7, 2, 2, 3)
    want = (new.double().flatten(2) @ weight + bias).view(7, 2, 4, 5)
    torch.testing.assert_close(decode(new).double(), want, atol=1e-4, rtol=1e-4)
    noisy = maps + torch.randn(maps.shape)
    with_ones = torch.cat([y.double().flatten(0, 1).flatten(1), torch.ones(100, 1).double()], 1)
    solved = torch.linalg.lstsq(with_ones, noisy.double().flatten(0, 1).flatten(1)).solution
    found = training.linear_decoder(y, noisy, ridge=1e-12)(y).double().flatten(0, 1).flatten(1)
    torch.testing.assert_close(found, with_ones @ solved, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="y must be the maps pooled"):
        training.linear_decoder(y[:3], maps)


def test_no_pool_keeps_more_by_nearest_than_the_average(digits):
    images = digits[0]
    pools = {"average": nn.AvgPool2d(2), "max": nn.MaxPool2d(2), "soft": SoftPool2d(2), "edscw": EDSCWPool2d(2)}
    found = training.kept(pools, images[:200], images[200:300])
    assert found.way.values.tolist() == ["nearest", "bilinear", "fitted"]
    assert found.pool.values.tolist() == list(pools)
    lost = found.lost.sel(way="nearest")
    assert (lost.sel(pool="average") < lost.drop_sel(pool="average")).all()
    back = training.enlarged(nn.functional.max_pool2d(images[200:300], 2), (8, 8))
    assert float(lost.sel(pool="max")) == pytest.approx(training.variance_lost(back, images[200:300]))
    alike = lab.geometry.ssim(back, images[200:300], window=4).mean()
    assert float(found.ssim.sel(pool="max", way="nearest")) == pytest.approx(float(alike), rel=1e-5)
    assert (found.lost.sel(way="fitted") < found.lost.sel(way="bilinear")).all()


def test_the_best_beta_is_the_best_of_a_grid_at_every_place():
    maps = torch.randn(60, 2, 6, 4) + torch.linspace(-2, 2, 24).view(6, 4)  # some places want one end
    beta = training.fitted_ada(maps).beta.detach()
    grid = torch.linspace(0, 1, 101)
    losses = []
    for b in grid.tolist():
        with torch.no_grad():
            back = training.enlarged(AdaPool2d(2, beta=b)(maps), (6, 4))
        losses.append(nn.functional.avg_pool2d((back - maps).square().mean((0, 1))[None], 2)[0])
    best = grid[torch.stack(losses).argmin(0)]
    assert beta.shape == (3, 2)
    torch.testing.assert_close(beta, best, atol=0.006, rtol=0)
    assert len(best.unique()) > 3
    assert ((beta == 0) | (beta == 1)).any()


def test_unpooled_keeps_sums_keeps_means_and_gives_all_back():
    maps = torch.randn(4, 3, 6, 8).double()
    for beta in (0.0, 0.3, 1.0):
        pool = AdaPool2d(2, beta=beta).double()
        with torch.no_grad():
            y = pool(maps)
            found = training.unpooled(y, pool.masks(maps))
        assert list(found) == ["adaUnPool", "adaUnPool, times n", "from the masks"]
        torch.testing.assert_close(4 * nn.functional.avg_pool2d(found["adaUnPool"], 2), y)
        torch.testing.assert_close(nn.functional.avg_pool2d(found["adaUnPool, times n"], 2), y)
        torch.testing.assert_close(found["from the masks"], maps)
    with pytest.raises(ValueError, match="windows of 2 must tile the map"):
        training.unpooled(y[..., :2], pool.masks(maps))


# regions


@pytest.mark.parametrize("pools", [1, 2])
def test_a_region_is_the_crop_but_for_what_feels_its_edge(pools):
    net = MapNet(pools=pools, channels=3).double()
    image, side = torch.randn(1, 1, 48, 64).double(), 32
    boxes = [(0, 0, side, side), (8, 20, side, side), (16, 32, side, side)]
    with torch.no_grad():
        shared, alone = training.region_maps(net, image, boxes)
        torch.testing.assert_close(alone[1:2], net.maps(image[..., 8:40, 20:52]))
    ring, gap = training.rings(*shared.shape[2:]), (shared - alone).abs().amax((0, 1))
    felt = training.reach(net)
    assert felt == {1: 2, 2: 1}[pools]
    assert float(gap[ring >= felt].max()) < 1e-12
    assert all(float(gap[ring == k].max()) > 1e-3 for k in range(felt))
    assert float((shared - alone)[0, :, 0, 0].abs().max()) < 1e-12  # the picture's own corner is the crop's


def test_rings_count_from_the_nearest_edge():
    assert training.rings(4, 5).tolist() == [[0, 0, 0, 0, 0], [0, 1, 1, 1, 0], [0, 1, 1, 1, 0], [0, 0, 0, 0, 0]]


@pytest.mark.parametrize(
    "boxes", [[], [(0, 0, 8, 8), (0, 0, 4, 8)], [(1, 0, 8, 8)], [(0, 0, 8, 20)], [(-4, 0, 8, 8)], [(0, 0, 0, 8)]]
)
def test_other_boxes_are_refused(boxes):
    with pytest.raises(ValueError, match="box"):
        training.region_maps(MapNet(), torch.rand(1, 1, 16, 16), boxes)


def test_multiply_adds_are_those_of_the_convolutions():
    net = MapNet(pools=1, channels=4)
    assert training.multiply_adds(net.maps, torch.rand(3, 1, 8, 12)) == 3 * (96 * 9 * 4 + 24 * 9 * 4 * 8)
    assert training.multiply_adds(PlacedNet(channels=2), torch.rand(1, 1, 8, 8), "2211") == (
        64 * 9 * 2 + (16 + 3 * 4) * 9 * 2 * 2 + 20
    )


# where to shrink


def test_placements_are_all_ways():
    assert training.placements() == [
        "1114", "1122", "1141", "1212", "1221", "1411", "2112", "2121", "2211", "4111"
    ]  # fmt: skip
    assert training.placements(2, 2) == ["12", "21"]
    for wrong in ((0, 4), (4, 3), (4, 1)):
        with pytest.raises(ValueError, match="power of two"):
            training.placements(*wrong)


def test_a_word_shrinks_where_it_says():
    net, images, seen = PlacedNet(channels=4), torch.rand(2, 1, 8, 8), []
    for block in net.blocks:
        block.register_forward_hook(lambda _, args, out: seen.append((args[0].shape[-1], out)))
    net(images, "1212")
    assert [side for side, _ in seen] == [8, 4, 4, 2]
    h = net.enter(images)
    for block, k in zip(net.blocks, (1, 2, 1, 2), strict=True):
        h = nn.functional.max_pool2d(h, k)
        h = h + block(h.relu())
    torch.testing.assert_close(net(images, "1212"), net.head(h.relu().mean((2, 3))))
    for word in ("121", "12a2", "1012"):
        with pytest.raises(ValueError, match="a digit from 1 for each of 4 blocks"):
            net(images, word)


def test_balanced_columns_weigh_alike_and_rows_are_distributions():
    chances = torch.tensor([[8.0, 1, 1], [6, 3, 1], [7, 1, 2], [5, 4, 1]]).double()
    found = balanced(chances, rounds=200)
    torch.testing.assert_close(found.sum(1), torch.ones(4).double())
    torch.testing.assert_close(found.mean(0), torch.full((3,), 1 / 3).double(), atol=1e-6, rtol=0)
    ratio = (found / chances).log()  # only rows and columns were scaled
    torch.testing.assert_close(
        ratio - ratio.mean(0) - ratio.mean(1, keepdim=True) + ratio.mean(),
        torch.zeros(4, 3).double(),
        atol=1e-9,
        rtol=0,
    )
    with pytest.raises(ValueError, match="all above 0"):
        balanced(torch.zeros(2, 2))


@pytest.fixture(scope="module")
def shared(digits):
    images, labels = digits
    words = ["1122", "1212", "2211"]
    one, other = (images[:150], labels[:150]), (images[150:400], labels[150:400])
    return {
        count: supernets(*one, words, other, count, steps=25, channels=8, progress=False) for count in (1, 3)
    }, other  # fmt: skip


def test_words_are_shared_among_nets(shared):
    nets, (images, labels) = shared
    assert [len(nets[count].nets) for count in (1, 3)] == [1, 3]
    assert torch.equal(nets[1].chances, torch.ones(3, 1))
    chances = nets[3].chances
    torch.testing.assert_close(chances.sum(1), torch.ones(3))
    assert float((chances - 1 / 3).abs().max()) > 0.1  # it has come to prefer
    torch.manual_seed(0)
    fresh = [PlacedNet(channels=8) for _ in range(3)]
    moved = [not torch.equal(a.head.weight, b.head.weight) for a, b in zip(nets[3].nets, fresh, strict=True)]
    assert moved == [True] * 3
    accuracy = nets[3].accuracy(images, labels)
    assert list(accuracy) == nets[3].words
    best = nets[3].nets[int(chances[2].argmax())]
    assert accuracy["2211"] == pytest.approx(float((best(images, "2211").argmax(1) == labels).float().mean()))
    assert min(nets[1].accuracy(images, labels).values()) > 0.3


def test_one_word_alone_is_plain_training_and_the_same_again(digits):
    images, labels = digits[0][:100], digits[1][:100]
    asked = digits[0][100:150], digits[1][100:150]
    how = {"steps": 6, "channels": 4, "progress": False}
    one, again = (supernets(images, labels, ["2112"], asked, **how) for _ in range(2))
    assert torch.equal(one.nets[0](images, "2112"), again.nets[0](images, "2112"))
    other = supernets(images, labels, ["2112"], asked, seed=1, **how)
    assert not torch.equal(one.nets[0](images, "2112"), other.nets[0](images, "2112"))
    assert len(training.supernets(images, labels, ["2112", "1122"], asked, 2, **how).nets) == 2


@pytest.mark.parametrize(
    ("words", "count", "steps", "says"),
    [
        ([], 1, 1, "needed are words"),
        (["1212", "1212"], 1, 1, "all different"),
        (["1212"], 2, 1, "1 net to one a word"),
        (["1212"], 0, 1, "1 net to one a word"),
        (["1212"], 1, 0, "needed are images, a label each, and steps"),
    ],
)
def test_what_cannot_be_shared_is_refused(words, count, steps, says):
    images, labels = torch.rand(4, 1, 8, 8), torch.arange(4)
    with pytest.raises(ValueError, match=says):
        supernets(images, labels, words, (images, labels), count, steps=steps, progress=False)
    with pytest.raises(ValueError, match="a label each"):
        supernets(images, labels[:2], ["1212"], (images, labels), progress=False)


def test_gradients_reach_every_place_under_softpool_and_a_quarter_under_the_maximum():
    from lab.pooling.anatomy import slopes

    maps = torch.randn(3, 2, 8, 8).double()
    share = {pool: float((slopes(training.SHRINKING[pool](), maps, 1, 0) != 0).double().mean())
             for pool in ("average", "max", "soft")}  # fmt: skip
    assert share == {"average": 1, "max": 0.25, "soft": 1}
    y = {pool: training.SHRINKING[pool]()(maps) for pool in share}
    assert np.all((y["average"] < y["soft"]).numpy() & (y["soft"] < y["max"]).numpy())
