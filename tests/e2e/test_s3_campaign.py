"""A whole small campaign with corpora and campaign folder on S3: nothing of it lies on this machine but caches."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e import micro
from vila2_ray import Campaign
from vila2_ray.campaign.runner import run
from vila2_ray.config import Config
from vila2_ray.recipe import load_config
from vila2_ray.storage import Store

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def ray_cluster(bucket: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Workers inherit where the server is, and a cache of their own."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VILA2_CACHE", str(tmp_path_factory.mktemp("cache")))
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()


def config(bucket: str) -> Config:
    corpora = [f"corpus.{source}={bucket}/corpus/{source}" for source in ("pretrain", "sft", "heldout")]
    overrides = [text for text in micro.overrides(micro.corpus()) if not text.startswith(("campaign=", "corpus."))]
    return load_config("tiny", [*overrides, *corpora, f"campaign={bucket}/campaign"])


def test_a_campaign_on_s3(bucket: str) -> None:
    Store(f"{bucket}/corpus").upload_folder(micro.corpus())
    outcome = run(config(bucket))
    store = Store(f"{bucket}/campaign")
    assert len(outcome.scores) == 2
    assert outcome.report_uri == store.path("report/index.html")
    assert outcome.promoted is not None
    assert store.exists(f"{outcome.promoted['checkpoint']}/model.safetensors")
    frame = Campaign(store.uri).layer("round-1").to_pandas()
    assert len(frame) == micro.NUM_PRETRAIN
    assert not frame.duplicated(["source", "shard", "row", "variant"]).any()
    assert store.list("parts") == []
    assert store.exists("export/captions/README.md")
    again = run(config(bucket))
    assert (again.ran, again.scores) == ([], outcome.scores)
    assert {row.state for row in Campaign(store.uri).status()} == {"done"}
