"""Seeing the state that enters or leaves a module, whatever form its arguments and outputs take."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


def before(module: nn.Module, see: Callable[[Tensor], None]) -> RemovableHandle:
    """Call see(state) with the first argument of every forward pass of the module."""

    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        see(args[0] if args else kwargs["hidden_states"])

    return module.register_forward_pre_hook(hook, with_kwargs=True)


def after(module: nn.Module, see: Callable[[Tensor], None]) -> RemovableHandle:
    """Call see(state) with the output of every forward pass; of several outputs the first or last_hidden_state."""

    def hook(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, dict):  # transformers' outputs are dicts too
            output = output["last_hidden_state"]
        see(output[0] if isinstance(output, tuple) else output)

    return module.register_forward_hook(hook)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode inside the block; every submodule's own mode is restored after it."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
