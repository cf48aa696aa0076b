"""Every attention layer of a model, whatever its family, as one call that can be answered otherwise."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor

from lab.attention.call import Call
from lab.attention.switch import Switch
from lab.models import Loaded


@contextmanager
def attending(model: Any, attend: Callable[[Call], Tensor], *, rehearse: bool = False) -> Iterator[Loaded]:
    """Inside the block every attention layer of the model gives attend(call) in place of its own answer.

    The switch is transformers' attention interface, function and mask function together: with the first alone a model
    gets no mask and looks at its padding. The model's example is run at once, with its own answers, to see that every
    block with attention in it really asks; with rehearse once more, with those of `attend`, so that what it refuses is
    refused here. Other blocks hear of neither. Blocks may be nested: the outer `own` is then the inner answer's
    caller's, and `listening` blocks stand before all of these. All is restored when the block is left, however it is.

    Raises TypeError for what lab.models did not load, ValueError for a model without attention and for one that goes
    on with its own (in transformers 5: bloom, falcon, deberta ...), with the blocks that did not ask; and, from the
    model's pass, for more tokens than a table of positions has, for output_attentions=True, which no layer has here,
    and where the model's attention was set otherwise inside the block. Such a model cannot be copied: TypeError.
    """
    with _switched(model, attend, listens=False) as switch:
        if rehearse:
            with switch.alone():
                model.model(**model.example)
        yield model


@contextmanager
def listening(model: Any, hear: Callable[[Call], Tensor]) -> Iterator[Loaded]:
    """As `attending`, for one that looks on: hear(call) returns call.own(), and call.answered is who gave that.

    It is asked before every block that answers, those that are opened later inside it too, so that what it sees is
    what the model computes with in the end.
    """
    with _switched(model, hear, listens=True):
        yield model


@contextmanager
def _switched(model: Any, attend: Callable[[Call], Tensor], listens: bool) -> Iterator["Switch"]:
    if not isinstance(model, Loaded):
        raise TypeError(f"expected a model from lab.models.load, tiny or wrap; got {type(model).__name__}")
    switch = Switch(model, attend, listens)
    with ExitStack() as hold:
        switch.enter(hold)
        switch.try_out()
        yield switch
