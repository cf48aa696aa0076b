"""Pooling as retrieval from a modern Hopfield network: tokens are the stored patterns, learned queries the states."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lab.kernels.layout import Segments, Tokens
from lab.pooling.attention import split
from lab.pooling.functional import check, segment_softmax
from lab.pooling.selection import blank, side_by_side


class HopfieldPooling(nn.Module):
    """Hopfield pooling: q = W_q LN(Q), k_t = W_k LN(x_t); `update_steps` times q <- sum_t softmax_t(beta q . k_t) k_t;

        y = W_o concat_h sum_t softmax_t(beta q_h . k_th) v_th,  v_t = W_v LN(x_t)

    x (B, T, D), mask (B, T) -> (B, quantity * D), or ragged. update_steps = 0 (the default) is attention with a learned
    query. beta = 0 retrieves the mean, beta -> inf the nearest stored pattern; None is 1 / sqrt(D / num_heads), or 1
    when static. `static=True` has no projections and no norms: y is retrieved from x itself, in which energy() falls
    with each update. Q [quantity, D] ~ N(0, 0.02^2), torch's Linear init. A row without tokens gives zeros (the
    official code NaN). The number of updates is fixed: a stop on convergence would wait for the device at each step.
    Ramsauer et al., ICLR 2021, eq. 2 (energy), 3 (update), 10 (layer) (numbers recalled).
    https://arxiv.org/abs/2008.02217
    ValueError: dim not divisible by num_heads, beta or update_steps negative.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 1,
        quantity: int = 1,
        beta: float | None = None,
        update_steps: int = 0,
        static: bool = False,
    ) -> None:
        super().__init__()
        width = split(dim, num_heads)
        beta = (1.0 if static else width**-0.5) if beta is None else beta
        if not 0 <= beta < math.inf or update_steps < 0:
            raise ValueError(f"beta and update_steps must be 0 or more; got {beta} and {update_steps}")
        self.dim, self.num_heads, self.quantity, self.static = dim, num_heads, quantity, static
        self.beta, self.update_steps = beta, update_steps
        self.state = nn.Parameter(0.02 * torch.randn(quantity, dim))

        def part(make, *sizes) -> nn.Module:
            return nn.Identity() if static else make(*sizes)

        self.state_norm, self.stored_norm = part(nn.LayerNorm, dim), part(nn.LayerNorm, dim)
        self.query, self.key = part(nn.Linear, dim, dim), part(nn.Linear, dim, dim)
        self.value, self.out = part(nn.Linear, dim, dim), part(nn.Linear, dim, dim)

    def patterns(self, x: Tokens, mask: Segments) -> tuple[Tensor, Tensor, Tensor]:
        """LN(x), the keys [B, H, T, C] of the stored patterns, and the padded mask [B, T]."""
        x, mask = side_by_side(x.to(self.state.dtype), mask)
        stored = self.stored_norm(x)
        return stored, self.key(stored).unflatten(-1, (self.num_heads, -1)).transpose(1, 2), mask

    def start(self, rows: int) -> Float[Tensor, "B H Q C"]:
        """The learned states before any update."""
        query = self.query(self.state_norm(self.state)).unflatten(-1, (self.num_heads, -1)).transpose(0, 1)
        return query.expand(rows, -1, -1, -1)

    def associate(self, state: Tensor, keys: Tensor, mask: Tensor) -> Float[Tensor, "B H Q T"]:
        """softmax_t(beta state . key_t) over the real tokens."""
        _, H, Q, _ = state.shape
        scores = (self.beta * state @ keys.mT).flatten(1, 2).mT  # [B, T, H Q]
        return segment_softmax(scores, mask).mT.unflatten(1, (H, Q))

    def trajectory(self, x: Tokens, mask: Segments) -> list[Float[Tensor, "B H Q C"]]:
        """The states after 0, 1 ... update_steps updates."""
        _, keys, mask = self.patterns(x, mask)
        states = [self.start(len(keys))]
        for _ in range(self.update_steps):
            states.append(self.associate(states[-1], keys, mask) @ keys)
        return states

    def energy(self, x: Tokens, mask: Segments) -> Float[Tensor, "S steps H Q"]:
        """E(q) = -1/beta ln sum_t exp(beta q . k_t) + |q|^2 / 2 + ln(n) / beta + max_t |k_t|^2 / 2, at each step.

        Never negative and never rising along the updates; 0 for rows without tokens.
        """
        check(x, mask)
        if self.beta == 0:
            raise ValueError("the energy has no value at beta = 0; construct the pool with beta > 0")
        _, keys, real = self.patterns(x, mask)
        states = torch.stack(self.trajectory(x, mask), 1)  # [B, S, H, Q, C]
        ignored = ~real[:, None, None, None]
        scores = (self.beta * states @ keys[:, None].mT).masked_fill(ignored, -torch.inf)
        largest = (keys.square().sum(-1) * real[:, None]).amax(-1)[:, None, :, None]
        log_n = real.sum(1).clamp(min=1).log()[:, None, None, None]
        energy = (log_n - scores.logsumexp(-1)) / self.beta + (states.square().sum(-1) + largest) / 2
        return blank(energy, real)

    def forward(self, x: Tokens, mask: Segments) -> Float[Tensor, "S K"]:
        check(x, mask)
        stored, keys, real = self.patterns(x, mask)
        state = self.start(len(keys))
        for _ in range(self.update_steps):
            state = self.associate(state, keys, real) @ keys
        values = self.value(stored).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        met = self.associate(state, keys, real) @ values  # [B, H, Q, C]
        return blank(self.out(met.transpose(1, 2).flatten(2)), real).flatten(1).to(x.dtype)
