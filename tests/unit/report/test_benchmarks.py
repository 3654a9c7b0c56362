"""Published benchmarks in the report: cells with intervals, what cannot be compared, results of weights now gone."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

from tests.unit.campaign.folders import begin, finish
from vila2_ray.campaign.api import Campaign
from vila2_ray.evaluate.suite import Result
from vila2_ray.report.benchmarks import benchmark_rows, collect_benchmarks, model_label
from vila2_ray.report.collect import collect
from vila2_ray.report.data import Benchmark, BenchmarkCell, BenchmarkScores
from vila2_ray.report.render import render

from .pages import Page, example

POPE = Benchmark("pope", "pope", "f1", {"f1": BenchmarkCell(0.8, 0.75, 0.85), "yes_ratio": BenchmarkCell(0.5)}, 3000)
MME = Benchmark("mme", "mme", "perception", {"perception": BenchmarkCell(1311.4, 1200.0, 1400.0)}, 2374)


def write(campaign: Campaign, model: str, checkpoint: str, **changes: object) -> None:
    result = Result("pope", "pope", "f1", {"f1": 0.7, "recall": 0.6}, {"f1": (0.6, 0.8)}, 9, checkpoint=checkpoint)
    told = json.dumps(asdict(replace(result, **changes)))  # type: ignore[arg-type]
    campaign.layout.benchmarks(model).write_text("pope.json", told)


def test_results_are_collected_by_round_and_stage(tmp_path: Path) -> None:
    config = begin(tmp_path)
    finish(config, "index", "align", "pretrain-0", "sft-0", "evaluate-0", "pretrain-1", "sft-1")
    campaign = Campaign(str(tmp_path))
    assert collect_benchmarks(campaign) == ()
    write(campaign, "vlm-1", "digest of sft-1")
    write(campaign, "vlm-0", "digest of sft-0")
    write(campaign, "vlm-0-pretrain", "digest of pretrain-0")
    write(campaign, "vlm-1-pretrain", "digest of one that was trained before")
    found = collect_benchmarks(campaign)
    assert [model.model for model in found] == ["VLM_0 pretrain", "VLM_0", "VLM_1"]
    assert found[0].benchmarks[0].cells == {"f1": BenchmarkCell(0.7, 0.6, 0.8), "recall": BenchmarkCell(0.6)}
    assert collect(campaign).benchmarks == found


def test_names_of_models() -> None:
    assert [model_label(name) for name in ("vlm-2", "vlm-2-pretrain", "ocr")] == ["VLM_2", "VLM_2 pretrain", "ocr"]


def test_tables_show_values_intervals_and_what_is_lacking() -> None:
    other = replace(POPE, num_items=2000, num_missing=4, num_failed=2)
    tables = benchmark_rows((BenchmarkScores("VLM_0", (POPE, MME)), BenchmarkScores("VLM_1", (other,))))
    pope, mme = tables
    assert [cell["value"] for cell in pope["main"]["cells"]] == ["80.0\u202f%", "80.0\u202f%"]
    assert pope["main"]["cells"][0]["interval"] == "75.0\u202f%–85.0\u202f%"
    assert "2,000 and 3,000 questions; not the same for all models" in pope["told"]
    assert "4 left out for want of a picture; 2 without an answer" in pope["told"]
    assert [row["score"].better for row in pope["others"]] == ["neither"]
    assert [cell["value"] for cell in mme["main"]["cells"]] == ["1311", "–"]


def test_the_page_shows_them() -> None:
    html = render(replace(example(), benchmarks=(BenchmarkScores("VLM_0", (POPE,)), BenchmarkScores("<b>", (MME,)))))
    page = Page(html)
    assert page.errors == []
    assert "Published benchmarks" in page.text
    assert "75.0\u202f%–85.0\u202f%" in page.text
    assert "<b>" in page.text
    assert "Published benchmarks" not in Page(render(example())).text


def test_the_benchmark_that_decides_stands_among_the_scores(tmp_path: Path) -> None:
    begin(tmp_path, "evaluate.benchmarks.pope.kind=pope", "evaluate.benchmarks.pope.path=x", "rounds.metric=pope.f1")
    campaign = Campaign(str(tmp_path))
    config = campaign.config
    finish(config, "index", "align", "pretrain-0", "sft-0", "evaluate-0")
    from vila2_ray.campaign.state import write_marker

    marker = campaign.markers()["evaluate-0"]
    told = {"main": "f1", "scores": {"f1": 0.7, "recall": 0.6}, "intervals": {}, "data": ""}
    write_marker(campaign.store, replace(marker, summary={**marker.summary, "benchmarks": {"pope": told}}))
    data = collect(campaign)
    assert (data.metric, data.scores[0].values) == ("pope.f1", {"object_f1": 0.0, "pope.f1": 0.7})
