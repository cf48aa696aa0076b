"""What a decoder would say if it stopped at a layer."""

from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from lab.capture.batches import tokenize
from lab.capture.checks import Count, checked_count
from lab.capture.tokens import tokens
from lab.models import Loaded
from lab.models.hooks import after


@torch.inference_mode()
def logit_lens(model: Loaded, text: Any, *, top: Count = 1, unembedding: Any = None) -> xr.Dataset:
    """softmax(W_U norm(h)) of every layer and token of one text: the words a layer's state already points to.

    text: one string, cut to the model's window. top: how many words to name.
    W_U is the unembedding: the input embeddings where the model's config ties the two; else give it (the weight of the
    lm_head). norm is the model's final norm, which the last layer's state has behind it already and is not given twice.

    Returns word[layer, position, rank] and probability, the `top` likeliest; of the token that comes next in the text,
    its probability `next` and its `rank_of_next` (1 is best) [layer, position], NaN at the last position; kl, the
    Kullback-Leibler divergence from the layer's distribution to the last layer's, KL(last || layer), in nats.

    nostalgebraist, 2020, interpreting GPT: the logit lens (a blog post).
    Raises ValueError for a model without a final norm or without a known unembedding, and for a text without tokens;
    TypeError for a text that is no string.
    """
    seen = tokens(model, [text])
    if not seen.sizes["token"]:
        raise ValueError(f"text must have at least one token; got {text!r}, of which the tokenizer makes none")
    if unembedding is None:
        if not model.model.config.tie_word_embeddings:
            raise ValueError(
                f"{model.name} does not tie its unembedding to its embeddings: give it, the lm_head's weight"
            )
        unembedding = model.model.get_input_embeddings().weight
    if not isinstance(unembedding, Tensor) or unembedding.ndim != 2 or unembedding.shape[1] != model.dim:
        got = tuple(unembedding.shape) if isinstance(unembedding, Tensor) else type(unembedding).__name__
        raise ValueError(f"the unembedding must be [V, {model.dim}], a tensor; got {got}: pass the lm_head's weight")
    checked_count("top", top, most=len(unembedding))
    (ids,) = tokenize(model.tokenizer, [text], model.window).ids  # cut as the states were
    norm = _final_norm(model)
    h = torch.from_numpy(seen.h.values).to(unembedding.device, unembedding.dtype)
    logs = torch.stack([_log_softmax(norm(x) if i < model.depth else x, unembedding) for i, x in enumerate(h)])
    best = logs.topk(top, dim=-1)
    following = torch.tensor(ids[1:], device=logs.device)
    said = logs[:, :-1].gather(-1, following.expand(len(logs), -1)[..., None])
    rank = (logs[:, :-1] > said).sum(-1) + 1
    unknown = np.full((len(logs), 1), np.nan)
    words = np.array(model.tokenizer.convert_ids_to_tokens(best.indices.flatten().tolist())).reshape(best.indices.shape)
    dims = ("layer", "position")
    return xr.Dataset(
        {
            "word": ((*dims, "rank"), words),
            "probability": ((*dims, "rank"), best.values.exp().cpu().numpy()),
            "next": (dims, np.hstack([said[..., 0].exp().cpu().numpy(), unknown])),
            "rank_of_next": (dims, np.hstack([rank.cpu().numpy(), unknown])),
            "kl": (dims, (logs[-1].exp() * (logs[-1] - logs)).sum(-1).cpu().numpy()),
        },
        coords={"layer": seen.layer, "position": np.arange(len(ids)), "token": ("position", seen.text.values)},
        attrs={"model": model.name},
    )


def _log_softmax(x: Tensor, unembedding: Tensor) -> Tensor:
    return (x @ unembedding.T).float().log_softmax(-1)


def _final_norm(model: Loaded) -> torch.nn.Module:
    """The norm module that returned the last layer's state."""
    if not model.normed[-1]:
        raise ValueError(f"{model.name} has no final norm: its last state is not what a norm returned")
    returned: list[tuple[torch.nn.Module, Tensor]] = []
    with ExitStack() as hooks:
        for module in model.model.modules():
            if "norm" in type(module).__name__.lower():
                keep = partial(lambda module, output: returned.append((module, output)), module)
                hooks.callback(after(module, keep).remove)
        last = model.last_state(**model.example)
    return next(module for module, output in returned if output.data_ptr() == last.data_ptr())  # a view of it is it
