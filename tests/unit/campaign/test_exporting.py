"""Exporting a campaign: hooks look once, lists are compared with, the command's fields and its exit codes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.unit.campaign.folders import ROUND_0, begin, finish
from tests.unit.campaign.layers import write_corpus, write_layer
from vila2_ray import cli
from vila2_ray.campaign.api import Campaign
from vila2_ray.campaign.exporting import export_campaign, export_config
from vila2_ray.campaign.garbage import find_garbage
from vila2_ray.campaign.plan import fields_of, stages
from vila2_ray.errors import ConfigError
from vila2_ray.recipe import load_config
from vila2_ray.storage import Store


@pytest.fixture
def campaign(tmp_path: Path) -> Campaign:
    """One round over two shards of four pictures, without licences."""
    write_corpus(tmp_path / "corpus", [4, 4])
    config = begin(
        tmp_path / "campaign", f"corpus.pretrain={tmp_path}/corpus/shards", "corpus.heldout=", "rounds.max=1"
    )
    finish(config, *ROUND_0)
    (fp8,) = finish(config, "recaption-1").values()
    found = Campaign(config.campaign)
    write_layer(found.store.sub("captions", "round-1", fp8), found.corpus(), metadata={"layer": "round-1"})
    finish(config, "filter-1", "pretrain-1", "sft-1", "evaluate-1")
    return found


def hook(tmp_path: Path, scores: dict[str, float]) -> list[str]:
    """Overrides for a command that looks for people and gives these scores to whom it is asked about, others 0."""
    script = tmp_path / "hook.py"
    script.write_text(
        "import json, sys\n"
        "import pyarrow.parquet as pq\n"
        f"scores = json.loads({json.dumps(json.dumps(scores))})\n"
        f"open({str(tmp_path / 'ran')!r}, 'a').write('x')\n"
        "ids = pq.read_table(sys.argv[1])['id'].to_pylist()\n"
        "open(sys.argv[2], 'w').writelines(json.dumps(dict(id=i, score=scores.get(i, 0))) + chr(10) for i in ids)\n",
        "utf-8",
    )
    command = json.dumps([sys.executable, str(script)])
    return ["export.hooks.faces.finds=people", f"export.hooks.faces.command={command}"]


def test_what_hooks_find_is_kept_and_no_shard_is_looked_at_twice(campaign: Campaign, tmp_path: Path) -> None:
    words = [*hook(tmp_path, {"00000/001": 0.9, "00001/002": 0.6}), "export.policy.people=leave_out"]
    config = export_config(campaign, words)
    figures = export_campaign(campaign, str(tmp_path / "out"), config=config)
    assert figures["left_out"] == {"policy: people": 2}
    told = figures["hooks"][0]
    assert (told["hook"], told["judged"], told["against"], told["not_judged"]) == ("faces", "8", "2", "0")
    assert "hook.py" not in (tmp_path / "out" / "README.md").read_text("utf-8"), "no paths in what is published"
    (folder,) = {name.split("/")[1] for name in campaign.store.list("verdicts")}
    assert folder == "release-faces"
    stricter = export_config(campaign, [*words, "export.hooks.faces.min_score=0.8"])
    figures = export_campaign(campaign, str(tmp_path / "stricter"), config=stricter)
    assert figures["left_out"] == {"policy: people": 1}
    assert (tmp_path / "ran").read_text() == "xx", "once for each shard, for both exports"
    hook(tmp_path, {"00000/003": 1.0})  # the same words, another script
    assert export_campaign(campaign, str(tmp_path / "new"), config=config)["left_out"] == {"policy: people": 1}
    assert (tmp_path / "ran").read_text() == "xxxx"
    assert not [gone for gone in find_garbage(campaign) if gone.path.startswith("verdicts/release")]


def test_an_export_compares_with_evaluation_images_again(campaign: Campaign, tmp_path: Path) -> None:
    listed = tmp_path / "evaluation.txt"
    assert cli.main(["hash", str(tmp_path / "corpus" / "shards"), "--to", str(listed)]) == 0
    lines = listed.read_text().splitlines()
    listed.write_text(f"{lines[1]}\n")
    config = export_config(campaign, [f"export.evaluation_hashes=[{listed}]"])
    figures = export_campaign(campaign, config=config)
    assert figures["left_out"] == {"policy: evaluation image": 1}
    assert "release-evaluation" in {name.split("/")[1] for name in campaign.store.list("verdicts")}


def test_the_command_refuses_with_2_and_one_sentence(
    campaign: Campaign, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["export", campaign.uri, "export.policy.unknown_licence=refuse"]
    assert cli.main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("vila2: export.policy.unknown_licence = 'refuse': 8 samples with: no licence stated, for ")
    assert "00000/000, 00000/001, 00000/002" in said
    assert not campaign.store.list("export")
    assert cli.main(["export", campaign.uri, "--format", "parquet"]) == 0
    shown = capsys.readouterr().out
    assert "8 samples with: no licence stated; they are exported, and the card says so" in shown
    assert shown.strip().endswith("export/parquet")
    assert Store(campaign.uri).exists("export/parquet/croissant.json")


def test_takedowns_after_an_export(campaign: Campaign, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", campaign.uri]) == 0
    (tmp_path / "list.txt").write_text("00001/003\n")
    capsys.readouterr()
    assert cli.main(["export", campaign.uri, f"screen.takedown={tmp_path}/list.txt"]) == 0
    assert "1 taken down since it was last written, and left out now" in capsys.readouterr().out
    rows = campaign.store.sub("export", "captions").read_table("00001.parquet")["sample_id"].to_pylist()
    assert rows == ["00001/000", "00001/001", "00001/002"]
    assert cli.main(["export", campaign.uri]) == 0, "an entry once seen stays"
    assert campaign.store.sub("export", "captions").read_table("00001.parquet").num_rows == 3


def test_only_fields_that_an_export_reads(campaign: Campaign) -> None:
    with pytest.raises(ConfigError, match=r"seed=3.*an export reads export\.\* and screen\.takedown only"):
        export_config(campaign, ["seed=3"])


def test_what_may_be_published_is_in_no_fingerprint(campaign: Campaign) -> None:
    before = campaign.config
    words = ["export.policy.unknown_licence=refuse", "export.about.title=X", "export.evaluation_hashes=[x]"]
    after = export_config(campaign, words)
    assert [fields_of(stage, before) for stage in stages(before)] == [
        fields_of(stage, after) for stage in stages(after)
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["export.policy.nsfw=refuse"], r"export\.policy\.nsfw = 'refuse': needs something that looks for it"),
        (["export.policy.near_duplicates=refuse"], r"near_duplicates = 'refuse': .*export\.evaluation_hashes"),
        (["export.hooks.a.finds=nsfw"], r"export\.hooks\.a\.checkpoint = '': name a checkpoint or a command"),
        (["export.hooks.a.checkpoint=x"], r"export\.hooks\.a\.labels"),
        (["export.hooks.evaluation.command=[x]"], r"is not evaluation"),
        (["export.hooks.a.command=[x]", "export.hooks.a.min_score=2"], r"export\.hooks\.a\.min_score"),
        (["export.policy.people=never"], r"export\.policy\.people = 'never'"),
        (["export.about.published=today"], r"published = 'today': write it as YYYY-MM-DD"),
    ],
)
def test_mistakes_are_told(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config("tiny", words)
