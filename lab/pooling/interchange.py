"""Pools as sentence-transformers modules, and sentence-transformers' own poolings as ours.

    SentenceTransformer(modules=[Transformer(path), TokenPooling(MeanPool(384))])
    SentenceTransformer(modules=[Transformer(path), LayerPooling(MeanPool(384), SoftmaxMix(384, 7))])

Save and load as any other; since the classes are not sentence-transformers' own it asks for trust_remote_code=True on
loading, and imports what is installed. Weights are safetensors only. A pool is written as its class and the arguments
of its constructor, read from the attributes of the same names, and saving tries whether that builds the same pool.
Importing this file imports sentence-transformers (seconds), which is why lab.pooling does not.
"""

import json
from collections.abc import Iterable, MutableMapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from safetensors.torch import load_file, save_file
from sentence_transformers.base.modules import Module
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lab.blocks import find_blocks
from lab.pooling.description import built, described
from lab.pooling.functional import to_padded
from lab.pooling.token import FirstPool, LastPool, MaxPool, MeanPool, PositionMeanPool, SqrtMeanPool

# what sentence-transformers hands from module to module: a dict, or the tokenizer's own kind of one
Features = MutableMapping[str, Any]

MODES = {
    "cls": FirstPool,
    "lasttoken": LastPool,
    "mean": MeanPool,
    "max": MaxPool,
    "mean_sqrt_len_tokens": SqrtMeanPool,
    "weightedmean": PositionMeanPool,
}


class Saved(Module):
    """What both modules share: pools as descriptions in config.json, parameters and buffers in model.safetensors."""

    @classmethod
    def load(cls, model_name_or_path: str, trust_remote_code: bool = False, **kwargs: Any) -> "Saved":
        """Read back what save wrote. Pools from outside this package are imported only with trust_remote_code=True."""
        where = {name: kwargs[name] for name in _WHERE if name in kwargs}
        config = cls.load_config(model_name_or_path, **where)
        for name in ("token_pools", "layer_pool"):
            if name in config:
                config[name] = built(config[name], trust_remote_code)
        module = cls(**config)
        weights = cls.load_file_path(model_name_or_path, filename="model.safetensors", **where)
        if weights is None and module.state_dict():
            raise ValueError(f"{model_name_or_path} has no model.safetensors for {cls.__name__}; others are not opened")
        # assign keeps the dtype that was saved; in a file tensors lie unaligned, which moves the last bits of a product
        state = {name: value.clone() for name, value in load_file(weights).items()} if weights else {}
        module.load_state_dict(state, assign=True)
        return module

    def __repr__(self) -> str:
        return nn.Module.__repr__(self)

    def get_config_dict(self) -> dict[str, Any]:
        return {key: described(getattr(self, key), self.dim) for key in self.config_keys}

    def save(self, output_path: str, *_: Any, safe_serialization: bool = True, **__: Any) -> None:
        if not safe_serialization:
            raise ValueError("pools are written as safetensors only; save with safe_serialization=True")
        config = self.get_config_dict()
        Path(output_path, self.config_file_name).write_text(json.dumps(config, indent=4))
        if state := self.state_dict():
            save_file(
                {name: value.contiguous() for name, value in state.items()}, Path(output_path, "model.safetensors")
            )


class TokenPooling(Saved):
    """Token pools as a sentence-transformers module; the embeddings of several stand side by side.

    token_pools: one or several modules with forward(x [B, T, D], mask [B, T]). include_prompt = False leaves the
    prompt's tokens out, counted in each row from its first real token. Flash attention's flat inputs become rows first.
    dim: the width of the states, for pools that do not say it themselves.
    """

    config_keys: list[str] = ["token_pools", "include_prompt", "dim"]  # noqa: RUF012 - sentence-transformers' own way

    def __init__(
        self, token_pools: nn.Module | Sequence[nn.Module], include_prompt: bool = True, dim: int | None = None
    ) -> None:
        super().__init__()
        self.token_pools = _pools(token_pools)
        self.include_prompt, self.dim = include_prompt, dim

    def forward(self, features: Features) -> Features:
        x, mask = tokens(features, features["token_embeddings"], self.include_prompt)
        features["sentence_embedding"] = torch.cat([pool(x, mask) for pool in self.token_pools], -1)
        return features

    def get_embedding_dimension(self) -> int:
        return sum(_width(pool, self.dim) for pool in self.token_pools)


class LayerPooling(Saved):
    """Every layer's tokens pooled in a hook as they appear, then a layer pool over the results: gradients included.

    token_pools: one gives the layer pool h [L, B, D]; several give it h [L, P, B, D].
    layer_pool: a module with forward(h), from lab.pooling.layers, layers_routed or multilayer.
    layers: numbers from 0 (embeddings) to the number of blocks (what the model returns, after its final norm); all of
        them when not given. The founding paper's pool takes 1 to the last.
    blocks: dotted names of the blocks in the transformer; found by lab.blocks.find_blocks when not given.
    include_prompt, dim: as in TokenPooling.

    No [layers, batch, tokens, dim] stack exists at any time; the states that backpropagation keeps are kept, no more.
    Must stand in a SentenceTransformer when that is built, after its Transformer; otherwise call on_model_ready(model).
    """

    config_keys: list[str] = [  # noqa: RUF012 - sentence-transformers' own way
        "token_pools",
        "layer_pool",
        "layers",
        "blocks",
        "include_prompt",
        "dim",
    ]

    def __init__(
        self,
        token_pools: nn.Module | Sequence[nn.Module],
        layer_pool: nn.Module,
        layers: Sequence[int] | None = None,
        blocks: Sequence[str] | None = None,
        include_prompt: bool = True,
        dim: int | None = None,
    ) -> None:
        super().__init__()
        self.token_pools, self.layer_pool, self.dim = _pools(token_pools), layer_pool, dim
        self.layers = None if layers is None else list(layers)
        self.blocks = None if blocks is None else list(blocks)
        self.include_prompt = include_prompt
        self._features: Features | None = None  # of the pass that is under way
        self._pooled: dict[int, Tensor] = {}
        self._hooks: list[RemovableHandle] = []

    def on_model_ready(self, model: nn.Sequential) -> None:
        """Set the hooks; sentence-transformers calls this when the whole model stands."""
        self.detach()
        transformer = model[0]
        modules = dict(transformer.model.named_modules())
        names = find_blocks(transformer.model)[0] if self.blocks is None else self.blocks
        if unknown := [name for name in names if name not in modules]:
            raise ValueError(
                f"no block {unknown} in {type(transformer.model).__name__}; it has {list(modules)[1:9]} ..."
            )
        depth = len(names)
        layers = list(range(depth + 1)) if self.layers is None else self.layers
        if wrong := [layer for layer in layers if not 0 <= layer <= depth]:
            raise ValueError(f"no layer {wrong}; there are 0 (embeddings) to {depth}")
        wanted = getattr(self.layer_pool, "num_layers", len(layers))
        if wanted != len(layers):
            raise ValueError(
                f"the layer pool is built for {wanted} layers, {len(layers)} are read: {layers}; build "
                f"{type(self.layer_pool).__name__} for {len(layers)}, or name {wanted} layers"
            )
        # bound methods and partials, not closures: a deep copy of the model then fills its own copy of this module
        self._hooks = [transformer.register_forward_pre_hook(self._begin)]
        for layer in layers:
            if layer == 0:
                hook = modules[names[0]].register_forward_pre_hook(partial(self._enter, layer), with_kwargs=True)
            elif layer < depth:
                hook = modules[names[layer - 1]].register_forward_hook(partial(self._leave, layer))
            else:
                continue  # the model's own output, which _end sees
            self._hooks.append(hook)
        self._hooks.append(transformer.register_forward_hook(partial(self._end, layers, depth)))

    def detach(self) -> None:
        """Take the hooks away again."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def forward(self, features: Features) -> Features:
        if "layer_embeddings" not in features:
            raise ValueError(
                "no layer was pooled on the way: this module must stand in SentenceTransformer(modules=[...])"
                " after its Transformer when that is built; for one added later call on_model_ready(model)"
            )
        features["sentence_embedding"] = self.layer_pool(features["layer_embeddings"])
        return features

    def get_embedding_dimension(self) -> int:
        return _width(self.layer_pool, self.dim)

    def _begin(self, _module: nn.Module, args: tuple[Any, ...]) -> None:
        self._features, self._pooled = args[0], {}

    def _enter(self, layer: int, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._pool(layer, args[0] if args else kwargs["hidden_states"])

    def _leave(self, layer: int, _module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        self._pool(layer, output[0] if isinstance(output, tuple) else output)

    def _pool(self, layer: int, state: Tensor) -> None:
        if self._features is None:  # the transformer was called by itself, outside sentence-transformers
            return
        x, mask = tokens(self._features, state, self.include_prompt)
        each = [pool(x, mask) for pool in self.token_pools]
        self._pooled[layer] = each[0] if len(each) == 1 else torch.stack(each)

    def _end(self, layers: list[int], depth: int, _module: nn.Module, _args: Any, features: Features) -> None:
        if depth in layers:
            self._pool(depth, features["token_embeddings"])
        features["layer_embeddings"] = torch.stack([self._pooled[layer] for layer in layers])
        self._features, self._pooled = None, {}


def from_sentence_transformers(pooling: Pooling) -> TokenPooling:
    """sentence-transformers' Pooling as our pools: the same embedding, except for rows without tokens (ours: zeros).

    There such a row is a vector of padding (cls) or minus infinity (max). A position-weighted mean without the prompt
    keeps the positions of the whole text over there, ours count what is pooled: refused, the embedding would differ.
    """
    modes = (pooling.pooling_mode,) if isinstance(pooling.pooling_mode, str) else pooling.pooling_mode
    if "weightedmean" in modes and not pooling.include_prompt:
        raise ValueError("weightedmean with include_prompt=False has no equal here: its positions count the prompt")
    return TokenPooling([MODES[mode](pooling.embedding_dimension) for mode in modes], pooling.include_prompt)


def to_sentence_transformers(pooling: TokenPooling) -> Pooling:
    """Our pools as sentence-transformers' own Pooling, for a model that shall load where this package is not installed.

    Raises ValueError for pools that it does not have; `has_equal` says whether there are such.
    """
    names = {pool: mode for mode, pool in MODES.items()}
    if foreign := [type(pool).__name__ for pool in pooling.token_pools if type(pool) not in names]:
        raise ValueError(f"sentence-transformers has no {foreign}; it has {[pool.__name__ for pool in names]}")
    modes = tuple(names[type(pool)] for pool in pooling.token_pools)
    if "weightedmean" in modes and not pooling.include_prompt:
        raise ValueError("weightedmean with include_prompt=False has no equal there: its positions count the prompt")
    return Pooling(pooling.token_pools[0].dim, modes, pooling.include_prompt)


def has_equal(pooling: TokenPooling) -> bool:
    """Whether `to_sentence_transformers` has a Pooling for it, of the same embedding."""
    there = all(type(pool) in MODES.values() for pool in pooling.token_pools)
    placed = any(type(pool) is PositionMeanPool for pool in pooling.token_pools)
    return there and (pooling.include_prompt or not placed)


def tokens(
    features: Features, state: Float[Tensor, "B T D"], include_prompt: bool = True
) -> tuple[Float[Tensor, "R U D"], Bool[Tensor, "R U"]]:
    """The state as padded rows, and the mask of the tokens that shall be pooled."""
    if "token_weights_sum" in features:
        raise ValueError("weighted words (WordWeights) are not supported: pool before weighting, or use Pooling")
    if "cu_seq_lens_q" in features:  # flash attention without padding: one row [1, N, D] of all texts
        state, mask = to_padded(state[0], features["cu_seq_lens_q"].to(state.device))
    elif "attention_mask" in features and features["attention_mask"].shape == state.shape[:2]:
        mask = features["attention_mask"].to(torch.bool)
    else:  # patches of an image, say: every one is real
        mask = torch.ones(state.shape[:2], dtype=torch.bool, device=state.device)
    if not include_prompt and "prompt_length" in features:
        length = features["prompt_length"]
        mask = mask & (mask.cumsum(1) > int(length.flatten()[0] if isinstance(length, Tensor) else length))
    return state, mask


_WHERE = ("subfolder", "token", "cache_folder", "revision", "local_files_only")


def _pools(given: nn.Module | Iterable[nn.Module]) -> nn.ModuleList:
    pools = nn.ModuleList(given if isinstance(given, Iterable) else [given])  # a ModuleList is iterable, a pool is not
    if not len(pools):
        raise ValueError("no token pool was given; at least one is needed, as MeanPool(384)")
    return pools


@torch.no_grad()
def _width(pool: nn.Module, dim: int | None) -> int:
    """The last axis of what the pool gives: asked of it, with one row of zeros."""
    dim = dim or getattr(pool, "dim", None)
    if dim is None:
        raise ValueError(f"{type(pool).__name__} does not say its dim; build it with its width, or say dim=384 here")
    like = next(pool.parameters(), torch.empty(0))
    if (layers := getattr(pool, "num_layers", None)) is not None:
        summaries = [pool.summaries] if hasattr(pool, "summaries") else []
        return pool(like.new_zeros(layers, *summaries, 1, dim)).shape[-1]
    return pool(like.new_zeros(1, 1, dim), torch.ones(1, 1, dtype=torch.bool, device=like.device)).shape[-1]
