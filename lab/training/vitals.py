"""What is worth watching in a model while it trains: where its heads look, and how its states grow."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lab.attention import watch
from lab.geometry import effective_rank
from lab.models import Loaded


@torch.no_grad()
def vitals(model: Loaded, ids: Tensor, *, threshold: float = 0.3) -> dict[str, Any]:
    """Numbers of one batch [B, T]; lists run over layers, states from layer 0, heads from layer 1.

    first        mean over heads of alpha_1, the attention that the first token receives from itself and all after it
    bias         the same of a key bias, NaN where a head has none
    sink_rate    the share of heads and texts with alpha_1 > threshold (Gu et al., ICLR 2025)
    lift         first over what even attention would give it, H_T / T of T tokens
    value        |v_1| over the mean |v_k| of the other tokens, mean over heads: what a sink carries is short
    row_mass     mean sum of a row of weights: 1 for softmax, less where a normalizer may decline
    zeros        the share of visible keys whose weight is exactly 0
    kurtosis     E (x - mean)^4 / variance^2 over all numbers of a layer's states; 3 for a normal distribution
    peak         max |x| over the median |x|; largest: max |x|, both over a layer's states
    variance     of a layer's states, over all of them
    effective_rank   of a layer's states [B T, D] about their mean, lab.geometry.effective_rank: how many directions
    """
    states: dict[int, Tensor] = {}
    with (
        watch(model, thresholds=(threshold,)) as sinks,
        model.watching(lambda layer, state: states.update({layer: state}), range(model.depth + 1)),
    ):
        model.model(input_ids=ids)
    seen = sinks.result()
    biases = seen.sizes["position"] - ids.shape[1]  # keys that are no token stand before all others
    first = seen.isel(position=biases)
    bias = seen.mass.isel(position=0).mean("head")
    others = seen.value_norm.isel(position=slice(biases + 1, None)).mean("position")
    found: dict[str, Any] = {
        "first": first.mass.mean("head").values.tolist(),
        "bias": (bias if biases else bias * np.nan).values.tolist(),
        "sink_rate": first.sink_rate.isel(threshold=0).mean("head").values.tolist(),
        "lift": first.lift.mean("head").values.tolist(),
        "value": (first.value_norm / others).mean("head").values.tolist(),
        "row_mass": seen.row_mass.mean(("head", "sequence")).values.tolist(),
        "zeros": seen.zeros.mean(("head", "sequence")).values.tolist(),
    }
    shapes = [_shape(states[layer]) for layer in range(model.depth + 1)]
    return found | {name: [shape[name] for shape in shapes] for name in shapes[0]}


def _shape(state: Tensor) -> dict[str, float]:
    """How the numbers of one state are spread."""
    x = state.double().flatten()
    away = x - x.mean()
    variance = away.square().mean()
    size = x.abs()
    rows = state.flatten(0, -2)
    return {
        "kurtosis": float((away / variance.sqrt()).pow(4).mean()),
        "peak": float(size.max() / size.median()),
        "largest": float(size.max()),
        "variance": float(variance),
        "effective_rank": float(effective_rank(rows, centred=True)) if bool(rows.isfinite().all()) else float("nan"),
    }
