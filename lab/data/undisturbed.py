"""The caller's random states kept, where a library seeds them all."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


@contextmanager
def undisturbed() -> Iterator[None]:
    """The random states of the caller, Python's, numpy's and torch's, as they were, whatever is seeded inside."""
    import torch

    own, theirs = random.getstate(), np.random.get_state()  # noqa: NPY002 - it is the global one that is kept
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(own)
            np.random.set_state(theirs)  # noqa: NPY002
