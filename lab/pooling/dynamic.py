"""Dynamic token pooling: runs of tokens that end at predicted places become one vector each, and are spread out again.

Nawrot, Chorowski, Lancucki & Ponti, "Efficient Transformers with Dynamic Token Pooling", ACL 2023 (the authors' code
was read; equation numbers are not known). https://arxiv.org/abs/2211.09761
"""

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor, nn

from lab.kernels.layout import keep
from lab.pooling.arguments import check_counts, check_positive


def downsample(
    x: Float[Tensor, "B T D"], ends: Tensor, null: Tensor, mask: Tensor | None = None
) -> tuple[Float[Tensor, "B S D"], Bool[Tensor, "B S"]]:
    """Groups [null, mean of run 1, mean of run 2, ...] and which of them are real; a run ends where `ends` is 1.

    x (B, T, D), ends (B, T) of 0 and 1 (bool or float), null (D,), mask (B, T) True = real -> (B, S, D), (B, S), with
    S = 1 + the most runs that any row has. y_s = sum_{t in s} w_t x_t / sum_{t in s} w_t, w_t = 1: tokens after the
    last end belong to no group, so that group s is known once its last token is. Row 0 is `null`, for tokens before
    the first end. An empty row has null alone.

    Where ends has a gradient, w_t carries it: w_t = 1 - (c_t - stop(c_t)), c_t the ends before t. That is the
    surrogate of the authors' code, not a derivative of the step that moves a boundary: a token's own weight in its own
    run answers for every end before it. ValueError: shapes that do not fit, ends that are not 0 or 1.
    """
    mask = _checked(x, ends, mask)
    if null.shape != x.shape[-1:]:
        raise ValueError(f"null must be {tuple(x.shape[-1:])}, the width of x; got {tuple(null.shape)}")
    ends = keep(ends.to(torch.promote_types(x.dtype, torch.float32)), mask)
    passed = ends.cumsum(1)
    before = passed - ends  # a run includes the token that ends it
    run, runs = _whole(before), _whole(passed[:, -1]) if x.shape[1] else passed.new_zeros(len(x), dtype=torch.long)
    most = int(runs.max()) if len(runs) else 0
    weight = keep(1 - (before - before.detach()), mask) * (run < runs[:, None])
    slot = run.clamp(max=max(most - 1, 0))
    wide = keep(x, mask).to(weight.dtype)
    chosen = nn.functional.one_hot(slot, max(most, 1)).to(weight.dtype) * weight[..., None]  # [B, T, S - 1]
    sums = chosen.mT @ wide
    means = (sums / chosen.sum(1).clamp(min=1)[..., None])[:, :most]
    groups = torch.cat([null.to(means.dtype).expand(len(x), 1, -1), means], 1)
    return groups.to(x.dtype), torch.arange(most + 1, device=x.device) <= runs[:, None]


def upsample(groups: Float[Tensor, "B S D"], ends: Tensor, mask: Tensor | None = None) -> Float[Tensor, "B T D"]:
    """Each token its latest complete group, y_t = w_t g[c_t], c_t the ends up to and including t; zeros at padding.

    groups (B, S, D) as from `downsample`, perhaps after a model; ends (B, T). y_t depends on tokens up to t alone. The
    gradient of ends is the surrogate again, w_t = 1 - (c_t - stop(c_t)). ValueError: fewer groups than ends ask for.
    """
    mask = _checked(groups[:, :1].expand(-1, ends.shape[1], -1), ends, mask)
    ends = keep(ends.to(torch.promote_types(groups.dtype, torch.float32)), mask)
    passed = ends.cumsum(1)
    at = _whole(passed)
    if at.numel() and int(at.max()) >= groups.shape[1]:
        raise ValueError(f"the ends make {int(at.max())} groups beside the first; got {groups.shape[1]} in all")
    spread = groups.gather(1, at[..., None].expand(-1, -1, groups.shape[-1]))
    return keep(spread * (1 - (passed - passed.detach()))[..., None].to(groups.dtype), mask)


def entropy_spikes(entropy: Float[Tensor, "B T"], window: int = 2) -> Bool[Tensor, "B T"]:
    """True where the entropy of what comes next is higher than at each of the `window` places before, b_t = 1[H_t >
    max(H_{t-window}, ..., H_{t-1})]: the run ends where the text becomes hard to foresee.

    entropy (B, T), H_t of the next token given the tokens up to t -> (B, T); the first place is False. The form of the
    paper's "entropy spikes" is recalled. ValueError: window below 1.
    """
    if window < 1 or entropy.ndim != 2:
        raise ValueError(f"entropy must be [B, T] and window 1 or more; got {tuple(entropy.shape)} and {window}")
    padded = nn.functional.pad(entropy, (window, 0), value=-torch.inf)
    highest = torch.stack([padded[:, k : k + entropy.shape[1]] for k in range(window)]).amax(0)
    spikes = entropy > highest
    spikes[:, :1] = False
    return spikes


class BoundaryPredictor(nn.Module):
    """Where runs end, b_t = 1[p_t > 1/2], p = sigmoid(MLP(x_t)): in training p is a relaxed Bernoulli draw.

    x (B, T, D) -> ends (B, T) of 0 and 1 with the gradient of the relaxed draw (straight through), and p (B, T).
    The draw: sigmoid((logit_t + log u - log(1 - u)) / temperature), u uniform. MLP: D -> hidden -> 1 with a GELU.
    In evaluation p itself is cut at 1/2 and nothing is drawn. temperature 0.5 as in the authors' configuration.
    `prior_loss` keeps the share of ends near a prior.
    ValueError or TypeError: temperature not positive, a size below 1, x not [B, T, D] of that width.
    """

    def __init__(self, dim: int, hidden: int | None = None, temperature: float | int = 0.5) -> None:
        super().__init__()
        check_positive(temperature=temperature)
        hidden = dim if hidden is None else hidden
        check_counts(dim=dim, hidden=hidden)
        self.dim, self.hidden, self.temperature = dim, hidden, temperature
        self.score = nn.Sequential(nn.Linear(dim, self.hidden), nn.GELU(), nn.Linear(self.hidden, 1))

    def forward(self, x: Float[Tensor, "B T D"]) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"]]:
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise TypeError(f"x must be a tensor of a float type; got {getattr(x, 'dtype', type(x).__name__)}")
        if x.ndim != 3 or x.shape[-1] != self.dim:
            raise ValueError(f"x must be [batch, tokens, {self.dim}]; got {tuple(x.shape)}")
        logits = self.score(x)[..., 0]
        soft = logits.sigmoid()
        if self.training:
            u = torch.rand_like(logits).clamp(1e-6, 1 - 1e-6)
            soft = ((logits + u.log() - (-u).log1p()) / self.temperature).sigmoid()
        hard = (soft > 0.5).to(soft.dtype)
        return hard - soft.detach() + soft, logits.sigmoid()


def prior_loss(ends: Float[Tensor, "B T"], prior: float = 0.2) -> Float[Tensor, ""]:
    """-log Binomial(sum_t b_t; T, prior) / T, averaged over rows: what keeps a predictor from ending no run, or every.

    ends (B, T) -> a number. Least where T * prior places end, about. The factorials are gamma functions, so that the
    count has a gradient. ValueError: prior outside (0, 1).
    """
    if not 0 < prior < 1:
        raise ValueError(f"prior must be in (0, 1), the share of tokens that end a run; got {prior}")
    T = ends.shape[1]
    k = ends.sum(1)
    total = torch.as_tensor(T + 1.0, dtype=k.dtype, device=k.device)
    log_choose = total.lgamma() - (k + 1).lgamma() - (T - k + 1).lgamma()
    odds = torch.as_tensor(prior, dtype=k.dtype, device=k.device)
    return -((log_choose + k * odds.log() + (T - k) * (-odds).log1p()) / T).mean()


def _whole(values: Float[Tensor, "*N"]) -> Integer[Tensor, "*N"]:
    """Counts as integers: half floats cannot hold an odd one beyond 256, or 2,048."""
    return values.detach().round().long()


def _checked(x: Tensor, ends: Tensor, mask: Tensor | None) -> Tensor:
    """The mask, all True where none is given; ValueError or TypeError unless ends is [B, T] of 0 and 1."""
    if x.ndim != 3 or not x.is_floating_point():
        raise ValueError(f"x must be [batch, tokens, dim] of a float type; got {tuple(x.shape)} of {x.dtype}")
    if ends.shape != x.shape[:2]:
        raise ValueError(f"ends must be {tuple(x.shape[:2])}, one for each token; got {tuple(ends.shape)}")
    if mask is None:
        mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
    if mask.dtype != torch.bool or mask.shape != x.shape[:2]:
        raise ValueError(f"mask must be bool {tuple(x.shape[:2])}; got {tuple(mask.shape)} of {mask.dtype}")
    given = ends.detach()[mask]
    if bool(((given != 0) & (given != 1)).any()):
        raise ValueError("ends must be 0 or 1 at every real token; threshold probabilities first")
    return mask
