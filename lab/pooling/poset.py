"""Poset pooling: the maximum over the filters of a partial order on the four places of a 2 x 2 window.

A filter (up-set) of the order holds with every element all elements above it. y is the support function of the order
polytope, whose vertices the filters are.
"""

import itertools

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lab.kernels.window_pool import window_pool
from lab.pooling.spatial import check

# the sixteen unlabelled posets on four elements by their Hasse relation; a, b, c, d are the window's places row by row.
# in the order and with the labels of the authors' table (0 .. 15), which lists filters; the relations are read off it
POSETS = {
    "dual_claw": "a<d b<d c<d",
    "antichain": "",
    "pair": "a<b",
    "dual_y": "a<c b<c c<d",
    "dual_v": "a<c b<c",
    "v": "a<b a<c",
    "two_pairs": "a<b c<d",
    "y": "a<b b<c b<d",
    "triple": "a<b b<c",
    "claw": "a<b a<c a<d",
    "long_v": "a<b a<c c<d",
    "bowtie": "a<c a<d b<c b<d",
    "n": "a<b c<b c<d",
    "chain": "a<b b<c c<d",
    "diamond": "a<b a<c b<d c<d",
    "dual_long_v": "a<c b<d c<d",
}
PLACES = "abcd"


def filters(relation: str) -> Float[Tensor, "F 4"]:
    """The filters of the order that "a<b b<c ..." generates as rows of 0 and 1: by size, the empty one first."""
    pairs = [pair.split("<") for pair in relation.split()]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"a relation is made of pairs, as in 'a<b b<c' for a < b < c; got {relation!r}")
    below = {(x, y) for x, y in pairs}
    if unknown := {x for pair in below for x in pair} - set(PLACES):
        raise ValueError(f"a relation speaks of a, b, c and d, as in 'a<b b<c'; got {sorted(unknown)} in {relation!r}")
    for middle, x, y in itertools.product(PLACES, repeat=3):  # the transitive closure
        if (x, middle) in below and (middle, y) in below:
            below.add((x, y))
    if any((x, x) in below for x in PLACES):
        raise ValueError(f"the relation must have no cycle; got {relation!r}")
    subsets = (set(s) for size in range(5) for s in itertools.combinations(PLACES, size))
    kept = [s for s in subsets if all(y in s for x, y in below if x in s)]
    return torch.tensor([[float(x in s) for x in PLACES] for s in kept])


class PosetPool2d(nn.Module):
    """Poset pooling, y = max over the filters F of a poset on a 2 x 2 window of sum_{i in F} x_i; never below 0.

    x (B, C, H, W) -> (B, C, ceil(H/2), ceil(W/2)), odd sizes continued by zeros at the right and the bottom. poset: a
    name of POSETS or a relation such as "a<b a<c". The antichain is sum_i relu(x_i), the chain the largest sum of a
    suffix. No parameters; equal sums: the first filter has the gradient. "Poset filters", arXiv 2412.06097 (the
    authors' code was read, equation not known). https://arxiv.org/abs/2412.06097
    """

    filters: Tensor

    def __init__(self, poset: str = "n") -> None:
        super().__init__()
        if not isinstance(poset, str) or (poset not in POSETS and "<" not in poset):
            raise ValueError(f"poset must be one of {sorted(POSETS)} or a relation such as 'a<b a<c'; got {poset!r}")
        self.poset = poset
        self.register_buffer("filters", filters(POSETS.get(poset, poset)), persistent=False)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C oH oW"]:
        check(x, 2)
        size = [min(2, n) for n in x.shape[2:]]
        if size != [2, 2]:
            raise ValueError(f"x must have at least 2 rows and 2 columns; got {tuple(x.shape[2:])}")
        return window_pool(x, "poset", 2, ceil_mode=True, weight=self.filters)

    def extra_repr(self) -> str:
        return f"poset={self.poset!r}"
