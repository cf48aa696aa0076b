"""A checksum of any value by what it is and holds, so that two that would act otherwise are told apart."""

import functools
import hashlib
import inspect
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

INTERNAL = frozenset(vars(nn.Module()))  # hooks, modes and the like: what any module has and no setting is


def checksum(value: Any) -> str:
    """SHA-256 of a value: plain ones by themselves, arrays by their bytes, objects by their class and attributes,
    functions by their code, defaults and what they close over, modules by their parts and weights.

    The same in every process of one Python version. Not looked into: the globals that a function reads, and modules.
    """
    digest = hashlib.sha256()
    _add(value, digest, {})
    return digest.hexdigest()


def _add(value: Any, digest: Any, seen: dict[int, Any]) -> None:
    """The value in front of all that it holds; `seen` keeps what was met alive, so that no id is used twice."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        digest.update(f"{type(value).__name__} {value!r};".encode())
        return
    if id(value) in seen:
        digest.update(f"again {list(seen).index(id(value))};".encode())
        return
    seen[id(value)] = value
    name = f"{type(value).__module__}.{type(value).__qualname__}"
    parts: list[Any]
    match value:
        case Tensor():
            data = value.detach().cpu().contiguous()
            digest.update(f"{name} {data.dtype} {tuple(data.shape)}:".encode())
            digest.update(data.reshape(-1).view(torch.uint8).numpy().data)
            return
        case np.ndarray() if value.dtype != object:
            name, parts = f"{name} {value.dtype} {value.shape}", [np.ascontiguousarray(value).tobytes()]
        case np.generic():
            parts = [repr(value)]
        case dict():
            parts = [part for pair in value.items() for part in pair]
        case set() | frozenset():
            parts = sorted(map(checksum, value))
        case list() | tuple():
            parts = list(value)
        case functools.partial():
            parts = [value.func, value.args, value.keywords]
        case MethodType():
            parts = [value.__func__, value.__self__]
        case FunctionType():
            code = inspect.unwrap(value)  # without what a checker of types put around it
            name = f"{name} {code.__module__}.{code.__qualname__}"
            cells = [cell.cell_contents for cell in code.__closure__ or ()]
            parts = [code.__code__, code.__defaults__, code.__kwdefaults__, cells]
        case CodeType():
            parts = [value.co_code, value.co_consts, value.co_names, value.co_varnames]
        case type() | BuiltinFunctionType() | ModuleType():
            parts = [getattr(value, "__module__", ""), getattr(value, "__qualname__", value.__name__)]
        case nn.Module():
            settings = {key: part for key, part in vars(value).items() if key not in INTERNAL}
            parts = [dict(value.named_children()), *(dict(part) for part in (value._parameters, value._buffers))]
            parts.append(settings)
        case _:
            parts = [vars(value) if hasattr(value, "__dict__") else ""]
    digest.update(f"{name} {len(parts)}:".encode())
    for part in parts:
        _add(part, digest, seen)
