"""What all tests share: an environment without network or surprises, and Ray clusters of their own."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Iterator

import pytest

from tests.s3 import bucket as bucket
from tests.s3 import s3_server as s3_server

# Before anything imports torch, transformers or Ray; worker processes inherit it.
for _name, _value in {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "RAY_AUTH_MODE": "disabled",  # clusters on 127.0.0.1 that live for a module; tests of tokens turn it on
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
}.items():
    os.environ.setdefault(_name, _value)
for _name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "VILA2_DEBUG"):  # of whoever runs the tests
    os.environ.pop(_name, None)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell leaves what it starts in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # else programs under test never hear of Ctrl-C


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need a GPU say so where there is none."""
    if any("gpu" in item.keywords for item in items) and not _has_gpu():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="no GPU on this machine"))


def _has_gpu() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    """Two CPUs of Ray in this process for the tests of one module. `local` ignores what other clusters left behind."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()
