"""Where the lab keeps what took long to make."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path


def folder() -> Path:
    """The lab's cache folder, not created: $LAB_CACHE, else $XDG_CACHE_HOME/lab, else ~/.cache/lab."""
    if own := os.environ.get("LAB_CACHE"):
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared).expanduser() if shared else Path.home() / ".cache") / "lab"


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """One process at a time makes `path`: another waits, and should look for it again.

    A killed one's lock ends with it. Where no lock can be written there is none, and nothing to be waited for.
    """
    from filelock import FileLock

    lock = path.with_name(f"{path.name}.lock")
    with ExitStack() as held:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(FileLock(lock))
        except OSError:
            yield
            return
        yield
        with suppress(OSError):  # whoever waits for this very file, or makes a new one, finds `path` made
            lock.unlink()
