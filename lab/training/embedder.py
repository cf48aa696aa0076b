"""A design on a base model: a SentenceTransformer ready to be trained, saved and loaded."""

import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lab.models import Loaded, describe
from lab.models.bidirectional import for_good
from lab.models.load import resolve
from lab.pooling import POOLS
from lab.pooling.layers import LayerPick
from lab.training.designs import DESIGNS, OF_LAYERS, OF_TOKENS, Design

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

# what the paper's adapters are put on, where a model has modules of these names; all linear ones elsewhere
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def embedder(
    base: Any,
    design: Design | str,
    *,
    seed: int = 0,
    lora: Any = None,
    window: int | None = None,
    device: str | torch.device | None = None,
) -> "SentenceTransformer":
    """The base model under the design's mask, its tokens and layers pooled by the design's head.

    base: a folder or hub id as transformers opens them, "minilm" for the bundled one, or what lab.models gave, which is
        copied.
    design: a Design, or its name in DESIGNS. seed: draws the weights of the head; the caller's random state stays.
    lora: a peft config, or a rank r: then alpha is 2 r, dropout .1, on all projections, as the paper has it at r = 16,
        and of the base only the adapters are trained. Needs `pip install peft` and a base on disk or on the hub.
    window: tokens of a text; the model's own where not given. device: the GPU when there is one.

    The mask is transformers' `is_causal`, tried by exchanging a token (lab.models.bidirectional); it is saved with the
    config, or with adapters in a module of its own, so it holds after loading: SentenceTransformer(folder,
    trust_remote_code=True), which imports lab; lab.training.export writes one that does not need it where it can.
    A text is padded with the tokenizer's padding token, or its end token where it has none; the mask of the tokens
    says which are real, whatever their numbers.

    Raises ValueError for an unknown design, a causal design on a model that looks both ways, a bidirectional one on a
    model that stays causal, a layer that is not there, and the layer "best", which is still to be chosen; TypeError for
    another kind of base; ImportError for lora without peft.
    """
    from sentence_transformers import SentenceTransformer

    design = _named(design)
    adapters = None if lora is None else _adapters(lora, base)
    transformer = _transformer(base, window)
    model = describe("the base", "a model to train", transformer.model, transformer.tokenizer, None)
    if design.mask == "causal" and not model.causal:
        raise ValueError(
            f"the design is causal and {type(model.model).__name__} looks both ways: it needs a decoder; take one, or "
            'a design with mask="bidirectional"'
        )
    if design.mask == "bidirectional":
        for_good(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pooling = _pooling(design, model.dim, model.depth)
        modules = [transformer, pooling]
        if adapters is not None and not getattr(transformer.model.config, "is_causal", True):
            from lab.training.both_ways import BothWays

            modules.append(BothWays())
        whole = SentenceTransformer(modules=modules, device=None if device is None else str(device))
        if adapters is not None:
            whole.add_adapter(adapters if not isinstance(lora, int) else _paper_adapters(lora, model.model))
    return whole


def _named(design: Design | str) -> Design:
    if isinstance(design, Design):
        return design
    if design not in DESIGNS:
        raise ValueError(f"no design {design!r}; there are {list(DESIGNS)}")
    return DESIGNS[design]


def _transformer(base: Any, window: int | None) -> Any:
    """sentence-transformers' module around the base; of a model in memory it gets a copy, through the disk."""
    from sentence_transformers.base.modules import Transformer

    if isinstance(base, Loaded):
        if base.tokenizer is None or not hasattr(base.model, "save_pretrained"):
            raise ValueError(f"{base.name} is no transformers model with a tokenizer; embeddings here are of texts")
        if torch.distributed.is_initialized() and torch.distributed.get_rank():
            raise ValueError(
                f"{base.name} is copied through the disk, where transformers let the first process write alone; in a "
                "launched one make the embedder before anything is trained, or give a folder as the base"
            )
        with tempfile.TemporaryDirectory() as folder:
            base.model.save_pretrained(folder)
            base.tokenizer.save_pretrained(folder)
            transformer = Transformer(folder, max_seq_length=base.window)
    elif isinstance(base, str | Path):
        place = resolve(base)[0] if base == "minilm" else str(base)
        transformer = Transformer(place, model_kwargs={"use_safetensors": True})
    else:
        raise TypeError(f"base must be a folder, a hub id or of lab.models; got {type(base).__name__}")
    tokenizer = transformer.tokenizer
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ValueError("the tokenizer has no token to pad with and none that ends a text; set its pad_token")
        tokenizer.pad_token = tokenizer.eos_token
    if window is not None:
        if window < 2 or window > (transformer.max_seq_length or window):
            raise ValueError(f"window must be 2 to {transformer.max_seq_length}, the model's own; got {window}")
        transformer.max_seq_length = window
    return transformer


def _pooling(design: Design, dim: int, depth: int) -> nn.Module:
    from lab.pooling.interchange import LayerPooling, TokenPooling

    tokens = POOLS[design.tokens](dim)
    if design.layers == "best":
        raise ValueError('the layer "best" is still to be chosen, on validation data; then take design.at(layer)')
    if design.layers == "all":
        return LayerPooling(tokens, OF_LAYERS[design.head](dim, depth), layers=range(1, depth + 1), dim=dim)
    if design.head is not None:
        tokens = OF_TOKENS[design.head](dim, tokens)
    if design.layers in ("last", depth):
        return TokenPooling(tokens, dim=dim)
    if not 0 <= design.layers <= depth:
        raise ValueError(f"no layer {design.layers}; there are 0 (embeddings) to {depth}")
    return LayerPooling(tokens, LayerPick(dim, 1), layers=[design.layers], dim=dim)


def _adapters(lora: Any, base: Any) -> Any:
    if find_spec("peft") is None:
        raise ImportError("lora needs peft, which is not installed: pip install peft")
    if isinstance(base, Loaded):
        raise ValueError(
            "adapters are saved beside the name of their base, so that must be a folder or a hub id; got a model in "
            "memory: save it with model.model.save_pretrained and model.tokenizer.save_pretrained"
        )
    from peft import PeftConfig

    if isinstance(lora, bool) or not isinstance(lora, int | PeftConfig) or (isinstance(lora, int) and lora < 1):
        raise ValueError(f"lora must be a rank of 1 or more, or a config of peft; got {lora!r}")
    return lora


def _paper_adapters(rank: int, model: nn.Module) -> Any:
    from peft import LoraConfig

    there = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()}
    targets = sorted(there.intersection(PROJECTIONS)) or "all-linear"
    return LoraConfig(
        r=rank, lora_alpha=2 * rank, lora_dropout=0.1, bias="none", target_modules=targets,
        task_type="FEATURE_EXTRACTION",
    )  # fmt: skip
