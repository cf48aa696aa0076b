"""The discrete key-value bottleneck: nearest keys, sparse gradients, and keys that move only when asked."""

import pytest
import torch

from lab.pooling.keyvalue import DiscreteKeyValueBottleneck

D = 4


def drawn():
    return torch.randn(2, 5, D, dtype=torch.float64), torch.tensor([[1, 1, 0, 1, 0], [0, 1, 1, 1, 1]]).bool()


def built(**sizes):
    return DiscreteKeyValueBottleneck(
        D, **({"num_codebooks": 2, "num_keys": 6, "dim_key": 3, "dim_value": 3} | sizes)
    ).double()


@torch.no_grad()
def test_it_is_the_mean_value_of_the_nearest_keys():
    x, mask = drawn()
    pool = built()
    for b in range(2):
        met = []
        for token in x[b][mask[b]]:
            for c in range(2):
                distance = torch.linalg.vector_norm(token @ pool.projection[c] - pool.keys[c], dim=-1)
                met.append(pool.values[c, distance.argmin()])
        torch.testing.assert_close(pool(x, mask)[b], torch.stack(met).mean(0))


@torch.no_grad()
def test_one_key_is_a_constant():
    x, mask = drawn()
    pool = built(num_keys=1)
    torch.testing.assert_close(pool(x, mask), pool.values[:, 0].mean(0).expand(2, -1))


def test_only_fetched_values_get_a_gradient():
    x, mask = drawn()
    pool = built(num_keys=50)
    (slope,) = torch.autograd.grad(pool(x, mask).sum(), pool.values)
    codes = pool.codes(x, mask)[mask]  # [N, C]
    for c in range(2):
        fetched = slope[c].abs().sum(-1).nonzero().flatten().tolist()
        assert fetched == codes[:, c].unique().tolist()


@torch.no_grad()
def test_with_keys_at_the_tokens_it_is_quantisation_without_loss():
    x, mask = drawn()
    pool = built(num_codebooks=1, num_keys=7, dim_key=D, dim_value=D)
    pool.projection.copy_(torch.eye(D))
    pool.keys[0] = x[mask]
    pool.values.copy_(pool.keys)
    torch.testing.assert_close(pool(x, mask), torch.stack([row[m].mean(0) for row, m in zip(x, mask, strict=True)]))


@torch.no_grad()
def test_keys_move_to_the_mean_of_their_tokens_and_only_on_request():
    x, mask = drawn()
    pool = built(decay=0.9)
    before = pool.keys.clone()
    pool(x, mask)
    assert torch.equal(pool.keys, before)
    codes, z = pool.codes(x, mask)[mask], torch.einsum("nd,cde->nce", x[mask], pool.projection)
    pool.update_keys(x, mask)
    for c in range(2):
        for k in range(6):
            mine = z[:, c][codes[:, c] == k]
            want = (0.9 * before[c, k] + mine.sum(0)) / (0.9 + len(mine))
            torch.testing.assert_close(pool.keys[c, k], want)


@torch.no_grad()
def test_a_key_that_no_token_is_near_stays_finite():
    x, mask = drawn()
    pool = built(decay=0.0)
    for _ in range(3):
        pool.update_keys(x, mask)
    assert pool.keys.isfinite().all()


@pytest.mark.parametrize(
    ("wrong", "says"), [({"num_keys": 0}, "num_keys must be 1 or more; got 0"), ({"decay": 1.0}, r"\[0, 1\); got 1.0")]
)
def test_bad_sizes_are_refused(wrong, says):
    with pytest.raises(ValueError, match=says):
        built(**wrong)


@torch.no_grad()
def test_nan_in_a_real_token_is_nan_and_in_padding_is_not():
    x, mask = drawn()
    pool, clean = built(), x.masked_fill(~mask[..., None], torch.nan)
    assert pool(clean, mask).isfinite().all()
    sick = clean.clone()
    sick[1, 1, 2] = torch.nan
    y = pool(sick, mask)
    assert torch.equal(y[0], pool(clean, mask)[0])
    assert y[1].isnan().all()
    ragged = pool(sick[mask], torch.tensor([0, 3, 7]))
    torch.testing.assert_close(ragged, y, equal_nan=True)
