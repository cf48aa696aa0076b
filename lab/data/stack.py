"""Which packages are the scientific stack, where their source lies and which of it counts."""

import os
from importlib.machinery import PathFinder
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

# import name: distribution name. What a scientist in Python computes, learns, stores, draws and writes with;
# not what merely serves these (HTTP, parsing of YAML, installers) nor what only checks code, and never the
# lab itself, whose own text must not be among the texts it measures. Those not installed are passed over.
STACK = {
    # numbers, symbols, graphs
    "numpy": "numpy",
    "scipy": "scipy",
    "sympy": "sympy",
    "mpmath": "mpmath",
    "networkx": "networkx",
    "numba": "numba",
    "llvmlite": "llvmlite",
    "statsmodels": "statsmodels",
    # learning
    "sklearn": "scikit-learn",
    "umap": "umap-learn",
    "pynndescent": "pynndescent",
    "joblib": "joblib",
    "torch": "torch",
    "triton": "triton",
    "transformers": "transformers",
    "tokenizers": "tokenizers",
    "safetensors": "safetensors",
    "sentence_transformers": "sentence-transformers",
    "huggingface_hub": "huggingface_hub",
    "accelerate": "accelerate",
    "peft": "peft",
    # tables, arrays on disk, clusters
    "pandas": "pandas",
    "narwhals": "narwhals",
    "pyarrow": "pyarrow",
    "xarray": "xarray",
    "zarr": "zarr",
    "numcodecs": "numcodecs",
    "fsspec": "fsspec",
    "datasets": "datasets",
    "dask": "dask",
    "distributed": "distributed",
    # pictures and notebooks
    "matplotlib": "matplotlib",
    "seaborn": "seaborn",
    "plotly": "plotly",
    "anywidget": "anywidget",
    "ipywidgets": "ipywidgets",
    "IPython": "ipython",
    "ipykernel": "ipykernel",
    "jupyter_client": "jupyter_client",
    "jupyter_server": "jupyter_server",
    "jupyterlab": "jupyterlab",
    "jupyterlab_server": "jupyterlab_server",
    "nbclient": "nbclient",
    "nbconvert": "nbconvert",
    "nbformat": "nbformat",
    "papermill": "papermill",
    "traitlets": "traitlets",
    "tornado": "tornado",
    "jinja2": "Jinja2",
    "pygments": "Pygments",
    "tqdm": "tqdm",
}
# tests, other projects' code under this one's name, and plotly's thousands of generated properties
SKIPPED = {
    *("tests", "test", "testing", "_testing", "benchmarks", "graph_objs"),
    *("external", "externals", "_external", "extern", "_extern", "third_party", "thirdparty"),
    *("vendor", "_vendor", "vendored", "_vendored", "array_api_compat", "array_api_extra"),
}


class Source(NamedTuple):
    """One file that counts."""

    package: str
    module: str
    path: Path


def installed() -> dict[str, str]:
    """{import name: version} of the packages of STACK that are here, by name."""
    found = {}
    for package, distribution in sorted(STACK.items()):
        try:
            found[package] = version(distribution)
        except PackageNotFoundError:
            continue
    return {package: number for package, number in found.items() if _locate(package)}


def sources(package: str) -> list[Source]:
    """The files of an installed package that count, by path."""
    root = _locate(package)
    if root.is_file():
        return [Source(package, package, root)]
    found = []
    for folder, folders, files in os.walk(root):
        # a folder that is no identifier cannot be imported: templates, data, __pycache__ has no source
        folders[:] = [name for name in folders if name.isidentifier() and name not in SKIPPED]
        inside = (package, *Path(folder).relative_to(root).parts)
        for name in files:
            stem = name.removesuffix(".py")
            if stem != name and stem.isidentifier() and not _tests(stem):
                module = ".".join(inside if stem == "__init__" else (*inside, stem))
                found.append(Source(package, module, Path(folder, name)))
    return sorted(found, key=lambda source: (source.module, source.path))


def _locate(package: str) -> Path | None:
    """Folder or file of a top-level package, found along sys.path alone, so that nothing of it runs."""
    spec = PathFinder.find_spec(package)
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return None
    return Path(spec.origin).parent if spec.submodule_search_locations else Path(spec.origin)


def _tests(stem: str) -> bool:
    return stem.startswith("test_") or stem.endswith("_test") or stem == "conftest" or stem in SKIPPED
