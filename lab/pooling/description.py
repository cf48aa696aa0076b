"""A pool as its class and the arguments of its constructor, in what JSON can hold, and back."""

import importlib
import inspect
import math
from typing import Any

import torch
from torch import Tensor, nn


def described(value: Any, dim: int | None = None) -> Any:
    """A pool, or a list of pools or plain values, as what JSON can hold; `built` makes it again.

    An argument of the constructor is read from the attribute of the same name; one that is kept under no such name is
    taken to be its default (`dim`: what is given here). The description is then tried: what it builds must have the
    same plain attributes and weights of the same shapes throughout. ValueError where it has not.
    """
    if isinstance(value, nn.ModuleList | list | tuple):
        return [described(item, dim) for item in value]
    if not isinstance(value, nn.Module):
        if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
            return value
        raise ValueError(
            f"{value!r} ({type(value).__name__}) cannot be written to config.json as an argument of a pool"
        )
    arguments, unknown = {}, []
    for name, parameter in inspect.signature(type(value)).parameters.items():
        given = getattr(value, name, inspect.Parameter.empty)
        if isinstance(given, Tensor):  # a parameter that bears its argument's name; its value is in the weights
            given = given.item() if given.numel() == 1 else inspect.Parameter.empty
        if isinstance(given, nn.Module) and isinstance(parameter.default, int | float):
            given = inspect.Parameter.empty  # a module that holds the number, as a constrained parameter
        if given is inspect.Parameter.empty:
            unknown.append(name)
            given = dim if name == "dim" and dim is not None else parameter.default
        if given is not inspect.Parameter.empty:
            arguments[name] = described(given, dim)
    told = {"class": f"{type(value).__module__}.{type(value).__qualname__}", "arguments": arguments}
    try:
        with torch.device("meta"):  # shapes without memory
            same = _plain(built(told, trusted=True)) == _plain(value)
    except TypeError:  # an argument without a default is missing
        same = False
    if not same:
        raise ValueError(
            f"{type(value).__name__} does not keep its arguments {unknown} and was not built with their defaults, so "
            "it could not be built again; keep them as attributes of the same names in its __init__, or say dim="
        )
    return told


def _plain(pool: nn.Module) -> dict[str, Any]:
    """What tells two pools of one class apart, but for the values of their weights."""
    told: dict[str, Any] = {name: tuple(value.shape) for name, value in pool.state_dict().items()}
    for path, part in pool.named_modules():
        told[f"{path} class"] = type(part)
        for name, value in vars(part).items():
            if name != "training" and isinstance(value, bool | int | float | str | list | tuple | None):
                told[f"{path} {name}"] = tuple(value) if isinstance(value, list) else value
    return told


def built(value: Any, trusted: bool = False) -> Any:
    """What `described` wrote, made again, lists as tuples. Only this package's classes are imported unless trusted."""
    if isinstance(value, list):
        return tuple(built(item, trusted) for item in value)
    if not isinstance(value, dict):
        return value
    module, _, name = value["class"].rpartition(".")
    if not (trusted or module.startswith("lab.pooling.")):
        raise ValueError(f"{value['class']} is not a pool of lab.pooling; to import it pass trust_remote_code=True")
    kind = getattr(importlib.import_module(module), name, None)
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise ValueError(f"{value['class']} is no module to build; got {kind!r}")
    return kind(**{key: built(item, trusted) for key, item in value["arguments"].items()})
