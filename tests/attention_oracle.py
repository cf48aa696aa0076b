"""What a model's attention is, by its own eager matrices; and the statistics of a matrix, by their formulas."""

import copy

import numpy as np
import torch
import transformers as tf
from families import ENDS, FAMILIES, IMAGE, SEQ2SEQ, SHARED, TEXT, reads_letters

import lab
from lab.models.wrap import half

MORE = {
    "mistral": lambda: tf.MistralConfig(**TEXT | ENDS, **SHARED, sliding_window=4),
    "dinov2_registers": lambda: tf.Dinov2WithRegistersConfig(hidden_size=32, num_register_tokens=2, **IMAGE),
    "modernbert_window": lambda: tf.ModernBertConfig(
        **TEXT, pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2, local_attention=6
    ),
}
TEXTS = (
    "gpt2", "llama", "bert", "mistral", "gemma2", "gpt_oss", "gptneox", "opt", "qwen3", "t5", "modernbert",
    "modernbert_window",
)  # fmt: skip
PICTURES = ("vit", "dinov2_registers")


def drawn(name, scale=3.0, **kw):
    """A model with random weights, large enough that its attention is far from uniform, and as the lab sees it."""
    torch.manual_seed(0)
    module = tf.AutoModel.from_config((FAMILIES | SEQ2SEQ | MORE)[name](), **kw).eval()
    with torch.no_grad():
        for weight in module.parameters():
            if weight.ndim > 1:
                weight.mul_(scale)
    blocks, example = None, None
    if name in SEQ2SEQ:
        module, blocks, example = half(module, "encoder")
    tokenizer = None if name in PICTURES else reads_letters
    return lab.models.describe(name, "test", module, tokenizer, 60, blocks=blocks, example=example)


def inputs(model, side="right", lengths=(9, 4, 7)):
    """A batch, padded on one side or on none, and which of its tokens are real [B, T]."""
    g = torch.Generator().manual_seed(0)
    if model.name in PICTURES:
        pixels = torch.randn(len(lengths), *model.example["pixel_values"].shape[1:], generator=g)
        with torch.inference_mode():
            tokens = model.model(pixel_values=pixels).last_hidden_state.shape[1]
        return {"pixel_values": pixels}, torch.ones(len(lengths), tokens, dtype=torch.bool)
    T = max(lengths)
    ids = torch.randint(5, 95, (len(lengths), T), generator=g)
    mask = torch.arange(T) < torch.tensor(lengths)[:, None]
    mask = mask.flip(1) if side == "left" else torch.ones_like(mask) if side == "none" else mask
    given = {"input_ids": ids * mask, "attention_mask": mask.long()}
    if side == "none":
        del given["attention_mask"]
    return given, mask


def matrices(model, given):
    """A [B, H, T, T] of each layer, from transformers' own eager attention, in a copy of the model."""
    module = copy.deepcopy(model.model)
    module.set_attn_implementation("eager")
    with torch.inference_mode():
        out = module(**given, output_attentions=True)
    return [A.double().numpy() for A in out.attentions]


def statistics(A, real, threshold=0.3, first=4):
    """The definitions, sequence by sequence, of A [B, H, T, T] and real [B, T]: {name: [H, P] or [H, B]}."""
    H, P = A.shape[1], int(real.sum(1).max())
    places = {name: np.zeros((H, P)) for name in ("mass", "share", "lift", "sink_rate", "mass_rate")}
    singles = {name: [] for name in ("entropy", "effective_keys", "distance", "row_mass", "first_share", "first_token")}
    support = np.zeros(P)
    for matrix, here in zip(A, np.asarray(real), strict=True):
        a = matrix[:, here][:, :, here]  # [H, T, T]
        T = a.shape[-1]
        visible = matrix[:, here][:, :, here] > 0  # a softmax gives every visible key something
        causal = not np.triu(visible.any(0), 1).any()
        n = T - np.arange(T) if causal else np.full(T, T)
        alpha = a.sum(1) / n
        even = (visible / visible.sum(2, keepdims=True)).sum(1) / n
        p = a / a.sum(-1, keepdims=True)  # a itself for a softmax without a sink logit
        share = p.sum(1) / n
        places["mass"][:, :T] += alpha
        places["share"][:, :T] += share
        places["lift"][:, :T] += share / even
        places["sink_rate"][:, :T] += share > threshold
        places["mass_rate"][:, :T] += alpha > threshold
        support[:T] += 1
        i = np.arange(T)
        singles["entropy"].append(-(p * np.log(np.where(p > 0, p, 1))).sum(-1).mean(-1))
        singles["effective_keys"].append((1 / (p**2).sum(-1)).mean(-1))
        singles["distance"].append((p * (i[:, None] - i)).sum(-1).mean(-1))
        singles["row_mass"].append(a.sum(-1).mean(-1))
        singles["first_share"].append(p[..., :first].sum(-1).mean(-1))
        singles["first_token"].append(share[:, 0])
    found = {name: values / support for name, values in places.items()}
    return found | {name: np.stack(values, 1) for name, values in singles.items()}
