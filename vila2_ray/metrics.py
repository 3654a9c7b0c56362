"""Every metric of ours that a driver tells about its campaign, declared once; dashboards and tests look them up here.

Ray's agents, one on each node, expose them beside Ray's own, with the prefix `ray_`; the caption endpoint exposes its
own at `/metrics` (`serve.metrics`). Labels have few values each: a campaign, its stages, reasons from a closed set.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

ABOUT = ("campaign", "stage")


@dataclass(frozen=True)
class Metric:
    """One metric. A counter begins at 0 with every driver, as Prometheus' `rate` expects."""

    name: str
    kind: Literal["counter", "gauge"]
    unit: str
    told: str
    """In ASCII: Ray takes nothing else."""
    label: str = ""
    """A third label, beside campaign and stage."""
    figure: str = ""
    """Name by which `Progress.update` tells it; `<figure>.<value>` where there is a third label."""

    @property
    def labels(self) -> tuple[str, ...]:
        return (*ABOUT, self.label) if self.label else ABOUT

    @property
    def recorded(self) -> str:
        """As it is handed to Ray."""
        return f"vila2_{self.name}"

    @property
    def exported(self) -> str:
        """As Prometheus sees it."""
        return f"ray_{self.recorded}" + ("_total" if self.kind == "counter" else "")


def _counter(name: str, told: str, label: str = "", figure: str = "", unit: str = "") -> Metric:
    return Metric(name, "counter", unit or name, told, label, figure or name)


def _gauge(name: str, unit: str, told: str, label: str = "", figure: str = "") -> Metric:
    return Metric(name, "gauge", unit, told, label, figure)


STAGE_RUNNING = _gauge("stage_running", "1 or 0", "Whether the stage is under way")
STAGE_DONE = _gauge("stage_done", "by label", "Units of the stage that are finished, earlier runs' too", "unit")
STAGE_TOTAL = _gauge("stage_total", "by label", "Units that the stage has; 0 where it is not known", "unit")
STAGE_SECONDS = _gauge("stage_seconds", "seconds", "Time spent on the stage, all attempts")
STAGE_GPU_SECONDS = _gauge("stage_gpu_seconds", "GPU-seconds", "GPUs held, times seconds, all attempts")
STAGE_DOLLARS = _gauge("stage_dollars", "dollars", "What the stage has cost by the price list, all attempts")
CAPTIONS_JUDGED = _gauge("captions_judged", "captions", "Captions that the stage's filters have looked at")
CAPTIONS_KEPT = _gauge("captions_kept", "captions", "Captions without a flag")
CAPTIONS_FLAGGED = _gauge("captions_flagged", "captions", "Captions with a flag, by flag", "flag")

TOLD = (
    _counter("images", "Samples that recaptioning went through"),
    _counter("captions", "Captions that the engine wrote"),
    _counter("output_tokens", "Tokens that the engine wrote"),
    _counter("dead_letters", "Rows that could not be captioned, by reason", "reason", unit="rows"),
    _gauge("ranges_left", "row ranges", "Row ranges that wait or are worked on", figure="ranges_left"),
    _gauge("train_loss", "nats", "Loss of the last step", figure="loss"),
    _gauge("train_learning_rate", "1", "Learning rate of the last step", figure="lr"),
    _gauge("train_data_wait_share", "share", "Share of the last step that waited for data", figure="data_wait_share"),
    _gauge("train_tokens_per_second", "tokens/s", "Of the last step, all workers", figure="tokens_per_second"),
    _gauge("train_samples_per_second", "samples/s", "Of the last step, all workers", figure="samples_per_second"),
)
"""What stages tell with their progress."""

METRICS: tuple[Metric, ...] = (
    STAGE_RUNNING,
    STAGE_DONE,
    STAGE_TOTAL,
    STAGE_SECONDS,
    STAGE_GPU_SECONDS,
    STAGE_DOLLARS,
    CAPTIONS_JUDGED,
    CAPTIONS_KEPT,
    CAPTIONS_FLAGGED,
    *TOLD,
)

_BY_FIGURE = {metric.figure: metric for metric in TOLD}


def measured(figures: Mapping[str, float | str]) -> Iterator[tuple[Metric, str, float]]:
    """(metric, value of its third label or "", value) of each figure of `Progress.update` that is measured."""
    for name, value in figures.items():
        figure, _, label = name.partition(".")
        metric = _BY_FIGURE.get(figure)
        if metric is not None and not isinstance(value, str) and bool(metric.label) == bool(label):
            yield metric, label, float(value)


def campaign_name(uri: str) -> str:
    """A campaign as labels and records call it: its address, without credentials or options that may stand in it."""
    parts = urlsplit(uri)
    if not parts.scheme:
        return uri
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
