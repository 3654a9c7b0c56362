"""croissant.json describes what lies beside it; MLCommons' own reader accepts it and reads records by it."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.unit.corpus.test_export import Campaign

FORMATS = ("webdataset", "parquet", "captions")
ABOUT = {
    "title": "Two shards, captioned",
    "creator": "Somebody",
    "licence": "https://creativecommons.org/publicdomain/zero/1.0/",
    "url": "https://data.example/two",
    "version": "1.2.0",
    "published": "2026-01-31",
}


@pytest.fixture
def campaign(build: Any, tmp_path: Path) -> Campaign:
    return Campaign(build, tmp_path)


def written(campaign: Campaign, format: str) -> tuple[Path, dict[str, Any]]:
    campaign.export(format_folder := f"out-{format}", format)
    folder = campaign.folder / format_folder
    return folder, json.loads((folder / "croissant.json").read_text("utf-8"))


@pytest.mark.parametrize("format", FORMATS)
def test_files_stand_there_with_size_and_digest(campaign: Campaign, format: str) -> None:
    folder, told = written(campaign, format)
    files = [entry for entry in told["distribution"] if entry["@type"] == "cr:FileObject"]
    ending = ".tar" if format == "webdataset" else ".parquet"
    assert [file["contentUrl"] for file in files] == [f"00000{ending}", f"00001{ending}"]
    for file in files:
        data = (folder / file["contentUrl"]).read_bytes()
        assert file["sha256"] == hashlib.sha256(data).hexdigest()
        assert file["contentSize"] == f"{len(data)} B"
    assert told["conformsTo"] == ["http://mlcommons.org/croissant/1.0", "http://mlcommons.org/croissant/RAI/1.0"]
    assert told["license"] == ["CC0"]
    assert told["rai:dataPreprocessingProtocol"][0].startswith("Left out: image_unreadable: 1, no_image: 1")
    assert "round-2 c2" in told["rai:dataAnnotationProtocol"]
    assert (
        "Nothing looked for nsfw, people. Exported all the same: no licence stated: 6."
        in (told["rai:personalSensitiveInformation"][0])
    )


@pytest.mark.parametrize("format", FORMATS)
def test_every_field_has_a_source_that_is_there(campaign: Campaign, format: str) -> None:
    _, told = written(campaign, format)
    sets = {entry["@id"]: entry for entry in told["distribution"] if entry["@type"] == "cr:FileSet"}
    ids = [node["@id"] for node in (*told["distribution"], *told["recordSet"])]
    ids += [field["@id"] for records in told["recordSet"] for field in records["field"]]
    assert len(ids) == len(set(ids))
    for records in told["recordSet"]:
        fields = [part for field in records["field"] for part in field.get("subField", [field])]
        assert fields
        assert all(field["source"]["fileSet"]["@id"] in sets for field in fields)
        assert all(re.fullmatch(r"sc:(Text|Integer|Float|Boolean|ImageObject)", field["dataType"]) for field in fields)


def test_fields_are_the_columns_that_every_shard_has(campaign: Campaign) -> None:
    _, told = written(campaign, "parquet")
    (records,) = told["recordSet"]
    kinds = {field["name"]: field.get("dataType") for field in records["field"]}
    assert list(kinds)[:6] == ["key", "image", "caption", "alt_text", "image_sha256", "captions"]
    assert kinds["image"] == "sc:ImageObject"
    assert kinds["number"] == "sc:Integer"
    assert "caption_length" not in kinds, "the second shard has no such column"


def test_what_the_publisher_says(campaign: Campaign) -> None:
    from vila2_ray.config import FuseConfig
    from vila2_ray.corpus.export import export
    from vila2_ray.storage import Store

    to = campaign.folder / "told"
    export(campaign.corpus, [], [], FuseConfig(), Store(to), "captions", {"about": ABOUT})
    told = json.loads((to / "croissant.json").read_text("utf-8"))
    assert told["name"] == "Two shards- captioned"
    assert (told["version"], told["datePublished"], told["url"]) == ("1.2.0", "2026-01-31", ABOUT["url"])
    assert told["license"] == [ABOUT["licence"]]
    assert told["creator"]["name"] == "Somebody"
    card = (to / "README.md").read_text("utf-8")
    assert "# Two shards, captioned" in card
    assert "| published | 2026-01-31 |" in card


@pytest.mark.parametrize("format", FORMATS)
def test_mlcroissant_validates_it_and_reads_records(
    campaign: Campaign, format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROISSANT_CACHE", str(tmp_path / "cache"))  # read when it is first imported
    mlcroissant = pytest.importorskip("mlcroissant")
    folder, _ = written(campaign, format)
    found = mlcroissant.Dataset(folder / "croissant.json")
    assert not found.metadata.ctx.issues.errors
    records = {entry.id: list(found.records(entry.id)) for entry in found.metadata.record_sets}
    if format == "parquet":
        rows = records["samples"]
        assert len(rows) == 10
        assert rows[0]["samples/caption"] == b"alt 0. round 2 of row 0."
        assert rows[0]["samples/image"].size == (8, 6)
        assert [said["samples/captions/text"] for said in rows[0]["samples/captions"]] == [
            b"round 1 of row 0.",
            b"round 2 of row 0.",
        ]
    elif format == "captions":
        assert len(records["captions"]) == 16
        assert records["captions"][0]["captions/text"] == b"round 1 of row 0."
    else:
        assert {name: len(rows) for name, rows in records.items()} == {"images": 10, "texts": 10, "metadata": 10}
        texts = {row["texts/key"]: row["texts/caption"] for row in records["texts"]}
        assert texts[b"000"] == b"alt 0. round 2 of row 0."
