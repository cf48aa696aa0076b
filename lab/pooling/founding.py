"""How the founding paper feeds its pools, and how they are repaired: pools of tokens around other pools of tokens.

Tang & Yang, "Pooling And Attention: What Are Effective Designs For LLM-Based Embedding Models?", 2024.
https://arxiv.org/abs/2409.02727. What is called faithful was read from the authors' code. lab.training.designs has the
designs that these are parts of.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lab.kernels.layout import Segments, Tokens
from lab.pooling.functional import check, counts, is_padded
from lab.pooling.selection import blank
from lab.pooling.token import LastPool


class LastTokenOnly(nn.Module):
    """A pool that is shown the last real token and no other, y = pool(x[max t]).

    x (B, T, D), mask (B, T) -> (B, D'), or ragged. Model 2 of the paper: its trainable pooling gets
    `last_layer[:, -1:, :]`. Softmax over one key is 1, so queries and keys get no gradient and the pool is an MLP of
    this token. Their code takes the last position, which is the last real token only where padding stands on the left;
    here it is taken from the mask. Empty rows give zeros.
    """

    def __init__(self, pool: nn.Module, dim: int) -> None:
        super().__init__()
        self.pool, self.dim = pool, dim

    def forward(self, x: Tokens, mask: Segments) -> Float[Tensor, "S E"]:
        check(x, mask)
        last = LastPool(self.dim)(x, mask)[:, None]
        return self.pool(last, (counts(mask) > 0)[:, None])


class PaddingToo(nn.Module):
    """A pool to which padding is real, y = pool(x, all True). x (B, T, D), mask (B, T) -> (B, D'), or ragged.

    Model 4 of the paper, which gives its attention no key mask. This breaks the contract of the other pools, and is
    kept to measure what it costs: the embedding of a text depends on how far its batch is padded. Only rows without
    any real token keep to it and give zeros.
    """

    def __init__(self, pool: nn.Module, dim: int) -> None:
        super().__init__()
        self.pool, self.dim = pool, dim

    def forward(self, x: Tokens, mask: Segments) -> Float[Tensor, "S E"]:
        check(x, mask)
        return blank(self.pool(x, torch.ones_like(mask) if is_padded(mask) else mask), mask)


class ResidualPool(nn.Module):
    """A pool that starts, bit for bit, as another one: y = base(x) + U more(x). x (B, T, D) or ragged -> (B, D).

    U (D, D) starts at 0, so that at the first step y = base(x), the last token's or the mean's embedding; from the
    second step on `more` learns. The repair of the paper's last-layer trainable pooling (models 2 and 4) in the manner
    of multilayer.MultiLayerResidualPool; ours. Empty rows give zeros where both pools do.
    """

    def __init__(self, base: nn.Module, more: nn.Module, dim: int) -> None:
        super().__init__()
        self.base, self.more, self.dim = base, more, dim
        self.out = nn.Linear(dim, dim, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tokens, mask: Segments) -> Float[Tensor, "S D"]:
        more = self.out(self.more(x, mask).to(self.out.weight.dtype))
        return self.base(x, mask) + more.to(x.dtype)


class MLPPool(nn.Module):
    """A two-layer network on what another pool gives, y = normalize(W_2 gelu(W_1 LN(e) + b_1) + b_2), e = pool(x).

    x (B, T, D), mask (B, T) -> (B, D), or ragged. Without layers and without attention: the control for a trainable
    pool of as many parameters (`hidden` says how many), started as torch starts it and brought to length 1 like the
    paper's pools. Nobody has run it beside them. Ours. Empty rows give zeros.
    """

    def __init__(self, pool: nn.Module, dim: int, hidden: int) -> None:
        super().__init__()
        if min(dim, hidden) < 1:
            raise ValueError(f"dim and hidden must be at least 1; got {dim}, {hidden}")
        self.pool, self.dim, self.hidden = pool, dim, hidden
        self.norm, self.up, self.down = nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tokens, mask: Segments) -> Float[Tensor, "S D"]:
        e = self.pool(x, mask).to(self.up.weight.dtype)
        y = self.down(nn.functional.gelu(self.up(self.norm(e))))
        return blank(nn.functional.normalize(y, dim=-1), mask).to(x.dtype)
