"""Token pools called the way PyTorch Geometric calls its aggregations: flat x, and an index or a ptr.

PyTorch Geometric need not be installed; its layers want a base class of its own, which geometric.py adds. Its
convention, read from its documentation: x [N, D] holds the items of all sets, index [N] says which set each belongs to,
or ptr [S + 1] where each set begins and ends in x; y [S, D'] has one row for each set, and sets without items have one
too. Where both are given, ptr is what counts.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class Aggregation(nn.Module):
    """A token pool as a module with forward(x [N, D], index [N] or ptr [S + 1]) -> [S, D'].

    pool takes ragged input, as the pools of this package do; ptr is its offsets. An index need not be sorted (over
    there some aggregations ask for it): items are put side by side first, in their order within the set, which first,
    last and position-weighted pools read. Neither given, all items are one set. Sets without items get what the pool
    gives for an empty row, zeros. dim_size is the number of sets, where index cannot say how many come after its
    largest. dim and max_num_elements (of the largest set, a hint) are there because PyTorch Geometric passes them; dim
    must name the first of the two axes, the hint is not needed.
    """

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.pool = pool

    def forward(
        self,
        x: Float[Tensor, "N D"],
        index: Int[Tensor, " N"] | None = None,
        ptr: Int[Tensor, " R"] | None = None,
        dim_size: int | None = None,
        dim: int = -2,
        max_num_elements: int | None = None,  # noqa: ARG002
    ) -> Float[Tensor, "S E"]:
        if not isinstance(x, Tensor):
            raise TypeError(f"x must be a tensor; got {type(x).__name__}")
        if x.ndim != 2 or dim not in (-2, 0):
            raise ValueError(f"x must be [items, dim], dim its first axis (-2 or 0); got {tuple(x.shape)}, dim {dim}")
        if ptr is None:
            x, ptr = by_set(x, index, dim_size)
        elif dim_size is not None and dim_size != len(ptr) - 1:
            raise ValueError(f"ptr has {len(ptr) - 1} sets, dim_size says {dim_size}; leave one of them out")
        return self.pool(x, ptr)


def by_set(
    x: Float[Tensor, "N D"], index: Int[Tensor, " N"] | None, dim_size: int | None
) -> tuple[Float[Tensor, "N D"], Int[Tensor, " R"]]:
    """x with the items of a set side by side, in their order, and the ptr that says where sets begin and end."""
    if index is None:
        index, dim_size = torch.zeros(len(x), dtype=torch.long, device=x.device), 1 if dim_size is None else dim_size
    if not isinstance(index, Tensor) or index.dtype not in {torch.int32, torch.int64}:
        got = index.dtype if isinstance(index, Tensor) else type(index).__name__
        raise TypeError(f"index must be a tensor of int64, the set of each item; got {got}")
    if index.shape != x.shape[:1]:
        raise ValueError(f"index must be [{len(x)}], one for each item of x; got {tuple(index.shape)}")
    low, high = (int(index.min()), int(index.max())) if len(index) else (0, -1)
    sets = high + 1 if dim_size is None else dim_size
    if low < 0 or high >= sets:
        raise ValueError(f"index must be in 0 to {sets - 1} for {sets} sets; got {low} to {high}")
    counts = torch.bincount(index, minlength=sets)
    ptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return x[index.argsort(stable=True)], ptr
