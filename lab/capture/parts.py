"""How much each half of a block, attention and the feed-forward part, turns the states that pass through it."""

from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from lab.capture.checks import checked_model
from lab.capture.tap import tap


@torch.no_grad()
def part_influence(model: Any, **inputs: Tensor) -> xr.DataArray:
    """1 - mean over tokens of cos(x, x + f(x)), for attention, mlp and the whole block: influence[part, layer].

    x is what stands in the residual stream before the part: for attention the state before the block, for mlp that and
    what attention adds. 0: the part changes no direction, and is missed least where it is left out. inputs are the
    model's own arguments; where attention_mask is among them, padding is not counted. Layers are numbered by what
    they make, from 1.

    He et al., 2024, What matters in transformers? Not all attention is needed (from notes).
    https://arxiv.org/abs/2406.15786. ShortGPT's block influence is the last row.
    ValueError for a model whose parts are not known by structure, and for one whose blocks are not x + attention + mlp
    (norms behind the parts, say), which is found by adding them up; behind a final norm the last one cannot be.
    """
    blocks = range(1, checked_model(model).depth + 1)
    names = [f"layer.{i}" for i in range(model.depth + 1)] + [f"{p}.{i}" for p in ("attention", "mlp") for i in blocks]
    with tap(model, names) as seen:
        model.model(**inputs)
    mask = inputs.get("attention_mask")
    found = np.empty((3, model.depth))
    for i in blocks:
        x, attention, mlp = (seen[name].double() for name in (f"layer.{i - 1}", f"attention.{i}", f"mlp.{i}"))
        middle = x + attention
        out = middle + mlp
        made = seen[f"layer.{i}"].double()
        checkable = not (i == model.depth and model.normed[i])
        if checkable and (out - made).abs().max() > 1e-4 * made.abs().max():
            raise ValueError(
                f"layer {i} of {model.name} is not the state before it, what attention adds and what the feed-forward "
                f"part adds: they differ by {float((out - made).abs().max()):.2g} of {float(made.abs().max()):.2g}"
            )
        for row, (a, b) in enumerate(((x, middle), (middle, out), (x, out))):
            cosine = torch.cosine_similarity(a, b, dim=-1)
            found[row, i - 1] = 1 - float(cosine.mean() if mask is None else cosine[mask.bool()].mean())
    return xr.DataArray(found, {"part": ["attention", "mlp", "block"], "layer": list(blocks)}, name="influence")
