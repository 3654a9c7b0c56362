"""The course of a stage, logged while it runs: TensorBoard event files and, by choice, MLflow and Weights & Biases.

Only the first rank logs. What it logs goes through a queue to a thread, so that neither a slow disk nor a server that
does not answer holds training up; a tracker that fails is told of once, and training goes on. Every attempt at a stage
is a run of its own. TensorBoard shows the attempts as one curve: each file says at which step it takes over.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
import queue
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol

from vila2_ray.config import Tracker as TrackerName
from vila2_ray.errors import ConfigError, in_one_line
from vila2_ray.nodecache import cache_folder
from vila2_ray.storage import Store

_LOG = logging.getLogger(__name__)
_PACKAGES: dict[str, tuple[str, str]] = {
    "tensorboard": ("tensorboardX", "tensorboardX"),
    "mlflow": ("mlflow", "mlflow-skinny"),
    "wandb": ("wandb", "wandb"),
}
"""Tracker → module, and what to install for it."""
_QUEUE_POINTS = 10_000
_DRAIN_SECONDS = 1.0
"""Points are handed to the trackers together, this often."""
_UPLOAD_SECONDS = 60.0
"""Between uploads of an event file to a far store, which cannot append."""
_CLOSE_SECONDS = 30.0


class Point(NamedTuple):
    """Values of one step."""

    step: int
    time: float
    """Unix time."""
    values: Mapping[str, float]


class Sink(Protocol):
    """One tracker's run."""

    def write(self, points: Sequence[Point]) -> None:
        """In order of time; steps go back where training did."""

    def close(self) -> None: ...


class Tracker:
    """Hands points to sinks from a thread. Never raises, never waits."""

    def __init__(self, sinks: Mapping[str, Sink]) -> None:
        """`sinks` by tracker's name, for the warning."""
        self._sinks = dict(sinks)
        self._warned: set[str] = set()
        self._points: queue.Queue[Point | None] = queue.Queue(_QUEUE_POINTS)
        self._thread = threading.Thread(target=self._work, name="training-tracker", daemon=True)
        if self._sinks:
            self._thread.start()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """`step` counts finished steps. Points that the trackers cannot keep up with are dropped."""
        if not self._sinks:
            return
        try:
            self._points.put_nowait(Point(step, time.time(), values))
        except queue.Full:
            self._warn("train.trackers", "cannot keep up; steps are missing from the log")

    def close(self) -> None:
        """Write what is left and end the runs; gives up on a tracker that does not answer."""
        if not self._thread.is_alive():
            return
        try:
            self._points.put(None, timeout=_CLOSE_SECONDS)
        except queue.Full:
            return
        self._thread.join(_CLOSE_SECONDS)

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _work(self) -> None:
        ended = False
        while not ended:
            points, ended = self._drain()
            for name, sink in self._sinks.items():
                self._try(name, functools.partial(sink.write, points))
                if ended:
                    self._try(name, sink.close)

    def _try(self, name: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # whatever other packages raise: training is worth more than its log
            self._warn(name, in_one_line(error))

    def _drain(self) -> tuple[list[Point], bool]:
        """Points since the last time, at least one or the end, and whether it is the end."""
        points: list[Point] = []
        due = 0.0
        while True:
            try:
                point = self._points.get(timeout=max(0.0, due - time.monotonic()) if points else None)
            except queue.Empty:
                return points, False
            if point is None:
                return points, True
            due = due or time.monotonic() + _DRAIN_SECONDS
            points.append(point)

    def _warn(self, name: str, problem: str) -> None:
        if name not in self._warned:
            self._warned.add(name)
            _LOG.warning("%s: %s. Training goes on", name, problem)


def check_trackers(names: Sequence[TrackerName]) -> None:
    """Raise ConfigError for a tracker that cannot work here: no package, or no address. Loads none of them."""
    for name in names:
        module, package = _PACKAGES[name]
        if importlib.util.find_spec(module) is None:
            raise ConfigError("train.trackers", list(names), f"{name} needs a package: pip install {package}")
    if "mlflow" in names and not os.environ.get("MLFLOW_TRACKING_URI"):
        raise ConfigError(
            "train.trackers", list(names), "mlflow needs MLFLOW_TRACKING_URI set, here and on the workers"
        )


def open_tracker(
    names: Sequence[TrackerName],
    folder: Store,
    run: str,
    parameters: Mapping[str, Any],
    *,
    project: str = "vila2",
) -> Tracker:
    """Begin a run with each of `names`; one that cannot begin is told of and left out.

    folder: where event files go. run: the run's name. parameters: flat, what the run was started with.
    Raises ConfigError as `check_trackers` does.
    """
    check_trackers(names)
    sinks: dict[str, Sink] = {}
    for name in names:
        try:
            if name == "tensorboard":
                sinks[name] = EventFiles(folder, parameters)
            elif name == "mlflow":
                sinks[name] = MlflowRun(project, run, parameters)
            else:
                sinks[name] = WandbRun(project, run, parameters, folder)
        except Exception as error:  # as above
            _LOG.warning("%s: %s. Training goes on", name, in_one_line(error))
    return Tracker(sinks)


class EventFiles:
    """TensorBoard event files, in a local folder, or uploaded whole to a far one now and then.

    One file for each attempt, and one more whenever training goes back: it tells TensorBoard to hide the later steps of
    the files before it, which are trained again.
    """

    def __init__(self, folder: Store, parameters: Mapping[str, Any]) -> None:
        self._folder, self._parameters = folder, parameters
        self._scratch = None if folder.is_local else tempfile.TemporaryDirectory(prefix="vila2-events-")
        self._local = Path(self._scratch.name if self._scratch else folder.uri)
        self._local.mkdir(parents=True, exist_ok=True)
        self._writer: Any = None
        self._last_step = 0
        self._uploaded_at = time.monotonic()

    def write(self, points: Sequence[Point]) -> None:
        for point in points:
            if self._writer is None or point.step <= self._last_step:
                self._begin(point.step)
            self._last_step = point.step
            for name, value in point.values.items():
                self._writer.add_scalar(name, value, point.step, point.time)
        if time.monotonic() - self._uploaded_at >= _UPLOAD_SECONDS:
            self._upload()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._upload()
        if self._scratch:
            self._scratch.cleanup()

    def _begin(self, step: int) -> None:
        from tensorboardX import SummaryWriter

        if self._writer is not None:
            self._writer.close()
        suffix = f".{uuid.uuid4().hex[:8]}"  # their names tell only seconds apart
        self._writer = SummaryWriter(str(self._local), flush_secs=10, purge_step=step, filename_suffix=suffix)
        rows = "".join(f"| {name} | {value} |\n" for name, value in self._parameters.items())
        self._writer.add_text("parameters", f"| field | value |\n|---|---|\n{rows}", step)

    def _upload(self) -> None:
        self._uploaded_at = time.monotonic()
        if self._scratch:
            self._folder.upload_folder(self._local)


class MlflowRun:
    """A run in the experiment `project` of the server that MLFLOW_TRACKING_URI names."""

    def __init__(self, project: str, run: str, parameters: Mapping[str, Any]) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._client = MlflowClient()
        found = self._client.get_experiment_by_name(project)
        experiment = found.experiment_id if found else self._client.create_experiment(project)
        self._run = self._client.create_run(experiment, run_name=run).info.run_id
        told = [Param(name, str(value)[:500]) for name, value in parameters.items()]
        for at in range(0, len(told), 100):  # as many as a request may hold
            self._client.log_batch(self._run, params=told[at : at + 100])

    def write(self, points: Sequence[Point]) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(n, v, int(p.time * 1000), p.step) for p in points for n, v in p.values.items()]
        for at in range(0, len(metrics), 1000):  # as above
            self._client.log_batch(self._run, metrics[at : at + 1000])

    def close(self) -> None:
        self._client.set_terminated(self._run)


class WandbRun:
    """A run in `project`; attempts at the same stage are a group. WANDB_API_KEY, WANDB_MODE and the like count."""

    def __init__(self, project: str, run: str, parameters: Mapping[str, Any], folder: Store) -> None:
        import wandb

        scratch = Path(folder.uri) if folder.is_local else cache_folder("wandb")  # kept: offline runs are sent later
        scratch.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=project, group=run, name=run, config=dict(parameters), dir=str(scratch), reinit="create_new"
        )
        self._run.define_metric("*", step_metric="step")  # their own step may not go back; after a rollback ours does

    def write(self, points: Sequence[Point]) -> None:
        for point in points:
            self._run.log({"step": point.step, **point.values})

    def close(self) -> None:
        self._run.finish()
