"""All-layer hidden states of a model, pooled while they pass.

states      one labelled array h[layer, pool, example, dim] for a list of texts or images
to_zarr     the same on disk for a corpus larger than memory, resumable, on many machines; open_store reads it
asked       the state where a template asks a frozen model for a text in one word
moments     statistics of every token of every layer, without keeping one
tokens      every token of a few texts, with what it says; ragged gives one layer as vectors and offsets
logit_lens  what a decoder would say if it stopped at a layer
tap         the raw states of named modules, for as long as a `with` block lasts
part_influence  how much attention and the feed-forward part of each block turn what passes
blocks      which module is which layer: look here first
"""

from lab.capture.asked import asked
from lab.capture.lens import logit_lens
from lab.capture.moments import moments
from lab.capture.parts import part_influence
from lab.capture.states import states
from lab.capture.store import open_store, to_zarr
from lab.capture.tap import blocks, tap
from lab.capture.tokens import ragged, tokens

__all__ = [
    "asked", "blocks", "logit_lens", "moments", "open_store", "part_influence", "ragged", "states", "tap", "to_zarr",
    "tokens",
]  # fmt: skip
