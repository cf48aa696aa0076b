"""Small pieces of work side by side: on matrices of some hundred rows one thread each does more than two on one."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

ROOM = 2**30  # bytes that all pieces in work may take together


def abreast(work: Callable[[Any], Any], items: Iterable[Any], size: int = 0) -> list[Any]:
    """[work(item) for item in items], as many at a time as torch has threads, which they share out.

    An eigenproblem of width 384 gains little by a second thread, and loses on a busy machine, where threads wait for
    each other; two of them side by side lose nothing. size: bytes that one piece needs; pieces too large to stand side
    by side come one after another, with all threads for each.
    torch's number of threads belongs to the process: it is lower while this works, and afterwards what it was. What
    work raises is raised, after the pieces that have begun.
    """
    items = list(items)
    threads = torch.get_num_threads()
    workers = min(threads, len(items), ROOM // max(size, 1))
    if workers < 2:
        return [work(item) for item in items]
    torch.set_num_threads(threads // workers)
    try:
        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(work, items))
    finally:
        torch.set_num_threads(threads)
