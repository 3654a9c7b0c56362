"""The cluster launcher's files, by Ray's own schema and preparation and by the clouds' own request formats."""

from __future__ import annotations

import copy
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber
from botocore.validate import ParamValidator

from tests.unit.cluster.files import LAUNCHERS, documents

GCP_INSTANCE = {  # compute.v1 Instance, as far as ours goes
    "machineType",
    "disks",
    "scheduling",
    "serviceAccounts",
    "shieldedInstanceConfig",
    "reservationAffinity",
}


@pytest.fixture(params=LAUNCHERS)
def config(request: pytest.FixtureRequest) -> dict[str, Any]:
    return documents(request.param)[0]


def prepared(config: dict[str, Any]) -> dict[str, Any]:
    from ray.autoscaler._private.util import prepare_config, validate_config

    ready = prepare_config(copy.deepcopy(config))
    validate_config(ready)
    return ready


def test_rays_schema_and_preparation_take_it_and_change_no_pool(config: dict[str, Any]) -> None:
    ready = prepared(config)
    assert ready["available_node_types"] == config["available_node_types"]
    assert ready["worker_setup_commands"] == []


def test_the_autoscaler_reads_it_with_its_labels_and_priorities(config: dict[str, Any]) -> None:
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig

    kinds = AutoscalingConfig(prepared(config), skip_content_hash=True).get_node_type_configs()
    assert kinds["recaption"].labels == {"ray-subcluster": "recaption"}
    assert kinds["train"].labels == {"ray-subcluster": "train"}
    assert kinds["cpu"].priority > max(kinds["recaption"].priority, kinds["train"].priority)
    assert (kinds["recaption"].min_worker_nodes, kinds["train"].min_worker_nodes) == (0, 0)


def test_no_pool_is_cut_short_by_the_clusters_bound(config: dict[str, Any]) -> None:
    assert config["max_workers"] >= sum(kind["max_workers"] for kind in config["available_node_types"].values())


def test_the_dashboard_is_closed_and_every_node_has_the_token(config: dict[str, Any]) -> None:
    [start] = [command for command in config["head_start_ray_commands"] if "ray start" in command]
    assert "--dashboard-host=127.0.0.1" in start
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert config["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}


def test_spot_is_for_recaptioning_alone(config: dict[str, Any]) -> None:
    def is_spot(node: dict[str, Any]) -> bool:
        scheduling = node.get("scheduling", {}).get("provisioningModel", "")
        return node.get("InstanceMarketOptions", {}).get("MarketType") == "spot" or scheduling == "SPOT"

    kinds = config["available_node_types"].items()
    assert {name for name, kind in kinds if is_spot(kind["node_config"])} == {"recaption"}


def test_ec2_takes_every_machine_as_it_is_described() -> None:
    client = boto3.client("ec2", region_name="us-west-2", aws_access_key_id="x", aws_secret_access_key="x")
    shape = client.meta.service_model.operation_model("RunInstances").input_shape
    for kind in documents("aws.yaml")[0]["available_node_types"].values():
        report = ParamValidator().validate({"MinCount": 1, "MaxCount": 1, **kind["node_config"]}, shape)
        assert not report.has_errors(), report.generate_report()
        [disk] = kind["node_config"]["BlockDeviceMappings"]
        assert disk["Ebs"]["Encrypted"]
        assert kind["node_config"]["MetadataOptions"]["HttpTokens"] == "required"


def test_rays_bootstrap_for_aws_finds_nothing_to_invent(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a key pair given, against answers as EC2 gives them: profiles, groups and images are all ours."""
    from ray.autoscaler._private.aws import config as aws

    group = "sg-0123456789abcdef0"
    resource = boto3.resource("ec2", region_name="us-west-2", aws_access_key_id="x", aws_secret_access_key="x")
    subnet = {"SubnetId": "subnet-1", "VpcId": "vpc-1", "State": "available", "AvailabilityZone": "us-west-2a"}
    with Stubber(resource.meta.client) as stub:
        stub.add_response(
            "describe_security_groups",
            {"SecurityGroups": [{"GroupId": group, "VpcId": "vpc-1"}]},
            {"Filters": [{"Name": "group-id", "Values": [group]}]},
        )
        stub.add_response("describe_subnets", {"Subnets": [{**subnet, "MapPublicIpOnLaunch": True}]}, {})
        monkeypatch.setattr(aws, "_resource", lambda name, config: resource)
        given = prepared(documents("aws.yaml")[0])
        given["auth"]["ssh_private_key"] = "~/.ssh/vila2.pem"
        for kind in given["available_node_types"].values():
            kind["node_config"]["KeyName"] = "vila2"
        made = aws.bootstrap_aws(given)
        stub.assert_no_pending_responses()
    for name, kind in made["available_node_types"].items():
        added = {"SubnetIds": ["subnet-1"]}
        assert kind["node_config"] == {**given["available_node_types"][name]["node_config"], **added}
    assert made["head_node"] == {}, "no role was made up"


def test_gce_machines_are_described_by_fields_of_an_instance() -> None:
    for name, kind in documents("gcp.yaml")[0]["available_node_types"].items():
        node = kind["node_config"]
        assert set(node) <= GCP_INSTANCE
        [disk] = node["disks"]
        assert disk["boot"]
        assert disk["autoDelete"], "no disk is left behind"
        assert ("serviceAccounts" in node) == (name != "head"), "Ray gives the head one of its own"
