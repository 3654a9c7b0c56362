from __future__ import annotations

import importlib.util
import threading
import time
from pathlib import Path

import pytest
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import masked_crc32c

from vila2_ray.config import TrainConfig
from vila2_ray.errors import ConfigError, StorageError
from vila2_ray.storage import Store
from vila2_ray.train import tracking
from vila2_ray.train.tracking import EventFiles, Point, Tracker, open_tracker


def events(file: Path) -> list[event_pb2.Event]:
    """A TensorBoard file's events, without TensorBoard: length, its checksum, content, its checksum."""
    data, found = file.read_bytes(), []
    while data:
        length = int.from_bytes(data[:8], "little")
        assert int.from_bytes(data[8:12], "little") == masked_crc32c(data[:8])
        found.append(event_pb2.Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    return found


def scalars(file: Path) -> list[tuple[str, int, float]]:
    return [
        (value.tag, event.step, round(value.simple_value, 5))
        for event in events(file)
        for value in event.summary.value
        if not value.HasField("tensor")
    ]


def test_the_steps_stand_in_an_event_file(tmp_path: Path) -> None:
    with open_tracker(["tensorboard"], Store(tmp_path / "m"), "align m", {"peak_lr": 1e-3}) as tracker:
        for step in (1, 2):
            tracker.log(step, {"train/loss": 3.0 - step})
    (file,) = (tmp_path / "m").iterdir()
    assert scalars(file) == [("train/loss", 1, 2.0), ("train/loss", 2, 1.0)]
    assert any(b"| peak_lr | 0.001 |" in v.tensor.string_val[0] for e in events(file) for v in e.summary.value
               if v.HasField("tensor"))  # fmt: skip


def test_where_training_goes_back_the_later_steps_of_before_are_hidden(tmp_path: Path) -> None:
    with open_tracker(["tensorboard"], Store(tmp_path), "r", {}) as tracker:
        for step in (1, 2, 3, 2):
            tracker.log(step, {"loss": float(step)})
    files = sorted(tmp_path.iterdir(), key=lambda file: len(scalars(file)))
    assert [[step for _, step, _ in scalars(file)] for file in files] == [[2], [1, 2, 3]]
    starts = [event for event in events(files[0]) if event.HasField("session_log")]
    assert [event.step for event in starts] == [2]


class Far(Store):
    """A local folder that says it is far away, and can be out of reach."""

    is_local = False
    num_failures = 0

    def upload_folder(self, local: Path, name: str = "") -> None:
        if self.num_failures:
            self.num_failures -= 1
            raise StorageError("no route to the store")
        Store(self.uri).upload_folder(local, name)


def test_a_far_folder_gets_the_file_now_and_then_and_whole_at_the_end(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(tracking, "_UPLOAD_SECONDS", 0.0)
    sink = EventFiles(Far(tmp_path / "far"), {})
    sink.write([Point(1, 1.0, {"loss": 1.0})])
    (file,) = (tmp_path / "far").iterdir()
    sink.write([Point(2, 2.0, {"loss": 2.0})])
    sink.close()
    assert [step for _, step, _ in scalars(file)] == [1, 2]


def test_a_store_out_of_reach_costs_one_warning(tmp_path: Path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(tracking, "_UPLOAD_SECONDS", 0.0)
    monkeypatch.setattr(tracking, "_DRAIN_SECONDS", 0.01)
    far = Far(tmp_path / "far")
    far.num_failures = 1
    with Tracker({"tensorboard": EventFiles(far, {})}) as tracker:
        tracker.log(1, {"loss": 1.0})
    (file,) = (tmp_path / "far").iterdir()
    assert len(scalars(file)) == 1
    assert caplog.messages == ["tensorboard: StorageError: no route to the store. Training goes on"]


class Broken:
    def __init__(self) -> None:
        self.num_writes = 0

    def write(self, points) -> None:
        self.num_writes += 1
        raise RuntimeError(f"no server, {self.num_writes}")

    def close(self) -> None:
        raise RuntimeError("still no server")


class Remembering:
    def __init__(self) -> None:
        self.points: list[Point] = []
        self.is_closed = False

    def write(self, points) -> None:
        self.points += points

    def close(self) -> None:
        self.is_closed = True


def test_a_failing_tracker_stops_neither_training_nor_the_others(caplog, monkeypatch) -> None:
    monkeypatch.setattr(tracking, "_DRAIN_SECONDS", 0.0)
    good = Remembering()
    with Tracker({"mlflow": Broken(), "tensorboard": good}) as tracker:
        for step in range(1, 6):
            tracker.log(step, {"loss": 1.0})
    assert [point.step for point in good.points] == [1, 2, 3, 4, 5]
    assert good.is_closed
    assert caplog.messages == ["mlflow: RuntimeError: no server, 1. Training goes on"]


def test_a_tracker_that_hangs_holds_nothing_up(caplog, monkeypatch) -> None:
    monkeypatch.setattr(tracking, "_CLOSE_SECONDS", 0.1)
    monkeypatch.setattr(tracking, "_QUEUE_POINTS", 4)
    monkeypatch.setattr(tracking, "_DRAIN_SECONDS", 0.0)
    answer = threading.Event()

    class Hanging(Remembering):
        def write(self, points) -> None:
            answer.wait(30)

    tracker = Tracker({"wandb": Hanging()})
    for step in range(20):
        tracker.log(step, {})
    tracker.close()
    answer.set()
    assert caplog.messages == ["train.trackers: cannot keep up; steps are missing from the log. Training goes on"]


def test_no_tracker_no_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    with open_tracker([], Store(tmp_path), "r", {}) as tracker:
        tracker.log(1, {"loss": 1.0})
        assert threading.active_count() == before
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named_with_the_command_that_brings_it(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="wandb needs a package: pip install wandb"):
        open_tracker(["wandb"], Store(tmp_path), "r", {})


def test_mlflow_needs_to_know_its_server(tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI"):
        open_tracker(["mlflow"], Store(tmp_path), "r", {})


def test_a_tracker_of_another_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="tensorboard, mlflow, wandb, or none"):
        TrainConfig(trackers=("comet",))  # type: ignore[arg-type]


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="needs mlflow")
def test_an_mlflow_run_holds_parameters_and_steps(tmp_path: Path, monkeypatch, caplog) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # there is no server here
    monkeypatch.setattr(tracking, "_CLOSE_SECONDS", 300.0)
    with open_tracker(["mlflow"], Store(tmp_path), "sft vlm-1", {"peak_lr": 2e-5}, project="ours") as tracker:
        tracker.log(1, {"train/loss": 2.0})
        tracker.log(2, {"train/loss": 1.0})
    assert not caplog.messages
    from mlflow import MlflowClient

    client = MlflowClient()
    experiment = client.get_experiment_by_name("ours")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "sft vlm-1"
    assert run.info.status == "FINISHED"
    assert run.data.params == {"peak_lr": "2e-05"}
    assert [m.value for m in client.get_metric_history(run.info.run_id, "train/loss")] == [2.0, 1.0]


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="needs wandb")
def test_a_wandb_run_is_kept_offline_where_it_is_told_so(tmp_path: Path, monkeypatch, caplog) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setattr(tracking, "_CLOSE_SECONDS", 300.0)
    with open_tracker(["wandb"], Store(tmp_path), "sft vlm-1", {"peak_lr": 2e-5}) as tracker:
        for step in (1, 2, 1):
            tracker.log(step, {"train/loss": float(step)})
    assert not caplog.messages
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    deadline = time.monotonic() + 60
    while file.stat().st_size < 500 and time.monotonic() < deadline:  # its own process writes it
        time.sleep(0.05)
    assert file.stat().st_size > 500
