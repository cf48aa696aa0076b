"""What a pool listens to and what disturbs it, measured from outside: nothing here knows how a pool is made.

Shares come from gradients, so they hold for any pool; a pool that passes no gradient has no shares: zeros.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lab.pooling.calls import layer_input
from lab.pooling.functional import counts, positions


def slopes(f: Callable[[Tensor], Tensor], x: Tensor, directions: int, seed: int) -> Float[Tensor, "..."]:
    """d<f(x), r> / dx for some random directions r ~ N(0, 1) of the output, stacked; zeros where f passes none."""
    draw = torch.Generator().manual_seed(seed)
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        y = f(x)
        if not y.requires_grad:
            return x.new_zeros(directions, *x.shape)
        r = torch.randn(directions, *y.shape, generator=draw, dtype=torch.float64).to(y)
        found = [torch.autograd.grad(y, x, r_k, retain_graph=True, materialize_grads=True)[0] for r_k in r]
    return torch.stack(found)


def gradient_share(
    pool: nn.Module, x: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T"], directions: int = 4, seed: int = 0
) -> Float[Tensor, "B T"]:
    """How much of what the pool gives hangs on each token: share_t = g_t / sum_u g_u, g_t = sum_r |d<y, r>/dx_t|.

    1/n everywhere for the mean, one-hot for the first token; rows sum to 1, or to 0 where no gradient passes.
    """
    g = torch.linalg.vector_norm(slopes(lambda x: pool(x, mask), x, directions, seed), dim=-1).sum(0)
    return _shares(g, (1,))


def layer_share(pool: nn.Module, h: Float[Tensor, "L B D"], directions: int = 4, seed: int = 0) -> Float[Tensor, "L B"]:
    """gradient_share of the layers of each text: columns sum to 1."""
    g = torch.linalg.vector_norm(slopes(lambda h: over_layers(pool, h), h, directions, seed), dim=-1).sum(0)
    return _shares(g, (0,))


def over_layers(pool: nn.Module, h: Float[Tensor, "L B D"]) -> Float[Tensor, "B E"]:
    """The pool of one vector a layer, also where it reads several summaries of each."""
    return pool(layer_input(pool, h))


def map_share(
    pool: nn.Module, x: Float[Tensor, "B C H W"], directions: int = 256, seed: int = 0
) -> Float[Tensor, "B H W"]:
    """gradient_share of the places of a feature map, over its channels: maps sum to 1.

    A place reaches few outputs, so the random directions do not average out by themselves: there are many of them, as
    rows of one batch. The pool must treat rows apart, as all do in eval mode.
    """
    g = slopes(pool, x.repeat(directions, 1, 1, 1), 1, seed)[0].unflatten(0, (directions, len(x)))
    g = torch.linalg.vector_norm(g, dim=2).sum(0)
    return _shares(g, (1, 2))


def _shares(g: Tensor, dims: tuple[int, ...]) -> Tensor:
    total = g.sum(dims, keepdim=True)
    return g / torch.where(total > 0, total, 1)


def sensitivity(
    pool: nn.Module, x: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T"], factor: float = 20.0
) -> dict[str, Float[Tensor, " B"]]:
    """How far each row's result moves, in units of how far rows lie from their average (so 1 is another text).

    padding   NaN padding is put in front and behind; inf where it leaks
    length    the row is read twice over, x_1 .. x_n x_1 .. x_n
    order     the row is read backwards, x_n .. x_1
    outlier   the state of the middle token, number ceil(n / 2), is multiplied by `factor`
    """
    nothing, none = x.new_full((len(x), 3, x.shape[2]), torch.nan), mask.new_zeros(len(x), 3)
    middle = positions(mask) == ((counts(mask) + 1) // 2)[:, None]
    changed = {
        "padding": (torch.cat([nothing, x, nothing], 1), torch.cat([none, mask, none], 1)),
        "length": (torch.cat([x, x], 1), torch.cat([mask, mask], 1)),
        "order": (x.flip(1), mask.flip(1)),
        "outlier": (torch.where((middle & mask)[..., None], factor * x, x), mask),
    }
    return _moved(pool, (x, mask), changed)


def layer_sensitivity(
    pool: nn.Module, h: Float[Tensor, "L B D"], factor: float = 20.0
) -> dict[str, Float[Tensor, " B"]]:
    """sensitivity to the order of layers, the last first, and to an outlier, layer ceil(L / 2) of L times `factor`."""
    loud = h.clone()
    loud[(len(h) - 1) // 2] *= factor
    return _moved(lambda h: over_layers(pool, h), (h,), {"order": (h.flip(0),), "outlier": (loud,)})


def map_sensitivity(
    pool: nn.Module, x: Float[Tensor, "B C H W"], factor: float = 20.0
) -> dict[str, Float[Tensor, " B"]]:
    """sensitivity to a shift of the map one place to the right, its left edge repeated, and to an outlier: the place in
    the middle (H // 2, W // 2) times `factor`."""
    loud = x.clone()
    loud[:, :, x.shape[2] // 2, x.shape[3] // 2] *= factor
    shifted = torch.cat([x[..., :1], x[..., :-1]], -1)
    return _moved(pool, (x,), {"shift": (shifted,), "outlier": (loud,)})


@torch.no_grad()
def _moved(f: Callable[..., Tensor], given: tuple, changed: dict[str, tuple]) -> dict[str, Tensor]:
    """|f(changed) - f(given)| of each row / sqrt(mean_b |y_b - mean y|^2), a unit without what all rows share.

    ValueError: rows that cannot have a unit, fewer than two.
    """
    y = f(*given).flatten(1)
    if len(y) < 2:
        raise ValueError(f"the spread of the results is the unit, so two rows or more are needed; got {len(y)}")
    unit = (y - y.mean(0)).square().sum(1).mean().sqrt()
    moved = {name: torch.linalg.vector_norm(f(*other).flatten(1) - y, dim=1) for name, other in changed.items()}
    # a pool that gives every row the same has no unit: unmoved is 0 all the same
    return {name: torch.where(d == 0, d, d / unit).nan_to_num(torch.inf) for name, d in moved.items()}


@torch.no_grad()
def pooled(pool: nn.Module, x: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T"], rows: int = 256) -> Tensor:
    """pool(x, mask) in bites of some rows, without a graph."""
    return torch.cat([pool(x[i : i + rows], mask[i : i + rows]) for i in range(0, len(x), rows)])
