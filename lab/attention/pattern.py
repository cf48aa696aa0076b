"""Who looks where in one short text: the rows that watching a model sums up and never holds."""

from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from lab.attention.call import Call
from lab.attention.calls import listening
from lab.attention.chunks import computed, weights_of
from lab.attention.use import use
from lab.models.hooks import evaluating

MOST = 256  # tokens: the weights of a layer are heads x T x T


def pattern(model: Any, text: str, layer: int, *, normalizer: str = "softmax", max_length: int = 64) -> xr.Dataset:
    """weight[head, query, key] of one layer on one text, value_norm[head, key] = |v_k|, and each token, [key].

    layer: 1 is the first, as in lab.attention.watch. normalizer: the model computes by it, as in lab.attention.use.
    Weights are zero where a query may not look; the weight of a sink logit is of no key, and not among them.

    Raises ValueError for an empty text, a layer that is not there or asks for no attention, and lengths outside 1 to
    256; TypeError and ValueError as `use` and `watch` do.
    """
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"a pattern is of one text that is not empty; got {text!r:.80}")
    if not 1 <= max_length <= MOST:
        raise ValueError(f"max_length must be from 1 to {MOST} tokens; got {max_length}")
    found: list[tuple[Tensor, Tensor]] = []

    def see(call: Call) -> Tensor:
        out = call.own()
        if call.layer == layer and not call.cross and not found:
            call, weigh = computed(call)
            queries = call.query.shape[2]
            visible = call.visible.rows(0, queries).to(call.query.device)
            weights, _ = weights_of(call, weigh, 0, queries, visible.expand(-1, call.query.shape[1], -1, -1))
            shared = call.query.shape[1] // call.value.shape[1]
            found.append((weights[0], call.value[0].norm(dim=-1).repeat_interleave(shared, 0)))
        return out

    with ExitStack() as hold:
        if normalizer != "softmax":
            hold.enter_context(use(model, normalizer))
        hold.enter_context(listening(model, see))
        if not 1 <= layer <= model.depth:
            raise ValueError(f"layer must be from 1 to {model.depth}; got {layer}")
        if model.tokenizer is None:
            raise ValueError(f"{model.name} has no tokenizer, so no text can be shown to it")
        inputs = model.tokenizer([text], truncation=True, max_length=max_length, return_tensors="pt").to(model.device)
        ids = inputs["input_ids"][0].tolist()
        if not ids:
            raise ValueError("the text has no token")
        more = {"use_cache": False} if model.takes("use_cache") else {}
        taken = {name: value for name, value in inputs.items() if model.takes(name)}
        with torch.inference_mode(), evaluating(model.model):
            model.model(**taken, **more)
    if not found:
        raise ValueError(f"layer {layer} of {model.name} asks for no attention of its own")
    weights, norms = (part.float().cpu().numpy() for part in found[0])
    return xr.Dataset(
        {"weight": (("head", "query", "key"), weights), "value_norm": (("head", "key"), norms)},
        coords={"token": ("key", np.array([str(word) for word in model.tokenizer.convert_ids_to_tokens(ids)]))},
        attrs={"model": model.name, "layer": layer, "normalizer": normalizer},
    )
