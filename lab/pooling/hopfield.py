"""Pooling as retrieval from a modern Hopfield network: tokens are the stored patterns, learned queries the states."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lab.kernels.layout import Segments, Tokens
from lab.pooling.arguments import check_counts
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
        check_counts(quantity=quantity)
        check_counts(0, update_steps=update_steps)
        beta = (1.0 if static else width**-0.5) if beta is None else beta
        if not 0 <= beta < math.inf:
            raise ValueError(f"beta must be 0 or more and finite; got {beta}")
        self.dim, self.num_heads, self.quantity, self.static = dim, num_heads, quantity, static
        self.beta, self.update_steps = beta, update_steps
        self.state = nn.Parameter(0.02 * torch.randn(quantity, dim))

        def part(make, *sizes) -> nn.Module:
            return nn.Identity() if static else make(*sizes)

        self.state_norm, self.stored_norm = part(nn.LayerNorm, dim), part(nn.LayerNorm, dim)
        # the keys' bias shifts all scores of a state alike: only an update has it
        self.query, self.key = part(nn.Linear, dim, dim), part(nn.Linear, dim, dim, update_steps > 0)
        self.value, self.out = part(nn.Linear, dim, dim), part(nn.Linear, dim, dim)

    def stored(self, x: Tokens, mask: Segments) -> tuple[Float[Tensor, "B T D"], Tensor]:
        """LN(x), of which keys and values are maps, and the padded mask [B, T]."""
        x, mask = side_by_side(x.to(self.state.dtype), mask)
        return self.stored_norm(x), mask

    def start(self, rows: int) -> Float[Tensor, "B H Q C"]:
        """The learned states before any update."""
        query = self.query(self.state_norm(self.state)).unflatten(-1, (self.num_heads, -1)).transpose(0, 1)
        return query.expand(rows, -1, -1, -1)

    def associate(self, state: Tensor, stored: Tensor, mask: Tensor) -> Float[Tensor, "B H Q D"]:
        """sum_t softmax_t(beta state . key_t) LN(x_t), without keys: state . W_k x = (W_k^T state) . x.

        A state is one vector of a head, so this is Q H D products for each token instead of D^2.
        """
        asked = torch.einsum("bhqc,hcd->bhqd", self.beta * state, self._weight(self.key)).flatten(1, 2)
        weights = segment_softmax(stored @ asked.mT, mask)  # [B, T, H Q]
        return (weights.mT @ stored).unflatten(1, state.shape[1:3])

    def read(self, part: nn.Module, seen: Float[Tensor, "B H Q D"]) -> Float[Tensor, "B H Q C"]:
        """The part's map (keys or values) of what was associated, head by head: a mean of maps is the map of a mean."""
        met = torch.einsum("bhqd,hcd->bhqc", seen, self._weight(part))
        return met if self.static else met + part.bias.unflatten(0, (self.num_heads, 1, -1))

    def _weight(self, part: nn.Module) -> Float[Tensor, "H C D"]:
        whole = torch.eye(self.dim, dtype=self.state.dtype, device=self.state.device) if self.static else part.weight
        return whole.unflatten(0, (self.num_heads, -1))

    def trajectory(self, x: Tokens, mask: Segments) -> list[Float[Tensor, "B H Q C"]]:
        """The states after 0, 1 ... update_steps updates."""
        stored, mask = self.stored(x, mask)
        states = [self.start(len(stored))]
        for _ in range(self.update_steps):
            states.append(self.read(self.key, self.associate(states[-1], stored, mask)))
        return states

    def energy(self, x: Tokens, mask: Segments) -> Float[Tensor, "S steps H Q"]:
        """E(q) = -1/beta ln sum_t exp(beta q . k_t) + |q|^2 / 2 + ln(n) / beta + max_t |k_t|^2 / 2, at each step.

        Never negative and never rising along the updates; 0 for rows without tokens.
        """
        check(x, mask, self.dim)
        if self.beta == 0:
            raise ValueError("the energy has no value at beta = 0; construct the pool with beta > 0")
        stored, real = self.stored(x, mask)
        keys = self.key(stored).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # [B, H, T, C]
        states = torch.stack(self.trajectory(x, mask), 1)  # [B, S, H, Q, C]
        ignored = ~real[:, None, None, None]
        scores = (self.beta * states @ keys[:, None].mT).masked_fill(ignored, -torch.inf)
        largest = (keys.square().sum(-1) * real[:, None]).amax(-1)[:, None, :, None]
        log_n = real.sum(1).clamp(min=1).log()[:, None, None, None]
        energy = (log_n - scores.logsumexp(-1)) / self.beta + (states.square().sum(-1) + largest) / 2
        return blank(energy, real)

    def forward(self, x: Tokens, mask: Segments) -> Float[Tensor, "S K"]:
        check(x, mask, self.dim)
        stored, real = self.stored(x, mask)
        state = self.start(len(stored))
        for _ in range(self.update_steps):
            state = self.read(self.key, self.associate(state, stored, real))
        met = self.read(self.value, self.associate(state, stored, real))  # [B, H, Q, C]
        return blank(self.out(met.transpose(1, 2).flatten(2)), real).flatten(1).to(x.dtype)
