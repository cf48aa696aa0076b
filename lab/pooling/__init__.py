"""The pooling operators: any module with `forward(x, mask)`, x [B, T, D], mask bool [B, T] with True = real token.

The contract of every one: rows without a real token give zeros and zero gradient, padding is never read (NaN in it
does not leak), its side does not matter, half inputs accumulate in float32 and return their own dtype.
"""

from lab.pooling import functional
from lab.pooling.token import (
    FirstPool,
    LastPool,
    LinearPool,
    MaxPool,
    MeanPool,
    PositionMeanPool,
    SqrtMeanPool,
)

POOLS = {
    "first": FirstPool,
    "last": LastPool,
    "mean": MeanPool,
    "max": MaxPool,
    "sqrt_mean": SqrtMeanPool,
    "position_mean": PositionMeanPool,
}

__all__ = [
    "POOLS",
    "FirstPool",
    "LastPool",
    "LinearPool",
    "MaxPool",
    "MeanPool",
    "PositionMeanPool",
    "SqrtMeanPool",
    "functional",
]
