"""The Kubernetes manifests: fields that exist, least privilege, and the endpoint that `serve/` describes."""

from __future__ import annotations

import copy
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.cluster.files import CLUSTER, MANIFESTS, documents, manifest, ray_cluster, templates
from tests.unit.cluster.kuberay import KINDS, mistakes
from vila2_ray.config import ServeConfig
from vila2_ray.recipe import load_config

KUBERNETES = "1.32"


@pytest.mark.parametrize("name", MANIFESTS)
def test_every_field_is_one_that_kuberay_knows(name: str) -> None:
    found = manifest(name)
    assert set(found) == {"apiVersion", "kind", "metadata", "spec"}
    assert found["apiVersion"] == "ray.io/v1"
    assert mistakes(found["spec"], KINDS[found["kind"]], "spec") == []


def test_a_slip_is_found() -> None:
    spec = copy.deepcopy(manifest("raycluster.yaml")["spec"])
    spec["workerGroupSpecs"][0]["minReplica"] = 1
    spec["workerGroupSpecs"][1]["rayStartParams"] = {"num-cpus": 1}
    spec["autoscalerOptions"]["version"] = "v3"
    spec["headGroupSpec"].pop("template")
    assert sorted(place.partition(":")[0] for place in mistakes(spec, KINDS["RayCluster"], "spec")) == [
        "spec.autoscalerOptions.version",
        "spec.headGroupSpec.template",
        "spec.workerGroupSpecs[0].minReplica",
        "spec.workerGroupSpecs[1].rayStartParams.num-cpus",
    ]


@pytest.mark.parametrize("name", MANIFESTS)
def test_pod_templates_are_kubernetes_own(name: str) -> None:
    validator = pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate, of the dev packages")
    for purpose, template in templates(name).items():
        pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": purpose}, "template": template}
        validator.validate(pod, KUBERNETES, strict=True)


def test_accounts_policies_and_budgets_are_kubernetes_own() -> None:
    validator = pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate, of the dev packages")
    for document in documents("kuberay/access.yaml"):
        validator.validate(document, KUBERNETES, strict=True)


@pytest.mark.parametrize("name", MANIFESTS)
def test_ray_wants_its_token_from_a_secret_and_scales_by_labels(name: str) -> None:
    cluster = ray_cluster(name)
    assert cluster["authOptions"] == {"mode": "token", "secretName": "vila2-ray-token"}
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["autoscalerOptions"]["version"] == "v2"
    assert cluster["headGroupSpec"]["resources"]["CPU"] == "0"
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"


@pytest.mark.parametrize("name", MANIFESTS)
def test_every_pod_is_as_restricted_as_its_namespace_wants(name: str) -> None:
    cluster = ray_cluster(name)
    contexts = {"autoscaler": cluster["autoscalerOptions"]["securityContext"]}
    for purpose, template in templates(name).items():
        pod, [container] = template["spec"], template["spec"]["containers"]
        assert template["metadata"]["labels"]["app.kubernetes.io/part-of"] == "vila2", "else no policy knows it"
        assert pod["restartPolicy"] == "Never"
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] >= 1000
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert all(set(volume) <= {"name", "emptyDir", "secret"} for volume in pod.get("volumes", []))
        if purpose != "head":
            assert (pod["serviceAccountName"], pod["automountServiceAccountToken"]) == ("vila2-worker", False)
        contexts[purpose] = container["securityContext"]
        assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"]
    for purpose, context in contexts.items():
        assert context["allowPrivilegeEscalation"] is False, purpose
        assert context["capabilities"] == {"drop": ["ALL"]}, purpose


@pytest.mark.parametrize("name", MANIFESTS)
def test_nodes_have_probes_and_the_resources_that_ray_is_told_of(name: str) -> None:
    for purpose, template in templates(name).items():
        if purpose != "submitter":
            [container] = template["spec"]["containers"]
            assert {"readinessProbe", "livenessProbe"} <= set(container)
    for group in ray_cluster(name)["workerGroupSpecs"]:
        [container] = group["template"]["spec"]["containers"]
        asked = container["resources"]["requests"]
        assert group["resources"]["CPU"] == asked["cpu"]
        assert group["resources"].get("GPU") == asked.get("nvidia.com/gpu")
        assert container["image"] == ("vila2-ray:cuda" if "GPU" in group["resources"] else "vila2-ray:cpu")
        assert ("tolerations" in group["template"]["spec"]) == ("GPU" in group["resources"])


def test_budgets_and_policies_select_pods_that_there_are() -> None:
    labels = [template["metadata"]["labels"] for name in MANIFESTS for template in templates(name).values()]
    labels += [{**of, "ray.io/node-type": "head"} for of in labels if of.get("vila2-pool") == "head"]  # KubeRay's own
    for document in documents("kuberay/access.yaml"):
        if document["kind"] == "PodDisruptionBudget":
            wanted = document["spec"]["selector"]["matchLabels"].items()
            assert any(wanted <= of.items() for of in labels), document["metadata"]["name"]


def test_the_endpoint_is_that_of_serve_with_keys() -> None:
    from ray.serve.schema import ServeDeploySchema

    def parsed(text: str) -> dict[str, Any]:
        return ServeDeploySchema.model_validate(yaml.safe_load(text)).model_dump(exclude_unset=True)

    root = Path(__file__).resolve().parents[3]
    ours, theirs = (
        parsed(manifest("rayservice.yaml")["spec"]["serveConfigV2"]),
        parsed((root / "serve" / "campaign.yaml").read_text("utf-8")),
    )
    assert ours["http_options"].pop("host") == "0.0.0.0"
    assert theirs["http_options"].pop("host") == "127.0.0.1"
    [ours_app], [theirs_app] = ours.pop("applications"), theirs.pop("applications")
    overrides = ours_app.pop("args")["overrides"]
    theirs_app.pop("args")
    assert (ours, ours_app) == (theirs, theirs_app)

    config = load_config(None, overrides)
    assert config.serve.keys == "/etc/vila2/keys", "an address that is not loopback needs keys"
    for purpose in ("head", "serve"):
        pod = templates("rayservice.yaml")[purpose]["spec"]
        assert {"name": "keys", "secret": {"secretName": "vila2-serve-keys"}} in pod["volumes"]
        assert {"name": "keys", "mountPath": "/etc/vila2", "readOnly": True} in pod["containers"][0]["volumeMounts"]
    [group] = ray_cluster("rayservice.yaml")["workerGroupSpecs"]
    assert group["labels"] == config.recaption.engine.label_selector
    assert group["maxReplicas"] >= config.serve.max_replicas
    grace = group["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace > ServeConfig().drain_seconds
    assert manifest("rayservice.yaml")["spec"]["rayClusterDeletionDelaySeconds"] > ServeConfig().drain_seconds


def test_kustomize_gives_the_images_the_registrys_name(tmp_path: Path) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("needs kubectl")
    for path in (CLUSTER / "kuberay").glob("*.yaml"):
        shutil.copy(path, tmp_path)
    images = [{"name": "vila2-ray", "newName": "registry.example.com/us/vila2-ray"}]
    wanted = {"resources": ["access.yaml", *MANIFESTS], "images": images}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(wanted))
    built = subprocess.run(["kubectl", "kustomize", str(tmp_path)], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert len(list(yaml.safe_load_all(built.stdout))) == len(documents("kuberay/access.yaml")) + len(MANIFESTS)
    assert "image: vila2-ray" not in built.stdout
    assert built.stdout.count("image: registry.example.com/us/vila2-ray:") == sum(
        len(templates(name)) for name in MANIFESTS
    )
