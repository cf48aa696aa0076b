"""The same model with its weights rounded to a few bits: what of a result hangs on their precision."""

from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor

from lab.models.loaded import Loaded


def rounded(x: Tensor, bits: object, axis: int | None = None) -> Tensor:
    """Round to nearest on 2^bits - 1 levels between -absmax and absmax: s round(x / s), s = absmax / (2^(bits-1) - 1).

    axis: one absmax for each index along it (a weight's output channels are its axis 0); None: one for all of x.
    Symmetric, so zero stays zero; a slice of zeros stays as it is. ValueError for bits outside 2 to 16.
    """
    if isinstance(bits, bool) or not isinstance(bits, int) or not 2 <= bits <= 16:
        raise ValueError(f"bits must be a whole number from 2 to 16; got {bits!r}")
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    others = [i for i in range(x.ndim) if axis is None or i != axis % x.ndim]
    step = (wide.abs().amax(others, keepdim=True) if others else wide.abs()) / (2 ** (bits - 1) - 1)
    return torch.where(step > 0, (wide / torch.where(step > 0, step, 1)).round() * step, wide).to(x.dtype)


def quantized(model: Loaded, bits: object) -> Loaded:
    """A copy of the model whose weight matrices are rounded to 2^bits - 1 levels in each row, evenly and around 0.

    w' = rounded(w, bits, axis=0): what post-training quantisation by rounding to nearest does
    to the numbers; nothing is stored in fewer bits or runs faster. Matrices and larger (embeddings too) are rounded,
    biases and norms are not. The model itself is left as it was; the copy cannot be given to other processes.

    Raises ValueError for bits outside 2 ... 16, and TypeError for a model that lab.models did not load.
    """
    if not isinstance(model, Loaded):
        raise TypeError(f"model must come from lab.models.load, tiny or wrap; got {type(model).__name__}")
    rounded(torch.zeros(1), bits)  # the bits are refused before the model is copied
    copy = deepcopy(model.model)
    with torch.no_grad():
        for weight in copy.parameters():  # a shared one comes once
            if weight.ndim >= 2 and weight.is_floating_point():
                weight.copy_(rounded(weight, bits, axis=0))
    source = f"{model.source}, weights rounded to {bits} bits"
    return replace(model, model=copy, name=f"{model.name}, {bits} bits", source=source, recipe=None)
