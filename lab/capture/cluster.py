"""The shards of a store on the workers of a dask cluster: one task each, written where no other task writes."""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lab.capture.states import Plan, planned
from lab.models.fingerprint import answer, fingerprint, same_answer

if TYPE_CHECKING:
    from lab.capture.store import Shards


def write_on(
    client: Any, path: Path, plan: Plan, shards: "Shards", missing: list[int], weights: str, said: list[float],
    retries: int = 3,
) -> Iterator[int]:  # fmt: skip
    """The numbers of the shards as workers finish them.

    A worker that dies loses its task alone: dask gives it to another one, and a shard half written is written again.
    The model is not sent if it can be loaded where the worker runs: each loads it once and checks its weights, and
    what it says to its example.
    """
    from distributed import as_completed
    from distributed.protocol.pickle import dumps

    client.wait_for_workers(1)
    pools = plan.reductions[0].pools if len({id(r) for r in plan.reductions}) == 1 else plan.pools
    asked = {
        "pools": pools, "layers": plan.layers, "site": plan.site, "max_length": plan.window,
        "batch_tokens": plan.budget, "packed": plan.packed, "autocast": plan.autocast,
    }  # fmt: skip
    order = dumps((plan.model.recipe or plan.model, weights, said, asked))
    held = client.submit(bytes, order, pure=False)  # made again if every worker that holds it dies

    def submit(number: int) -> Any:
        return client.submit(
            _task, held, str(path.absolute()), shards.read(number), shards.bounds(number), number,
            pure=False, retries=retries,
        )  # fmt: skip

    waiting = iter(missing)
    ahead = 2 * sum(client.nthreads().values()) + 2  # so that the texts of a large corpus are not all in flight
    running = as_completed([submit(number) for number, _ in zip(waiting, range(ahead), strict=False)])
    for future in running:
        yield future.result()
        for number in waiting:
            running.add(submit(number))
            break


def _task(order: bytes, path: str, examples: list[str] | Tensor, bounds: tuple[int, int], number: int) -> int:
    from lab.capture.store import write_shard

    return write_shard(Path(path), _plan(order), examples, bounds, number)


@lru_cache(maxsize=1)
def _plan(order: bytes) -> Plan:
    """The order as this worker reads it; once for all its tasks."""
    from distributed.protocol.pickle import loads

    recipe, weights, said, asked = loads(order)
    model = recipe() if callable(recipe) else recipe
    if (found := fingerprint(model)) != weights:
        raise ValueError(
            f"{model.name} as loaded here has weights {found[:16]}..., not {weights[:16]}...: they were changed after "
            "loading; save the model to a folder that the workers see and load it from there"
        )
    if not same_answer(model, said, answer(model)):
        raise ValueError(
            f"{model.name} as loaded here answers otherwise: a change made since it was loaded (another attention, a "
            "hook) is not known to the workers; write without a client, or save what was changed and load it from there"
        )
    return planned(model, **asked)
