"""A team's own trainer and base weights where the campaign lies on a real S3 server."""

import dataclasses
import json
from pathlib import Path

import pytest

from tests.unit.train import small
from tests.unit.train.test_external import by_shell
from vila2_ray.errors import StageFailed
from vila2_ray.model.loading import checkpoint_digest
from vila2_ray.progress import NullProgress
from vila2_ray.recipes.tiny import BASE_FOLDER
from vila2_ray.storage import Store
from vila2_ray.train.trainer import run_training


def test_log_manifest_state_and_folder_are_in_the_bucket(bucket: str, tmp_path: Path) -> None:
    campaign = Store(f"{bucket}/own-trainer")
    campaign.upload_folder(small.write_shards(tmp_path / "shards"), "shards")
    campaign.upload_folder(BASE_FOLDER, "base")
    where = {name: campaign.sub(name) for name in ("packs", "state", "out")}
    script = f'echo hello; cp "$0" $out/; cp {BASE_FOLDER}/config.json {BASE_FOLDER}/*.safetensors $out; exit $CODE'
    job = by_shell(tmp_path, script, shards=f"{campaign.uri}/shards", init=campaign.sub("base"))
    job = dataclasses.replace(job, **where)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CODE", "4")
        with pytest.raises(StageFailed, match=f"exit code 4. Its log is {campaign.uri}/state/command.log"):
            run_training(job, NullProgress())
        patch.setenv("CODE", "0")
        summary = run_training(job, NullProgress())
    told = json.loads(job.state.read_text("manifest.json"))
    assert (told["state"], told["init_uri"]) == (f"{campaign.uri}/state/command", f"{campaign.uri}/base")
    assert told["plan"] == f"{campaign.uri}/packs/plan.parquet"
    assert [shard["uri"] for shard in told["sources"][0]["shards"]] == [ref.uri for ref in job.corpus.shards]
    assert Path(told["init"], "config.json").is_file()
    assert not Path(told["out"]).exists()
    assert "hello" in job.state.read_text("command.log")
    assert job.out.exists("tokenizer.json")
    assert summary.digest == checkpoint_digest(job.out.local_folder())
    assert run_training(job, NullProgress()) == summary
