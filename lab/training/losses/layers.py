"""The embeddings that a model would give if it stopped at a layer, several layers in one pass."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lab.blocks import find_blocks
from lab.models.hooks import after, before
from lab.training.losses.contrast import Features, Loss, similarities, wide


def layer_vectors(model: nn.Module, features: Features, layers: Sequence[int], final_norm: str | None = None) -> Tensor:
    """[B, L, D]: the text embeddings from each of these layers, all in one forward pass, gradients included.

    layers: 0 is the embedding output, k the output of block k, and the last one what the transformer returns, after
    its final norm, as everywhere in the lab. What stands behind the transformer (pooling, dense, normalize) runs once
    for each of them. A state is kept as long as its layer is pooled.

    final_norm: the dotted name, in the transformer, of a norm that the states between get before they are pooled; a
    pre-norm decoder's last state has it behind it ("norm" in Llama). None leaves them as they are, as
    sentence-transformers does.

    Raises ValueError for a layer or a norm that is not there, and for a model that pools its layers itself.
    """
    out, states = layer_states(model, features, layers, final_norm)
    return torch.stack([embedded(model, out, state) for state in states], 1)


def layer_states(
    model: nn.Module, features: Features, layers: Sequence[int], final_norm: str | None = None
) -> tuple[Features, list[Tensor]]:
    """What the transformer gives, and the token states [B, T, D] of these layers, as in layer_vectors."""
    transformer, behind = parts(model)
    if any(hasattr(module, "layer_pool") for module in behind):
        raise ValueError("this model pools over its layers itself: a layer has no embedding of its own there")
    norm = nn.Identity() if final_norm is None else _submodule(transformer, final_norm)
    with _states(transformer, set(layers)) as (states, count):
        out = transformer(dict(features))
    depth = count()
    if wrong := sorted({layer for layer in layers if not 0 <= layer <= depth}):
        raise ValueError(f"no layer {wrong}; there are 0 (embeddings) to {depth}")
    return out, [out["token_embeddings"] if layer == depth else norm(states[layer]) for layer in layers]


def embedded(model: nn.Module, out: Features, state: Tensor) -> Tensor:
    """[B, D]: the text embeddings that what stands behind the transformer makes of these token states."""
    passed = dict(out) | {"token_embeddings": state}
    for module in parts(model)[1]:
        passed = module(passed)
    return passed["sentence_embedding"]


def depth_of(model: nn.Module) -> int:
    """The number of blocks of the model's transformer."""
    return len(find_blocks(parts(model)[0].model)[0])


def parts(model: nn.Module) -> tuple[nn.Module, list[nn.Module]]:
    """The transformer of a sentence-transformers model, and the modules behind it, whatever is wrapped around them."""
    while not isinstance(model, nn.Sequential):
        inside = getattr(model, "module", getattr(model, "_orig_mod", None))
        if inside is None:
            raise TypeError(f"model must be a SentenceTransformer; got {type(model).__name__}")
        model = inside
    first, *behind = model
    if not isinstance(getattr(first, "model", None), nn.Module):
        raise ValueError(
            f"the model's first module must be a Transformer, whose layers are read; got {type(first).__name__}"
        )
    return first, behind


def score_agreement(student: Sequence[Tensor], teacher: Sequence[Tensor], *, scale: float = 20.0) -> Tensor:
    """KL(softmax(s t_i) || softmax(s c_i)) over each query's candidates, teacher t detached; the mean over queries.

    student, teacher: columns [B, d] and [B, D] of the same texts. As in Starbucks' retrieval code.
    """
    rows = [torch.cat([positive[:, None], negative], 1) for positive, negative in map(similarities, (student, teacher))]
    logs = [(scale * row).log_softmax(1) for row in (rows[0], rows[1].detach())]
    return kl(logs[1], logs[0]).mean()


def coordinate_agreement(student: Sequence[Tensor], teacher: Sequence[Tensor], *, temperature: float = 0.3) -> Tensor:
    """T KL(softmax(t / T) || softmax(c / T)) over an embedding's coordinates; t is detached, and cut to c's width.

    The mean over texts of all columns. As in sentence-transformers' AdaptiveLayerLoss, which cites 2DMSE for it;
    Starbucks' similarity code leaves out the division by T and does not detach the teacher.
    """
    c, t = (wide(torch.cat(list(columns))) for columns in (student, teacher))
    logs = [(x / temperature).log_softmax(1) for x in (t.detach()[:, : c.shape[1]], c)]
    return temperature * kl(*logs).mean()


def kl(teacher: Tensor, student: Tensor) -> Tensor:
    """sum_k e^{t_k} (t_k - c_k) of log-probabilities, row by row."""
    return (teacher.exp() * (teacher - student)).sum(-1)


def of_columns(inner: nn.Module) -> Callable[..., Tensor]:
    """The inner loss as a function of embeddings: ours, or one of sentence-transformers' that can be asked so."""
    if isinstance(inner, Loss):
        return inner.of
    if hasattr(inner, "compute_loss_from_embeddings"):
        return lambda batch: inner.compute_loss_from_embeddings(list(batch.columns), batch.labels)
    raise TypeError(
        f"{type(inner).__name__} cannot be asked for a loss of embeddings; take a loss of lab.training.losses, or one "
        "of sentence-transformers' with compute_loss_from_embeddings, such as MultipleNegativesRankingLoss"
    )


@contextmanager
def _states(transformer: nn.Module, wanted: set[int]) -> Iterator[tuple[dict[int, Tensor], Callable[[], int]]]:
    """The states of the wanted layers, filled by the pass that runs inside; and how many blocks ran."""
    states: dict[int, Tensor] = {}
    modules = dict(transformer.model.named_modules())
    names = list(dict.fromkeys(find_blocks(transformer.model)[0]))
    runs = [0]

    def left(state: Tensor) -> None:  # in the order in which blocks run: one that runs twice is two layers
        runs[0] += 1
        if runs[0] in wanted:
            states[runs[0]] = state

    with ExitStack() as hooks:
        if 0 in wanted:
            hooks.callback(before(modules[names[0]], lambda state: states.setdefault(0, state)).remove)
        for name in names:
            hooks.callback(after(modules[name], left).remove)
        yield states, lambda: runs[0]


def _submodule(transformer: nn.Module, name: str) -> Any:
    modules = dict(transformer.model.named_modules())
    if name not in modules:
        norms = [known for known in modules if "norm" in known.lower()]
        raise ValueError(f"no module {name!r} in {type(transformer.model).__name__}; its last norms are {norms[-3:]}")
    return modules[name]
