"""Five decisions for every test: no network, Triton's interpreter where there is no GPU, seeds, NaN in
uninitialised memory, and drawn inputs that are the same in each run."""

import importlib
import ipaddress
import os
import random
import socket

# read once, when the libraries are imported, and inherited by the kernels that tests start
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a pool of threads before a fork makes tokenizers warn
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # triton 3.9 warns while this is unset
# cores are shared among the workers, and by what tests start
os.environ["OMP_NUM_THREADS"] = str(
    max(1, (os.cpu_count() or 1) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
)
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS has no deterministic path without it

import numpy as np
import pytest
import torch
from hypothesis import settings

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined: before lab is imported

settings.register_profile("ci", deadline=None, derandomize=True, max_examples=25)
settings.register_profile("search", deadline=None, max_examples=500)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(autouse=True)
def reproducible():
    """The same random numbers in each test, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - ours take generators; third parties draw from the global one
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)  # also fills torch.empty with NaN


class NetworkError(RuntimeError):
    """Not an OSError: libraries catch those and try again, and a test that wants the network must be seen."""


def _refuse_if_remote(host):
    if host is None:
        return
    name = host.decode() if isinstance(host, bytes | bytearray) else str(host)
    if name in {"", "localhost", socket.gethostname()}:
        return
    try:
        if ipaddress.ip_address(name.partition("%")[0]).is_loopback:
            return
    except ValueError:  # a name, not an address
        pass
    raise NetworkError(f"a test asked the network for {name!r}; tests use bundled models and data")


def _guard_sockets():
    """Refuse every address but this machine's own, for the whole run, collection included."""
    resolve = socket.getaddrinfo

    def guarded_resolve(host, *args, **kwargs):
        _refuse_if_remote(host)
        return resolve(host, *args, **kwargs)

    def guarded(method):
        def call(sock, address, *args):
            if sock.family in {socket.AF_INET, socket.AF_INET6}:
                _refuse_if_remote(address[0])
            return method(sock, address, *args)

        return call

    socket.getaddrinfo = guarded_resolve
    socket.socket.connect = guarded(socket.socket.connect)
    socket.socket.connect_ex = guarded(socket.socket.connect_ex)


_guard_sockets()


@pytest.fixture(scope="session")
def minilm():
    """The bundled pretrained model, loaded once."""
    import lab

    return lab.models.load("minilm")


@pytest.fixture
def plain_torch(monkeypatch):
    """The kernels have tests of their own; interpreted, a training step or a long row would take seconds."""
    import triton
    import triton.experimental.gluon  # torch imports it at a first call; it must see the interpreter on

    importlib.import_module("lab.kernels.segment_pool")
    monkeypatch.setattr("lab.kernels.segment_pool.INTERPRETED", False)
    monkeypatch.setattr(triton.knobs.runtime, "interpret", False)  # writes the variable that processes inherit


@pytest.fixture(scope="module")
def browser():
    """Chromium, headless, with WebGL drawn by the processor; see window.py."""
    from window import launched

    with launched() as opened:
        yield opened


@pytest.fixture
def window(browser):
    """A page of its own without network, which writes down what it asks for and what goes wrong."""
    from window import Window

    opened = Window(browser)
    yield opened
    opened.context.close()
