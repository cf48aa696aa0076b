"""The same model with its weights rounded to a few bits: what of a result hangs on their precision."""

from copy import deepcopy
from dataclasses import replace

import torch

from lab.models.loaded import Loaded


def quantized(model: Loaded, bits: object) -> Loaded:
    """A copy of the model whose weight matrices are rounded to 2^bits - 1 levels in each row, evenly and around 0.

    w' = s round(w / s), s = max |row| / (2^(bits - 1) - 1): what post-training quantisation by rounding to nearest does
    to the numbers; nothing is stored in fewer bits or runs faster. Matrices and larger (embeddings too) are rounded,
    biases and norms are not. The model itself is left as it was; the copy cannot be given to other processes.

    Raises ValueError for bits outside 2 ... 16, and TypeError for a model that lab.models did not load.
    """
    if not isinstance(model, Loaded):
        raise TypeError(f"model must come from lab.models.load, tiny or wrap; got {type(model).__name__}")
    if isinstance(bits, bool) or not isinstance(bits, int) or not 2 <= bits <= 16:
        raise ValueError(f"bits must be a whole number from 2 to 16; got {bits!r}")
    copy = deepcopy(model.model)
    levels = 2 ** (bits - 1) - 1
    with torch.no_grad():
        for weight in copy.parameters():  # a shared one comes once
            if weight.ndim >= 2 and weight.is_floating_point():
                rows = weight.flatten(1).float()
                step = rows.abs().amax(1, keepdim=True) / levels
                # a row of zeros stays one
                rounded = torch.where(step > 0, (rows / step.clamp(min=1e-38)).round() * step, 0)
                weight.copy_(rounded.view_as(weight))
    source = f"{model.source}, weights rounded to {bits} bits"
    return replace(model, model=copy, name=f"{model.name}, {bits} bits", source=source, recipe=None)
