"""What each pooling listens to in one text."""

import numpy as np
import pandas as pd
import torch
from torch import nn

from lab import capture
from lab.models import Loaded
from lab.pooling import POOLS
from lab.pooling.anatomy import gradient_share
from lab.pooling.gallery import SelfReceivedPool

SHOWN = 256  # tokens of a text


def token_weights(
    model: Loaded, text: str, pools: dict[str, nn.Module], layer: int, max_length: int | None = None
) -> tuple[pd.DataFrame, list[str]]:
    """Shares [pool, token] of lab.pooling.anatomy.gradient_share on the states of one layer, and the tokens.

    Rows sum to 1; zeros for a pool that passes no gradient. ValueError for a text without tokens.
    """
    if not text.strip():
        raise ValueError("there is nothing to weigh in an empty text")
    length = min(max_length or SHOWN, model.window or SHOWN, SHOWN)
    found = capture.tokens(model, [text], layers=[layer], max_length=length)
    x = torch.from_numpy(found.h.values)  # [1, T, D]
    mask = torch.ones(x.shape[:2], dtype=torch.bool)
    shares = {name: gradient_share(pool, x, mask)[0].numpy() for name, pool in pools.items()}
    words = [str(word) for word in found.text.values]
    return pd.DataFrame(np.stack(list(shares.values())), index=list(shares)), words


def built(names: list[str], dim: int, seed: int = 0) -> dict[str, nn.Module]:
    """Registered pools by name, in eval mode; those that learn have random weights. ValueError for unknown names."""
    if unknown := [name for name in names if name not in POOLS]:
        raise ValueError(f"no pool {unknown}; there are {list(POOLS)}, or give {{name: pool}}")
    kinds, made = POOLS | {"received_attention": SelfReceivedPool}, {}
    for name in names:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made[name] = kinds[name](dim).eval()
    return made
