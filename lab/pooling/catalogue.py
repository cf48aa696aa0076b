"""The registries as a table, one row for each operator: what it is, where it is from, how much it has to learn."""

import inspect
import re

import pandas as pd
import torch
from torch import nn

LINK = re.compile(r"https?://[^\s)>]+")
SHAPES = re.compile(r"\s[xh] \([BL], ")  # where a docstring's formula ends and the shapes begin
STANDARD = "a standard form"


def table(dim: int = 384, num_layers: int = 7, channels: int = 64) -> pd.DataFrame:
    """A row for each operator of POOLS, LAYER_POOLS and MAP_POOLS: [family, name] of tokens, layers and maps.

    class         the module's name
    formula       its docstring, up to the shapes
    source        the links of its docstring, or "a standard form" where it says that it is one; else empty
    parameters    how many numbers it trains when built with its defaults for these widths

    All is read from the registries and the operators themselves, so that a line in a registry is a row here.
    """
    from lab.pooling import LAYER_POOLS, MAP_POOLS, POOLS  # they stand above this file

    families = {"tokens": (POOLS, (dim,)), "layers": (LAYER_POOLS, (dim, num_layers)), "maps": (MAP_POOLS, (channels,))}
    rows = {}
    for family, (registry, sizes) in families.items():
        for name, build in registry.items():
            with torch.device("meta"):  # shapes without memory
                pool = build(*sizes)
            said = told(type(pool))
            rows[family, name] = {
                "class": type(pool).__name__,
                "formula": formula(said),
                "source": " ".join(LINK.findall(said)) or (STANDARD if STANDARD in said.lower() else ""),
                "parameters": sum(p.numel() for p in pool.parameters() if p.requires_grad),
            }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["family", "name"])


def told(kind: type[nn.Module]) -> str:
    """The docstring of the class, or of the first it is derived from, that says where the operator is from."""
    docs = [inspect.getdoc(base) or "" for base in kind.__mro__ if base.__module__ == kind.__module__]
    return next((doc for doc in docs if LINK.search(doc) or STANDARD in doc.lower()), docs[0])


def formula(doc: str) -> str:
    """Its words up to the shapes, which may stand below a displayed formula; its first paragraph where it has none."""
    head, *shapes = SHAPES.split(doc)
    return " ".join((head if shapes else doc.split("\n\n", maxsplit=1)[0]).split())
