"""Every normalizer as its formula says, in decimals of 60 digits: no maximum is subtracted, nothing overflows."""

from decimal import Decimal, localcontext
from typing import NamedTuple

import torch

D = Decimal


class At(NamedTuple):
    """Where a row stands: its head of how many, its query and its keys by position."""

    head: int
    heads: int
    query: int
    keys: list[int]


def share(terms, rest=0):
    total = sum(terms) + rest
    return [t / total if total else D(0) for t in terms]


def softmax(x, at=None):
    return share([v.exp() for v in x])


def sigma(v):
    return 1 / (1 + (-v).exp())


def softplus(v):
    e = v.exp()
    return e if e < D("1e-50") else (1 + e).ln()


def series(v, order=8):
    term, total = D(1), D(1)
    for m in range(1, order + 1):
        term = term * v / m
        total += term
    return total


def adaptive_temperature(x, at):
    p = softmax(x)
    h = -sum(q * q.ln() for q in p if q)
    beta = D("-.037") * h**4 + D(".481") * h**3 - D("2.3") * h**2 + D("4.917") * h - D("1.791")
    return softmax([max(beta, D(1)) * v if h > D(".5") else v for v in x])


def self_adjust_normalized(x, at):
    low, high = min(*x, D(0)), max(*x, D(0))
    return [(v - low) / (high - low) * p if high > low else D(0) for v, p in zip(x, softmax(x), strict=True)]


def swat(x, at):
    near = (at.heads + 1) // 2
    slope = -(D(2) ** -(at.head + 1)) if at.head < near else D(2) ** -(at.head - near + 1)
    return [sigma(v + slope * (at.query - key)) for v, key in zip(x, at.keys, strict=True)]


def threshold(x, alpha):
    """The tau of (alpha-entmax) by halving, 160 times."""
    u = [(alpha - 1) * v for v in x]
    low, high = max(u) - 1, max(u)

    def weights(tau):
        return [max(v - tau, D(0)) ** (1 / (alpha - 1)) if v > tau else D(0) for v in u]

    for _ in range(160):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(weights(middle)) >= 1 else (low, middle)
    return weights(low)


def projection(x, at):
    """The nearest point of the simplex: of the supports of the greatest k, the one that meets its conditions."""
    for k in range(len(x), 0, -1):
        tau = (sum(sorted(x, reverse=True)[:k]) - 1) / k
        if sorted(x, reverse=True)[k - 1] > tau:
            return [max(v - tau, D(0)) for v in x]
    raise AssertionError("one key alone always meets them")


def lssa(x, at):
    return share([softplus(D(len(x)).ln() * v) for v in x])


def lssar(x, at):
    n = len(x)
    over = [n * a - 1 if n > 3 else a for a in lssa(x, at)]
    return share([v**3 if v > D("1e-40") else D(0) for v in over])


SSA_LENGTH = (-(D("1.5").exp())).exp()
FORMULAS = {
    "softmax": softmax,
    "softmax1": lambda x, _: share([v.exp() for v in x], 1),
    "sink_logit": lambda x, _: share([v.exp() for v in x], 1),
    "ssmax": lambda x, _: softmax([D(".43") * D(len(x)).ln() * v for v in x]),
    "adaptive_temperature": adaptive_temperature,
    "self_adjust": lambda x, _: [v * p for v, p in zip(x, softmax(x), strict=True)],
    "self_adjust_normalized": self_adjust_normalized,
    "softpick": lambda x, _: [
        max(v.exp() - 1, D(0)) / (sum(abs(u.exp() - 1) for u in x) + D("1e-6")) for v in x
    ],
    "sigmoid": lambda x, _: [sigma(v - D(len(x)).ln()) for v in x],
    "sigmoid_normalized": lambda x, _: share([sigma(v) for v in x]),
    "relu": lambda x, _: [max(v, D(0)) / len(x) for v in x],
    "stablemax": lambda x, _: share([v + 1 if v >= 0 else 1 / (1 - v) for v in x]),
    "swat": swat,
    "sparsemax": projection,
    "entmax15": lambda x, _: threshold(x, D("1.5")),
    "entmax": lambda x, _: threshold(x, D("1.5")),
    "lssa": lssa,
    "lssa_unnormalized": lambda x, _: [softplus(D(len(x)).ln() * v) for v in x],
    "lssar": lssar,
    "linear": lambda x, _: share([max(v, D(0)) for v in x]),
    "recurrent": lambda x, _: share([series(v) for v in x]),
    "recurrent_norm": lambda x, _: [series(v) / max(D(1), *(abs(u) for u in x)) ** 8 for v in x],
    "recurrent_gate": lambda x, _: [series(v) for v in x],
    "ssa": lambda x, _: softmax([(1 + SSA_LENGTH * D(len(x)).ln()) * v for v in x]),
    "mta": softmax,
    "gated": softmax,
}  # fmt: skip


def by_formula(formula, scores, mask):
    """formula(row, at) of each row's visible keys, float64 [..., H, Tq, Tk]; a score of -inf is not visible."""
    found = torch.zeros(scores.shape, dtype=torch.float64)
    mask = mask.expand(scores.shape) & (scores != -torch.inf)
    Tq, Tk = scores.shape[-2:]
    with localcontext() as context:
        context.prec, context.Emax, context.Emin = 60, 10**9, -(10**9)
        for place in torch.cartesian_prod(*map(torch.arange, scores.shape[:-1])).tolist():
            keys = mask[tuple(place)].nonzero().flatten().tolist()
            if keys:
                row = [Decimal(v) for v in scores[tuple(place)][keys].double().tolist()]
                at = At(place[-2], scores.shape[-3], place[-1] + Tk - Tq, keys)
                weights = formula(row, at)
                found[tuple(place)][keys] = torch.tensor([float(w) for w in weights], dtype=torch.float64)
    return found
