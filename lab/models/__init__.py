"""What we look at: pretrained models from a folder or the hub, and tiny ones with random weights."""

from lab.models.load import bundled, load
from lab.models.loaded import Loaded, describe
from lab.models.tiny import TINY, tiny

__all__ = ["TINY", "Loaded", "bundled", "describe", "load", "tiny"]
