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
        see(state_of(output))

    return module.register_forward_hook(hook)


def state_of(output: Any) -> Tensor:
    """The state among what a module returned: last_hidden_state by name, or the first of several."""
    if isinstance(output, dict):  # transformers' outputs are dicts too
        output = output.get("last_hidden_state", next(iter(output.values())))
    state = output[0] if isinstance(output, tuple | list) else output
    if not isinstance(state, Tensor):
        raise TypeError(f"a module was expected to return a tensor, or a tensor first; got {type(state).__name__}")
    return state


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
