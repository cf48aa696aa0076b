"""All layers of a text model, pooled by the mean, in other people's code: {name: run(model, batches)}.

Each import is inside, so that a peer that is not installed is a row that says so.
"""

from collections.abc import Iterable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from lab.capture.batches import Batch
from lab.capture.passes import placed
from lab.models import Loaded


def plain(model: Loaded, batches: Iterable[Batch]) -> None:
    with torch.inference_mode():
        for batch in batches:
            model.model(**placed(model, batch.inputs))


def keep_all(model: Loaded, batches: Iterable[Batch]) -> None:
    """transformers' output_hidden_states, every state kept."""
    kept = []
    with torch.inference_mode():
        for batch in batches:
            out = model.model(**placed(model, batch.inputs), output_hidden_states=True)
            kept.append([h.cpu() for h in out.hidden_states])


def pool_after(model: Loaded, batches: Iterable[Batch]) -> None:
    """transformers' output_hidden_states, pooled when the pass is over."""
    with torch.inference_mode():
        for batch in batches:
            out = model.model(**placed(model, batch.inputs), output_hidden_states=True)
            for h in out.hidden_states:
                _mean(h, batch.segments.to(h.device)).cpu()


def nnsight(model: Loaded, batches: Iterable[Batch]) -> None:
    import nnsight

    traced, path = _nnsight(model), model.blocks[0].rsplit(".", 1)[0]
    blocks = traced
    for part in path.split("."):
        blocks = getattr(blocks, part)
    with torch.inference_mode():
        for batch in batches:
            mask = batch.segments.to(model.device)
            with traced.trace(**placed(model, batch.inputs)):
                nnsight.save([_mean(_first(block.output), mask) for block in blocks])


def transformer_lens(model: Loaded, batches: Iterable[Batch]) -> None:
    bridge = _bridge(model)
    names = {name for name in bridge.hook_dict if name.startswith("blocks.") and name.count(".") == 2}
    names = {name for name in names if name.endswith("hook_out")}
    with torch.inference_mode():
        for batch in batches:
            given = {name: value.to(model.device) for name, value in batch.inputs.items()}
            _, cache = bridge.run_with_cache(given.pop(model.reads), names_filter=names.__contains__, **given)
            for state in cache.values():
                _mean(state, batch.segments.to(state.device)).cpu()


def baukit(model: Loaded, batches: Iterable[Batch]) -> None:
    from baukit import TraceDict

    with torch.inference_mode():
        for batch in batches:
            with TraceDict(model.model, list(model.blocks)) as traced:
                model.model(**placed(model, batch.inputs))
            for name in model.blocks:
                _mean(_first(traced[name].output), batch.segments.to(model.device)).cpu()


def _mean(state: Tensor, mask: Tensor) -> Tensor:
    return torch.bmm(mask[:, None].to(state.dtype), state)[:, 0] / mask.sum(1, keepdim=True)


def _first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


@cache
def _nnsight(model: Loaded) -> Any:
    import nnsight

    return nnsight.NNsight(model.model)


@cache
def _bridge(model: Loaded) -> Any:
    """TransformerLens knows BERT as a masked language model only, so its head is computed too."""
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import BertForMaskedLM

    hf_model = BertForMaskedLM.from_pretrained(model.source)
    device = str(model.device)
    return TransformerBridge.boot_transformers(
        model.source, hf_model=hf_model, tokenizer=model.tokenizer, device=device
    )


@cache
def _sentence_transformer(source: str, where: str) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(source, device=where)


def encode(model: Loaded, texts: list[str]) -> None:
    """sentence-transformers: the last layer alone, in batches of its own."""
    _sentence_transformer(model.source, str(model.device)).encode(texts)


PEERS = {
    "output_hidden_states, all kept": keep_all,
    "output_hidden_states, then the mean": pool_after,
    "baukit, then the mean": baukit,
    "nnsight, the mean in the trace": nnsight,
    "TransformerLens, then the mean": transformer_lens,
}
