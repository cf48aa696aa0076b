"""A character language model that shortens its text on the way, in runs of one length or runs that end where it learns.

Nawrot, Chorowski, Lancucki & Ponti, "Efficient Transformers with Dynamic Token Pooling", ACL 2023 (its boundary
predictor, shortening and configuration were read; the rest from the abstract). https://arxiv.org/abs/2211.09761
"""

from dataclasses import dataclass

import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from tqdm import tqdm

from lab.pooling.dynamic import BoundaryPredictor, downsample, entropy_spikes, prior_loss, upsample
from lab.training.corpus import Corpus
from lab.training.decoder import DecoderBlock, DecoderConfig, rotary

# where a run ends: nowhere (no shortening), every `every` characters, at given ones, where what follows becomes hard to
# foresee, or where a predictor trained with the model says
ENDS = ("vanilla", "fixed", "whitespace", "entropy", "gumbel")


@dataclass(frozen=True)
class HourglassShape:
    """Layers before the shortening, on the shortened text, and after it; a vanilla model has all at full length."""

    before: int = 1
    middle: int = 2
    after: int = 1
    dim: int = 48
    heads: int = 4

    def cost(self, share: float) -> float:
        """Layer applications for each character, where the middle sees `share` groups a character."""
        return self.before + self.after + self.middle * share


class Hourglass(nn.Module):
    """What comes next: ids (B, T) -> logits (B, T, V), ends (B, T), and p (B, T), early logits (B, T, V) or None.

    x = before(embed); groups = middle(downsample(x, ends)); y = after(x + upsample(groups, ends)). All causal: a group
    is read by the character that ends it and those behind. early logits: what `before` alone says comes next, whose
    entropy "entropy" takes for its ends (the paper trains a predictor on such spikes, recalled; here they are used as
    they are, which they can be: they are known at their own place).
    """

    def __init__(self, vocab: int, shape: HourglassShape, ends: str, every: int, marks: tuple[int, ...]) -> None:
        super().__init__()
        if ends not in ENDS:
            raise ValueError(f"ends must be one of {list(ENDS)}; got {ends!r}")
        if every < 1 or (ends == "whitespace" and not marks):
            raise ValueError(f"every must be 1 or more and whitespace needs marks; got {every} and {marks}")
        config = DecoderConfig(vocab, shape.dim, 1, shape.heads)
        config._attn_implementation = "sdpa"
        self.kind, self.every, self.size = ends, every, shape.dim // shape.heads
        self.register_buffer("marks", torch.tensor(marks, dtype=torch.long))
        self.embed, self.norm = nn.Embedding(vocab, shape.dim), nn.RMSNorm(shape.dim, eps=1e-5)
        nn.init.normal_(self.embed.weight, std=shape.dim**-0.5)
        self.before, self.middle, self.after = (
            nn.ModuleList(DecoderBlock(config) for _ in range(n)) for n in (shape.before, shape.middle, shape.after)
        )
        self.null = nn.Parameter(torch.zeros(shape.dim))
        self.early = nn.Linear(shape.dim, vocab) if ends == "entropy" else None
        self.predictor = BoundaryPredictor(shape.dim) if ends == "gumbel" else None
        self.head = nn.Linear(shape.dim, vocab, bias=False)

    def forward(
        self, ids: Int[Tensor, "B T"]
    ) -> tuple[
        Float[Tensor, "B T V"], Float[Tensor, "B T"], Float[Tensor, "B T"] | None, Float[Tensor, "B T V"] | None
    ]:
        x = self._through(self.before, self.embed(ids))
        early = None if self.early is None else self.early(x.detach())  # it looks on, and teaches `before` nothing
        ends, p = self._ends(ids, x, early)
        if self.kind == "vanilla":
            x = self._through(self.middle, x)
        else:
            groups, _ = downsample(x, ends, self.null)  # groups behind a row's last are seen by none before them
            x = x + upsample(self._through(self.middle, groups), ends)
        return self.head(self.norm(self._through(self.after, x))), ends, p, early

    def _ends(self, ids: Tensor, x: Tensor, early: Tensor | None) -> tuple[Tensor, Tensor | None]:
        match self.kind:
            case "gumbel":
                return self.predictor(x)
            case "entropy":
                logs = early.detach().log_softmax(-1)
                return entropy_spikes(-(logs.exp() * logs).sum(-1)).to(x.dtype), None
            case "whitespace":
                return torch.isin(ids, self.marks).to(x.dtype), None
        here = torch.arange(1, ids.shape[1] + 1, device=ids.device) % self.every == 0
        return here.to(x.dtype).expand(ids.shape), None

    def _through(self, blocks: nn.ModuleList, x: Tensor) -> Tensor:
        turn = rotary(torch.arange(x.shape[1], device=x.device), self.size)
        for block in blocks:
            x = block(x, turn, None)
        return x


@dataclass(frozen=True, eq=False)
class Shortened:
    """A trained model and what it costs."""

    net: Hourglass
    shape: HourglassShape

    @torch.no_grad()
    def measure(self, source: Corpus, *, texts: int = 64, seed: int = 0) -> xr.Dataset:
        """bits[text], a character's -log2 p on held-out windows, and of the ends: share, cost, agreement.

        share: groups for each character; cost: layer applications for each character (HourglassShape.cost); ends [text,
        position] themselves, and ids.
        """
        drawn = source.draw(texts, seed=-1_000_003 - seed, held_out=True)
        logits, ends, _, _ = self.net(drawn.ids)
        nats = nn.functional.cross_entropy(logits.transpose(1, 2), drawn.targets, reduction="none").double()
        vanilla = self.net.kind == "vanilla"
        share = 1.0 if vanilla else float(ends.mean()) + 1 / drawn.ids.shape[1]  # the null group is computed too
        return xr.Dataset(
            {
                "bits": ("text", (nats.mean(1) / torch.tensor(2.0).log()).numpy()),
                "ends": (("text", "position"), ends.bool().numpy()),
                "ids": (("text", "position"), drawn.ids.numpy()),
                "share": share,
                "cost": self.shape.cost(share),
            }
        )


def hourglass(
    source: Corpus,
    ends: str = "gumbel",
    shape: HourglassShape = HourglassShape(),
    *,
    every: int = 5,
    marks: tuple[int, ...] = (),
    prior: float = 0.2,
    steps: int = 200,
    batch: int = 16,
    rate: float = 3e-3,
    seed: int = 0,
    progress: bool = True,
) -> Shortened:
    """Train on characters, -mean log p(next); AdamW, the rate warmed up over a tenth, then falling to a tenth.

    ends: one of ENDS. every: the fixed run; marks: the ids that end a run under "whitespace"; prior: the share of ends
    that "gumbel" is held to (prior_loss, weight 1). "entropy" adds the loss of its early logits, which reaches nothing
    but them. The seed draws weights, windows and the predictor's noise.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Hourglass(source.vocab, shape, ends, every, marks).train()
        optimiser = torch.optim.AdamW(net.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
        rates = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=max(2, steps), pct_start=0.1,
                                                    div_factor=10, final_div_factor=1)  # fmt: skip
        for step in tqdm(range(steps), desc=f"train {ends}", disable=not progress, leave=False):
            drawn = source.draw(batch, seed=seed * 2_000_003 + step)
            logits, found, p, early = net(drawn.ids)
            loss = _next(logits, drawn.targets)
            if p is not None:
                loss = loss + prior_loss(found, prior)
            if early is not None:
                loss = loss + _next(early, drawn.targets)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step()
            rates.step()
    return Shortened(net.eval(), shape)


def agreement(ends: Bool[Tensor, "B T"], marks: Bool[Tensor, "B T"]) -> float:
    """phi between ends and marks, the correlation of two yes-or-no answers: 1 where they are the same places, 0 by
    chance, NaN where one of them never varies."""
    a, b = ends.double().flatten(), marks.double().flatten()
    a, b = a - a.mean(), b - b.mean()
    return float((a @ b) / (a.square().sum() * b.square().sum()).sqrt())


def _next(logits: Float[Tensor, "B T V"], targets: Int[Tensor, "B T"]) -> Tensor:
    return nn.functional.cross_entropy(logits.transpose(1, 2), targets)
