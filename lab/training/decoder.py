"""A small llama-style decoder whose norms, positions and biases can be moved: for training, not for loading."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.masking_utils import (
    ALL_MASK_ATTENTION_FUNCTIONS,
    causal_mask_function,
    or_masks,
    sliding_window_causal_mask_function,
)
from transformers.modeling_outputs import BaseModelOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NORMS = ("pre", "post", "peri")
POSITIONS = ("rope", "learned", "none")
BIASES = ("none", "key", "key_value", "value")


class DecoderConfig(PreTrainedConfig):
    """Sizes and switches of a Decoder.

    norm: where each sublayer f stands among RMS norms N. "pre": x + f(N(x)); "post": N(x + f(x)); "peri":
        x + N(f(N(x))), Peri-LN (Kim et al., 2025, recalled). "pre" and "peri" end in one more norm.
    position: "rope" (rotary, base 10,000), "learned" embeddings, or "none".
    bias: what every head has beside its tokens (Gu et al., ICLR 2025, "key and value biases", from notes).
        "key": one more key, learned and seen by all queries, whose value is bias_norm times the first unit vector,
        0 by default; "key_value": the value is learned too; "value": a learned vector added to what the head returns.
    window: keys a query sees, itself included; None for all before it.
    """

    model_type = "lab_decoder"

    def __init__(
        self,
        vocab_size: int = 257,
        hidden_size: int = 64,
        num_hidden_layers: int = 2,
        num_attention_heads: int = 4,
        intermediate_size: int | None = None,
        max_position_embeddings: int = 1024,
        norm: str = "pre",
        position: str = "rope",
        bias: str = "none",
        bias_norm: float = 0.0,
        window: int | None = None,
        **kwargs: Any,
    ) -> None:
        for got, known, what in ((norm, NORMS, "norm"), (position, POSITIONS, "position"), (bias, BIASES, "bias")):
            if got not in known:
                raise ValueError(f"no {what} {got!r}; there are {list(known)}")
        if num_attention_heads < 1 or hidden_size % (2 * num_attention_heads):
            raise ValueError(
                f"got a width of {hidden_size} for {num_attention_heads} heads; rotary positions pair the coordinates "
                "of a head, so the width must be a multiple of twice the heads"
            )
        if window is not None and window < 1:
            raise ValueError(f"window must be at least 1, or None; got {window}")
        self.vocab_size, self.hidden_size = vocab_size, hidden_size
        self.num_hidden_layers, self.num_attention_heads = num_hidden_layers, num_attention_heads
        self.intermediate_size = intermediate_size or 8 * hidden_size // 3
        self.max_position_embeddings = max_position_embeddings
        self.norm, self.position, self.bias, self.bias_norm, self.window = norm, position, bias, bias_norm, window
        super().__init__(**kwargs)


class DecoderAttention(nn.Module):
    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.heads, self.size = config.num_attention_heads, config.hidden_size // config.num_attention_heads
        self.scaling = self.size**-0.5
        self.is_causal = True
        self.query, self.key, self.value, self.out = (
            nn.Linear(config.hidden_size, config.hidden_size, bias=False) for _ in range(4)
        )
        if config.bias in ("key", "key_value"):
            self.bias_key = nn.Parameter(torch.zeros(self.heads, self.size))
            start = torch.zeros(self.heads, self.size)
            start[:, 0] = config.bias_norm
            if config.bias == "key_value":
                self.bias_value = nn.Parameter(start)
            else:
                self.register_buffer("bias_value", start)
        if config.bias == "value":
            self.bias_out = nn.Parameter(torch.zeros(self.heads, self.size))

    def forward(
        self, hidden_states: Float[Tensor, "B T D"], turn: Callable[[Tensor], Tensor], attention_mask: Any
    ) -> Float[Tensor, "B T D"]:
        query, key, value = (
            part(hidden_states).unflatten(-1, (self.heads, self.size)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        query, key = turn(query), turn(key)
        if self.config.bias in ("key", "key_value"):
            batch = len(query)
            key = torch.cat([self.bias_key[None, :, None].expand(batch, -1, -1, -1), key], dim=2)
            value = torch.cat([self.bias_value[None, :, None].expand(batch, -1, -1, -1), value], dim=2)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        found, _ = attend(self, query, key, value, attention_mask, dropout=0.0, scaling=self.scaling)
        if self.config.bias == "value":
            found = found + self.bias_out
        return self.out(found.flatten(2))


def eager_attention_forward(
    _module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """softmax(q k' scaling + mask) v, with its weights."""
    weights = (query @ key.transpose(-1, -2) * scaling + attention_mask).softmax(-1)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class DecoderBlock(nn.Module):
    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.placed = config.norm
        self.attention = DecoderAttention(config)
        self.gate, self.up = (nn.Linear(config.hidden_size, config.intermediate_size, bias=False) for _ in range(2))
        self.down = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.norms = nn.ModuleList(
            nn.RMSNorm(config.hidden_size, eps=1e-5) for _ in range(4 if config.norm == "peri" else 2)
        )

    def forward(self, hidden_states: Tensor, turn: Callable[[Tensor], Tensor], attention_mask: Any) -> Tensor:
        x = self._add(hidden_states, lambda h: self.attention(h, turn, attention_mask), self.norms[::2])
        return self._add(x, lambda h: self.down(nn.functional.silu(self.gate(h)) * self.up(h)), self.norms[1::2])

    def _add(self, x: Tensor, f: Callable[[Tensor], Tensor], norms: Any) -> Tensor:
        match self.placed:
            case "pre":
                return x + f(norms[0](x))
            case "post":
                return norms[0](x + f(x))
        return x + norms[1](f(norms[0](x)))


class Decoder(PreTrainedModel):
    """The model: input_ids [B, T] -> last_hidden_state [B, T, D]; `head` turns that into logits."""

    config_class = DecoderConfig
    base_model_prefix = "decoder"
    _supports_sdpa = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": DecoderBlock}  # noqa: RUF012 (transformers' own form)

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        if config.position == "learned":
            self.places = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.blocks = nn.ModuleList(DecoderBlock(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.Identity() if config.norm == "post" else nn.RMSNorm(config.hidden_size, eps=1e-5)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        # the study's: variance 2 / (5 width); what enters the residual stream is smaller still, by depth
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=(2 / (5 * self.config.hidden_size)) ** 0.5)
        if isinstance(module, DecoderBlock):
            for part in (module.attention.out, module.down):
                nn.init.normal_(part.weight, std=self.config.hidden_size**-0.5 / self.config.num_hidden_layers)
        if isinstance(module, DecoderAttention) and hasattr(module, "bias_key"):
            nn.init.normal_(module.bias_key, std=(2 / (5 * self.config.hidden_size)) ** 0.5)

    def get_input_embeddings(self) -> nn.Module:
        return self.embed

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(self, input_ids: Int[Tensor, "B T"], attention_mask: Tensor | None = None, **_: Any) -> BaseModelOutput:
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.embed(input_ids)
        if self.config.position == "learned":
            x = x + self.places(positions)
        turn = rotary(positions, self.blocks[0].attention.size) if self.config.position == "rope" else _still
        mask = self._mask(x, attention_mask)
        for block in self.blocks:
            x = block(x, turn, mask)
        return BaseModelOutput(last_hidden_state=self.norm(x))

    def _mask(self, x: Tensor, padding: Tensor | None) -> Any:
        """What transformers' masking makes for this attention; a bias key is one more, seen by every query."""
        batch, queries, _ = x.shape
        extra = int(self.config.bias in ("key", "key_value"))
        if padding is not None:
            padding = torch.nn.functional.pad(padding.bool(), (extra, 0), value=True)
        window = self.config.window
        sees = causal_mask_function if window is None else sliding_window_causal_mask_function(window)
        if extra and window is not None:
            sees = or_masks(sees, lambda _b, _h, _q, k: k == 0)
        return ALL_MASK_ATTENTION_FUNCTIONS[self.config._attn_implementation](
            batch_size=batch,
            q_length=queries,
            kv_length=queries + extra,
            q_offset=extra,
            kv_offset=0,
            mask_function=sees,
            attention_mask=padding,
            allow_is_causal_skip=not extra,
            local_size=window,
            dtype=x.dtype,
            config=self.config,
            device=x.device,
        )


def rotary(positions: Tensor, size: int) -> Callable[[Tensor], Tensor]:
    """Rotary positions (Su et al., 2021): coordinate i of a head is turned with coordinate i + size / 2."""
    rates = 10_000.0 ** (-torch.arange(0, size, 2, device=positions.device) / size)
    angle = positions[:, None] * rates
    cos, sin = angle.cos(), angle.sin()

    def turn(x: Float[Tensor, "B H T D"]) -> Float[Tensor, "B H T D"]:
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).to(x.dtype)

    return turn


def _still(x: Tensor) -> Tensor:
    return x


AutoConfig.register(DecoderConfig.model_type, DecoderConfig)
AutoModel.register(DecoderConfig, Decoder)
