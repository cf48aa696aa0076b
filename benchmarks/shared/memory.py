"""The most memory a program has had at once, in MiB, as Linux counts it.

Not getrusage's ru_maxrss: that of a program begins with what the process that started it had.
"""

import ctypes
from pathlib import Path


def number(file: str, name: str) -> int:
    """What a file of /proc says, in the file's unit."""
    lines = Path(file).read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


def highest() -> float:
    """Since this program began, or since `anew`."""
    return number("/proc/self/status", "VmHWM") / 1024


def anew() -> None:
    """Count from here; what was freed before goes back first, else what comes would live on it."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
