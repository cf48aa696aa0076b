"""The corpus as evaluation and training: what is asked comes from packages that no training pair is taken from."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from lab.data.evaluation import Task, classification, clustering, retrieval, similarity
from lab.data.texts import corpus, even_shares

# kept from training; about a third of the corpus, five subjects that a reader can name
HELD_OUT = {
    "numbers": ("numpy", "scipy", "mpmath"),
    "symbols": ("sympy",),
    "graphs": ("networkx",),
    "learning": ("sklearn", "umap", "pynndescent"),
    "tables": ("pandas", "xarray", "narwhals"),
}
TOPICS = 8  # labels of a classification, at most
FEWEST = 5  # modules of a topic, one for each fold of a probe

Packages = Mapping[str, Sequence[str]] | Sequence[str] | None


def evaluations(n: int = 200, seed: int = 0, packages: Packages = None) -> list[Task]:
    """Data sets of the four kinds from each group of held-out packages, n examples each, and topics across all.

    "code search": the summary of a docstring finds its code among those of n functions of the group.
    "relatedness": pairs of summaries, scored by where their modules stand in the tree of modules,
        2 c / (a + b) with a and b the depths of the two and c that of what they share: 1 in one module, 0 in two
        packages (Wu & Palmer, 1994, recalled). The shared depth of each pair is drawn evenly.
    "topic", "clusters": summaries and the part of the tree they come from, by a probe with modules whole, and by
        k-means. Parts are packages, the largest cut into its own parts until there are eight; a group that does not
        have two of five modules or more has neither.

    packages: {group: packages}; names alone are a group each; HELD_OUT, as far as installed, when not given. Give the
    same to `training_pairs`, for identifiers leak within a package. The same seed gives the same data sets as long as
    the versions are the same.

    Raises ValueError for a package that the corpus does not have, and for an n below 40 or above what a group has.
    """
    if n < FEWEST * TOPICS:
        raise ValueError(f"n={n}: {TOPICS} topics of {FEWEST} modules or more need {FEWEST * TOPICS} examples")
    table = corpus()
    groups = _groups(table, packages)
    generators = np.random.default_rng(seed).spawn(len(groups) + 1)
    tasks = []
    for (name, members), generator in zip(groups.items(), generators, strict=False):
        rows = table[table.package.isin(members)]
        if n > len(rows):
            raise ValueError(f"n={n} examples asked for, but {name!r} has {len(rows)}; group more packages")
        picked = rows.iloc[generator.choice(len(rows), n, replace=False)]
        tasks += [
            retrieval(f"code search: {name}", picked.summary, picked.code),
            _relatedness(f"relatedness: {name}", picked, rows, generator),
            *_topics(name, rows, rows.package, n, generator),
        ]
    if len(groups) > 1:
        member = {package: name for name, members in groups.items() for package in members}
        tasks += _topics("all", table[table.package.isin(member)], None, n, generators[-1])
    return tasks


def training_pairs(n: int | None = None, seed: int = 0, packages: Packages = None) -> pd.DataFrame:
    """(query, positive) pairs, summary and code, of the packages that `evaluations(packages=...)` does not use.

    n: drawn under the seed, all of them (shuffled) when not given; a third column says the package. ValueError for an n
    above what is left.
    """
    table = corpus()
    held = {package for members in _groups(table, packages).values() for package in members}
    left = table[~table.package.isin(held)]
    if not len(left) or (n is not None and not 1 <= n <= len(left)):
        raise ValueError(f"n={n} pairs asked for; outside {sorted(held)} there are {len(left)}")
    order = np.random.default_rng(seed).permutation(len(left))[: n or len(left)]
    rows = left.iloc[order]
    return pd.DataFrame({"query": rows.summary, "positive": rows.code, "package": rows.package}).reset_index(drop=True)


def _groups(table: pd.DataFrame, packages: Packages) -> dict[str, list[str]]:
    there = set(table.package.unique())
    if packages is None:
        found = {name: [one for one in members if one in there] for name, members in HELD_OUT.items()}
        return {name: members for name, members in found.items() if members}
    if isinstance(packages, str):
        packages = [packages]
    if not isinstance(packages, Mapping):
        packages = {name: [name] for name in packages}
    groups = {name: list(members) for name, members in packages.items()}
    members = [one for group in groups.values() for one in group]
    if unknown := sorted(set(members) - there):
        raise ValueError(f"the corpus has no package {unknown}; it has {sorted(there)}")
    if not members or len(set(members)) < len(members) or not all(groups.values()):
        raise ValueError(f"each group needs a package, and each package one group; got {groups}")
    return groups


def _relatedness(name: str, picked: pd.DataFrame, rows: pd.DataFrame, generator: np.random.Generator) -> Task:
    """One partner for each picked row, at a depth drawn evenly among those where it has any."""
    path = dict(zip(rows.index, rows.module.str.split("."), strict=True))
    below: dict[tuple, list] = {}  # a part of the tree: the rows in it
    for row, parts in path.items():
        for depth in range(len(parts) + 1):
            below.setdefault(tuple(parts[:depth]), []).append(row)
    partners, scores = [], []
    for row in picked.index:
        parts = tuple(path[row])
        # at depth d: what shares d names and not one more; in the module itself all but the row
        more = [len(below[parts[: d + 1]]) if d < len(parts) else 1 for d in range(len(parts) + 1)]
        depths = [d for d in range(len(parts) + 1) if len(below[parts[:d]]) > more[d]]
        shared = int(generator.choice(depths))
        near = below[parts[:shared]]
        while (partner := near[generator.integers(len(near))]) == row or _shared(path[partner], parts) != shared:
            continue
        partners.append(partner)
        scores.append(2 * shared / (len(parts) + len(path[partner])))
    return similarity(name, picked.summary, rows.summary.loc[partners], scores)


def _shared(a: Sequence[str], b: Sequence[str]) -> int:
    return next((depth for depth, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _topics(
    name: str, rows: pd.DataFrame, labels: pd.Series | None, n: int, generator: np.random.Generator
) -> list[Task]:
    """A classification and a clustering of the same rows; labels None: packages, whole."""
    label = rows.package if labels is None else _parts(rows, n)
    sizes = rows.groupby(label.rename("label")).module.agg(["size", "nunique"])
    wide = sizes[(sizes["nunique"] >= FEWEST) & (sizes["size"] >= -(-n // TOPICS))]
    chosen = wide["size"].nlargest(TOPICS).index.sort_values()
    if len(chosen) < 2 or wide["size"].loc[chosen].sum() < n:
        return []
    drawn = []
    for part, k in zip(chosen, even_shares(wide["size"].loc[chosen].tolist(), n, generator), strict=True):
        own = rows[label == part]
        inside = own.groupby("module", sort=True).indices
        # evenly over modules, so that every fold has some of each topic
        counts = even_shares([len(found) for found in inside.values()], int(k), generator)
        for found, m in zip(inside.values(), counts, strict=True):
            drawn += [own.index[i] for i in generator.choice(found, m, replace=False)]
    order = generator.permutation(drawn)
    texts, told, module = rows.summary.loc[order], label.loc[order], rows.module.loc[order]
    return [classification(f"topic: {name}", texts, told, module), clustering(f"clusters: {name}", texts, told)]


def _parts(rows: pd.DataFrame, n: int) -> pd.Series:
    """The part of the tree each row is in: packages, the largest part cut again until there are TOPICS that count."""
    parts = rows.module.str.split(".")
    depth = pd.Series(1, index=rows.index)
    whole: set[str] = set()  # parts that cannot be cut
    while True:
        label = pd.Series([".".join(p[:d]) for p, d in zip(parts, depth, strict=True)], index=rows.index)
        sizes = rows.groupby(label.rename("label")).module.agg(["size", "nunique"])
        wide = sizes[(sizes["nunique"] >= FEWEST) & (sizes["size"] >= -(-n // TOPICS))]
        open_ = wide["size"].drop(labels=[part for part in whole if part in wide.index])
        if len(wide) >= TOPICS or not len(open_):
            return label
        largest = open_.idxmax()
        inside = label == largest
        children = rows[inside].groupby(parts[inside].str[: depth[inside].iloc[0] + 1].str.join(".")).module
        enough = (children.nunique() >= FEWEST) & (children.size() >= -(-n // TOPICS))
        if enough.sum() < 2:
            whole.add(largest)
        else:
            depth[inside] += 1
