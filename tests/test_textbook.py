"""The textbook's form of every operator is a second opinion on the registry's, and the other way round."""

import pytest
import torch

from lab.pooling import LAYER_POOLS, MAP_POOLS, POOLS, textbook
from lab.pooling.calls import SIZES, layer_input, token_inputs


def drawn(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()


def trained(pool):
    return [p for p in pool.parameters() if p.requires_grad]


def compare(ours, theirs, *inputs):
    """Values, and gradients of the input and every parameter; None where neither has one."""
    dy = drawn(*ours.shape).detach()
    torch.testing.assert_close(ours, theirs)
    got, wanted = (torch.autograd.grad(y, inputs, dy, allow_unused=True) for y in (ours, theirs))
    assert [g is None for g in got] == [g is None for g in wanted]
    torch.testing.assert_close(*([g for g in all if g is not None] for all in (got, wanted)))


@pytest.mark.parametrize("name", POOLS)
def test_tokens(name):
    x = drawn(3, 9, 8)
    mask = torch.arange(9) < torch.tensor([[9], [5], [3]])
    pool = POOLS[name](8).double().eval()
    given = token_inputs(name, x, mask)
    compare(pool(*given), textbook.TOKENS[name](pool, *given), x, *trained(pool))


@pytest.mark.parametrize("name", LAYER_POOLS)
def test_layers(name):
    h = drawn(4, 5, 8)
    pool = LAYER_POOLS[name](8, 4, **SIZES.get(name, {})).double()
    with torch.no_grad():  # away from starts at zero, where half of a formula is silent
        for p in pool.parameters():
            p += torch.randn_like(p) / 10
    given = layer_input(pool, h)
    compare(pool(given), textbook.LAYERS[name](pool, given), h, *trained(pool))


@pytest.mark.parametrize("name", MAP_POOLS)
def test_maps(name):
    x = drawn(2, 3, 8, 12)
    pool = MAP_POOLS[name](3).double().eval()
    compare(pool(x), textbook.MAPS[name](pool, x), x, *trained(pool))


@pytest.mark.parametrize(
    "options", [{"num_heads": 2, "update_steps": 2, "quantity": 3}, {"static": True, "beta": 0.7}], ids=str
)
def test_hopfield_with_updates(options):
    x, mask = drawn(3, 9, 8), torch.arange(9) < torch.tensor([[9], [5], [3]])
    pool = POOLS["hopfield"](8, **options).double()
    compare(pool(x, mask), textbook.TOKENS["hopfield"](pool, x, mask), x, *trained(pool))


def test_every_operator_has_a_form():
    assert textbook.TOKENS.keys() == POOLS.keys()
    assert textbook.LAYERS.keys() == LAYER_POOLS.keys()
    assert textbook.MAPS.keys() == MAP_POOLS.keys()
