"""A training run on disk: one file that is whole or not there, weights and optimiser as safetensors."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lab.data.tasks import Drawn

FILE = "run.safetensors"


def write(
    folder: str | Path,
    said: dict[str, Any],
    net: nn.Module,
    optimiser: torch.optim.Optimizer,
    step: int,
    rows: list[Any],
) -> None:
    """Everything a later call needs, in one file that replaces the one before it."""
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"weight/{name}": value for name, value in net.state_dict().items()}
    for name, parameter in net.named_parameters():
        for key, value in optimiser.state[parameter].items():
            tensors[f"{key}/{name}"] = value
    half = folder / f"{FILE}.{os.getpid()}"
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    save_file(plain, half, metadata={"said": json.dumps(said), "step": str(step), "rows": json.dumps(rows)})
    os.replace(half, folder / FILE)


def read(
    folder: str | Path, said: dict[str, Any], net: nn.Module, optimiser: torch.optim.Optimizer
) -> tuple[int, list[dict[str, Any]]]:
    """Put back what was written, if anything was; returns the step and the rows of the curve.

    Raises ValueError for a file of another run, naming what differs, and for one that cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(folder) / FILE
    if not path.exists():
        return 0, []
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise ValueError(f"{path} is no checkpoint: {error}") from error
    if "said" not in about:
        raise ValueError(f"{path} was not written by lab.training; give another folder")
    wrote, now = json.loads(about["said"]), json.loads(json.dumps(said))
    if wrote != now:
        wrote, now = _flat(wrote), _flat(now)
        other = {k: f"{wrote.get(k)!r} there, {now.get(k)!r} asked" for k in wrote | now if wrote.get(k) != now.get(k)}
        raise ValueError(f"{path} holds another run: {other}; give another folder, or delete this one")
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        kind, _, rest = name.partition("/")
        parts.setdefault(rest, {})[kind] = value
    net.load_state_dict({name: part["weight"] for name, part in parts.items() if "weight" in part})
    for name, parameter in net.named_parameters():
        # the count of steps too: a fused AdamW has it where the weights are
        moved = {k: v.to(parameter.device) for k, v in parts[name].items() if k != "weight"}
        if moved:
            optimiser.state[parameter] = moved
    return int(about["step"]), json.loads(about["rows"])


def save_batch(folder: str | Path, drawn: Drawn, step: int) -> Path:
    """The batch on which training broke down, to look at."""
    from safetensors.torch import save_file

    path = Path(folder) / f"batch-{step}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"ids": drawn.ids.contiguous(), "targets": drawn.targets.contiguous(), "counted": drawn.counted}, path)
    return path


def _flat(said: dict[str, Any]) -> dict[str, Any]:
    return {key: value for part in said.values() if isinstance(part, dict) for key, value in part.items()} | {
        key: value for key, value in said.items() if not isinstance(value, dict)
    }
