"""Letting a decoder look both ways, and not believing it until a token has been seen to move."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch

from lab.models.loaded import Loaded


@contextmanager
def bidirectional(model: Any) -> Iterator[Loaded]:
    """Inside the block every token of the model sees all others, as transformers' `is_causal = False` has it.

    Yields the same model with causal = False; the weights are shared, the switch is turned back when the block is
    left. A model that looks both ways already is yielded as it is.

    Before that, the last token of a text is exchanged and the first one's state must move: alone, beside a longer
    text, and in a batch with padding, because families have stayed causal in just one of these.

    Raises TypeError for what lab.models did not load; ValueError for a model that stays causal in any of them, and for
    one without attention masks to switch.
    """
    with ExitStack() as switched:
        yield _switched(model, switched)


def for_good(model: Any) -> Loaded:
    """The same switch, turned and left so: for a model that is trained, saved and loaded again.

    `is_causal = False` stands in the config, which is saved with the weights, and transformers reads it there in every
    pass. The model itself is changed. Checked and refused as in `bidirectional`; a refused model is as it was before.
    """
    with ExitStack() as switched:
        found = _switched(model, switched)
        switched.pop_all()  # nothing is turned back
    return found


def _switched(model: Any, switched: ExitStack) -> Loaded:
    if not isinstance(model, Loaded):
        raise TypeError(f"model must come from lab.models.load, tiny or wrap; got {type(model).__name__}")
    if not model.causal:
        return model
    if not model.reads_tokens or not model.takes("attention_mask") or not hasattr(model.model, "config"):
        raise ValueError(f"{model.name} is causal by its structure: it has no attention mask to switch")
    _set(switched, model.model.config, False)
    for module in model.model.modules():
        if getattr(module, "is_causal", None) is True:  # what SDPA asks where there is no mask at all
            _set(switched, module, False)
    if blind := [case for case, moved in _moved(model).items() if not moved]:
        raise ValueError(
            f"{model.name} stays causal with is_causal = False ({', '.join(blind)}): {type(model.model).__name__} "
            f"with {model.model.config._attn_implementation!r} attention does not ask for it"
        )
    return replace(model, causal=False, name=f"{model.name}, bidirectional", recipe=None)


def _set(switched: ExitStack, owner: Any, value: bool) -> None:
    had = "is_causal" in vars(owner)
    before = getattr(owner, "is_causal", None)
    owner.is_causal = value
    switched.callback(lambda: setattr(owner, "is_causal", before) if had else delattr(owner, "is_causal"))


@torch.inference_mode()
def _moved(model: Loaded) -> dict[str, bool]:
    """For each way of batching: did the first token's last state move when the last token was exchanged?"""
    ids = model.example[model.reads][:1]
    other = ids.clone()
    other[:, -1] = ids[:, 0]
    longer = torch.cat([ids, ids], dim=1)
    found = {}
    for case, width in {"one text alone": 1, "two of one length": 2, "one of them padded": 2}.items():
        rows, mask = [], None
        for last in (ids, other):
            row = torch.cat([last] * width)
            if case == "one of them padded":
                row = torch.cat([torch.cat([last, torch.zeros_like(last)], dim=1), longer])
                mask = torch.ones_like(row)
                mask[0, ids.shape[1] :] = 0
            rows.append(model.last_state(**{model.reads: row} | ({} if mask is None else {"attention_mask": mask})))
        far = (rows[0] - rows[1])[0, 0].abs().max()
        found[case] = bool(far > 1e-3 * rows[0][0, 0].abs().max() * torch.finfo(rows[0].dtype).eps ** 0.5)
    return found
