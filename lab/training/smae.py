"""Masked pre-training on a list of layers and widths, before an embedding is trained on the same list."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from tqdm import tqdm

from lab.data.ledger import of_texts
from lab.data.undisturbed import undisturbed
from lab.models import identity
from lab.training import checkpoint
from lab.training.losses.contrast import wide
from lab.training.losses.layers import depth_of, embedded, layer_states, parts
from lab.training.losses.starbucks import checked_pairs


class CutHead(nn.Module):
    """z = LN(gelu(W_{:, 1:d} h_{1:d} + b)), logits = E z + c: one head for states cut to any width d.

    h (..., d), d <= D -> z (..., D) by `widen`; with E the input embeddings (V, D), logits (..., V).
    """

    def __init__(self, dim: int, vocab: int) -> None:
        super().__init__()
        self.dense, self.norm = nn.Linear(dim, dim), nn.LayerNorm(dim)
        self.bias = nn.Parameter(torch.zeros(vocab))

    def widen(self, h: Float[Tensor, "*N d"]) -> Float[Tensor, "*N D"]:
        cut = nn.functional.linear(h, self.dense.weight[:, : h.shape[-1]], self.dense.bias)
        return self.norm(nn.functional.gelu(cut))

    def forward(self, h: Float[Tensor, "*N d"], embedding: Float[Tensor, "V D"]) -> Float[Tensor, "*N V"]:
        return self.widen(h) @ embedding.T + self.bias


def hidden(
    there: Bool[Tensor, "B T"], shares: tuple[float, float], generator: torch.Generator | None = None
) -> tuple[Bool[Tensor, "B T"], Bool[Tensor, "B T"]]:
    """Which of a text's n tokens are hidden: max(1, round(share n)) at random, the fewer among the more.

    there: tokens that may be. A text without any has none hidden.
    """
    rank = torch.rand(there.shape, generator=generator).masked_fill(~there, 2.0).argsort(1).argsort(1)
    n = there.sum(1, keepdim=True)
    few, more = ((rank < (share * n).round().clamp(min=1)) & there for share in shares)
    return few, more


class MaskedLoss(nn.Module):
    """mean over pairs (l, d) of (CE(said_{l,d}, hidden tokens) + CE(told_{l,d}, more hidden tokens)) / 2.

    said: CutHead of the states h^l_{1:d} of a text with some tokens hidden.
    told: by a decoder of one block, that reads the text with more tokens hidden behind the text's own vector, the
        embedding e^l_{1:d} of those states, widened by the head: the masked auto-encoder. Of the layers it learns only
        through that vector.
    Both share the head, and the input embeddings as its output. CE: the mean over all hidden tokens of a batch.

    Starbucks Masked Autoencoding (SMAE), Zhuang et al., 2024, https://arxiv.org/abs/2410.13230; from the authors'
    code, where the vector is BERT's [CLS] state, in the place of the decoder's first token, and the decoder BERT's
    first block. Here the vector is what the model's own pool makes, stands in front, and the block is drawn.
    """

    def __init__(self, model: nn.Module, pairs: Any, sign: int) -> None:
        super().__init__()
        self.model, self.sign = model, sign
        vocab, dim = self.embedding().shape
        if model.get_embedding_dimension() != dim:
            raise ValueError(
                f"the embedding has {model.get_embedding_dimension()} numbers and the token states {dim}; a width cuts "
                "both alike, so needed is one pool of the tokens"
            )
        self.pairs = checked_pairs(pairs, depth_of(model), dim)
        self.layers = sorted({layer for layer, _ in self.pairs})
        self.head = CutHead(dim, vocab)
        self.places = nn.Parameter(0.02 * torch.randn(1 + (model.max_seq_length or 512), dim))
        heads = next(n for n in (4, 2, 1) if dim % n == 0)
        self.decoder = nn.TransformerEncoderLayer(
            dim, heads, 4 * dim, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )

    def embedding(self) -> Float[Tensor, "V D"]:
        return parts(self.model)[0].model.get_input_embeddings().weight

    def forward(
        self,
        ids: Int[Tensor, "B T"],
        mask: Bool[Tensor, "B T"],
        few: Bool[Tensor, "B T"],
        more: Bool[Tensor, "B T"],
    ) -> Float[Tensor, ""]:
        """ids, and their mask; few and more: tokens that the model and that the decoder do not see."""
        E = self.embedding()
        features = {"input_ids": ids.masked_fill(few, self.sign), "attention_mask": mask.long()}
        out, states = layer_states(self.model, features, self.layers)
        states = dict(zip(self.layers, states, strict=True))
        vectors = {layer: embedded(self.model, out, state) for layer, state in states.items()}
        said = torch.stack([self.head(states[layer][few][:, :dim], E) for layer, dim in self.pairs])
        told = torch.stack([self._told(vectors[layer][:, :dim], ids, mask, more) for layer, dim in self.pairs])
        return (_missed(said, ids[few]) + _missed(told, ids[more])) / 2

    def _told(self, vector: Float[Tensor, "B d"], ids: Tensor, mask: Tensor, more: Tensor) -> Float[Tensor, "N V"]:
        E = self.embedding()
        read = torch.cat([self.head.widen(vector)[:, None], E[ids.masked_fill(more, self.sign)]], 1)
        read = read + self.places[: read.shape[1]]
        seen = nn.functional.pad(mask, (1, 0), value=True)
        return self.head(self.decoder(read, src_key_padding_mask=~seen)[:, 1:][more], E)


def _missed(logits: Float[Tensor, "P N V"], ids: Int[Tensor, " N"]) -> Float[Tensor, ""]:
    """The mean cross-entropy of P answers to the same N tokens."""
    return nn.functional.cross_entropy(wide(logits.flatten(0, 1)), ids.repeat(len(logits)))


def smae(
    texts: Sequence[str],
    model: Any,
    *,
    pairs: Any,
    steps: int = 500,
    batch: int = 64,
    rate: float = 1e-3,
    hide: tuple[float, float] = (0.2, 0.4),
    seed: int = 0,
    folder: str | Path | None = None,
    every: int = 50,
    progress: bool = True,
) -> np.ndarray:
    """Train a SentenceTransformer's transformer, in place, to say hidden tokens; the loss of each step, in nats.

    texts: cut at the model's window. model: of lab.training.embedder, one pool of one layer, looking both ways. pairs:
    (layer, width), from small to large, as the loss "starbucks" has them: the same list is what is trained next; one
    pair, (depth, width), is masked pre-training of the whole model alone. hide: the share of tokens that the model and
    that the decoder do not see (.2 and .4 are the authors'; they hide whole words, and leave or exchange a fifth of
    them). Hidden tokens are read as the tokenizer's mask token, or its unknown token where it has none.
    AdamW, the rate warmed up over a tenth of the steps, then down to 0 linearly, gradients clipped to a norm of 1; the
    seed draws head, decoder, batches and what is hidden. Head and decoder are thrown away.
    folder: a checkpoint every `every` steps; called again with the same arguments and the same initial model it goes
    on from there.

    Raises ValueError for no text, numbers that make no sense, pairs that are not there, a model whose embedding is
    wider than its states, a tokenizer with neither token, and a folder that holds another run; FloatingPointError when
    the loss is no number.
    """
    _check_numbers(texts, steps, batch, rate, hide, every)
    sign = model.tokenizer.mask_token_id
    sign = model.tokenizer.unk_token_id if sign is None else sign
    if sign is None:
        raise ValueError("the tokenizer has no mask token and no unknown token to stand for a hidden one; add one")
    rows = [torch.tensor(row) for row in _ids(model, texts)]
    special = torch.tensor(model.tokenizer.all_special_ids)
    said = {"smae": {"pairs": [list(pair) for pair in pairs], "steps": steps, "batch": batch, "rate": rate,
                     "hide": list(hide), "seed": seed, "every": every, "texts": of_texts(texts)[:16],
                     "model": identity.checksum(dict(sorted(model.state_dict().items())))[:16]}}  # fmt: skip
    with undisturbed():
        torch.manual_seed(seed)
        net = MaskedLoss(model, pairs, sign).to(model.device)
        optimiser = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=1e-2, fused=True)
        done, seen = checkpoint.read(folder, said, net, optimiser) if folder else (0, [])
        net.train()
        for step in tqdm(range(done, steps), desc="hidden tokens", disable=not progress, leave=False):
            torch.manual_seed(seed * 2_000_003 + step)  # of batches, what is hidden, and dropout: a killed run goes on
            drawn = [rows[i] for i in torch.randint(len(rows), (batch,))]
            ids = nn.utils.rnn.pad_sequence(drawn, True, sign)  # what pads is never looked at
            mask = torch.arange(ids.shape[1]) < torch.tensor([[len(row)] for row in drawn])
            chosen = hidden(mask & ~torch.isin(ids, special), hide)
            for group in optimiser.param_groups:
                group["lr"] = rate * min((step + 1) / max(1, steps // 10), (steps - step) / steps)
            loss = net(*(x.to(model.device) for x in (ids, mask, *chosen)))
            if not torch.isfinite(loss):
                raise FloatingPointError(f"the loss is {loss.item()} at step {step}")
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step()
            seen.append({"loss": loss.item()})
            if folder and ((step + 1) % every == 0 or step + 1 == steps):
                checkpoint.write(folder, said, net, optimiser, step + 1, seen)
    model.zero_grad(set_to_none=True)
    model.eval()
    return np.array([row["loss"] for row in seen])


def _ids(model: Any, texts: Sequence[str]) -> list[list[int]]:
    cut = {} if model.max_seq_length is None else {"truncation": True, "max_length": model.max_seq_length}
    rows = model.tokenizer(list(texts), **cut)["input_ids"]
    special = set(model.tokenizer.all_special_ids)
    if not (rows := [row for row in rows if set(row) - special]):
        raise ValueError(f"none of {len(texts)} texts has a token that could be hidden")
    return rows


def _check_numbers(
    texts: Sequence[str], steps: int, batch: int, rate: float, hide: tuple[float, float], every: int
) -> None:
    if isinstance(texts, str) or not len(texts):
        raise ValueError(f"needed are texts, one or more in a list; got {texts!r}")
    if min(steps, batch, every) < 1 or not rate > 0:
        raise ValueError(
            f"steps, batch and every must be 1 or more, rate above 0; got {steps}, {batch}, {every} and {rate}"
        )
    if not 0 < hide[0] <= hide[1] < 1:
        raise ValueError(f"hide must be two shares in (0, 1), the decoder's the larger; got {hide}")
