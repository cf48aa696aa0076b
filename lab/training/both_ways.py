"""The mask of a model that is saved as adapters alone."""

from collections.abc import MutableMapping
from typing import Any

from sentence_transformers.base.modules import Module
from torch import nn


class BothWays(Module):
    """Sets `is_causal = False` in the transformer's config when the whole model stands; passes features through.

    A model saved with adapters takes its config from the base, where the model is causal as it was: loaded again it
    would be causal without a word. A model saved whole has the switch in its own config and needs no such module.
    """

    config_keys: list[str] = []  # noqa: RUF012 - sentence-transformers' own way

    def forward(self, features: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        return features

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        self.save_config(output_path)

    def on_model_ready(self, model: nn.Sequential) -> None:
        transformer = model[0].model
        transformer.config.is_causal = False
        for part in transformer.modules():
            if getattr(part, "is_causal", None) is True:  # what SDPA asks where there is no mask at all
                part.is_causal = False
