"""Finding a model's blocks by structure, whatever its family calls them."""

from torch import nn


def find_blocks(model: nn.Module) -> tuple[str, ...]:
    """The dotted names of the blocks whose outputs are the model's layers, in forward order.

    transformers states the block class of most families in `_can_record_outputs["hidden_states"]`: every module
    of that class is a block. Otherwise the longest ModuleList or Sequential of one class is taken, the outermost
    and first of equals. Raises ValueError when there is neither.
    """
    if stated := _stated_block_class(model):
        blocks = [name for name, module in model.named_modules() if isinstance(module, stated)]
        if blocks:
            return tuple(blocks)
    stacks = [
        (len(module), name)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList | nn.Sequential) and len({type(child) for child in module}) == 1
    ]
    if not stacks:
        raise ValueError(
            f"{type(model).__name__} holds no ModuleList or Sequential of equal modules, so its blocks cannot be "
            f"found; its children are {[name for name, _ in model.named_children()]}"
        )
    length, stack = max(stacks, key=lambda item: item[0])  # max keeps the first of equals
    return tuple(f"{stack}.{i}" if stack else str(i) for i in range(length))


def _stated_block_class(model: nn.Module) -> type[nn.Module] | None:
    stated = (getattr(model, "_can_record_outputs", None) or {}).get("hidden_states")
    stated = getattr(stated, "target_class", stated)  # an OutputRecorder names its class
    return stated if isinstance(stated, type) else None
