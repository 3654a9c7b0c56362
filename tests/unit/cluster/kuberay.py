"""The fields of KubeRay's resources: version 1.7.0, `ray.io/v1`, after its published field reference.

Written down by us, for the definitions themselves come in no package. A value is a type; a class of core Kubernetes; a
table for a resource within; a list of one of these; or a set of the words that are allowed.
"""

from __future__ import annotations

from typing import Any

TEMPLATE, SERVICE = "PodTemplateSpec", "Service"
WORDS = {str: str}

RESOURCES = {"requests": WORDS, "limits": WORDS}
AUTH = {"enableK8sTokenAuth": bool, "secretName": str, "mode": {"disabled", "token"}}
AUTOSCALER = {
    "resources": RESOURCES,
    "image": str,
    "imagePullPolicy": {"Always", "IfNotPresent", "Never"},
    "securityContext": dict,
    "idleTimeoutSeconds": int,
    "upscalingMode": {"Default", "Aggressive", "Conservative"},
    "version": {"v1", "v2"},
    "env": list,
    "envFrom": list,
    "volumeMounts": list,
    "command": [str],
    "args": [str],
}
HEAD = {
    "template": TEMPLATE,
    "headService": SERVICE,
    "enableIngress": bool,
    "ingressOptions": dict,
    "resources": WORDS,
    "labels": WORDS,
    "rayStartParams": WORDS,
    "serviceType": {"ClusterIP", "NodePort", "LoadBalancer"},
}
WORKERS = {
    "suspend": bool,
    "groupName": str,
    "replicas": int,
    "minReplicas": int,
    "maxReplicas": int,
    "idleTimeoutSeconds": int,
    "priority": int,
    "resources": WORDS,
    "labels": WORDS,
    "rayStartParams": WORDS,
    "template": TEMPLATE,
    "scaleStrategy": {"workersToDelete": [str]},
    "numOfHosts": int,
}
CLUSTER = {
    "upgradeStrategy": {"type": {"Recreate", "None"}},
    "authOptions": AUTH,
    "suspend": bool,
    "managedBy": {"ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue"},
    "autoscalerOptions": AUTOSCALER,
    "headServiceAnnotations": WORDS,
    "enableInTreeAutoscaling": bool,
    "gcsFaultToleranceOptions": dict,
    "historyServerOptions": dict,
    "networkPolicy": dict,
    "tlsOptions": {"enabled": bool},
    "headGroupSpec": HEAD,
    "rayVersion": str,
    "workerGroupSpecs": [WORKERS],
}
JOB = {
    "activeDeadlineSeconds": int,
    "backoffLimit": int,
    "rayClusterSpec": CLUSTER,
    "submitterPodTemplate": TEMPLATE,
    "metadata": WORDS,
    "clusterSelector": WORDS,
    "submitterConfig": {"backoffLimit": int},
    "managedBy": {"ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue"},
    "deletionStrategy": dict,
    "entrypoint": str,
    "runtimeEnvYAML": str,
    "jobId": str,
    "submissionMode": {"K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"},
    "entrypointResources": str,
    "entrypointNumCpus": float,
    "entrypointNumGpus": float,
    "ttlSecondsAfterFinished": int,
    "preRunningDeadlineSeconds": int,
    "shutdownAfterJobFinishes": bool,
    "suspend": bool,
}
SERVE = {
    "rayClusterDeletionDelaySeconds": int,
    "serveService": SERVICE,
    "upgradeStrategy": {
        "type": {"NewCluster", "NewClusterWithIncrementalUpgrade", "None"},
        "clusterUpgradeOptions": dict,
    },
    "managedBy": {"ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue"},
    "serveConfigV2": str,
    "rayClusterConfig": CLUSTER,
    "excludeHeadPodFromServeSvc": bool,
    "suspend": bool,
}
KINDS = {"RayCluster": CLUSTER, "RayJob": JOB, "RayService": SERVE}
REQUIRED = {id(CLUSTER): {"headGroupSpec"}, id(HEAD): {"template"}, id(WORKERS): {"groupName", "template"}}


def mistakes(value: Any, schema: Any, where: str) -> list[str]:
    """What in a value is not as its table says, each with its place. Pod templates are checked elsewhere."""
    if schema in (TEMPLATE, SERVICE):
        return [] if isinstance(value, dict) else [f"{where}: no {schema}"]
    if schema is WORDS:
        pairs = value.items() if isinstance(value, dict) else [("", 0)]
        return [f"{where}.{key}: {each!r} is no text" for key, each in pairs if not isinstance(each, str)]
    if isinstance(schema, dict):
        if not isinstance(value, dict):
            return [f"{where}: {value!r} is no table"]
        found = [f"{where}.{key}: no such field" for key in value.keys() - schema.keys()]
        found += [f"{where}.{key}: missing" for key in REQUIRED.get(id(schema), set()) - value.keys()]
        for key in value.keys() & schema.keys():
            found += mistakes(value[key], schema[key], f"{where}.{key}")
        return found
    if isinstance(schema, list):
        if not isinstance(value, list):
            return [f"{where}: {value!r} is no list"]
        return [each for at, item in enumerate(value) for each in mistakes(item, schema[0], f"{where}[{at}]")]
    if isinstance(schema, set):
        return [] if value in schema else [f"{where}: {value!r} is none of {sorted(schema)}"]
    is_number_as_bool = schema is int and isinstance(value, bool)
    return (
        [] if isinstance(value, schema) and not is_number_as_bool else [f"{where}: {value!r} is no {schema.__name__}"]
    )
