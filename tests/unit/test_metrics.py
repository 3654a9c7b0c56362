"""The declaration of our metrics: names that Prometheus takes, figures that stages tell, names without secrets."""

from __future__ import annotations

import re

from vila2_ray import metrics
from vila2_ray.progress import MEASURED


def test_every_metric_has_a_name_of_its_own_that_prometheus_takes() -> None:
    names = [metric.exported for metric in metrics.METRICS]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"ray_vila2_[a-z_]+", name) for name in names)
    for metric in metrics.METRICS:
        assert metric.told.isascii(), "Ray refuses others"
        assert metric.unit
        assert metric.exported.endswith("_total") == (metric.kind == "counter") or metric is metrics.STAGE_TOTAL


def test_what_lines_leave_out_is_measured() -> None:
    assert {metric.figure for metric in metrics.TOLD} >= MEASURED


def test_figures_find_their_metric() -> None:
    figures = {"loss": 2.5, "failed": "3", "captions": 7, "dead_letters.no_image": 2, "dead_letters": 9, "odd": 1.0}
    found = {(metric.name, label): value for metric, label, value in metrics.measured(figures)}
    assert found == {("train_loss", ""): 2.5, ("captions", ""): 7.0, ("dead_letters", "no_image"): 2.0}


def test_a_campaigns_name_has_no_credentials() -> None:
    assert metrics.campaign_name("s3://key:secret@bucket/coyo?region=x") == "s3://bucket/coyo"
    assert metrics.campaign_name("s3://bucket/coyo") == "s3://bucket/coyo"
    assert metrics.campaign_name("/data/runs/tiny") == "/data/runs/tiny"
