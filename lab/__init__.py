"""The lab: how pooling, layers and attention turn token states into embeddings.

Reading order, which is also the direction the data flows; nothing imports upward:

    data       corpora and tasks                 lab.data.docstrings(n=2000, seed=0)
    blocks     where a model's layers are        lab.blocks.find_blocks(module)
    models     what we look at                   lab.models.load("minilm")
    kernels    reductions, fast on a GPU         lab.kernels.KERNELS
    pooling    token states to one vector        lab.pooling.POOLS["mean"](dim)(x, mask)
    capture    all-layer hidden states, pooled   lab.capture.states(model, texts, pools=("mean", "last"))
    attention  who weighs whom, and sinks        with lab.attention.use(model, "softpick"): ...
    probes     what a layer knows                lab.probes.retrieval(queries, documents)
    geometry   how the space bends               lab.geometry.measure(states)
    training   small models trained here         lab.training.language_model(lab.training.corpus(texts))
    stats      what a difference means           lab.stats.bootstrap(scores, along="example")
    plots      arrays in, figures out            lab.plots.layer_curves(estimates)
    widgets    figures under controls            lab.widgets.explorer(states, texts)
    reports    run notebooks, render, index      lab.reports.run("notebooks/tour.ipynb")

Every result is an xarray object with named axes (layer, pool, example, dim, fold ...). Rooms load when they
are first used, so `import lab` costs nothing.
"""

from importlib import import_module
from types import ModuleType

ROOMS = (
    "data", "blocks", "models", "kernels", "pooling", "capture", "attention", "probes", "geometry", "training",
    "stats", "plots", "widgets", "reports",
)  # fmt: skip

__version__ = "0.1.0"


def __getattr__(name: str) -> ModuleType:
    if name not in ROOMS:
        raise AttributeError(f"lab has no room {name!r}; it has {', '.join(ROOMS)}")
    return import_module(f"lab.{name}")


def __dir__() -> list[str]:
    return sorted([*ROOMS, "ROOMS", "__version__"])
