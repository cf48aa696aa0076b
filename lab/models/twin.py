"""The same architecture, never trained: what of a result is the architecture's alone."""

from dataclasses import replace

import torch

from lab.models.loaded import Loaded, describe


def untrained(model: Loaded, seed: int = 0) -> Loaded:
    """A model of the same transformers configuration, tokenizer and window, with random weights drawn from the seed.

    The caller's random state is left as it was. Raises ValueError for a model without such a configuration.
    """
    from transformers import AutoModel

    config = getattr(model.model, "config", None)
    if config is None:
        raise ValueError(f"{model.name} has no transformers configuration to draw another one from")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        drawn = AutoModel.from_config(config)
    weight = next(model.model.parameters())
    drawn = drawn.to(weight.device, weight.dtype)
    name, source = f"{model.name}, untrained", f"random weights in the form of {model.source}, seed {seed}"
    twin = describe(name, source, drawn, model.tokenizer, model.window)
    return replace(twin, example=model.example)
