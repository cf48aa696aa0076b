"""The same operators in other people's code, where it computes the same: {name: (pool, *inputs) -> a call}.

Each import is inside, so that a peer that is not installed is a row that says so.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lab.pooling.cost import Case

Call = Callable[[], Tensor]


def _sentence_transformers(mode: str) -> Callable[..., Call]:
    def build(_: nn.Module, x: Tensor, mask: Tensor) -> Call:
        from sentence_transformers.sentence_transformer.modules import Pooling

        module = Pooling(x.shape[-1], pooling_mode=mode)
        return lambda: module({"token_embeddings": x, "attention_mask": mask.long()})["sentence_embedding"]

    return build


def _splade(_: nn.Module, x: Tensor, mask: Tensor) -> Call:
    from sentence_transformers.sparse_encoder.modules import SpladePooling

    module = SpladePooling(pooling_strategy="max")
    return lambda: module({"token_embeddings": x, "attention_mask": mask.long()})["sentence_embedding"]


def _weighted_layers(_: nn.Module, h: Tensor) -> Call:
    from sentence_transformers.sentence_transformer.modules import WeightedLayerPooling

    module = WeightedLayerPooling(h.shape[-1], num_hidden_layers=len(h) - 1, layer_start=0).to(h.device, h.dtype)
    layers = [layer[:, None] for layer in h]  # one token of each text: mixing pooled states is what ours does
    return lambda: module({"all_layer_embeddings": layers})["token_embeddings"][:, 0]


def _aggregation(name: str, **options: object) -> Callable[..., Call]:
    """PyTorch Geometric's, on the real tokens side by side, which is what it takes."""

    def build(_: nn.Module, x: Tensor, mask: Tensor) -> Call:
        from torch_geometric.nn import aggr

        module = getattr(aggr, name)(**options).to(x.device, x.dtype)
        index = mask.nonzero()[:, 0]
        return lambda: module(x[mask], index, dim_size=len(x))

    return build


def _multihead(pool: nn.Module, x: Tensor, mask: Tensor) -> Call:
    module = nn.MultiheadAttention(pool.dim, pool.num_heads, batch_first=True).to(x.device, x.dtype)
    query = pool.query.flatten(1).expand(len(x), -1, -1)
    return lambda: module(query, x, x, key_padding_mask=~mask, need_weights=False)[0].flatten(1)


def _lp_pool(pool: nn.Module, x: Tensor) -> Call:
    """torch's own power sum, with a fixed exponent; the root of the number of places makes it a mean."""
    p = pool.p.item()
    window = x.shape[2:] if pool.kernel_size is None else (pool.kernel_size, pool.kernel_size)
    return lambda: nn.functional.lp_pool2d(x.clamp(min=pool.eps), p, window) / (window[0] * window[1]) ** (1 / p)


TOKENS = {
    "first": _sentence_transformers("cls"),
    "last": _sentence_transformers("lasttoken"),
    "mean": _sentence_transformers("mean"),
    "max": _sentence_transformers("max"),
    "sqrt_mean": _sentence_transformers("mean_sqrt_len_tokens"),
    "position_mean": _sentence_transformers("weightedmean"),
    "splade": _splade,
    "softmax": _aggregation("SoftmaxAggregation"),
    "multihead_attention": _multihead,
}
LAYERS = {"weighted_mix": _weighted_layers}
MAPS = {"gem": _lp_pool}
PEERS = {"tokens": TOKENS, "layers": LAYERS, "maps": MAPS}


def peer_of(case: Case) -> Call | str:
    """The peer's call, or why there is none."""
    build = PEERS[case.family].get(case.name)
    if build is None:
        return "no peer has this operator"
    try:
        call = build(case.pool, *case.inputs)
        with torch.no_grad():
            call()
    except ImportError as missing:
        return f"{missing.name} is not installed"
    return call
