"""The textbook's form of every operator is a second opinion on the registry's, and the other way round."""

import pytest
import torch

from lab.pooling import LAYER_POOLS, MAP_POOLS, POOLS, textbook

OWN = {  # their modules are written as a textbook would: steps of one formula, nothing to compare with
    "hopfield", "gsp", "latent_attention", "perceiver", "key_value",
    "router", "attentive_fusion", "pair", "multilayer", "multilayer_residual",
}  # fmt: skip


def drawn(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()


def compare(ours, theirs, *inputs):
    dy = drawn(*ours.shape).detach()
    torch.testing.assert_close(ours, theirs)
    got, wanted = (torch.autograd.grad(y, inputs, dy) for y in (ours, theirs))
    torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("name", textbook.TOKENS)
def test_tokens(name):
    x = drawn(3, 9, 8)
    mask = torch.arange(9) < torch.tensor([[9], [5], [3]])
    more = (drawn(3, 9).detach().abs(),) if name == "received_attention" else ()
    pool = POOLS[name](8).double().eval()
    compare(pool(x, mask, *more), textbook.TOKENS[name](pool, x, mask, *more), x)


@pytest.mark.parametrize("name", textbook.LAYERS)
def test_layers(name):
    h = drawn(4, 5, 8)
    pool = LAYER_POOLS[name](8, 4).double()
    compare(pool(h), textbook.LAYERS[name](pool, h), h)


@pytest.mark.parametrize("name", textbook.MAPS)
def test_maps(name):
    x = drawn(2, 3, 8, 12)
    pool = MAP_POOLS[name](3).double().eval()
    compare(pool(x), textbook.MAPS[name](pool, x), x)


def test_what_has_no_textbook_form_is_named_here():
    forms = textbook.TOKENS.keys() | textbook.LAYERS.keys() | textbook.MAPS.keys()
    assert (POOLS.keys() | LAYER_POOLS.keys() | MAP_POOLS.keys()) - forms == OWN
    assert textbook.TOKENS.keys() <= POOLS.keys()
    assert textbook.LAYERS.keys() <= LAYER_POOLS.keys()
    assert textbook.MAPS.keys() <= MAP_POOLS.keys()
