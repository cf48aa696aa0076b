"""Token pools inside PyTorch Geometric's layers.

    SAGEConv(16, 32, aggr=GeometricAggregation(GeM(16)))

Importing this file imports PyTorch Geometric (seconds), which is why lab.pooling does not.
"""

from torch_geometric.nn import aggr

from lab.pooling.aggregation import Aggregation


class GeometricAggregation(Aggregation, aggr.Aggregation):
    """Aggregation with PyTorch Geometric's base class, without which its layers take no aggregation.

    pool as in Aggregation; x [N, D], index [N] or ptr [S + 1] -> [S, D']. An index need not be sorted.
    """
