"""Dashboard and scrape files: expressions that parse, metrics that there are, fields that are known."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import ray
import yaml

from tests.unit.cluster.files import CLUSTER, documents
from vila2_ray import metrics
from vila2_ray.serve.metrics import Metrics

BOARD: dict[str, Any] = json.loads((CLUSTER / "grafana" / "campaign.json").read_text("utf-8"))
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
ABOUT_RAY = Path(ray.__file__).parent / "dashboard" / "modules" / "metrics" / "dashboards"


def parsed(expression: str) -> Any:
    """Grafana's variables put in, as Prometheus would get it."""
    filled_in = expression.replace("$__rate_interval", "1m").replace("$campaign", ".*")
    assert "$" not in filled_in, expression
    return promql_parser.parse(filled_in)


def selected(expression: str) -> Iterator[Any]:
    """The vector selectors of an expression."""
    found: list[Any] = []

    def visit(node: Any) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)
        elif isinstance(node, promql_parser.MatrixSelector):
            found.append(node.vector_selector)

    promql_parser.walk(parsed(expression), visit)
    names = {node.name for node in found}
    yield from (next(node for node in found if node.name == name) for name in names)


def expressions() -> Iterator[tuple[str, str]]:
    for panel in PANELS:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


def exposed_by_serve() -> set[str]:
    """Names that the endpoint's registry has, with those that it makes when it is asked."""
    metrics_of_serve = Metrics()
    families = {family.name: family for family in metrics_of_serve.registry.collect()}
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
    return {name + suffix for name, family in families.items() for suffix in suffixes.get(family.type, ())}


def declared_by_ray() -> set[str]:
    """Names in Ray's own dashboards, and Ray Data's own list of what it tells of an operator."""
    from ray.data._internal.execution.interfaces.op_runtime_metrics import OpRuntimeMetrics

    text = "".join(path.read_text("utf-8") for path in ABOUT_RAY.glob("*_panels.py"))
    return set(re.findall(r"\b(?:ray|autoscaler)_[a-z0-9_]+", text)) | {
        f"ray_data_{metric.name}" for metric in OpRuntimeMetrics.get_metrics()
    }


def test_every_metric_of_every_expression_exists() -> None:
    known = {metric.exported for metric in metrics.METRICS} | exposed_by_serve()
    rays = declared_by_ray()
    assert len(rays) > 100, "Ray keeps its declarations elsewhere now"
    for title, expression in expressions():
        names = {selector.name for selector in selected(expression)}
        assert names, title
        unknown = {name for name in names if name not in known and (name not in rays or "vila2" in name)}
        assert not unknown, f"{title}: {unknown}"


def test_every_metric_of_ours_is_shown() -> None:
    shown = {selector.name for _, expression in expressions() for selector in selected(expression)}
    missing = {metric.exported for metric in metrics.METRICS} - shown
    assert not missing


def test_ours_are_asked_for_by_labels_that_they_have() -> None:
    labels = {metric.exported: set(metric.labels) for metric in metrics.METRICS}
    for title, expression in expressions():
        for selector in selected(expression):
            if selector.name in labels:
                asked = {matcher.name for matcher in selector.matchers.matchers}
                assert asked == {"campaign"}, title
        for names in re.findall(r"\bby \(([^)]*)\)", expression):
            ours = [labels[s.name] for s in selected(expression) if s.name in labels]
            assert all(set(names.split(", ")) <= known for known in ours if len(ours) == 1), title


@pytest.mark.parametrize("slip", ["rate(vila2_requests_total[5x])", "sum by model (x)", "rate(x[1m]"])
def test_a_slip_is_found(slip: str) -> None:
    with pytest.raises(ValueError):
        parsed(slip)


def test_panels_have_places_of_their_own_and_ask_the_chosen_source() -> None:
    assert BOARD["schemaVersion"] >= 39
    assert [variable["name"] for variable in BOARD["templating"]["list"]] == ["datasource", "campaign"]
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])
    rows = [panel["title"] for panel in BOARD["panels"] if panel["type"] == "row"]
    assert rows == ["Campaign", "Quality", "Training", "Cluster", "Endpoint"]
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
    for panel in PANELS:
        assert panel["type"] in ("timeseries", "stat", "bargauge")
        for source in (panel["datasource"], *(target["datasource"] for target in panel["targets"])):
            assert source == {"type": "prometheus", "uid": "${datasource}"}
        ids = [target["refId"] for target in panel["targets"]]
        assert len(set(ids)) == len(ids)


def test_prometheus_reads_the_list_of_nodes_that_ray_writes() -> None:
    from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE

    [settings] = documents("prometheus.yaml")
    assert set(settings) == {"global", "scrape_configs"}
    [of_ray, of_endpoint] = settings["scrape_configs"]
    [discovery] = of_ray["file_sd_configs"]
    assert discovery["files"] == [f"/tmp/ray/{PROMETHEUS_SERVICE_DISCOVERY_FILE}"]
    assert of_endpoint["static_configs"] == [{"targets": ["127.0.0.1:8000"]}]
    _is_dropped_unshown(of_ray["metric_relabel_configs"][0]["regex"])


def _is_dropped_unshown(expression: str) -> None:
    for _, shown in expressions():
        for selector in selected(shown):
            assert not re.fullmatch(expression, selector.name), f"{selector.name} is on the dashboard"


MONITOR = {"selector", "jobLabel", "podMetricsEndpoints"}
ENDPOINT = {"port", "path", "interval", "relabelings", "metricRelabelings"}
RELABELING = {"action", "sourceLabels", "targetLabel", "regex", "replacement"}


def test_pod_monitors_have_fields_that_the_operator_knows() -> None:
    monitors = [d for d in documents("kuberay/monitoring.yaml") if d["kind"] == "PodMonitor"]
    assert len(monitors) == 3
    for monitor in monitors:
        assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
        assert monitor["metadata"]["namespace"] == "vila2"
        assert set(monitor["spec"]) <= MONITOR
        for endpoint in monitor["spec"]["podMetricsEndpoints"]:
            assert set(endpoint) <= ENDPOINT
            assert endpoint["port"] == "metrics"
            for relabeling in endpoint.get("relabelings", []) + endpoint.get("metricRelabelings", []):
                assert set(relabeling) <= RELABELING
                assert relabeling["action"] in ("keep", "drop", "replace")
    _is_dropped_unshown(monitors[0]["spec"]["podMetricsEndpoints"][0]["metricRelabelings"][0]["regex"])


def test_the_endpoint_that_is_scraped_is_the_services() -> None:
    service = yaml.safe_load((CLUSTER / "kuberay" / "rayservice.yaml").read_text("utf-8"))
    monitor = next(d for d in documents("kuberay/monitoring.yaml") if d["metadata"]["name"] == "vila2-endpoint")
    keep, rewrite = monitor["spec"]["podMetricsEndpoints"][0]["relabelings"]
    name = service["metadata"]["name"]
    assert re.fullmatch(keep["regex"], f"{name}-x7k2p"), "as KubeRay names the cluster of a service"
    assert not re.fullmatch(keep["regex"], name), "a cluster that stays serves nothing"
    assert rewrite["replacement"] == "$1:8000"


def test_the_door_for_prometheus_is_kubernetes_own() -> None:
    validator = pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate, of the dev packages")
    policy = documents("kuberay/monitoring.yaml")[-1]
    validator.validate(policy, "1.32", strict=True)
    assert {port["port"] for port in policy["spec"]["ingress"][0]["ports"]} == {8080, 44217, 44227, 8000}
