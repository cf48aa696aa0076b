"""How much of each layer an embedding model reads."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from lab.pooling.latent import LatentReader
from lab.pooling.layers import LayerPick


@torch.no_grad()
def layer_weights(model: Any, texts: Sequence[str]) -> xr.DataArray:
    """weight[layer] of the layers 0 (embeddings) to the last; they sum to 1.

    What that means is the pooling's to say: the one layer that is read has 1; a mix of fixed weights has these, made
    positive and of sum 1; a pool whose latents ask the layers has its attention, the mean over latents, heads and
    texts. A residual pool also adds its base to what it read, which is not counted here.
    Raises ValueError for a pooling that none of this fits.
    """
    from lab.blocks import find_blocks
    from lab.pooling.interchange import LayerPooling, TokenPooling

    if not texts:
        raise ValueError("texts are needed to see what is read of each layer; got none")
    depth = len(find_blocks(model[0].model)[0])
    pooling = next((part for part in model if isinstance(part, LayerPooling | TokenPooling)), None)
    found = np.zeros(depth + 1)
    if isinstance(pooling, TokenPooling):
        found[depth] = 1
    elif pooling is None:
        raise ValueError(
            f"the model has no pooling of lab.pooling.interchange; it has {[type(m).__name__ for m in model]}"
        )
    else:
        layers = list(range(depth + 1)) if pooling.layers is None else pooling.layers
        found[layers] = _read(model, pooling.layer_pool, texts, len(layers))
    return xr.DataArray(found / found.sum(), dims="layer", coords={"layer": np.arange(depth + 1)})


def _read(model: Any, pool: nn.Module, texts: Sequence[str], layers: int) -> np.ndarray:
    if isinstance(pool, LayerPick):
        return np.eye(layers)[pool.layer]
    reader = next((part for part in pool.modules() if isinstance(part, LatentReader)), None)
    if reader is not None:
        given: list[Tensor] = []
        hook = reader.register_forward_pre_hook(lambda _module, args: given.append(args[0]))
        try:
            model.encode(list(texts), show_progress_bar=False)
        finally:
            hook.remove()
        return torch.cat([reader.attention(x).mean((1, 2)) for x in given]).mean(0).double().cpu().numpy()
    if not hasattr(pool, "weights"):
        raise ValueError(f"{type(pool).__name__} does not say what it reads of each layer")
    return pool.weights().double().abs().cpu().numpy()
