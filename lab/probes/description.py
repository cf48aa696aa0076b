"""How many bits do the labels cost once the states are known? The online code of a linear probe."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from tqdm import tqdm

from lab.probes.cells import Cell, checked_cells
from lab.probes.fits import checked_penalties, discriminant
from lab.probes.folds import codes, stratified_splits
from lab.probes.sums import Sums, gather

ENDS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1.0)  # shares of the examples


def description_length(
    states: xr.Dataset,
    labels: Iterable,
    *,
    ends: Sequence[float] = ENDS,
    penalty: float | Sequence[float] | None = None,
    layers: Sequence[int] | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> xr.Dataset:
    """Bits of an online code of the labels given the states, L = t_1 log2 K - sum_i log2 p(block i | blocks before it).

    The examples, in an order drawn from the seed, are cut at the shares `ends`; the first block costs log2 K bits a
    label, each other block what the probe fitted on all before it says. The probe is the regularised discriminant;
    its penalty is the one that would have coded the blocks so far in the fewest bits (before any, the strongest), so
    nothing is used that the receiver lacks. It is mixed with the uniform guess, (t p + 1 / K) / (t + 1) after t
    examples, so that a label not yet seen costs a finite number of bits. Blocks that are empty, of few examples, are
    left out.

    Returns bits[layer, pool], compression[layer, pool] = n log2 K / bits (1: the states tell nothing), block_bits
    [layer, pool, block], and block_end[block], in examples. A layer from which the labels are easier, not only
    better, read has fewer bits.

    Online (prequential) code of probes: Voita & Titov, 2020, with its block ends. https://arxiv.org/abs/2003.12298
    Raises ValueError as `linear` does, for a label that one example alone has, and for ends that do not rise to 1.
    """
    penalties = checked_penalties(penalty, 3)
    shares = [float(end) for end in ends]
    if not shares or shares[-1] != 1 or shares[0] <= 0 or any(a >= b for a, b in pairwise(shares)):
        raise ValueError(f"ends are shares of the examples that rise from above 0 to 1; got {shares}")
    y, names = codes(labels)
    n = states["h"].sizes["example"] if "h" in states else len(y)
    stratified_splits(y, None, 2, 0, n)  # the same refusals: two of each label at least
    bounds = sorted({max(1, round(share * n)) for share in shares})
    if len(bounds) < 2:
        raise ValueError(f"two blocks or more are needed; ends {shares} of {n} examples give {len(bounds)}")
    order = np.random.default_rng(seed).permutation(n)
    block = np.empty(n, dtype=int)
    for number, (start, end) in enumerate(zip([0, *bounds[:-1]], bounds, strict=True)):
        block[order[start:end]] = number
    cells = checked_cells(states, layers, device)
    code = torch.as_tensor(np.searchsorted(names, y), device=cells.device)
    where_in = torch.as_tensor(block, device=cells.device)
    bits = np.empty((*cells.shape, len(bounds)))
    bar = tqdm(cells, total=np.prod(cells.shape), unit="probe", desc="codes", leave=False, disable=not progress)
    for where, cell in bar:
        bits[where] = _code_length(cell, code, len(names), where_in, bounds, penalties)
    total = bits.sum(-1)
    return xr.Dataset(
        {
            "bits": (("layer", "pool"), total),
            "compression": (("layer", "pool"), n * np.log2(len(names)) / total),
            "block_bits": (("layer", "pool", "block"), bits),
        },
        coords={**cells.coords("layer", "pool"), "block_end": ("block", bounds)},
        attrs={"n": n, "labels": len(names), "uniform_bits": float(n * np.log2(len(names)))},
    )


def _code_length(
    cell: Cell, code: Tensor, kinds: int, block: Tensor, bounds: Sequence[int], penalties: Sequence[float]
) -> np.ndarray:
    one_hot = torch.nn.functional.one_hot(code, kinds).double()
    sums = gather(cell, one_hot, block, len(bounds))
    known: Sums = sums.part(0)
    so_far = torch.zeros(len(penalties), dtype=torch.double, device=code.device)
    bits = [bounds[0] * np.log2(kinds)]
    for number in range(1, len(bounds)):
        # the last of equals is the strongest
        best = len(penalties) - 1 - int(so_far.flip(0).argmin())
        weights, bias = discriminant(known, penalties)
        cost = torch.zeros_like(so_far)
        for at, x in cell.rows(block == number):
            outputs = torch.einsum("nd,adk->nak", x, weights) + bias
            p = outputs.softmax(-1).gather(-1, code[at][:, None, None].expand(-1, len(penalties), 1))[..., 0]
            t = bounds[number - 1]
            cost -= torch.log2((t * p + 1 / kinds) / (t + 1)).sum(0)
        bits.append(float(cost[best]))
        so_far += cost
        known = known + sums.part(number)
    return np.array(bits)
