"""What an operator of the registries is built with and called on, where it is more than its width and the states.

    POOLS[name](dim)(*token_inputs(name, x, mask))
    pool = LAYER_POOLS[name](dim, num_layers, **SIZES.get(name, {}));  pool(layer_input(pool, h))

Said here once, for whoever goes through all of them: the contract tests, the benchmark, the gallery, the table.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lab.kernels.layout import Segments, Tokens, keep
from lab.pooling.functional import segment_expand, segment_pool, segment_softmax

# the founding paper's sizes (768 latents, 32 heads of 2048) take gigabytes: smaller, the same code
SIZES = {"multilayer": {"latents": 16, "heads": 4, "dim_head": 32}}


def received(x: Tokens, mask: Segments) -> Float[Tensor, "*tokens"]:
    """a_t = softmax_t(mean(x) . x_t / sqrt(D)), what one query, the mean of the row, pays each token: a stand-in.

    For attention that nobody has captured. Rows sum to 1, padding and rows without tokens are 0; no gradient.
    """
    real = keep(x.detach(), mask).to(torch.promote_types(x.dtype, torch.float32))
    query = segment_expand(segment_pool(real, mask, "mean"), mask, x.shape[-2])
    return segment_softmax((query * real).sum(-1) * x.shape[-1] ** -0.5, mask)


MEASURED = {"received_attention": received}  # a third argument that callers measure, made here of the states


def token_inputs(name: str, x: Tokens, mask: Segments) -> tuple[Tensor, ...]:
    """All that POOLS[name] is called on: (x, mask), and what it wants measured."""
    return (x, mask, MEASURED[name](x, mask)) if name in MEASURED else (x, mask)


def layer_input(pool: nn.Module, h: Float[Tensor, "L *N D"]) -> Float[Tensor, "L *P D"]:
    """h, or [L, P, *N, D] with h as each of the P summaries for a pool that reads several of every layer."""
    return h[:, None].expand(-1, pool.summaries, *h.shape[1:]) if hasattr(pool, "summaries") else h
