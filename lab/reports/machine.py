"""Facts about this machine and environment, cheap enough to ask for before anything heavy is imported."""

import os
import platform
import shutil
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

PACKAGES = (
    "lab", "torch", "transformers", "sentence-transformers", "safetensors", "numpy", "scipy", "scikit-learn",
    "pandas", "xarray", "zarr", "datasets", "umap-learn", "plotly", "papermill", "nbclient", "nbconvert",
    "ipykernel",
)  # fmt: skip


def version(package: str) -> str | None:
    """The installed version, None where the package is missing; nothing is imported."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """Python and the packages whose versions can change a number in a report."""
    found = {name: version(name) for name in PACKAGES}
    return {"python": platform.python_version()} | {name: v for name, v in found.items() if v}


@cache
def gpus() -> tuple[str, ...]:
    """Names of the NVIDIA GPUs that the driver lists."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    asked = [tool, "--query-gpu=name", "--format=csv,noheader"]
    try:
        answer = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True)  # noqa: S603 (fixed words)
    except (subprocess.SubprocessError, OSError):
        return ()  # the tool is there, the driver does not answer: the same as no GPU
    return tuple(line.strip() for line in answer.stdout.splitlines() if line.strip())


def cuda_build() -> bool:
    """Whether the installed torch can use a GPU at all; its CPU wheel says so in its version."""
    return version("torch") is not None and "+cpu" not in (version("torch") or "")


def threads() -> int:
    """Hardware threads that this process may use, which in a container is fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return " ".join(line.split(":", 1)[1].split())
    return platform.processor() or platform.machine()


def memory() -> int | None:
    """Bytes of main memory, None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def device() -> str:
    """What the numbers were computed on, in words."""
    if gpus() and cuda_build():
        return f"{len(gpus())} x {gpus()[0]}" if len(gpus()) > 1 else gpus()[0]
    return f"{cpu()}, {threads()} threads"
