"""The designs of the founding experiment as one table: which mask, which tokens, which layers, which head.

Tang & Yang, "Pooling And Attention: What Are Effective Designs For LLM-Based Embedding Models?", 2024, numbers five
designs; what is called faithful has the formulas, the feeding and the initialisation of the authors' code, what is
called repaired keeps the idea and mends what the code does to it. https://arxiv.org/abs/2409.02727

Sizes of the heads follow the width D of the model, so that a head weighs in a small one what it weighs in a large one:
    paper     768 latents, 32 heads of 2,048 at D = 4,096: 3 D / 16 latents, 32 heads of D / 2; about 76 D^2 parameters
    repaired  16 latents, heads of D together, as the pooling room has them; about 17 D^2
    NV-Embed  512 latents, 8 heads of 4,096 at D = 4,096: D / 8 latents, 8 heads of D; about 44 D^2 (sizes recalled)
    MLP       as many parameters as the paper's last-layer head has at this width, to within one row
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

from lab.pooling import POOLS
from lab.pooling.founding import LastTokenOnly, MLPPool, PaddingToo, ResidualPool
from lab.pooling.latent import LatentAttentionPool, PerceiverPool
from lab.pooling.layers import SoftmaxMix
from lab.pooling.multilayer import MultiLayerPool, MultiLayerResidualPool

MASKS = ("causal", "bidirectional")


@dataclass(frozen=True)
class Design:
    """How token states become an embedding.

    mask     "causal", or "bidirectional": every token sees all others
    tokens   how the tokens of a layer become one vector: a name of lab.pooling.POOLS. What a head does with it stands
             at the head
    layers   "last", after the model's final norm; "all", blocks 1 to the last, the embeddings left out, as in the
             paper; a number, 0 for the embeddings; or "best", to be chosen on validation data: design.at(3)
    head     a name of HEADS, or None
    says     the same in words
    """

    mask: str
    tokens: str
    layers: str | int = "last"
    head: str | None = None
    says: str = ""

    def __post_init__(self) -> None:
        if self.mask not in MASKS:
            raise ValueError(f"mask must be one of {MASKS}; got {self.mask!r}")
        if self.tokens not in POOLS:
            raise ValueError(
                f"tokens must be pooled by a name of lab.pooling.POOLS, {list(POOLS)}; got {self.tokens!r}"
            )
        if isinstance(self.layers, bool) or not (
            isinstance(self.layers, int) or self.layers in ("last", "all", "best")
        ):
            raise ValueError(f'layers must be "last", "all", "best" or a number; got {self.layers!r}')
        if self.head is not None and self.head not in HEADS:
            raise ValueError(f"head must be one of {list(HEADS)}, or None; got {self.head!r}")
        several = self.head in OF_LAYERS
        if several != (self.layers == "all"):
            raise ValueError(
                f'layers="all" goes with a head that reads several, {list(OF_LAYERS)}, and with no other; got '
                f"layers={self.layers!r}, head={self.head!r}"
            )

    def at(self, layer: int) -> "Design":
        """The same design on one layer, counted from 0, the embeddings."""
        return replace(self, layers=layer)


def _perceiver(dim: int, pool: nn.Module) -> nn.Module:
    """The paper's: models 2 and 4 differ in what they are fed, and so do ours."""
    inner = PerceiverPool(dim, max(1, 3 * dim // 16), 32, max(1, dim // 2), normalize=True)
    return LastTokenOnly(inner, dim) if isinstance(pool, POOLS["last"]) else PaddingToo(inner, dim)


def _perceiver_repaired(dim: int, pool: nn.Module) -> nn.Module:
    return ResidualPool(pool, PerceiverPool(dim, 16, _heads(dim)), dim)


def _mlp(dim: int, pool: nn.Module) -> nn.Module:
    with torch.device("meta"):  # counted without memory
        wanted = sum(p.numel() for p in _perceiver(dim, pool).parameters())
    return MLPPool(pool, dim, max(1, round((wanted - 3 * dim) / (2 * dim + 1))))


def _latent_attention(dim: int, pool: nn.Module) -> nn.Module:  # noqa: ARG001 (its mean is its own)
    return LatentAttentionPool(dim, max(1, dim // 8), 8, dim)


def _multilayer(dim: int, layers: int) -> nn.Module:
    return MultiLayerPool(dim, layers, max(1, 3 * dim // 16), 32, max(1, dim // 2))


def _multilayer_repaired(dim: int, layers: int) -> nn.Module:
    return MultiLayerResidualPool(dim, layers, "last", 16, _heads(dim))


def _heads(dim: int) -> int:
    return next(heads for heads in (4, 2, 1) if dim % heads == 0)


# on one layer: head(dim, pool of the tokens) gives a pool of tokens
OF_TOKENS: dict[str, Callable[[int, nn.Module], nn.Module]] = {
    "perceiver": _perceiver,
    "perceiver_repaired": _perceiver_repaired,
    "mlp": _mlp,
    "latent_attention": _latent_attention,
}
# on all layers: head(dim, number of layers) gives a pool of layers, the tokens of each pooled before
OF_LAYERS: dict[str, Callable[[int, int], nn.Module]] = {
    "multilayer": _multilayer,
    "multilayer_repaired": _multilayer_repaired,
    "softmax_mix": SoftmaxMix,
}
HEADS = OF_TOKENS | OF_LAYERS

CAUSAL, BOTH = MASKS
DESIGNS = {
    # the paper's five; its first has nothing to repair
    "1 last, causal": Design(CAUSAL, "last", says="the last token of the last layer; the paper's baseline"),
    "2 last-layer, causal": Design(
        CAUSAL, "last", head="perceiver",
        says="faithful: latents ask the last token alone, so that softmax is 1 and the pool an MLP",
    ),
    "2r last-layer, causal": Design(
        CAUSAL, "last", head="perceiver_repaired",
        says="repaired: latents ask every real token; starts as the last token's state",
    ),
    "3 multi-layer, causal": Design(
        CAUSAL, "last", "all", "multilayer",
        says="faithful: latents ask the last token's state in each layer, plus W, which names the layers",
    ),
    "3r multi-layer, causal": Design(
        CAUSAL, "last", "all", "multilayer_repaired",
        says="repaired: each layer normed before W is added; starts as the last token's state",
    ),
    "4 last-layer, both ways": Design(
        BOTH, "mean", head="perceiver",
        says="faithful: latents ask every position of the last layer, padding included",
    ),
    "4r last-layer, both ways": Design(
        BOTH, "mean", head="perceiver_repaired",
        says="repaired: latents ask every real token; starts as the mean",
    ),
    "5 multi-layer, both ways": Design(
        BOTH, "mean", "all", "multilayer",
        says="faithful: latents ask the mean of each layer, plus W, which names the layers",
    ),
    "5r multi-layer, both ways": Design(
        BOTH, "mean", "all", "multilayer_repaired",
        says="repaired: each layer normed before W is added; starts as the mean",
    ),
    # controls that the paper has not
    "mean, causal": Design(CAUSAL, "mean", says="control: the mean of the last layer, causal"),
    "mean, both ways": Design(BOTH, "mean", says="control: the mean of the last layer, both ways"),
    "last, both ways": Design(BOTH, "last", says="control: the last token of the last layer, both ways"),
    "MLP on last, causal": Design(
        CAUSAL, "last", head="mlp",
        says="control: a plain MLP on the last token with the parameters of the paper's pool",
    ),
    "softmax mix, both ways": Design(
        BOTH, "mean", "all", "softmax_mix", says="control: one weight a layer, on the mean of each"
    ),
    "latent attention, both ways": Design(
        BOTH, "mean", head="latent_attention", says="control: NV-Embed's, tokens ask latents, then the mean"
    ),
    "best layer, both ways": Design(
        BOTH, "mean", "best", says="control: the mean of the single layer that validation prefers"
    ),
}  # fmt: skip


def table() -> list[dict[str, object]]:
    """The designs as rows: name, mask, tokens, layers, head, says."""
    return [{"design": name} | {key: getattr(one, key) for key in one.__dataclass_fields__} for name, one in
            DESIGNS.items()]  # fmt: skip
