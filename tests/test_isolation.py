"""What tests/conftest.py promises: no network, and the same numbers whatever ran before."""

import os
import random
import socket
import urllib.request

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.mark.parametrize("address", [("192.0.2.1", 80), ("2001:db8::1", 80), ("example.org", 443)])
def test_the_network_is_out_of_reach(address):
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family) as sock, pytest.raises(RuntimeError, match="asked the network"):
        sock.connect(address)
    with socket.socket(family) as sock, pytest.raises(RuntimeError, match="asked the network"):
        sock.connect_ex(address)
    with pytest.raises(RuntimeError, match="asked the network"):
        socket.create_connection(address, timeout=1)


def test_a_url_is_out_of_reach():
    with pytest.raises(RuntimeError, match=r"asked the network for 'example\.org'"):
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open("http://example.org", timeout=1)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_this_machine_is_within_reach(host):
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection((host, server.getsockname()[1]), timeout=5) as client,
    ):
        client.sendall(b"hello")
        accepted, _ = server.accept()
        with accepted:
            assert accepted.recv(5) == b"hello"


def test_each_test_starts_from_seed_0():
    assert random.random() == random.Random(0).random()  # noqa: S311 - the generators are what is tested
    assert np.random.rand() == np.random.RandomState(0).rand()  # noqa: NPY002
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(0)))


def test_uninitialised_memory_is_poisoned():
    assert torch.empty(64).isnan().all()


def test_kernels_are_interpreted_where_there_is_no_gpu():
    assert torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1"


@given(st.integers())
def test_drawn_inputs_live_with_the_fixtures(n):
    assert isinstance(n, int)
    assert settings().deadline is None
