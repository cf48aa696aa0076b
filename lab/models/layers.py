"""Seeing the states of a model's layers, or of a site inside each of them, while it runs."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from torch import Tensor, nn

from lab.models.hooks import after, before
from lab.models.places import Place


@contextmanager
def watching(model: nn.Module, places: Iterable[Place], see: Callable[[int, Tensor], None]) -> Iterator[None]:
    """Call see(layer, state) for each of the places in every forward pass made inside the `with` block.

    A block that runs several times in a pass (ALBERT shares one) has a place for each run; a run beyond them, such as
    gradient checkpointing's second one, is nobody's.
    """
    modules, runs = dict(model.named_modules()), Counter[tuple[str, bool]]()
    wanted = {(place.module, place.entering, place.run): place for place in places}

    def passed(module: str, entering: bool, state: Tensor) -> None:
        place = wanted.get((module, entering, runs[module, entering]))
        runs[module, entering] += 1
        if place is not None:
            see(place.layer, state if place.columns is None else state[..., place.columns])

    with ExitStack() as hooks:
        # before anything else of a pass, also of one that follows a pass an exception ended
        hooks.callback(model.register_forward_pre_hook(lambda *_: runs.clear()).remove)
        for module, entering in {(place.module, place.entering) for place in wanted.values()}:
            hook = before if entering else after
            hooks.callback(hook(modules[module], partial(passed, module, entering)).remove)
        yield
