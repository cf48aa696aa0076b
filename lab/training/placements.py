"""A small residual network whose places of downsampling are a word: trained alone, in one supernet, or in several."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lab.training.descend import descend


def placements(blocks: int = 4, shrink: int = 4) -> list[str]:
    """All ways to shrink a map's side by `shrink` (a power of two) before some of the blocks, as words.

    "1212": before the second and the fourth of four blocks the side is halved; "4111": quartered before the first.
    """
    if blocks < 1 or shrink < 2 or shrink & (shrink - 1):
        raise ValueError(f"blocks must be 1 or more, shrink a power of two from 2; got {blocks} and {shrink}")
    factors = [str(2**i) for i in range(shrink.bit_length()) if 2**i < 10]
    words = ("".join(word) for word in itertools.product(factors, repeat=blocks))
    return [word for word in words if np.prod([int(letter) for letter in word]) == shrink]


class PlacedNet(nn.Module):
    """A convolution, residual blocks h + W relu(h) with 3 x 3 convolutions W, the mean over places, a linear layer.

    images (B, C, H, W) and a word, a digit for each block -> logits (B, K); a maximum over windows of that side stands
    before the block. No weight has a shape that the word changes: one net has them all.
    """

    def __init__(self, *, channels: int = 12, blocks: int = 4, entering: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.enter = nn.Conv2d(entering, channels, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(blocks))
        self.head = nn.Linear(channels, classes)

    def forward(self, images: Float[Tensor, "B C H W"], word: str) -> Float[Tensor, "B K"]:
        if len(word) != len(self.blocks) or not word.isdigit() or "0" in word:
            raise ValueError(f"word must have a digit from 1 for each of {len(self.blocks)} blocks; got {word!r}")
        h = self.enter(images)
        for letter, block in zip(word, self.blocks, strict=True):
            if letter != "1":
                h = nn.functional.max_pool2d(h, int(letter))
            h = h + block(h.relu())
        return self.head(h.relu().mean((2, 3)))


@dataclass(frozen=True, eq=False)
class Supernets:
    """Trained nets that share the words among them: chances (W, M) of each word's net, balanced."""

    nets: list[PlacedNet]
    words: list[str]
    chances: Float[Tensor, "W M"]

    @torch.no_grad()
    def accuracy(self, images: Float[Tensor, "N C H W"], labels: Int[Tensor, " N"]) -> dict[str, float]:
        """The share of labels named right, of each word by the net that it is most likely given to."""
        chosen = zip(self.words, self.chances.argmax(1).tolist(), strict=True)
        right = {word: self.nets[m](images, word).argmax(1) == labels for word, m in chosen}
        return {word: float(hits.double().mean()) for word, hits in right.items()}


def balanced(chances: Float[Tensor, "W M"], rounds: int = 10) -> Float[Tensor, "W M"]:
    """Rows of positive chances made such that all columns weigh about the same, each row still a distribution.

    Columns are divided by their mean and rows by their sum, in turns (Sinkhorn & Knopp, 1967, recalled).
    """
    if chances.ndim != 2 or not bool((chances > 0).all()):
        raise ValueError(f"chances must be [words, nets], all above 0; got {tuple(chances.shape)}")
    for _ in range(rounds):
        chances = chances / chances.mean(0)
        chances = chances / chances.sum(1, keepdim=True)
    return chances


def supernets(
    images: Float[Tensor, "N C H W"],
    labels: Int[Tensor, " M"],
    words: Sequence[str],
    asked: tuple[Tensor, Tensor],
    count: int = 1,
    *,
    steps: int = 50,
    batch: int = 32,
    rate: float = 1.5e-2,
    channels: int = 12,
    sharpness: float = 20.0,
    decay: float = 0.9,
    seed: int = 0,
    progress: bool = True,
) -> Supernets:
    """Train `count` nets that share all words: `steps` steps a word, the words in turns, in a new order each round.

    count = 1 is the usual supernet, one word alone is stand-alone training, and several are the balanced mixture: in
    each step the word's net is drawn from softmax(sharpness * s), *balanced* over the nets, where s[word, net] is the
    running mean (decay) of that net's accuracy under the word on a batch of `asked`, images and labels that no net is
    trained on. Whatever the count, one net is trained in a step, so that all counts cost the same. AdamW, the rate by
    one cycle over all steps.
    Javan, Toews & Pedersoli, Balanced Mixture of SuperNets for Learning the CNN Pooling Architecture, 2023 (from the
    abstract; the authors' code was read for the mixture. There s is seen after the step, here before it; sharpness and
    decay are ours). https://arxiv.org/abs/2306.11982
    ValueError: no words or equal ones, fewer words than nets, images without a label each, no steps.
    """
    words = list(words)
    if not words or len(set(words)) != len(words) or not 1 <= count <= len(words):
        raise ValueError(f"needed are words, all different, and from 1 net to one a word; got {words} and {count}")
    if not len(images) or len(images) != len(labels) or len(asked[0]) != len(asked[1]) or steps < 1:
        raise ValueError(f"needed are images, a label each, and steps; got {len(images)}, {len(labels)}, {steps}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        shape = {"channels": channels, "blocks": len(words[0]), "entering": images.shape[1]}
        nets = [PlacedNet(**shape, classes=int(labels.max()) + 1) for _ in range(count)]
    generator = np.random.default_rng(seed)
    turns = np.concatenate([generator.permutation(len(words)) for _ in range(steps)])
    seen = torch.zeros(len(words), count)

    def batch_of(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        rows = torch.from_numpy(generator.integers(len(images), size=batch))
        return images[rows], labels[rows]

    def loss(step: int) -> Tensor:
        at, m = int(turns[step]), 0
        if count > 1:
            chance = balanced((sharpness * seen).softmax(1))[at].double().numpy()
            m = int(generator.choice(count, p=chance / chance.sum()))
            shown, answers = batch_of(*asked)
            with torch.no_grad():
                right = (nets[m](shown, words[at]).argmax(1) == answers).float().mean()
            seen[at, m] = decay * seen[at, m] + (1 - decay) * right
        shown, answers = batch_of(images, labels)
        return nn.functional.cross_entropy(nets[m](shown, words[at]), answers)

    # one optimiser for all: it leaves alone what has no gradient in a step
    weights = [p for net in nets for p in net.parameters()]
    descend(loss, weights, len(turns), rate=rate, falling=True, label=f"{count} nets", progress=progress)
    return Supernets([net.eval() for net in nets], words, balanced((sharpness * seen).softmax(1)))
