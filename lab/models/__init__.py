"""What we look at: pretrained models from a folder or the hub, tiny ones with random weights, modules of one's own."""

from lab.models.bidirectional import bidirectional
from lab.models.dropped import without_parts
from lab.models.fingerprint import fingerprint
from lab.models.load import bundled, load
from lab.models.loaded import Loaded, describe
from lab.models.places import SITES
from lab.models.quantized import quantized
from lab.models.speaking import speaking
from lab.models.tiny import TINY, tiny
from lab.models.twin import untrained
from lab.models.wrap import wrap

__all__ = [
    "SITES",
    "TINY",
    "Loaded",
    "bidirectional",
    "bundled",
    "describe",
    "fingerprint",
    "load",
    "quantized",
    "speaking",
    "tiny",
    "untrained",
    "without_parts",
    "wrap",
]
