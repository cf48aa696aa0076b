"""Hidden states of all layers for a list of texts or images, pooled inside the forward pass."""

import time
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from lab.capture.batches import Arrays, Batch, Tokens, tokenize
from lab.capture.checks import (
    Count,
    Examples,
    Layers,
    checked_autocast,
    checked_count,
    checked_examples,
    checked_layers,
    checked_model,
)
from lab.capture.passes import placed, read
from lab.capture.reduction import Pools, Reduction, reductions
from lab.models import Loaded
from lab.models.hooks import evaluating


def states(
    model: Loaded,
    texts: Examples,
    pools: Pools = ("mean",),
    layers: Layers = "all",
    *,
    site: str = "layer",
    max_length: Count | None = None,
    batch_tokens: Count | None = None,
    packed: bool = False,
    autocast: torch.dtype | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """One pass over the texts; h[layer, pool, example, dim] in float32, examples in the order of the texts.

    texts: strings; for a model that sees images, or anything else that is one tensor, that tensor [N, ...].
    pools: names from lab.pooling.POOLS, or {name: pool(x [B, T, D], mask [B, T])}. The mask is the attention mask:
        special tokens the tokenizer adds count as tokens. Maps [B, C, H, W] are pooled as H W places of width C.
    layers: "all", or numbers from 0 (embeddings) to model.depth (after the final norm); -1 is the last.
    site: "layer" for the hidden states, or a part of each block: see lab.models.SITES. Parts begin with layer 1.
    max_length: in tokens; the model's window when not given. Longer texts are cut, and counted.
    batch_tokens: padded tokens (images) in a batch; by default 2,048 (32) on a CPU, where larger ones leave its cache,
        and 65,536 (256) on a GPU. A batch too large for a GPU's memory is halved, with a warning.
    packed: no padding, all texts of a batch in one row; ValueError where the attention mixes texts packed so.
    autocast: torch.bfloat16 runs the model in half precision, as torch.autocast does.

    Each state is pooled in the hook that sees it, so no [layer, batch, token, dim] stack ever exists: memory is
    that of the plain forward pass and of the result.

    Beside h: normed[layer] (was it returned by a norm?), width[layer] (h is NaN beyond it where layers differ in
    width), tokens[example], truncated[example]; in the attributes the model, its source, n_truncated, max_length,
    padding_efficiency (real by padded tokens), device and seconds.

    Raises TypeError for a model that lab.models did not load, texts that are not strings, tables and mappings, and
    numbers that are not whole; ValueError for an empty list, unknown pools, layers or sites, texts without a tokenizer
    or with half characters, and lengths below 1.
    """
    plan = planned(model, pools, layers, site, max_length, batch_tokens, packed, autocast)
    began = time.perf_counter()
    source = plan.source(checked_examples(model, texts))
    h, padded = plan.run(source, progress)
    return xr.Dataset(
        {
            "h": (("layer", "pool", "example", "dim"), h),
            "normed": ("layer", plan.normed),
            "width": ("layer", plan.widths),
            "tokens": ("example", source.lengths),
            "truncated": ("example", source.truncated),
        },
        coords={"layer": list(plan.layers), "pool": plan.pools, "example": np.arange(h.shape[2])},
        attrs={
            "model": model.name,
            "source": model.source,
            "site": site,
            "max_length": plan.window or 0,
            "n_truncated": int(source.truncated.sum()),
            "padding_efficiency": float(source.lengths.sum() / max(padded, 1)),
            "device": str(model.device),
            "seconds": time.perf_counter() - began,
        },
    )


@dataclass(frozen=True)
class Plan:
    """A checked order: what to read of which model, and how."""

    model: Loaded
    layers: tuple[int, ...]
    reductions: list[Reduction]  # one per layer
    site: str
    window: int | None
    budget: int | None
    packed: bool
    autocast: torch.dtype | None

    @property
    def pools(self) -> list[str]:
        return list(self.reductions[0].pools)

    @property
    def normed(self) -> np.ndarray:
        """Of the parts of a block none is a norm's output."""
        return np.array([self.site == "layer" and self.model.normed[layer] for layer in self.layers])

    @property
    def widths(self) -> np.ndarray:
        return np.array([reduction.width for reduction in self.reductions])

    def source(self, examples: list[str] | Tensor) -> Tokens | Arrays:
        if isinstance(examples, Tensor):
            return Arrays(examples, self.model.reads)
        layout = "packed" if self.packed else "padded" if self.model.takes("attention_mask") else "equal"
        return tokenize(self.model.tokenizer, examples, self.window, self.model.reads, layout)

    def run(self, source: Tokens | Arrays, progress: bool = False) -> tuple[np.ndarray, int]:
        """h[layer, pool, example, dim] and the number of padded tokens read."""
        n, slot = len(source.lengths), {layer: i for i, layer in enumerate(self.layers)}
        h = np.full((len(slot), len(self.pools), n, max(self.widths)), np.nan, dtype=np.float32)
        here: dict[int, Tensor] = {}  # of the batch under way, pooled, where the model is

        def see(layer: int, state: Tensor, segments: Tensor) -> None:
            here[layer] = self.reductions[slot[layer]](state, segments)

        def done(batch: Batch) -> None:
            for layer, pooled in here.items():
                h[slot[layer], :, batch.index, : pooled.shape[-1]] = pooled.float().cpu().numpy().swapaxes(0, 1)
            here.clear()

        pools = [pool for reduction in self.reductions for pool in reduction.pools.values()]
        with ExitStack() as hold:
            hold.enter_context(evaluating(nn.ModuleList(pool for pool in pools if isinstance(pool, nn.Module))))
            padded = read(
                self.model, source, self.layers, see, done,
                site=self.site, budget=self.budget,
                autocast=self.autocast, progress=progress,
            )  # fmt: skip
        return h, padded


def planned(
    model: Loaded,
    pools: Pools,
    layers: Layers,
    site: str,
    max_length: Count | None,
    batch_tokens: Count | None,
    packed: bool,
    autocast: torch.dtype | None,
) -> Plan:
    """The order, checked: nothing here runs the model over the examples."""
    checked_model(model)
    for name, value in (("max_length", max_length), ("batch_tokens", batch_tokens)):
        if value is not None:
            checked_count(name, value)
    checked_autocast(autocast)
    numbers = checked_layers(model, layers, site)
    widths = [model.widths_at(site)[layer] for layer in numbers]
    window = min((limit for limit in (max_length, model.window) if limit), default=None)
    if packed:
        check_packing(model)
    return Plan(model, numbers, reductions(model, pools, widths), site, window, batch_tokens, packed, autocast)


def plain_source(
    model: Loaded,
    examples: Examples,
    layers: Layers,
    site: str,
    max_length: Count | None,
    batch_tokens: Count | None,
) -> tuple[Tokens | Arrays, tuple[int, ...]]:
    """What to read and which layers to watch, where nothing is pooled."""
    plan = planned(model, "mean", layers, site, max_length, batch_tokens, packed=False, autocast=None)
    return plan.source(checked_examples(model, examples)), plan.layers


@torch.inference_mode()
def check_packing(model: Loaded) -> None:
    """ValueError unless two texts in one row give what each gives alone: found by running them."""
    first, second = [5, 6, 7], [8, 9, 5, 6]
    try:
        row = Tokens([first, second], np.zeros(2, bool), model.reads, "packed").batch(np.arange(2)).inputs
        packed = model.last_state(**placed(model, row))
    except (TypeError, IndexError, RuntimeError) as error:
        raise ValueError(f"{model.name} cannot read packed texts: {error}") from error
    alone = [model.last_state(**placed(model, {model.reads: torch.tensor([ids])})) for ids in (first, second)]
    far = (packed - torch.cat(alone, dim=1)).abs().max()
    if far > 1e-4 * packed.abs().max():
        raise ValueError(
            f"{model.name} cannot read packed texts: its attention mixes them (states move by {far:.2g} of "
            f"{packed.abs().max():.2g}); it must read position_ids as text borders, as decoders of transformers do"
        )
