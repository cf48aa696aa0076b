"""One recipe of embedding training on decoders of several architectures: what it was asked, and what it did."""

from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from tqdm import tqdm

from lab import models
from lab.training.contrastive import contrastive
from lab.training.designs import Design
from lab.training.embedder import embedder

# what a decoder is trained to: how it is read, and the loss; GRL's generator must not see ahead
GOALS = {
    "contrast": (Design("bidirectional", "mean"), "infonce"),
    "SimCSE": (Design("bidirectional", "mean"), "infonce"),
    "GRL": (Design("causal", "last"), "grl"),
}


def architectures(
    pairs: pd.DataFrame,
    tokenizer: Any,
    kinds: Sequence[str] = ("llama", "gpt2", "qwen3"),
    *,
    goals: Sequence[str] = tuple(GOALS),
    seeds: Iterable[int] = (0,),
    layers: int = 2,
    dim: int = 32,
    steps: int = 16,
    batch: int = 8,
    window: int = 24,
    rate: float = 3e-3,
    dropout: float = 0.3,
    progress: bool = True,
) -> xr.Dataset:
    """Each goal of GOALS on a tiny decoder of each kind, from random weights: all by the same calls.

    loss[architecture, goal, seed, part]: the mean over the first and over the last quarter of the steps. both_ways: of
    the trained transformer, did its first token move when the last one was exchanged (lab.models.describe)?
    pairs: query and positive. contrast: InfoNCE on them. SimCSE: each query beside itself, told apart by dropout alone
    (Gao et al., 2021). GRL: with the row before's positive as the negative. kinds: causal ones of lab.models.TINY.
    dropout: of the attention, and of what GPT-2 drops beside it.
    After ULLME, Man et al., 2024, which wraps several decoders so (from the abstract).
    https://arxiv.org/abs/2408.03402

    Raises ValueError for an unknown goal, fewer than four steps, and as tiny, embedder and contrastive do.
    """
    if unknown := [goal for goal in goals if goal not in GOALS]:
        raise ValueError(f"no goal {unknown}; there are {list(GOALS)}")
    if steps < 4:
        raise ValueError(f"the first and the last quarter of the steps are told; needed are 4 or more, got {steps}")
    seeds = list(seeds)
    negative = pairs["positive"].shift(fill_value=pairs["positive"].iloc[-1])
    given = {"SimCSE": pairs.assign(positive=pairs["query"]), "GRL": pairs.assign(negative=negative)}
    shape = (len(kinds), len(goals), len(seeds))
    loss, both = np.empty((*shape, 2)), np.empty(shape, bool)
    every = [*product(range(shape[0]), range(shape[1]), range(shape[2]))]
    for i, j, k in tqdm(every, desc="architectures", disable=not progress, leave=False, mininterval=20):
        goal, seed = goals[j], seeds[k]
        design, name = GOALS[goal]
        model = embedder(_drawn(kinds[i], tokenizer, layers, dim, window, dropout, seed), design, window=window)
        tuned = contrastive(
            given.get(goal, pairs), model, loss=name, steps=steps, batch=batch, rate=rate, warmup=0.0, seed=seed,
            every=steps // 4, truncate=True, progress=False,
        )  # fmt: skip
        loss[i, j, k] = tuned.curve.loss.values[[0, -1]]
        both[i, j, k] = not models.describe(kinds[i], "trained", tuned.model[0].model, tokenizer, window).causal
    axes = ("architecture", "goal", "seed")
    labels = {"architecture": list(kinds), "goal": list(goals), "seed": seeds, "part": ["first", "last"]}
    return xr.Dataset({"loss": ((*axes, "part"), loss), "both_ways": (axes, both)}, coords=labels)


def _drawn(kind: str, tokenizer: Any, layers: int, dim: int, window: int, dropout: float, seed: int) -> models.Loaded:
    # query and document stand one after the other where they are generated
    small = models.tiny(kind, layers=layers, dim=dim, heads=2, window=2 * window, seed=seed, tokenizer=tokenizer)
    drops = dict.fromkeys(("attention_dropout", "attn_pdrop", "resid_pdrop", "embd_pdrop"), dropout)
    ends = {f"{end}_token_id": getattr(tokenizer, f"{end}_token_id") for end in ("bos", "eos", "pad")}
    small.model.config.update(drops | ends | {"tie_word_embeddings": True})  # read when the embedder makes it anew
    return small
