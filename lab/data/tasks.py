"""Synthetic tasks whose right answer is known, for questions that real text cannot settle.

A task is a rule that draws batches: the same seed gives the same batch, so that training can stop anywhere and go on.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Drawn:
    """Token ids, what follows each, and the places that count in the loss."""

    ids: Int[Tensor, "B T"]
    targets: Int[Tensor, "B T"]
    counted: Bool[Tensor, "B T"]


@dataclass(frozen=True)
class BigramBackcopy:
    """Text of a fixed bigram chain in which a trigger token is followed by a copy of what stood before it.

    Token 0 begins every text. After a trigger comes the token before the trigger, after anything else a draw from
    that token's row of the chain. A head has work to do on triggers alone, and elsewhere somewhere to put its
    attention: the task in which sinks were taken apart (Guo et al., 2024, "Active-dormant attention heads", recalled).
    """

    symbols: int = 32  # beside the beginning
    triggers: int = 3  # the first of the symbols
    length: int = 64
    seed: int = 0  # of the chain

    def __post_init__(self) -> None:
        if not 0 < self.triggers < self.symbols or self.length < 3:
            raise ValueError(
                f"got {self.triggers} triggers of {self.symbols} symbols and length {self.length}; needed are at least "
                "one trigger, one symbol that is none, and three tokens"
            )

    @property
    def vocab(self) -> int:
        return self.symbols + 1

    @cached_property
    def chain(self) -> Float[Tensor, "V V"]:
        """The probability of each next token; row 0 for what follows the beginning, which is never a trigger."""
        generator = torch.Generator().manual_seed(self.seed)
        rows = torch.randn(self.vocab, self.vocab, generator=generator).mul(2)
        rows[:, 0] = -torch.inf  # nothing begins twice
        rows[0, 1 : self.triggers + 1] = -torch.inf
        return rows.softmax(-1)

    def draw(self, size: int, seed: int) -> Drawn:
        """Texts of this length with their targets; every place but the last token's own counts."""
        generator = torch.Generator().manual_seed(seed)
        ids = torch.zeros(size, self.length + 1, dtype=torch.long)
        for t in range(1, self.length + 1):
            last = ids[:, t - 1]
            free = torch.multinomial(self.chain[last], 1, generator=generator)[:, 0]
            ids[:, t] = torch.where(self.is_trigger(last), ids[:, t - 2], free) if t > 1 else free
        return Drawn(ids[:, :-1], ids[:, 1:], torch.ones(size, self.length, dtype=torch.bool))

    def is_trigger(self, ids: Int[Tensor, "*S"]) -> Bool[Tensor, "*S"]:
        return (ids >= 1) & (ids <= self.triggers)

    def best(self, drawn: Drawn) -> float:
        """The mean loss, in nats, of a model that knows the rule: the chain's own uncertainty, none after triggers."""
        unsure = -self.chain[drawn.ids].gather(-1, drawn.targets[..., None])[..., 0].clamp(min=1e-30).log()
        return float(unsure.masked_fill(self.is_trigger(drawn.ids), 0)[drawn.counted].mean())


@dataclass(frozen=True)
class Induction:
    """A random text said twice: the second time every token but the first is known."""

    symbols: int = 32
    length: int = 32  # of the text that is said twice

    @property
    def vocab(self) -> int:
        return self.symbols

    def draw(self, size: int, seed: int) -> Drawn:
        generator = torch.Generator().manual_seed(seed)
        once = torch.randint(self.symbols, (size, self.length), generator=generator)
        ids = torch.cat([once, once], dim=1)
        counted = torch.zeros(size, 2 * self.length - 1, dtype=torch.bool)
        counted[:, self.length :] = True  # from the repeated first token on, what follows is known
        return Drawn(ids[:, :-1], ids[:, 1:], counted)

    def best(self, _: Drawn) -> float:
        """0 nats, up to tokens that happen to stand twice in the first text."""
        return 0.0


@dataclass(frozen=True)
class BlockSearch:
    """Blocks of letters, then letters to look for: which block holds them all? Its first letter is the answer.

    "blocks x letters, a mark, the question's letters in any order, a mark", and one block alone holds all of them.
    The toy task of multi-token attention (Golovneva et al., 2025, section 4.1, recalled): one query and one key
    must together carry several letters, which single-token attention finds hard.
    """

    blocks: int = 8
    letters: int = 5  # in a block
    asked: int = 2
    symbols: int = 26

    def __post_init__(self) -> None:
        if not 0 < self.asked <= self.letters <= self.symbols or self.blocks < 2:
            raise ValueError(
                f"got {self.blocks} blocks of {self.letters} of {self.symbols} letters, {self.asked} asked for; needed "
                "are two blocks, and asked <= letters <= symbols"
            )

    @property
    def vocab(self) -> int:
        return self.symbols + 2  # a mark between blocks, and one before the answer

    @property
    def length(self) -> int:
        return self.blocks * (self.letters + 1) + self.asked + 1

    def draw(self, size: int, seed: int) -> Drawn:
        """Texts in which exactly one block holds all letters asked for; the last place alone counts."""
        generator = torch.Generator().manual_seed(seed)
        blocks = torch.stack([self._block(generator) for _ in range(size * self.blocks)]).view(size, self.blocks, -1)
        right = torch.randint(self.blocks, (size,), generator=generator)
        order = torch.stack([torch.randperm(self.letters, generator=generator) for _ in range(size)])
        question = blocks[torch.arange(size), right].gather(1, order[:, : self.asked])
        for row in range(size):
            for b in range(self.blocks):
                while b != right[row] and torch.isin(question[row], blocks[row, b]).all():
                    blocks[row, b] = self._block(generator)
        marked = torch.cat([blocks, torch.full((size, self.blocks, 1), self.symbols)], dim=2).flatten(1)
        ids = torch.cat([marked, question, torch.full((size, 1), self.symbols + 1)], dim=1)
        targets = torch.cat([ids[:, 1:], blocks[torch.arange(size), right, :1]], dim=1)
        counted = torch.zeros_like(ids, dtype=torch.bool)
        counted[:, -1] = True
        return Drawn(ids, targets, counted)

    def _block(self, generator: torch.Generator) -> Tensor:
        return torch.randperm(self.symbols, generator=generator)[: self.letters]

    def best(self, _: Drawn) -> float:
        """0 nats: one block alone fits."""
        return 0.0


@dataclass(frozen=True)
class MaxRetrieval:
    """A set of items, each with a number and a class: which class has the item of the largest number?

    Trained on small sets and asked about large ones, it shows attention disperse: Velickovic et al., 2024, "softmax
    is not enough (for sharp out-of-distribution)".
    """

    classes: int = 10

    def draw(self, size: int, items: int, seed: int) -> tuple[Float[Tensor, "B N F"], Int[Tensor, " B"]]:
        """Items [B, N, 1 + classes], a number in [0, 1) and the class as a unit vector; and the right classes [B].

        Raises ValueError for fewer than one item or set.
        """
        if size < 1 or items < 1:
            raise ValueError(f"got {size} sets of {items} items; at least one of each is needed")
        generator = torch.Generator().manual_seed(seed)
        number = torch.rand(size, items, generator=generator)
        kind = torch.randint(self.classes, (size, items), generator=generator)
        features = torch.cat([number[..., None], torch.nn.functional.one_hot(kind, self.classes).float()], dim=-1)
        return features, kind.gather(1, number.argmax(1, keepdim=True))[:, 0]


@dataclass(frozen=True)
class Views:
    """Two augmented views of the same examples, the examples as they are, and the sign of each planted feature."""

    one: Float[Tensor, "B D"]
    two: Float[Tensor, "B D"]
    clean: Float[Tensor, "B D"]
    signs: Float[Tensor, "B K"]


@dataclass(frozen=True)
class PlantedFeatures:
    """x = sum_k strength_k s_k u_k + noise: signs s_k drawn evenly, u_k orthonormal, and augmentations that spoil some.

    An augmentation draws s_k anew with probability disrupted_k, and the noise anew. What contrastive learning keeps of
    a feature then depends on its strength and on how often augmentations spoil it, and downstream may ask for any of
    them. After the setting of Xue et al., ICLR 2024, Investigating the benefits of projection head for representation
    learning (recalled, simplified). https://arxiv.org/abs/2403.11391
    """

    strengths: tuple[float, ...] = (1.0, 1.0, 1.0, 0.4)
    disrupted: tuple[float, ...] = (0.0, 0.3, 0.6, 0.0)
    dim: int = 32
    noise: float = 0.3
    seed: int = 0  # of the directions

    def __post_init__(self) -> None:
        k = len(self.strengths)
        if not 0 < k <= self.dim or len(self.disrupted) != k or self.noise < 0 or min(self.strengths) <= 0:
            raise ValueError(
                f"got {k} strengths, {len(self.disrupted)} shares, dim={self.dim} and noise={self.noise}; needed are "
                "as many of both, no more than dim, positive strengths and a noise of at least 0"
            )
        if min(self.disrupted) < 0 or max(self.disrupted) > 1:
            raise ValueError(f"disrupted are probabilities; got {self.disrupted}")

    @cached_property
    def directions(self) -> Float[Tensor, "K D"]:
        generator = torch.Generator().manual_seed(self.seed)
        return torch.linalg.qr(torch.randn(self.dim, len(self.strengths), generator=generator)).Q.T

    def draw(self, size: int, seed: int) -> Views:
        generator = torch.Generator().manual_seed(seed)
        signs = self._signs(size, generator)
        spoilt = torch.tensor(self.disrupted)
        views = []
        for _ in range(2):
            anew = torch.rand(size, len(spoilt), generator=generator) < spoilt
            views.append(self._made(torch.where(anew, self._signs(size, generator), signs), generator))
        return Views(*views, self._made(signs, generator), signs)

    def _signs(self, size: int, generator: torch.Generator) -> Tensor:
        return torch.randint(2, (size, len(self.strengths)), generator=generator).mul(2).sub(1).float()

    def _made(self, signs: Tensor, generator: torch.Generator) -> Tensor:
        noise = self.noise * torch.randn(len(signs), self.dim, generator=generator)
        return (signs * torch.tensor(self.strengths)) @ self.directions + noise
