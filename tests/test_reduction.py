"""Several pools of one state at once, against each pool by its definition in float64, in both layouts."""

import pytest
import torch

from lab.capture import runs
from lab.capture.reduction import Reduction
from lab.pooling import POOLS

NAMES = ("position_mean", "max", "first", "min", "mean", "last")  # by runs, by weights and by themselves, mixed
LENGTHS = {
    "full": [5, 5, 5],
    "sorted, as batches are": [7, 7, 4, 4, 4, 1],
    "in no order": [2, 7, 2, 2, 6],
    "some without tokens": [0, 3, 3, 0, 0, 2, 0],
    "one": [9],
    "none has any": [0, 0],
}


def definition(row, name):
    if not len(row):
        return row.new_zeros(row.shape[1])
    at = torch.arange(1, len(row) + 1, dtype=row.dtype)[:, None]
    return {
        "position_mean": (at * row).sum(0) / at.sum(),
        "max": row.max(0).values,
        "first": row[0],
        "min": row.min(0).values,
        "mean": row.sum(0) / len(row),
        "last": row[-1],
    }[name]


def laid_out(lengths, layout, dtype, dim=6):
    """Rows of real tokens, and the same as a state and its segments, with NaN in all that is padding."""
    g = torch.Generator().manual_seed(0)
    rows = [torch.randn(n, dim, generator=g).to(dtype) for n in lengths]
    if layout == "packed":
        return rows, torch.cat(rows), torch.tensor([0, *lengths]).cumsum(0)
    width = max(*lengths, 1) + 2
    state, mask = torch.full((len(rows), width, dim), torch.nan, dtype=dtype), torch.zeros(len(rows), width).bool()
    for b, row in enumerate(rows):
        start = {"right": 0, "left": width - len(row), "either side": b % (width - len(row) + 1)}[layout]
        state[b, start : start + len(row)], mask[b, start : start + len(row)] = row, True
    return rows, state, mask


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("layout", ["right", "left", "either side", "packed"])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_all_pools_at_once_are_each_by_its_definition(lengths, layout, dtype):
    rows, state, segments = laid_out(lengths, layout, dtype)
    state = torch.stack([state, state], -1)[..., 0]  # not contiguous
    pools = {name: POOLS[name](6) for name in NAMES}
    got = Reduction(pools, 6)(state, segments)
    assert got.shape == (len(NAMES), len(lengths), 6)
    want = torch.stack([torch.stack([definition(row.double(), name) for row in rows]) for name in NAMES])
    torch.testing.assert_close(got.double(), want, rtol=torch.finfo(dtype).eps, atol=1e-6)
    assert (runs.find(segments) is not None) == any(lengths)  # no pool was hidden from the path under test


def test_padding_among_the_tokens_is_left_to_the_pools():
    mask = torch.tensor([[True, False, True], [True, True, True]])
    state = torch.randn(2, 3, 4).masked_fill(~mask[..., None], torch.nan)
    assert runs.find(mask) is None
    got = Reduction({name: POOLS[name](4) for name in NAMES}, 4)(state, mask)
    rows = [row[real].double() for row, real in zip(state, mask, strict=True)]
    for y, name in zip(got, NAMES, strict=True):
        torch.testing.assert_close(y.double(), torch.stack([definition(row, name) for row in rows]), atol=1e-6, rtol=0)


def test_the_real_tokens_decide_alone():
    """An infinite or missing token of the text itself reaches the pools that read it, and no other."""
    state, mask = torch.ones(1, 4, 2), torch.ones(1, 4, dtype=torch.bool)
    state[0, 2, 0] = torch.nan
    mean, last, most, first = Reduction({name: POOLS[name](2) for name in ("mean", "last", "max", "first")}, 2)(
        state.double(), mask
    )
    assert first.tolist() == last.tolist() == [[1, 1]]
    assert mean.isnan().tolist() == most.isnan().tolist() == [[True, False]]


def test_runs_are_found_anew_for_another_batch():
    pools = Reduction({name: POOLS[name](3) for name in ("mean", "max")}, 3)
    state = torch.arange(12.0).view(1, 4, 3)
    whole = pools(state, torch.ones(1, 4, dtype=torch.bool))
    half = pools(state, torch.tensor([[True, True, False, False]]))
    assert whole[1].tolist() == [[9, 10, 11]]
    assert half[1].tolist() == [[3, 4, 5]]
