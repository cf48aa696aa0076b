"""What selective attention makes of its temperatures: one for each head, text and query."""

from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from lab.attention.call import Call
from lab.attention.calls import attending
from lab.attention.mixing import spikes
from lab.attention.precision import exact


@torch.no_grad()
def temperatures(model: Any, **inputs: Tensor) -> xr.Dataset:
    """tau_i = 1 + tanh(w_h . h_i) + length_h log n_i of every query, in a model inside `use(model, "ssa")`.

    Returns tau[layer, head, text, position], what scores are multiplied by, and spike, the part that is the token's
    own, tanh(w_h . h_i) of the state h_i that enters attention, before any rotation; the rest is the position's. Layers
    are numbered as states are, from 1. Padded queries have numbers too, of no meaning.

    Raises ValueError outside of such a block, where no layer has temperatures.
    """
    tau: dict[int, np.ndarray] = {}
    own: dict[int, np.ndarray] = {}

    def hear(call: Call) -> Tensor:
        learned = getattr(call.module, "normalizer", None)
        if learned is None or "of_query" not in learned:
            raise ValueError(
                f"{type(call.module).__name__} has no temperatures: call this inside `with lab.attention.use(model, "
                '"ssa")`, or `with run.attending()` of a model trained under it'
            )
        with exact(call.query):
            spike = spikes(call, of_query=learned["of_query"])["spike"][..., 0]
        seen = call.visible.rows(0, call.query.shape[2]).sum(-1).clamp(min=1)
        found = 1 + spike + learned["length"][..., 0] * seen.log()
        tau[call.layer], own[call.layer] = (part.transpose(0, 1).double().cpu().numpy() for part in (found, spike))
        return call.own()

    with attending(model, hear) as heard:
        heard.model(**inputs)
    layers = sorted(tau)
    data = {
        name: (("layer", "head", "text", "position"), np.stack([found[layer] for layer in layers]))
        for name, found in (("tau", tau), ("spike", own))
    }
    return xr.Dataset(data, coords={"layer": layers})
