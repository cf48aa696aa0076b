"""One decoder for pictures and words: told what to do in words, it makes one vector of whatever it is given. A toy.

What it is asked, and what is right, is the table of lab.training.instructions.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor, nn

from lab.pooling import POOLS
from lab.training.descend import descend
from lab.training.instructions import (
    END,
    INSTRUCTIONS,
    PATCH,
    WORDS,
    Instruction,
    answering,
    asked,
    check,
    features,
    joined,
    tasks,
)  # fmt: skip
from lab.training.losses.contrast import Batch, Features, Loss, infonce, similarities


class Tower(nn.Module):
    """A llama over patches, then letters; the state of the last token, which has seen all before it."""

    def __init__(self, dim: int, layers: int, heads: int) -> None:
        from transformers import LlamaConfig, LlamaModel

        super().__init__()
        self.patches = nn.Linear(PATCH * PATCH, dim)
        self.decoder = LlamaModel(
            LlamaConfig(
                vocab_size=END + 1, hidden_size=dim, intermediate_size=2 * dim, num_hidden_layers=layers,
                num_attention_heads=heads, num_key_value_heads=heads, max_position_embeddings=128, use_cache=False,
                bos_token_id=None, eos_token_id=END, pad_token_id=0,
                initializer_range=dim**-0.5,  # at .02, the default, so narrow a model stands still for a hundred steps
            )
        )  # fmt: skip
        self.pool = POOLS["last"](dim)

    def forward(self, features: Features) -> Float[Tensor, "B D"]:
        patches = self.patches(features["pixel_values"])
        letters = self.decoder.get_input_embeddings()(features["input_ids"])
        pictured = features["pictured"][:, None].expand(patches.shape[:2])
        mask = torch.cat([pictured, features["attention_mask"]], 1).bool()
        states = self.decoder(
            inputs_embeds=torch.cat([patches, letters], 1),
            attention_mask=mask.long(),
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        ).last_hidden_state
        return self.pool(states, mask)


class Decoder(nn.Module):
    """Patches, instruction and words in one row: every later token may look at every earlier one, of either kind."""

    def __init__(self, dim: int, layers: int, heads: int) -> None:
        super().__init__()
        self.tower = Tower(dim, layers, heads)

    def forward(self, features: Features) -> dict[str, Tensor]:
        return {"sentence_embedding": self.tower(features)}


class DualEncoder(nn.Module):
    """A tower for the picture and one for the text, both as deep as the decoder's; what both say is added.

    So score(query, t) = f(picture) . t + g(instruction) . t: what a picture says of t is the same under each
    instruction. Of two instructions that exchange two digits, say "name" and "mirror", it can be right on at
    most three of four questions: f(a).a + f(b).b would have to be above f(a).b + f(b).a for one, below for the other.
    """

    def __init__(self, dim: int, layers: int, heads: int) -> None:
        super().__init__()
        self.picture, self.text = Tower(dim, layers, heads), Tower(dim, layers, heads)

    def forward(self, features: Features) -> dict[str, Tensor]:
        ids, mask, pictured = features["input_ids"], features["attention_mask"], features["pictured"].bool()
        ends = torch.full_like(ids[:, :1], END)
        alone = {**features, "input_ids": ends, "attention_mask": torch.ones_like(ends)}
        bare = {**features, "pictured": torch.zeros_like(features["pictured"])}
        spoken = mask.sum(1) > 1  # more than the end
        whole = self.picture.patches.weight.new_zeros(len(ids), self.picture.patches.out_features)
        for tower, given, there in ((self.picture, alone, pictured), (self.text, bare, spoken)):
            if there.any():
                states = tower({name: value[there] for name, value in given.items()})
                whole = whole.index_add(0, there.nonzero()[:, 0], states)
        return {"sentence_embedding": whole}


DESIGNS = {"decoder": Decoder, "dual encoder": DualEncoder}


class Distinct(Loss):
    """InfoNCE over the batch's other targets, those left out whose answer is the query's own: they are no negatives."""

    def __init__(self, model: nn.Module, scale: float = 20.0) -> None:
        super().__init__(model)
        self.scale = scale

    def of(self, batch: Batch) -> Tensor:
        own = batch.labels
        others = ~torch.eye(len(own), dtype=torch.bool)
        keep = (own[:, None] != own[None])[others].view(len(own), -1)
        return infonce(*similarities(batch.columns), scale=self.scale, keep=keep).mean()


@dataclass(frozen=True, eq=False)
class Instructed:
    """A trained model of pictures and words."""

    model: nn.Module
    loss: np.ndarray  # of each step
    instructions: Mapping[str, Instruction]

    @torch.no_grad()
    def embed(self, instruction: str, pictures: Tensor | None, words: Iterable[str] | None) -> Tensor:
        """Vectors [N, D] of pictures [N, 1, 8, 8], words, or both, under an instruction; "" for what is sought."""
        return self.model(features(instruction, pictures, None if words is None else list(words)))["sentence_embedding"]

    @torch.no_grad()
    def score(self, images: Float[Tensor, "N C H W"], labels: Tensor, n: int = 100, seed: int = 0) -> xr.DataArray:
        """right[task, example]: whether the nearest candidate answers, 1 or 0, in each instruction and form.

        The queries are n drawn pictures or words; the candidates are all answers that the instruction has, or n drawn
        pictures, by cosine: precision at 1. Along task: instruction, form, part ("trained" or "held out", of forms)
        and chance, the share of right candidates. Give pictures that were not trained on.
        """
        check(images, labels)
        rows, about = [], []
        for i, (name, form) in enumerate(tasks(self.instructions)):
            one, generator = self.instructions[name], np.random.default_rng([seed, i])
            query, answer = asked(name, one, form, images, labels, n, generator)
            if form.endswith(">image"):
                shown = torch.from_numpy(generator.integers(len(images), size=n))
                known, found = [WORDS[d] for d in labels[shown]], features("", images[shown], None)
            else:
                known = sorted(set(one.answers))
                found = features("", None, known)
            near, far = (nn.functional.normalize(self.model(side)["sentence_embedding"], dim=1) for side in
                         (query, found))  # fmt: skip
            right = np.array(known)[None] == np.array(answer)[:, None]
            rows.append(right[np.arange(n), (near @ far.T).argmax(1)].astype(float))
            part = "trained" if form in one.trained else "held out"
            about.append({"task": f"{name}, {form}", "instruction": name, "form": form, "part": part,
                          "chance": float(right.mean())})  # fmt: skip
        said = {key: ("task", [row[key] for row in about]) for key in about[0]}
        return xr.DataArray(np.array(rows), said, ("task", "example"), name="right")


def instructed(
    images: Float[Tensor, "N C H W"],
    labels: Tensor,
    design: str = "decoder",
    *,
    instructions: Mapping[str, Instruction] = INSTRUCTIONS,
    layers: int = 2,
    dim: int = 64,
    heads: int = 4,
    steps: int = 300,
    batch: int = 64,
    mini_batch: int = 64,
    rate: float = 2e-3,
    scale: float = 20.0,
    seed: int = 0,
    progress: bool = True,
) -> Instructed:
    """Train a "decoder", or a "dual encoder", to bring each query near what answers it, under its instruction.

    images [N, 1, 8, 8] and labels, the digits, such as lab.data.digits(). A batch has queries of all instructions in
    the forms that they are trained in, drawn evenly; what is sought has no instruction. InfoNCE with cosines and the
    batch's other answers as negatives; mini_batch: queries whose activations are held at a time, the gradient being
    that of the whole batch (GradCache). AdamW, the rate falling to 0; the seed draws weights and batches.

    VLM2Vec, Jiang et al., 2024, trains a vision-language model so, with the picture before the instruction before the
    words and the last token as the vector (the layout recalled); here all is small and from random weights, and a form
    that an instruction was not trained in stands for the paper's data sets out of distribution.
    https://arxiv.org/abs/2410.05160
    The dual encoder has two towers of these layers, about twice the parameters of the decoder.

    Raises ValueError for an unknown design, pictures of another shape, labels that are not digits of all ten kinds,
    and numbers that make no sense.
    """
    if design not in DESIGNS:
        raise ValueError(f"no design {design!r}; there are {list(DESIGNS)}")
    if min(layers, heads, steps, mini_batch) < 1 or batch < 2 or dim % (2 * heads) or not (rate > 0 and scale > 0):
        raise ValueError(
            f"got layers={layers}, dim={dim}, heads={heads}, steps={steps}, batch={batch}, mini_batch={mini_batch}, "
            f"rate={rate}, scale={scale}; needed are positive ones, a batch of 2 or more, and a dim that is a multiple "
            "of 2 * heads"
        )
    check(images, labels)
    drawn = [task for task in tasks(instructions) if task[1] in instructions[task[0]].trained]
    if not drawn:
        raise ValueError("no instruction has a form to be trained in")
    answers = sorted({word for one in instructions.values() for word in one.answers})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DESIGNS[design](dim, layers, heads)
    from lab.training.losses.cached import Cached  # takes seconds

    whole, generator = Distinct(model, scale), np.random.default_rng(seed)
    loss = whole if mini_batch >= batch else Cached(model, whole, mini_batch=mini_batch)

    def step(_: int) -> Tensor:
        queries, sought, keys = [], [], []
        shares = np.bincount(generator.integers(len(drawn), size=batch), minlength=len(drawn))
        for (name, form), count in ((task, k) for task, k in zip(drawn, shares, strict=True) if k):
            query, answer = asked(name, instructions[name], form, images, labels, int(count), generator)
            queries.append(query)
            sought.append(answering(form, answer, images, labels, generator))
            keys += [answers.index(word) for word in answer]
        return loss([joined(queries), joined(sought)], torch.tensor(keys))

    model.train()
    curve = descend(step, model.parameters(), steps, rate=rate, falling=True, label=f"train {design}",
                    progress=progress)  # fmt: skip
    model.eval()
    return Instructed(model, curve, dict(instructions))
