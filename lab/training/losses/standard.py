"""The losses that sentence-transformers has, with the settings of the founding paper where it states some.

s(q, d) is the cosine, the temperature 1 / scale. Imports of sentence-transformers take seconds, so they wait for use.
"""

from collections.abc import Sequence
from typing import Any

from torch import nn

SCALE = 20.0  # the founding paper's code, whatever its loss_scale argument says


def infonce(model: Any, *, scale: float = SCALE, **options: Any) -> nn.Module:
    """-mean_i log exp(scale s(q_i, d_i)) / sum_j exp(scale s(q_i, d_j)), j over all positives and hard negatives.

    van den Oord et al., 2018; options: those of sentence-transformers' MultipleNegativesRankingLoss, such as
    gather_across_devices=True on several GPUs, or hardness_mode. https://arxiv.org/abs/1807.03748
    """
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    return MultipleNegativesRankingLoss(model, scale=scale, **options)


def cached(model: Any, *, mini_batch: int = 32, scale: float = SCALE, **options: Any) -> nn.Module:
    """InfoNCE with GradCache: the same loss and gradient as `infonce`, the activations of mini_batch texts at a time.

    Gao et al., 2021. https://arxiv.org/abs/2101.06983
    """
    from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss

    return CachedMultipleNegativesRankingLoss(model, scale=scale, mini_batch_size=mini_batch, **options)


def gist(model: Any, *, guide: Any = "minilm", temperature: float = 0.05, **options: Any) -> nn.Module:
    """InfoNCE over positives, queries and documents, without candidates that the guide finds closer than the positive.

    guide: a SentenceTransformer, the folder or hub id of one, or "minilm", the bundled one; it is not trained.
    Solatorio, 2024. https://arxiv.org/abs/2402.16829
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import GISTEmbedLoss

    from lab.models.load import resolve

    if guide == "minilm":
        guide, _ = resolve(guide)
    if isinstance(guide, str):
        guide = SentenceTransformer(guide, device=str(model.device))
    guide.requires_grad_(False)
    return GISTEmbedLoss(model, guide, temperature=temperature, **options)


def matryoshka(
    model: Any, *, dims: Sequence[int] | None = None, loss: nn.Module | None = None, **options: Any
) -> nn.Module:
    """sum_d w_d L(first d coordinates), w_d = 1, L = InfoNCE where no other is given.

    dims: by default the width and its halves, down to an eighth. Kusupati et al., 2022. https://arxiv.org/abs/2205.13147
    """
    from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss

    width = model.get_embedding_dimension()
    if dims is None:
        dims = [width // part for part in (1, 2, 4, 8) if width // part > 0]
    return MatryoshkaLoss(model, infonce(model) if loss is None else loss, list(dims), **options)


def adaptive_layer(model: Any, *, loss: nn.Module | None = None, **options: Any) -> nn.Module:
    """L at the last layer, and at one drawn earlier layer a step, drawn to the last by a KL term.

    L is InfoNCE where no other is given. Li et al., 2024, "2D Matryoshka Sentence Embeddings".
    https://arxiv.org/abs/2402.14776. Raises ValueError for a model that pools several layers: it has no one layer to
    exchange.
    """
    from sentence_transformers.sentence_transformer.losses import AdaptiveLayerLoss

    from lab.pooling.interchange import LayerPooling

    if any(isinstance(module, LayerPooling) for module in model):
        raise ValueError(
            "adaptive layers put an earlier layer in the last one's place, and this model's pooling reads layers of "
            "its own; take a design on the last layer"
        )
    return AdaptiveLayerLoss(model, infonce(model) if loss is None else loss, **options)
