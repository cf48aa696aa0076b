"""All-layer hidden states of a model, pooled while they pass.

`states` gives one labelled array h[layer, pool, example, dim] for a list of texts, `to_zarr` the same on disk for a
corpus larger than memory, resumable and on many machines; `moments` statistics of every token without keeping one,
`tokens` every token of a few texts with what it says; `tap` gives the raw states of named modules for as long as a
`with` block lasts; `blocks` shows which module is which layer.
"""

from lab.capture.moments import moments
from lab.capture.states import states
from lab.capture.store import open_store, to_zarr
from lab.capture.tap import blocks, tap
from lab.capture.tokens import tokens

__all__ = ["blocks", "moments", "open_store", "states", "tap", "to_zarr", "tokens"]
