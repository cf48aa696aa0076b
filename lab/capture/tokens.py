"""Raw states of a few texts, token by token, with what each token says."""

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from lab.capture.batches import Batch, Tokens
from lab.capture.checks import Count, Examples, Layers
from lab.capture.passes import read
from lab.capture.states import plain_source
from lab.models import Loaded


def tokens(
    model: Loaded,
    texts: Examples,
    layers: Layers = "all",
    *,
    site: str = "layer",
    max_length: Count | None = None,
    batch_tokens: Count | None = None,
    dtype: str = "float32",
) -> xr.Dataset:
    """h[layer, token, dim]: every real token of every text, one text after the other, nothing padded, nothing pooled.

    example[token] says which text it is from, position[token] its place there from 0, text[token] the token itself.
    For a few texts: it is len(layers) * tokens * dim numbers, in memory; float16 halves them. Images have their
    patches for tokens, without a text. Raises as `states` does.
    """
    if dtype not in ("float32", "float16"):
        raise ValueError(f"dtype must be 'float32' or 'float16'; got {dtype!r}")
    source, numbers = plain_source(model, texts, layers, site, max_length, batch_tokens)
    widths = model.widths_at(site)
    if len({widths[layer] for layer in numbers}) > 1:
        raise ValueError(f"the layers are of different widths, {widths}: ask for those of one width")
    slot = {layer: i for i, layer in enumerate(numbers)}
    kept: dict[int, Tensor] = {}  # text -> [layer, token, dim]
    here: dict[int, tuple[Tensor, Tensor]] = {}

    def see(layer: int, state: Tensor, mask: Tensor) -> None:
        if any(seen.shape != mask.shape for _, seen in here.values()):
            raise ValueError("the layers have different numbers of tokens: ask for those of one number")
        here[layer] = state.to(getattr(torch, dtype)).cpu(), mask.cpu()

    def done(batch: Batch) -> None:
        states = torch.stack([here[layer][0] for layer in slot])
        for row, index in enumerate(batch.index):
            kept[int(index)] = states[:, row, next(iter(here.values()))[1][row]]
        here.clear()

    read(model, source, numbers, see, done, site=site, budget=batch_tokens)
    pieces = [kept[i] for i in range(len(source.lengths))]
    lengths = [piece.shape[1] for piece in pieces]
    found = xr.Dataset(
        {"h": (("layer", "token", "dim"), torch.cat(pieces, dim=1).numpy())},
        coords={
            "layer": list(numbers),
            "example": ("token", np.repeat(np.arange(len(lengths)), lengths)),
            "position": ("token", np.concatenate([np.arange(n) for n in lengths])),
        },
        attrs={"model": model.name, "source": model.source, "site": site, "dtype": dtype},
    )
    if isinstance(source, Tokens):
        found = found.assign_coords(text=("token", _words(model, source)))
    return found


def ragged(found: xr.Dataset, layer: int = -1) -> tuple[Float[Tensor, "N D"], Int[Tensor, " _"]]:
    """One layer of `tokens` as lab.pooling and lab.probes.late_retrieval take it: x [N, D] and offsets [S + 1].

    layer: by its number; -1 is the last that was captured. Raises ValueError for a layer that was not, and for states
    that are not from `tokens`.
    """
    if not {"h", "example"} <= set(found.variables) or found.h.dims != ("layer", "token", "dim"):
        raise ValueError(f"states of lab.capture.tokens are needed, h[layer, token, dim]; got {dict(found.sizes)}")
    layers = found.layer.values.tolist()
    if layer != -1 and layer not in layers:
        raise ValueError(f"no layer {layer} was captured; there are {layers}")
    at = len(layers) - 1 if layer == -1 else layers.index(layer)
    lengths = torch.bincount(torch.from_numpy(found.example.values))
    return torch.from_numpy(found.h.values[at]), torch.nn.functional.pad(lengths.cumsum(0), (1, 0))


def _words(model: Loaded, source: Tokens) -> np.ndarray:
    spell = getattr(model.tokenizer, "convert_ids_to_tokens", lambda ids: [str(i) for i in ids])
    return np.array([word for ids in source.ids for word in spell(ids)], dtype=object).astype(str)
