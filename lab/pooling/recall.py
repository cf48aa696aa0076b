"""What a modern Hopfield network gives back of its stored patterns, between their mean (beta = 0) and one of them."""

from collections.abc import Sequence

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from lab.pooling.hopfield import HopfieldPooling


@torch.no_grad()
def recall(
    stored: Float[Tensor, "N D"], asked: Float[Tensor, "Q D"], betas: Sequence[float | int], *, updates: int = 1
) -> xr.Dataset:
    """Each state after 0 .. updates updates q <- sum_t softmax_t(beta q . x_t) x_t: how far, and of how many patterns.

    state[beta, step, query, dim]; error, its distance to the stored pattern that the first state is nearest to by their
    product; moved, the length of the last step; energy (`HopfieldPooling.energy`; NaN at beta = 0); patterns, e to the
    entropy of its softmax, by which the next state is made: N at beta = 0, 1 where one pattern is retrieved, between
    them a metastable state, where it stays; and separation[query], by how much the first state's largest product
    exceeds its second. One update misses by at most 2 max|x| (N - 1) e^(-beta separation): exponentially little in
    beta. Computed in float64. Ramsauer et al., ICLR 2021, theorem 5 and its regimes (the number recalled).
    https://arxiv.org/abs/2008.02217
    ValueError: fewer than two patterns, no state, no beta, a negative one, or fewer than one update.
    """
    if len(stored) < 2 or len(asked) < 1 or not len(betas) or updates < 1 or stored.shape[1] != asked.shape[1]:
        raise ValueError(
            "needed are two patterns or more, states as wide as they are, some beta and 1 update or more; got patterns "
            f"{tuple(stored.shape)}, states {tuple(asked.shape)}, {len(betas)} betas and {updates} updates"
        )
    x, mask, first = stored.double(), torch.ones(1, len(stored), dtype=torch.bool), asked.double()
    highest = (first @ x.T).topk(2, dim=1)
    found = []
    for beta in betas:
        pool = HopfieldPooling(x.shape[1], quantity=len(first), beta=float(beta), update_steps=updates, static=True)
        pool.double().state.copy_(first)
        states = torch.stack(pool.trajectory(x[None], mask))[:, 0, 0]  # [step, query, dim]
        weights = (beta * states @ x.T).softmax(-1)
        energy = pool.energy(x[None], mask)[0, :, 0] if beta > 0 else torch.full(states.shape[:2], torch.nan)
        found.append(
            {
                "state": states,
                "error": (states - x[highest.indices[:, 0]]).norm(dim=-1),
                "moved": torch.cat([torch.full((1, len(first)), torch.nan), states.diff(dim=0).norm(dim=-1)]),
                "energy": energy,
                "patterns": torch.special.entr(weights).sum(-1).exp(),
            }
        )
    axes = ("beta", "step", "query")
    values = {
        name: ((*axes, "dim")[: 3 + (name == "state")], torch.stack([one[name] for one in found]).numpy())
        for name in found[0]
    }
    separation = (highest.values[:, 0] - highest.values[:, 1]).numpy()
    return xr.Dataset(values, {"beta": list(betas)}).assign(separation=("query", separation))
