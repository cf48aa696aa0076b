"""How many bytes a computation moves, counted operator by operator instead of timed."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

EMPTY = ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided")  # memory is asked for, not touched


class Traffic(TorchDispatchMode):
    """Within it, `moved` gathers the bytes that each operator reads and writes, `calls` how often each was called.

    An operator reads each of its inputs once and writes each output once; views move nothing. Caches are not looked
    at, so this is what a large tensor costs on any device. A custom op counts as one, whatever it does inside.
    """

    def __init__(self) -> None:
        super().__init__()
        self.moved: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if func.is_view or name in EMPTY:
            return out
        # an in-place operator returns one of its inputs, which is read and written, so it counts twice as it should
        size = sum(_bytes(t) for t in tree_leaves((args, kwargs, out)) if isinstance(t, Tensor))
        self.moved[name] += size
        self.calls[name] += 1
        return out


def traffic(function: Callable[..., Any], *inputs: Any) -> dict[str, int]:
    """Bytes read and written by each operator of function(*inputs), most first; their sum is the whole traffic.

    For a backward pass, hand over a function that runs it: traffic(torch.autograd.grad, y, x, dy).
    """
    with Traffic() as seen:
        function(*inputs)
    return dict(seen.moved.most_common())


def least(*tensors: Tensor) -> int:
    """The bytes of these tensors: what a computation that reads its inputs and writes its outputs once must move."""
    return sum(_bytes(t) for t in tensors)


def _bytes(t: Tensor) -> int:
    """What lies in memory: an expanded axis is there once."""
    n = 1
    for size, stride in zip(t.shape, t.stride(), strict=True):
        n *= size if stride or not size else 1
    return n * t.element_size()
