"""The language model that a loaded one is the body of, so that what is done to its layers can be told in loss."""

from torch import nn

from lab.models.load import resolve
from lab.models.loaded import Loaded

HEADS = ("ForCausalLM", "LMHeadModel")  # how transformers ends the names of what says the next token


def speaking(model: Loaded, *, revision: str | None = None, trust_remote_code: bool = False) -> nn.Module | None:
    """Logits for what comes next, model(input_ids=ids).logits [B, T, V], from this very model's states.

    The whole is loaded again from where `lab.models.load` found the model, and the loaded model put in the place of its
    body: what watches or changes that, `lab.attention.without_keys` as an example, works on the whole. None where the
    folder or hub id is of no causal language model, and for models that were not loaded from one.

    Raises ValueError where the body found there is of another kind than the model.
    """
    kinds = getattr(getattr(model.model, "config", None), "architectures", None) or ()
    if model.recipe is None or not any(kind.endswith(HEADS) for kind in kinds):
        return None
    from transformers import AutoModelForCausalLM

    where, _ = resolve(model.name)
    whole = AutoModelForCausalLM.from_pretrained(
        where, use_safetensors=True, dtype=model.model.dtype, revision=revision, trust_remote_code=trust_remote_code
    )
    if type(whole.base_model) is not type(model.model):
        raise ValueError(
            f"{model.name} is a {type(model.model).__name__}, but the language model there has a "
            f"{type(whole.base_model).__name__} in it: load the model anew, from where it was saved whole"
        )
    setattr(whole, whole.base_model_prefix, model.model)
    return whole.to(model.device).eval()
