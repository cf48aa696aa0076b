"""Every operator as a page of a book would write it: whole tensors, one torch call for each sign of the formula.

    TOKENS[name](pool, x, mask, *more)   LAYERS[name](pool, h)   MAPS[name](pool, x)

take the registry's pool for its parameters and give what it gives on ordinary numbers, up to rounding. They are a
second opinion in tests and the "eager" of the benchmark; they keep none of the promises about padding, empty rows and
overflow. h is [L, B, D], or [L, P, B, D] for what reads several summaries.
"""

from lab.pooling.textbook.layers import LAYERS
from lab.pooling.textbook.maps import MAPS
from lab.pooling.textbook.tokens import TOKENS

__all__ = ["LAYERS", "MAPS", "TOKENS"]
