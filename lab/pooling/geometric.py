"""Token pools inside PyTorch Geometric's layers.

SAGEConv(16, 32, aggr=geometric.aggregation(GeM(16)))
"""

from functools import cache

from torch import nn

from lab.pooling.aggregation import Aggregation


def aggregation(pool: nn.Module) -> Aggregation:
    """`Aggregation` with PyTorch Geometric's base class, without which its layers take none.

    pool as in Aggregation; x [N, D], index [N] or ptr [S + 1] -> [S, D']. An index need not be sorted.
    Imports PyTorch Geometric (seconds). ImportError where it is not: pip install torch_geometric.
    """
    return _built()(pool)


@cache
def _built() -> type[Aggregation]:
    from torch_geometric.nn import aggr

    return type("GeometricAggregation", (Aggregation, aggr.Aggregation), {"__module__": __name__})


def __getattr__(name: str) -> type[Aggregation]:
    """Where pickle looks for the class of a layer that it was given to."""
    if name == "GeometricAggregation":
        return _built()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
