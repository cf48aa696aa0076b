"""Several pools of one state: the usual four together, weightings of tokens in one product, the others one by one."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lab.capture.runs import Runs, find
from lab.models import Loaded
from lab.models.identity import checksum
from lab.pooling import POOLS, FirstPool, LastPool, LinearPool, MaxPool, MeanPool
from lab.pooling.functional import by_kernel, segment_stats, weighted_sum

Pool = Callable[[Tensor, Tensor], Tensor]
Pools = Any  # names of POOLS, or {name: pool}: what is neither is refused in words
STATS = {MeanPool: "mean", MaxPool: "max", FirstPool: "first", LastPool: "last"}  # what one read gives


class Reduction:
    """pool(state, segments) for every pool at once: [B, T, D] or ragged [N, D] to [P, B, width].

    In the type of the state, or a wider one. Weights and runs belong to the segments, so the same object as
    `segments` must mean the same ones.
    """

    def __init__(self, pools: Mapping[str, Pool], width: int) -> None:
        self.pools, self.width = dict(pools), width
        self.stats = {i: STATS[type(pool)] for i, pool in enumerate(self.pools.values()) if type(pool) in STATS}
        self._batch: tuple[Tensor, Runs | None, Tensor | None] | None = None

    def __call__(self, state: Tensor, segments: Tensor) -> Float[Tensor, "P B width"]:
        if len(self.stats) == len(self.pools) > 1 and by_kernel(state):
            found = segment_stats(state, segments)  # one kernel, one read
            return torch.stack([getattr(found, name) for name in self.stats.values()])
        runs, weights = self._of_batch(segments, state)
        rows: dict[int, Tensor] = {}
        if runs is not None:
            made = runs.reduce(state, tuple(self.stats.values()))
            if len(self.stats) == len(self.pools):
                return made
            rows |= zip(self.stats, made, strict=True)
        if weights is not None:
            rows |= zip(self._linear(runs), weighted_sum(state, weights, segments).unbind(1), strict=True)
        for i, pool in enumerate(self.pools.values()):
            if i not in rows:
                rows[i] = pool(state, segments)
        return torch.stack([rows[i] for i in range(len(rows))])

    def _linear(self, runs: Runs | None) -> dict[int, LinearPool]:
        """Those that are weightings of tokens, and not taken from runs: they share one product."""
        pools = enumerate(self.pools.values())
        return {i: pool for i, pool in pools if isinstance(pool, LinearPool) and (runs is None or i not in self.stats)}

    def _of_batch(self, segments: Tensor, state: Tensor) -> tuple[Runs | None, Tensor | None]:
        """Runs, on a CPU, and weights: made once for a batch, as all of its layers share them."""
        if self._batch is None or self._batch[0] is not segments:
            runs = find(segments) if self.stats and state.device.type == "cpu" else None
            made = [pool.weights(segments, state.shape[-2]) for pool in self._linear(runs).values()]
            axis = 1 if segments.dtype == torch.bool else -1
            self._batch = segments, runs, torch.stack(made, dim=axis) if made else None
        return self._batch[1:]


def reductions(model: Loaded, pools: Pools, widths: Sequence[int]) -> list[Reduction]:
    """A reduction for each of the widths, the same one where they are equal.

    A registered pool with weights of its own gets random ones, the same in every run. ValueError for unknown names,
    a pool that cannot be called on (x, mask), and one that does not give a vector for each text.
    """
    made: dict[int, Reduction] = {}
    for width in widths:
        if width not in made:
            built = _built(pools, width, model.device)
            made[width] = Reduction(built, _tried(built, width, model.device))
    return [made[width] for width in widths]


def _built(pools: Pools, width: int, device: torch.device) -> dict[str, Pool]:
    if isinstance(pools, Mapping):
        built = dict(pools)
        if wrong := {name: type(pool).__name__ for name, pool in built.items() if not callable(pool)}:
            raise TypeError(f"pools must be called as pool(x, mask); got {wrong}: pass names in a list")
    else:
        if not isinstance(pools, Iterable):
            raise TypeError(f"pools must be names of lab.pooling.POOLS, or {{name: pool}}; got {pools!r}")
        names = [pools] if isinstance(pools, str) else list(pools)
        if unknown := [name for name in names if name not in POOLS]:
            raise ValueError(f"no pool {unknown}; there are {list(POOLS)}, or pass {{name: pool}}")
        if len(set(names)) < len(names):
            raise ValueError(f"pools must differ; got {names}")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            built = {name: POOLS[name](width) for name in names}
    if not built:
        raise ValueError(f"no pool was named; there are {list(POOLS)}")
    for pool in built.values():
        if isinstance(pool, nn.Module):
            pool.to(device)
    return built


@torch.no_grad()
def _tried(pools: Mapping[str, Pool], width: int, device: torch.device) -> int:
    """The width of the vectors that the pools make of states of this width."""
    # two texts: one vector for both would be spread over all rows of a batch; four tokens: a square, for pools of maps
    x, mask = torch.zeros(2, 4, width, device=device), torch.ones(2, 4, dtype=torch.bool, device=device)
    shapes: dict[str, tuple[int, ...]] = {}
    for name, pool in pools.items():
        try:
            y = pool(x, mask)
        except TypeError as error:
            raise ValueError(f"pool {name!r} cannot be called as pool(x, mask): {error}") from error
        if not isinstance(y, Tensor) or y.ndim != 2 or len(y) != 2:
            got = list(y.shape) if isinstance(y, Tensor) else type(y).__name__
            raise ValueError(f"pool {name!r} turns [2, 4, {width}] into {got}, expected [2, width]")
        shapes[name] = tuple(y.shape)
    if len(set(shapes.values())) > 1:
        widths = {name: shape[1] for name, shape in shapes.items()}
        raise ValueError(f"pools of one call must give vectors of one width, to stand in one array; got {widths}")
    return next(iter(shapes.values()))[1]


def fingerprint(pool: Pool) -> str:
    """What a pool is, for a store to say: its class and settings or its name, and a checksum of all that it holds."""
    if not isinstance(pool, nn.Module):
        name = f"{getattr(pool, '__module__', '?')}.{getattr(pool, '__qualname__', type(pool).__qualname__)}"
        return f"{name} {checksum(pool)[:16]}"
    plain = (int, float, str, tuple)
    settings = {k: v for k, v in sorted(vars(pool).items()) if isinstance(v, plain) and k != "training"}
    return f"{type(pool).__qualname__}({settings}) {checksum(pool)[:16]}"
