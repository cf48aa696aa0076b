"""What the gallery measures: shares and distances that are known by hand, families, and the limits that hold."""

import pytest
import torch
from torch import nn

from lab.pooling import LAYER_POOLS, MAP_POOLS, POOLS, anatomy, calls, gallery
from lab.pooling.limits import Limit, limits

pytestmark = pytest.mark.usefixtures("plain_torch")

D = 8


@pytest.fixture
def states():
    """Three rows of 5, 4 and 1 tokens, padded in front, inside and behind."""
    x = torch.randn(3, 5, D, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 1, 1, 1], [0, 0, 1, 0, 0]], dtype=torch.bool)
    return x.masked_fill(~mask[..., None], torch.nan), mask


@pytest.fixture(scope="module")
def pools():
    return {name: pool.double() for name, pool in gallery.token_pools(D).items()}


def built(name):
    return POOLS[name](D).double()


def test_the_mean_listens_to_all_tokens_alike(states):
    x, mask = states
    want = mask / mask.sum(1, keepdim=True)
    torch.testing.assert_close(anatomy.gradient_share(built("mean"), x, mask), want.double())
    assert (anatomy.gradient_share(built("position_mean"), x, mask) - want).abs().max() > 0.1


def test_the_first_token_alone(states):
    x, mask = states
    want = torch.tensor([[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0]], dtype=torch.float64)
    assert torch.equal(anatomy.gradient_share(built("first"), x, mask), want)


def test_shares_are_the_weights_of_a_weighted_mean(states):
    x, mask = states
    pool = built("position_mean")
    torch.testing.assert_close(anatomy.gradient_share(pool, x, mask), pool.weights(mask))


@pytest.mark.parametrize("name", POOLS)
def test_shares_of_every_pool_sum_to_one_over_real_tokens(name, states, pools):
    x, mask = states
    share = anatomy.gradient_share(pools[name], x, mask)
    assert not share[~mask].any()
    silent = name == "key_value"  # a nearest key has no slope
    torch.testing.assert_close(share.sum(1), torch.full((3,), 0.0 if silent else 1.0, dtype=torch.float64))


def test_measuring_leaves_no_trace(states):
    x, mask = states
    pool, copy = built("gated_attention"), x.clone()
    anatomy.gradient_share(pool, x, mask)
    anatomy.sensitivity(pool, x, mask)
    torch.testing.assert_close(x, copy, rtol=0, atol=0, equal_nan=True)
    assert not x.requires_grad
    assert all(p.grad is None for p in pool.parameters())


def test_what_moves_a_mean_by_hand(states):
    x, mask = states
    moved = anatomy.sensitivity(built("mean"), x, mask, factor=3.0)
    y = built("mean")(x, mask)
    unit = (y - y.mean(0)).square().sum(1).mean().sqrt()
    middle = torch.stack([x[0, 2], x[1, 2], x[2, 2]])  # the third, the second and the only real token
    want = 2 * middle.norm(dim=1) / mask.sum(1) / unit
    torch.testing.assert_close(moved["outlier"], want)
    zero = torch.zeros(3, dtype=torch.float64)
    torch.testing.assert_close(moved["padding"], zero)
    torch.testing.assert_close(moved["length"], zero, rtol=0, atol=1e-14)


def test_the_square_root_mean_of_a_text_read_twice_is_sqrt_2_as_long(states):
    x, mask = states
    y = built("sqrt_mean")(x, mask)
    unit = (y - y.mean(0)).square().sum(1).mean().sqrt()
    want = (2**0.5 - 1) * y.norm(dim=1) / unit
    torch.testing.assert_close(anatomy.sensitivity(built("sqrt_mean"), x, mask)["length"], want)


def test_reading_backwards_moves_only_pools_that_know_places(states):
    x, mask = states
    assert anatomy.sensitivity(built("mean"), x, mask)["order"].max() < 1e-12
    y = built("first")(x, mask)
    unit = (y - y.mean(0)).square().sum(1).mean().sqrt()
    want = (built("last")(x, mask) - y).norm(dim=1) / unit
    torch.testing.assert_close(anatomy.sensitivity(built("first"), x, mask)["order"], want)


def test_what_moves_a_mean_of_layers_by_hand():
    h = torch.randn(4, 3, D, dtype=torch.float64)
    moved = anatomy.layer_sensitivity(gallery.layer_pools(D, 4)["mean"].double(), h, factor=3.0)
    unit = (h.mean(0) - h.mean((0, 1))).square().sum(1).mean().sqrt()
    torch.testing.assert_close(moved["outlier"], 2 * h[1].norm(dim=1) / 4 / unit)  # the second of four
    assert moved["order"].max() < 1e-12
    picked = anatomy.layer_sensitivity(gallery.layer_pools(D, 4)["pick"].double(), h)
    assert picked["order"].min() > 0.01
    assert not picked["outlier"].any()


def test_what_moves_a_mean_over_a_map_by_hand():
    x = torch.randn(3, 2, 4, 4, dtype=torch.float64)
    pool = nn.AvgPool2d(4)
    moved = anatomy.map_sensitivity(pool, x, factor=3.0)
    y = x.mean((2, 3))
    unit = (y - y.mean(0)).square().sum(1).mean().sqrt()
    torch.testing.assert_close(moved["outlier"], 2 * x[:, :, 2, 2].norm(dim=1) / 16 / unit)
    torch.testing.assert_close(moved["shift"], (x[..., 0] - x[..., 3]).sum(2).norm(dim=1) / 16 / unit)
    flat = torch.ones_like(x) * torch.tensor([1.0, 2.0, 4.0])[:, None, None, None]
    assert not anatomy.map_sensitivity(pool, flat)["shift"].any()


class Careless(nn.Module):
    """A mean that multiplies by the mask, so that NaN in padding leaks."""

    def forward(self, x, mask):
        return (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


class Deaf(nn.Module):
    def forward(self, x, mask):  # noqa: ARG002
        return x.new_ones(len(x), 2)


def test_a_leak_is_infinite_and_a_constant_does_not_move(states):
    x, mask = states
    clean = torch.where(mask[..., None], x, 0)
    assert anatomy.sensitivity(Careless(), clean, mask)["padding"].isinf().all()
    assert not anatomy.sensitivity(Careless(), clean, mask)["length"].isinf().any()
    for moved in anatomy.sensitivity(Deaf(), x, mask).values():
        assert torch.equal(moved, torch.zeros(3, dtype=torch.float64))
    with pytest.raises(ValueError, match="two rows or more"):
        anatomy.sensitivity(built("mean"), x[:1], mask[:1])


def test_no_pool_of_the_registry_hears_padding(states, pools):
    x, mask = states
    for name, pool in pools.items():
        moved = anatomy.sensitivity(pool, x, mask)["padding"]
        assert moved.max() < 1e-12, name


def test_pooling_in_bites_changes_nothing(states):
    x, mask = states
    torch.testing.assert_close(anatomy.pooled(built("max"), x, mask, rows=2), built("max")(x, mask), rtol=0, atol=0)


def test_layer_shares():
    h = torch.randn(4, 3, D, dtype=torch.float64)
    for name, pool in gallery.layer_pools(D, 4).items():
        share = anatomy.layer_share(pool.double(), h)
        torch.testing.assert_close(share.sum(0), torch.ones(3, dtype=torch.float64), msg=name)
    pools = gallery.layer_pools(D, 4)
    torch.testing.assert_close(anatomy.layer_share(pools["mean"].double(), h), torch.full_like(h[..., 0], 0.25))
    assert torch.equal(anatomy.layer_share(pools["pick"].double(), h)[-1], torch.ones(3, dtype=torch.float64))


def test_map_shares():
    x = torch.randn(2, 1, 4, 4, dtype=torch.float64)
    even = anatomy.map_share(nn.AvgPool2d(2), x, directions=2000)
    torch.testing.assert_close(even, torch.full_like(even, 1 / 16), rtol=0.1, atol=0)
    chosen = anatomy.map_share(nn.MaxPool2d(4), x)
    assert torch.equal(chosen.flatten(1).argmax(1), x.flatten(1).argmax(1))
    torch.testing.assert_close(chosen.amax((1, 2)), torch.ones(2, dtype=torch.float64))
    for name, pool in gallery.map_pools(4).items():
        shares = anatomy.map_share(pool.double(), torch.randn(2, 4, 8, 8, dtype=torch.float64))
        torch.testing.assert_close(shares.sum((1, 2)), torch.ones(2, dtype=torch.float64), msg=name)


def test_the_gallery_has_every_operator_family_after_family():
    pools = gallery.token_pools(D)
    assert set(pools) == set(POOLS)
    assert set(gallery.layer_pools(D, 3)) == set(LAYER_POOLS)
    assert set(gallery.map_pools(2)) == set(MAP_POOLS)
    families = [gallery.family(pool, D) for pool in pools.values()]
    order = [gallery.FIXED, gallery.VALUES, gallery.LEARNED]
    assert families == sorted(families, key=order.index)
    told = dict(zip(pools, families, strict=True))
    assert [told[name] for name in ("sink_excluding_mean", "gnp", "gem", "received_attention", "gsp")] == [
        gallery.FIXED, gallery.VALUES, gallery.VALUES, gallery.VALUES, gallery.LEARNED,
    ]  # fmt: skip


def test_the_gallery_is_the_same_for_a_seed_and_leaves_the_global_one():
    before = torch.get_rng_state()
    one, two, other = (gallery.layer_pools(D, 3, seed)["pair"].blocks[0]["up"].weight for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_received_attention_made_of_the_states(states):
    x, mask = states
    x = torch.where(mask[..., None], x, 0)
    query = x.sum(1) / mask.sum(1, keepdim=True)
    weights = (torch.einsum("bd,btd->bt", query, x) / D**0.5).masked_fill(~mask, -torch.inf).softmax(-1)
    torch.testing.assert_close(calls.received(*states), weights)
    want = torch.einsum("bt,btd->bd", weights, x)
    torch.testing.assert_close(gallery.SelfReceivedPool(D)(*states), want)
    torch.testing.assert_close(POOLS["received_attention"](D)(*calls.token_inputs("received_attention", *states)), want)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_all_limits_hold(seed):
    found = limits(seed)
    assert [limit for limit in found if not limit.holds] == []
    assert {limit.family for limit in found} == {"token", "layer", "map"}
    assert len({limit.setting + limit.family for limit in found}) == len(found) > 70


def test_a_limit_that_does_not_hold_is_seen():
    assert not Limit("token", "a", "b", difference=1e-3, bound=1e-4).holds
    assert not Limit("token", "a", "b", difference=float("nan"), bound=1.0).holds
    assert Limit("token", "a", "b", difference=1e-5, bound=1e-4).holds
