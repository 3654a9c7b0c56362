"""Screening on a real S3 server: lists, verdicts, what lies between the passes, and takedowns."""

from pathlib import Path

from tests.unit.corpus.test_screening import encode, scene, write_tar
from vila2_ray.campaign.screening import screen
from vila2_ray.config import CorpusConfig, ScreenConfig
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.corpus.hashing import write_hashes
from vila2_ray.corpus.screening import ImageVerdicts, Screening, Takedowns
from vila2_ray.progress import NullProgress
from vila2_ray.storage import Store


def test_screening_and_takedowns(bucket: str, tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", [encode(scene(0)), encode(scene(1)), encode(scene(90))])
    write_tar(tmp_path / "1.tar", [encode(scene(0)), encode(scene(1), "JPEG", quality=75)])
    campaign = Store(f"{bucket}/screened")
    for name in ("0.tar", "1.tar"):
        campaign.write_bytes(f"shards/{name}", (tmp_path / name).read_bytes())
    corpus = Corpus.open(f"{bucket}/screened/shards", "pretrain", campaign.sub("index"))
    campaign.write_text("lists/taken.txt", "1/000\n")
    hashed = write_hashes(f"{bucket}/screened/shards/0.tar", f"{bucket}/lists/h.txt", CorpusConfig(), NullProgress())
    assert (hashed.uri, hashed.num_pictures) == (f"{bucket}/lists/h.txt", 3)
    lines = Store(bucket).read_text("lists/h.txt").splitlines()
    campaign.write_text("lists/heldout.txt", "\n".join(lines[-2:]))
    verdicts = ImageVerdicts(campaign.sub("verdicts"))
    rules = ScreenConfig(
        exact_duplicates=True, near_duplicates=True, heldout_hashes=(campaign.path("lists/heldout.txt"),)
    )
    counts = screen({"pretrain": corpus}, None, verdicts, rules, campaign.sub("parts/images"), NullProgress(), map)
    assert counts == {"pretrain": {"samples": 5, "kept": 2, "heldout": 1, "duplicate": 1, "near_duplicate": 1}}
    takedowns = Takedowns.look(campaign.sub("takedown"), campaign.path("lists/taken.txt"))
    found = Screening(corpus, verdicts, takedowns)
    assert found.flags("pretrain", "0") == {2: ["heldout"]}
    assert found.flags("pretrain", "1") == {0: ["duplicate", "takedown"], 1: ["near_duplicate"]}
    assert campaign.list("parts") == []
