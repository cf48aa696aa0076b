"""Timing that a busy machine cannot fool: variants take turns, and only what ran side by side is compared."""

import ctypes
import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

SAMPLE = 1e-3  # seconds; shorter calls are repeated until a sample is as long: a timer is off by about 1e-6
MOST = 200  # repeats, as the graphs of so many are in memory at once


class Step(NamedTuple):
    """A median with the range it was drawn from."""

    median: float
    low: float
    high: float


def clock(function: Callable[[], object], device: torch.device | str = "cpu") -> float:
    """Seconds of one call, until the device is done.

    With one torch thread on a CPU these are the thread's own seconds: those that other programs take do not count.
    """
    if torch.device(device).type == "cuda":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        begin.record()
        function()
        end.record()
        torch.cuda.synchronize(device)
        return begin.elapsed_time(end) / 1000
    now = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    began = now()
    function()
    return now() - began


def keep_heap() -> bool:
    """Have this process keep the memory it frees, and say whether that could be arranged (glibc's malloc takes it).

    Else a variant that has just freed a large tensor gets pages for nothing that the next one pays the system for, 250
    ns for each 4 kB, as much as it takes to write them.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    trim_threshold, mmap_max = -1, -4
    return mallopt is not None and bool(mallopt(trim_threshold, 2**31 - 1) and mallopt(mmap_max, 0))


def sample(
    function: Callable[[Any], object], device: torch.device | str = "cpu", prepare: Callable[[], Any] = lambda: None
) -> float:
    """Seconds of function(prepare()), without those of prepare: the mean over as many calls as fill a sample.

    An untimed call goes first: else a variant would pay for the caches and the heap as the variant before it left them.
    """
    given = prepare()
    once = clock(lambda: function(given), device)
    ready = [prepare() for _ in range(max(1, min(MOST, round(SAMPLE / max(once, 1e-9)))))]

    def all_of_them() -> None:
        for each in ready:
            function(each)

    return clock(all_of_them, device) / len(ready)


def race(variants: Mapping[str, Callable[[], object]], rounds: int, patience: float = math.inf) -> dict[str, list]:
    """What each variant answers in each round; all of them run in a round before the next begins.

    A variant returns its own seconds (a float, or a tuple of them), so it decides what of its work is timed. Every
    other round goes the other way about: who runs behind whom is shared out. No round begins after `patience` seconds,
    but the first one always does.
    """
    seen: dict[str, list] = {name: [] for name in variants}
    began = time.monotonic()
    for n in range(rounds):
        if n and time.monotonic() - began > patience:
            break
        for name in reversed(variants) if n % 2 else variants:
            seen[name].append(variants[name]())
    return seen


def middle(values: list[float]) -> Step:
    return Step(statistics.median(values), min(values), max(values))


def ratio(ours: list[float], theirs: list[float]) -> Step:
    """ours / theirs, within each round."""
    return middle([a / b for a, b in zip(ours, theirs, strict=True)])


def forward_backward(
    function: Callable[[], Tensor], inputs: list[Tensor], device: torch.device | str = "cpu"
) -> tuple[float, float]:
    """Seconds of a forward pass that keeps nothing, and of the backward pass of another one that does."""
    with torch.no_grad():
        forward = sample(lambda _: function(), device)
    if not inputs:
        return forward, float("nan")
    y = function()
    if not y.requires_grad:
        return forward, float("nan")
    dy = torch.ones_like(y)
    return forward, sample(lambda y: torch.autograd.grad(y, inputs, dy, allow_unused=True), device, function)


def copy_bandwidth(device: torch.device | str = "cpu", megabytes: int = 256, rounds: int = 7) -> float:
    """Bytes a second of a plain copy, reading and writing counted: the best of a few, so no busy moment lowers it."""
    source = torch.ones(megabytes * 2**18, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    seconds = min(clock(lambda: target.copy_(source), device) for _ in range(rounds))
    return 2 * source.numel() * source.element_size() / seconds
