"""HISTOGRAPH: its two stages by the definition, and what must not change it."""

import pytest
import torch

from lab.pooling import HistoGraphPool, HistoryAttention
from lab.pooling.functional import to_ragged

L, D = 3, 4
MASK = torch.tensor([[1, 1, 1, 0, 0], [0, 1, 0, 1, 1], [0, 0, 0, 0, 0]]).bool()


def drawn():
    return torch.randn(L, 3, 5, D, dtype=torch.float64)


def test_the_history_is_weighed_by_what_the_last_layer_asks():
    pool, h = HistoryAttention(D, L, hidden=6).double(), torch.randn(L, 7, D, dtype=torch.float64, requires_grad=True)
    rows = []
    for n in range(7):
        query = pool.query.weight @ h[-1, n] + pool.query.bias
        keys = [pool.key.weight @ h[i, n] + pool.key.bias + pool.layer_embedding[i] for i in range(L)]
        weights = torch.stack([query @ key / 6**0.5 for key in keys]).softmax(0)
        rows.append(sum(w * h[i, n] for i, w in enumerate(weights)))
    want = torch.stack(rows)
    torch.testing.assert_close(pool(h), want)
    dy = torch.randn_like(want)
    got, expected = (torch.autograd.grad((y * dy).sum(), h, retain_graph=True)[0] for y in (pool(h), want))
    torch.testing.assert_close(got, expected)


def test_equal_layers_and_one_layer_are_left_as_they_are():
    h = torch.randn(1, 7, D, dtype=torch.float64)
    assert torch.equal(HistoryAttention(D, 1).double()(h), h[0])
    torch.testing.assert_close(HistoryAttention(D, L).double()(h.expand(L, -1, -1)), h[0])


def test_both_layouts_agree_and_nothing_leaks():
    pool, h = HistoGraphPool(D, L).double(), drawn()
    poisoned = h.masked_fill(~MASK[..., None], torch.nan).requires_grad_()
    y = pool(poisoned, MASK)
    assert not y[2].any()
    flat = [to_ragged(layer, MASK) for layer in h]
    torch.testing.assert_close(pool(torch.stack([x for x, _ in flat]), flat[0][1]), y)
    y.sum().backward()
    assert torch.isfinite(poisoned.grad).all()
    assert not poisoned.grad.movedim(0, -1)[~MASK].any()


def test_the_order_of_the_nodes_does_not_matter():
    pool, h = HistoGraphPool(D, L, num_heads=2).double(), drawn()
    order = torch.randperm(5)
    torch.testing.assert_close(pool(h[:, :, order], MASK[:, order]), pool(h, MASK))
    assert not torch.allclose(pool(h.flip(0), MASK), pool(h, MASK))  # that of the layers does


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_states_keep_their_type(dtype):
    pool, h = HistoGraphPool(D, L), drawn().to(dtype)
    y = pool(h, MASK)
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), pool(h.float(), MASK), rtol=4 * torch.finfo(dtype).eps, atol=1e-2)


def test_other_layers_are_refused():
    with pytest.raises(ValueError, match="2 layers first, the pool was built for 3"):
        HistoGraphPool(D, L)(torch.randn(2, 3, 5, D), MASK)
    with pytest.raises(ValueError, match="first axes of x"):
        HistoGraphPool(D, L)(torch.randn(L, 3, 4, D), MASK)
