"""Hidden states of all layers for a list of texts, pooled inside the forward pass."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor, nn
from tqdm import tqdm

from lab.capture.batches import Batch, batches, tokenize
from lab.capture.tap import watch
from lab.models import Loaded
from lab.models.hooks import evaluating
from lab.pooling import POOLS, LinearPool
from lab.pooling.functional import weighted_sum


def states(
    model: Loaded,
    texts: Iterable[str],
    pools: Sequence[str] | Mapping[str, nn.Module] = ("mean",),
    layers: str | Sequence[int] = "all",
    *,
    max_length: int | None = None,
    batch_tokens: int | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """One pass over the texts; h[layer, pool, example, dim] in float32, examples in the order of the texts.

    pools: names from lab.pooling.POOLS, or {name: module with forward(x [B, T, D], mask [B, T])}. The mask is the
        attention mask: special tokens the tokenizer adds count as tokens.
    layers: "all", or numbers from 0 (embeddings) to model.depth (after the final norm); -1 is the last.
    max_length: in tokens; the model's window when not given. Longer texts are cut, and counted.
    batch_tokens: padded tokens in a batch; by default 2,048 on a CPU (larger ones leave its cache), 65,536 on a GPU.

    Each state is pooled in the hook that sees it, so no [layer, batch, token, dim] stack ever exists: memory is
    that of the plain forward pass and of the result.

    Beside h: normed[layer] (was it returned by a norm?), tokens[example], truncated[example]; in the attributes the
    model, its source, n_truncated, max_length, padding_efficiency (real by padded tokens), device and seconds.

    Raises TypeError for a model that lab.models did not load and for texts that are not strings; ValueError for an
    empty list, unknown pools or layers, a model without a tokenizer, and lengths below 1.
    """
    if not isinstance(model, Loaded):
        raise TypeError(f"model must come from lab.models.load or lab.models.tiny; got {type(model).__name__}")
    texts = _checked_texts(texts)
    modules = _checked_pools(pools, model)
    numbers = _checked_layers(layers, model.depth)
    if model.tokenizer is None:
        raise ValueError(f"{model.name} has no tokenizer: it takes images; lab.capture.tap shows its raw states")
    for name, value in (("max_length", max_length), ("batch_tokens", batch_tokens)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1; got {value}")
    window = min((limit for limit in (max_length, model.window) if limit), default=None)
    tokens = tokenize(model.tokenizer, texts, window)
    budget = batch_tokens or (65_536 if model.device.type == "cuda" else 2_048)

    pooled = torch.empty(len(numbers), len(modules), len(texts), model.dim)
    padded, began = 0, time.perf_counter()
    with ExitStack() as hold:
        bar = tqdm(total=len(texts), unit="text", desc=f"{model.name} states", leave=False, disable=not progress)
        hold.enter_context(bar)
        hold.enter_context(evaluating(model.model))
        hold.enter_context(evaluating(nn.ModuleList(modules.values())))
        for batch in batches(tokens, budget):
            pooled[:, :, batch.index] = _pass(model, batch, modules, numbers).cpu()
            padded += batch.ids.numel()
            bar.update(len(batch.index))
    return xr.Dataset(
        {
            "h": (("layer", "pool", "example", "dim"), pooled.numpy()),
            "normed": ("layer", np.array(model.normed)[numbers]),
            "tokens": ("example", tokens.lengths),
            "truncated": ("example", tokens.truncated),
        },
        coords={"layer": numbers, "pool": list(modules), "example": np.arange(len(texts))},
        attrs={
            "model": model.name,
            "source": model.source,
            "max_length": window or 0,
            "n_truncated": int(tokens.truncated.sum()),
            "padding_efficiency": float(tokens.lengths.sum() / padded),
            "device": str(model.device),
            "seconds": time.perf_counter() - began,
        },
    )


@torch.inference_mode()
def _pass(model: Loaded, batch: Batch, pools: dict[str, nn.Module], layers: list[int]) -> Float[Tensor, "L P B D"]:
    """One forward pass, each watched state pooled as it appears."""
    mask = batch.mask.to(model.device)
    reduce = _reduction(pools, mask)
    out = torch.empty(len(layers), len(pools), *mask.shape[:1], model.dim, device=model.device)

    def pool_into(slot: int) -> Callable[[Tensor], None]:
        return lambda state: reduce(state, out[slot])

    with ExitStack() as hooks:
        for slot, layer in enumerate(layers):
            hooks.callback(watch(model, layer, pool_into(slot)).remove)
        model.model(input_ids=batch.ids.to(model.device), attention_mask=mask.long())
    return out


def _reduction(pools: dict[str, nn.Module], mask: Bool[Tensor, "B T"]) -> Callable[[Tensor, Tensor], None]:
    """A function (state [B, T, D], out [P, B, D]) that pools; all linear pools are one product."""
    linear = [i for i, pool in enumerate(pools.values()) if isinstance(pool, LinearPool)]
    others = [(i, pool) for i, pool in enumerate(pools.values()) if i not in linear]
    rows = [pool.weights(mask) for pool in pools.values() if isinstance(pool, LinearPool)]
    weights = torch.stack(rows, dim=1) if rows else None  # [B, P, T]

    def reduce(state: Tensor, out: Tensor) -> None:
        if weights is not None:
            out[linear] = weighted_sum(state, weights, mask).transpose(0, 1).to(out.dtype)
        for i, pool in others:
            out[i] = pool(state, mask).to(out.dtype)

    return reduce


def _checked_texts(texts: Iterable[str]) -> list[str]:
    if isinstance(texts, str):
        raise TypeError("texts must be a list of strings; got one string: put it in a list")
    texts = list(texts)
    if not texts:
        raise ValueError("texts is empty; at least one text is needed")
    wrong = [(i, type(text).__name__) for i, text in enumerate(texts) if not isinstance(text, str)]
    if wrong:
        raise TypeError(f"every text must be a string; {len(wrong)} are not, the first at (index, type) {wrong[:3]}")
    return texts


def _checked_pools(pools: Sequence[str] | Mapping[str, nn.Module], model: Loaded) -> dict[str, nn.Module]:
    if isinstance(pools, Mapping):
        modules = dict(pools)
    else:
        names = [pools] if isinstance(pools, str) else list(pools)
        if unknown := [name for name in names if name not in POOLS]:
            raise ValueError(f"no pool {unknown}; there are {list(POOLS)}, or pass {{name: module}}")
        if len(set(names)) < len(names):
            raise ValueError(f"pools must differ; got {names}")
        modules = {name: POOLS[name](model.dim) for name in names}
    if not modules:
        raise ValueError(f"no pool was named; there are {list(POOLS)}")
    trial = (
        torch.zeros(1, 2, model.dim, device=model.device),
        torch.ones(1, 2, dtype=torch.bool, device=model.device),
    )
    for name, module in modules.items():
        shape = tuple(module.to(model.device)(*trial).shape)
        if shape != (1, model.dim):
            raise ValueError(f"pool {name!r} turns [1, 2, {model.dim}] into {list(shape)}, expected [1, {model.dim}]")
    return modules


def _checked_layers(layers: str | Sequence[int], depth: int) -> list[int]:
    if isinstance(layers, str):
        if layers != "all":
            raise ValueError(f"layers must be 'all' or numbers from 0 to {depth}; got {layers!r}")
        return list(range(depth + 1))
    if wrong := [layer for layer in layers if not -depth - 1 <= layer <= depth]:
        raise ValueError(f"no layer {wrong}; there are 0 (embeddings) to {depth}, and -1 for the last")
    numbers = [int(layer) % (depth + 1) for layer in layers]
    if not numbers or len(set(numbers)) < len(numbers):
        raise ValueError(f"layers must be at least one and differ; got {list(layers)}")
    return numbers
