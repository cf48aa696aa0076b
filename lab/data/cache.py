"""Where the lab keeps what took long to make."""

import os
from pathlib import Path


def folder() -> Path:
    """The lab's cache folder, not created: $LAB_CACHE, else $XDG_CACHE_HOME/lab, else ~/.cache/lab."""
    if own := os.environ.get("LAB_CACHE"):
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared).expanduser() if shared else Path.home() / ".cache") / "lab"
