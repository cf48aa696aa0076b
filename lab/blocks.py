"""Finding a model's blocks by structure, whatever its family calls them."""

from collections.abc import Iterable

from torch import nn


def find_blocks(model: nn.Module) -> tuple[tuple[str, ...], str]:
    """The dotted names of the blocks whose outputs are the model's layers, in the order they stand, and how known.

    transformers states the block class of most families in `_can_record_outputs["hidden_states"]`: every module
    of that class is a block. Otherwise the longest ModuleList or Sequential of one class is taken, the outermost
    and first of equals. Raises ValueError when there is neither.
    """
    if stated := stated_class(model, "hidden_states"):
        blocks = [name for name, module in model.named_modules() if isinstance(module, stated)]
        if blocks:
            return tuple(blocks), f"stated by transformers: every {stated.__name__}"
    stacks = [
        (len(module), name)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList | nn.Sequential) and len({type(child) for child in module}) == 1
    ]
    if not stacks:
        raise ValueError(
            f"{type(model).__name__} holds no ModuleList or Sequential of equal modules, so its blocks cannot be "
            f"found; name them with blocks=[...], among {[name for name, _ in model.named_children()]}"
        )
    length, stack = max(stacks, key=lambda item: item[0])  # max keeps the first of equals
    prefix = f"{stack}." if stack else ""
    return tuple(f"{prefix}{i}" for i in range(length)), f"the longest stack of equal modules: {stack or 'the model'}"


def named_blocks(model: nn.Module, names: Iterable[str]) -> tuple[tuple[str, ...], str]:
    """The user's own choice, checked: ValueError for a name that is no submodule, or none at all."""
    names, known = tuple(names), dict(model.named_modules())
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"no submodule {unknown} in {type(model).__name__}; there are {[*known][1:9]} ...")
    if not names or len(set(names)) < len(names):
        raise ValueError(f"blocks must be at least one and differ; got {list(names)}")
    return names, "named by the user"


def stated_class(model: nn.Module, kind: str) -> type[nn.Module] | None:
    """The class of module that transformers records as this kind of output, where it says so."""
    stated = (getattr(model, "_can_record_outputs", None) or {}).get(kind)
    stated = getattr(stated, "target_class", stated)  # an OutputRecorder names its class
    return stated if isinstance(stated, type) else None
