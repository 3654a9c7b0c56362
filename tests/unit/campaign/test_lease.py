import json
import time
from pathlib import Path

import pytest

from vila2_ray.campaign import lease as leases
from vila2_ray.campaign.lease import Lease
from vila2_ray.errors import CampaignBusy, LeaseLost
from vila2_ray.storage import Store


def test_a_released_lease_is_free_and_epochs_grow(tmp_path: Path) -> None:
    epochs = []
    for _ in range(3):
        with Lease(Store(tmp_path), lifetime_seconds=5) as lease:
            lease.check()
            epochs.append(lease.epoch)
    assert epochs == [1, 2, 3]


def test_a_second_driver_is_refused_while_the_first_beats(tmp_path: Path) -> None:
    with (
        Lease(Store(tmp_path), lifetime_seconds=1.0),
        pytest.raises(CampaignBusy, match="is running this campaign"),
        Lease(Store(tmp_path), lifetime_seconds=1.0),
    ):
        pass


def test_the_lease_of_a_dead_process_is_taken_at_once(tmp_path: Path) -> None:
    _abandon(tmp_path, process_started="0")
    began = time.monotonic()
    with Lease(Store(tmp_path), lifetime_seconds=30) as lease:
        assert lease.epoch == 8
    assert time.monotonic() - began < 2


def test_a_lease_of_another_host_that_stands_still_is_taken_over(tmp_path: Path) -> None:
    _abandon(tmp_path, host="elsewhere")
    with Lease(Store(tmp_path), lifetime_seconds=0.5) as lease:
        assert lease.epoch == 8


def test_a_paused_driver_finds_out_before_it_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lease, "_renew", lambda self: None)  # stopped, as by SIGSTOP
    paused = Lease(Store(tmp_path), lifetime_seconds=0.5)
    paused.__enter__()
    monkeypatch.setattr(Lease, "_is_free", lambda self, data: False)
    with Lease(Store(tmp_path), lifetime_seconds=0.5) as taker:
        taker.check()
        with pytest.raises(LeaseLost):
            paused.check()
        paused.__exit__(None, None, None)
        taker.check()


def _abandon(folder: Path, host: str | None = None, process_started: str = "1") -> None:
    import os
    import socket

    record = {
        "holder": "x",
        "epoch": 7,
        "beat": 3,
        "host": host or socket.gethostname(),
        "pid": os.getpid(),
        "process_started": process_started,
        "released": False,
    }
    Store(folder).put_if(leases.NAME, json.dumps(record).encode(), None)
