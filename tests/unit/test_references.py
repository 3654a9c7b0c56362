"""Secrets by reference: where they may lie, what is refused, and that no message repeats one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import boto3
import pytest
from botocore.stub import Stubber

from vila2_ray import references
from vila2_ray.errors import ConfigError

SECRET = "s3cr3t-value-that-nobody-may-see"


def test_names_and_references_are_told_apart() -> None:
    said = references.parse(["A=file:/run/secrets/a", "B=env:OTHER", "C=aws-sm:team/keys#c", "D=aws-ssm:/x/d", "E"])
    assert said == {
        "A": "file:/run/secrets/a",
        "B": "env:OTHER",
        "C": "aws-sm:team/keys#c",
        "D": "aws-ssm:/x/d",
        "E": "",
    }


@pytest.mark.parametrize(
    "word", [f"KEY={SECRET}", f"KEY=vault:{SECRET}", "KEY=file:", "KEY=", f"={SECRET}", f"K Y={SECRET}"]
)
def test_a_value_in_a_references_place_is_refused_and_not_repeated(word: str) -> None:
    with pytest.raises(ConfigError) as refused:
        references.parse([word])
    assert SECRET not in str(refused.value)


def test_a_process_resolves_what_its_environment_refers_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text(SECRET + "\n")
    monkeypatch.setenv("OF_THE_NODE", "other")
    monkeypatch.setenv("FIRST", "")
    monkeypatch.setenv("SECOND", "")
    monkeypatch.setenv(references.VARIABLE, json.dumps({"FIRST": f"file:{tmp_path}/key", "SECOND": "env:OF_THE_NODE"}))
    references.resolve_here()
    assert (os.environ["FIRST"], os.environ["SECOND"]) == (SECRET, "other")


def test_without_references_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(references.VARIABLE, raising=False)
    references.resolve_here()


def test_aws_keeps_secrets_whole_or_as_keys_of_json(monkeypatch: pytest.MonkeyPatch) -> None:
    identity = {"region_name": "us-east-1", "aws_access_key_id": "x", "aws_secret_access_key": "y"}
    manager, store = (boto3.client(service, **identity) for service in ("secretsmanager", "ssm"))
    monkeypatch.setattr(boto3, "client", {"secretsmanager": manager, "ssm": store}.__getitem__)
    with Stubber(manager) as answers, Stubber(store) as others:
        answers.add_response("get_secret_value", {"SecretString": SECRET}, {"SecretId": "plain"})
        answers.add_response("get_secret_value", {"SecretString": json.dumps({"k": SECRET})}, {"SecretId": "many"})
        others.add_response("get_parameter", {"Parameter": {"Value": SECRET}}, {"Name": "/x/k", "WithDecryption": True})
        assert references.resolve("A", "aws-sm:plain") == SECRET
        assert references.resolve("A", "aws-sm:many#k") == SECRET
        assert references.resolve("A", "aws-ssm:/x/k") == SECRET
        answers.add_client_error("get_secret_value", "AccessDeniedException")
        with pytest.raises(ConfigError, match="A = 'aws-sm:plain': cannot be read on this node"):
            references.resolve("A", "aws-sm:plain")


@pytest.mark.parametrize("reference", ["file:/nowhere/at/all", "env:NOT_SET_ANYWHERE", "vault:x"])
def test_what_cannot_be_read_names_variable_and_remedy(reference: str) -> None:
    with pytest.raises(ConfigError, match=r"^KEY = "):
        references.resolve("KEY", reference)
