"""Multi-layers trainable pooling, the founding paper's pool: as its code has it, and repaired.

Tang & Yang, "Pooling And Attention: What Are Effective Designs For LLM-Based Embedding Models?", 2024.
https://arxiv.org/abs/2409.02727. Formulas read from the authors' code (MultiLayersTrainablePooling.py).

In both, latents ask and the layers' vectors answer (latent.LatentReader). The paper's last-layer sibling, where the
tokens of one layer answer, is latent.PerceiverPool, which says how to build it.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lab.pooling.arguments import check_counts, check_positive
from lab.pooling.latent import LatentReader
from lab.pooling.layers import built_for, check_layers, hidden, mean, mix, with_inverse_rms


def _layers_last(h: Tensor) -> Tensor:
    """(L, ..., D) -> (N, L, D)."""
    return h.flatten(1, -2).transpose(0, 1) if h.ndim > 2 else h[None]


class MultiLayerPool(nn.Module):
    """Multi-layers trainable pooling as the authors' code has it: LatentReader on h_l + W_l, then length 1.

    h (L, ..., D), mask (L,) -> (..., D). e = normalize(reader(h + W)), W (L, D) from N(0, 1): it is added, so it names
    the layers; it does not weigh them. With W = 0 the pool cannot tell one order of the layers from another.

    dim 4096, num_layers 32: 1.278 billion parameters at the default sizes, which are the paper's (r = 768 latents, 32
    heads of 2048). Give it the layers 1 .. l (the paper drops the embedding output) of the last token (causal) or
    of the masked mean (bidirectional). normalize = False leaves out the last step, which the code always takes.
    No norm before the sum: the scale of a layer matters. The mask is ours. A row of zeros (an empty text) is not
    special here either: it gives the finite, constant vector of h = 0.

    Section numbers are not known; code and figure 2 of the README agree. https://arxiv.org/abs/2409.02727
    """

    def __init__(
        self,
        dim: int,
        num_layers: int,
        latents: int = 768,
        heads: int = 32,
        dim_head: int = 2048,
        normalize: bool = True,
    ) -> None:
        super().__init__()
        built_for(dim, num_layers)
        self.dim, self.num_layers, self.latents = dim, num_layers, latents
        self.heads, self.dim_head, self.normalize = heads, dim_head, normalize
        self.layer_embedding = nn.Parameter(torch.randn(num_layers, dim))
        self.reader = LatentReader(dim, latents, heads, dim_head)

    def forward(self, h: Float[Tensor, "L *N D"], mask: Bool[Tensor, " L"] | None = None) -> Float[Tensor, "*N D"]:
        check_layers(h, self.num_layers, mask, self.dim)
        x = _layers_last(hidden(h, mask).to(self.layer_embedding.dtype)) + self.layer_embedding
        e = self.reader(x, None if mask is None else mask.expand(x.shape[:2])).reshape(h.shape[1:])
        return (nn.functional.normalize(e, dim=-1) if self.normalize else e).to(h.dtype)


class MultiLayerResidualPool(nn.Module):
    """Multi-layers trainable pooling, repaired: it starts, bit for bit, as the baseline it is to improve on.

    h (L, ..., D), mask (L,) -> (..., D).   x_l = g_l * h_l / rms(h_l) + W_l,   y = b(h) + U reader(x)

    b is the last layer that may be read (baseline = "last": the plain mean-pooled or last-token embedding, whichever
    the states are) or the mean of the layers (baseline = "mean"). U (D, D) starts at 0, so y = b(h) exactly at the
    first step; from the second on the reader learns. g (L, D) starts at 1: each layer has its own RMSNorm, and
    a layer of a hundred times the scale counts no more for it. W (L, D) starts at N(0, 0.02^2). Heads are free and
    small by default, dim_head is dim // heads unless told. A row of zeros gives zeros. It is not normalised.

    Ours; what it repairs is in section 1 of the paper's own code: no mask over keys, layers of unlike scale summed
    unnormed, nothing in the output initialised at zero, head sizes fixed at 32 x 2048. https://arxiv.org/abs/2409.02727
    """

    def __init__(
        self,
        dim: int,
        num_layers: int,
        baseline: str = "last",
        latents: int = 16,
        heads: int = 4,
        dim_head: int | None = None,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        built_for(dim, num_layers)
        if baseline not in ("last", "mean"):
            raise ValueError(f"baseline must be 'last' (the last layer) or 'mean' (of the layers); got {baseline!r}")
        check_counts(heads=heads)
        dim_head = max(1, dim // heads) if dim_head is None else dim_head
        check_positive(eps=eps)
        self.dim, self.num_layers, self.baseline, self.eps = dim, num_layers, baseline, eps
        self.latents, self.heads, self.dim_head = latents, heads, dim_head
        self.gain = nn.Parameter(torch.ones(num_layers, dim))
        self.layer_embedding = nn.Parameter(0.02 * torch.randn(num_layers, dim))
        self.reader = LatentReader(dim, latents, heads, self.dim_head)
        self.out = nn.Linear(dim, dim, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, h: Float[Tensor, "L *N D"], mask: Bool[Tensor, " L"] | None = None) -> Float[Tensor, "*N D"]:
        check_layers(h, self.num_layers, mask, self.dim)
        read = hidden(h, mask).to(torch.promote_types(h.dtype, torch.float32))
        whole = self.baseline == "mean" and mask is None
        base = mean(read) if whole else mix(read, self._baseline_weights(mask, h.device))
        x = _layers_last(read.to(self.gain.dtype))
        x = torch.mul(*with_inverse_rms(x, self.eps)) * self.gain + self.layer_embedding
        more = self.out(self.reader(x, None if mask is None else mask.expand(x.shape[:2]))).reshape(h.shape[1:])
        empty = (read == 0).all(-1).all(0)
        return (base + more.masked_fill(empty[..., None], 0)).to(h.dtype)

    def _baseline_weights(self, mask: Tensor | None, device: torch.device) -> Tensor:
        allowed = torch.ones(self.num_layers, dtype=torch.bool, device=device) if mask is None else mask
        if self.baseline == "mean":
            return allowed.double() / allowed.sum()
        return (allowed & (allowed.cumsum(0) == allowed.sum())).double()
