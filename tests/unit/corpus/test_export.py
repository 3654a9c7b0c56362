from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vila2_ray.config import FiltersConfig, FuseConfig, ScreenConfig
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.corpus.export import export
from vila2_ray.corpus.layers import Layer
from vila2_ray.corpus.screening import ImageVerdicts, Screening, ShardScreen, Takedowns
from vila2_ray.corpus.verdicts import Verdicts
from vila2_ray.errors import ConfigError, CorpusError
from vila2_ray.schema import VERDICT
from vila2_ray.storage import Store

LAYERS = ("round-1", "round-2")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Campaign:
    """Two shards of six samples, two layers.

    Of shard 00000: round 2 left out row 1, failed on row 2's image, is flagged on row 3, and in both rounds on row 4;
    row 5 has no image.
    """

    def __init__(self, build: Any, folder: Path) -> None:
        self.build, self.folder = build, folder
        first = build.samples(5, license="CC0", caption_length=5)
        build.tar(folder / "s" / "00000.tar", [*first, ("005.txt", b"alone")])
        build.tar(folder / "s" / "00001.tar", build.samples(6, first=6, license=None))
        self.corpus: Corpus = build.corpus(folder / "s", folder / "index")
        self.layers = [Layer(Store(folder / "captions" / name)) for name in LAYERS]
        self.verdicts = [Verdicts(Store(folder / "verdicts" / name)) for name in LAYERS]
        for number, (layer, verdicts) in enumerate(zip(self.layers, self.verdicts, strict=True), 1):
            for shard in ("00000", "00001"):
                self._write(number, layer, verdicts, shard)

    def _write(self, number: int, layer: Layer, verdicts: Verdicts, shard: str) -> None:
        pictures = {s.row: s.image for s in self.corpus.read(shard)}

        def status(row: int, variant: int) -> str:
            if shard == "00000" and (row == 5 or (number == 2 and row == 2)):
                return "failed"
            return "not_selected" if shard == "00000" and number == 2 and row == 1 else "captioned"

        def error(row: int, variant: int) -> str | None:
            return {2: "image_unreadable", 5: "no_image"}[row] if status(row, variant) == "failed" else None

        table = self.build.captions(
            shard,
            range(6),
            status=status,
            error=error,
            text=lambda row, variant: f"round {number} of row {row}." if status(row, 0) == "captioned" else None,
            image_sha256=lambda row, variant: sha256(pictures[row]) if pictures[row] else None,
        )
        prompts = json.dumps({"detailed": "Describe | the image."})
        told = {"layer": f"round-{number}", "round": str(number), "checkpoint_digest": f"c{number}", "prompts": prompts}
        layer.write("pretrain", shard, table, told)
        rows = [
            {
                **{n: r[n] for n in ("source", "shard", "row", "sample_id", "variant")},
                "flags": self._flags(number, shard, r),
            }
            for r in table.to_pylist()
            if r["status"] == "captioned"
        ]
        verdicts.write("pretrain", shard, pa.Table.from_pylist(rows, VERDICT))

    @staticmethod
    def _flags(number: int, shard: str, row: dict[str, Any]) -> list[str]:
        flagged = shard == "00000" and (row["row"] == 4 or (number == 2 and row["row"] == 3))
        return ["repetition"] if flagged else []

    def export(self, to: str, format: Any = "webdataset", rule: Any = "concat", **more: Any) -> dict[str, Any]:
        card = {"title": "Two shards", "scores": [{"round": 0, "f1": 0.25}, {"round": 1, "f1": 0.5}]}
        store = Store(self.folder / to)
        return export(self.corpus, self.layers, self.verdicts, FuseConfig(rule=rule), store, format, card, **more)


@pytest.fixture
def campaign(build: Any, tmp_path: Path) -> Campaign:
    return Campaign(build, tmp_path)


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        return {m.name: archive.extractfile(m).read() for m in archive}  # type: ignore[union-attr]


def test_webdataset(campaign: Campaign) -> None:
    figures = campaign.export("out")
    found = members(campaign.folder / "out" / "00000.tar")
    source = members(campaign.folder / "s" / "00000.tar")
    assert list(found)[:3] == ["000.png", "000.txt", "000.json"]
    assert sorted({name[:3] for name in found}) == ["000", "001", "003", "004"]
    assert all(found[name] == source[name] for name in found if name.endswith("png"))
    texts = {name: found[name].decode() for name in found if name.endswith("txt")}
    assert texts == {
        "000.txt": "alt 0. round 2 of row 0.",
        "001.txt": "alt 1. round 1 of row 1.",  # not selected in round 2
        "003.txt": "alt 3. round 1 of row 3.",  # flagged in round 2
        "004.txt": "alt 4",  # flagged in both
    }
    fields = json.loads(found["000.json"])
    assert (
        fields.items()
        >= {"key": "000", "alt_text": "alt 0", "number": 0, "license": "CC0", "caption_length": 5}.items()
    )
    assert fields["image_sha256"] == sha256(source["000.png"])
    assert [(c["layer"], c["round"], c["checkpoint_digest"], c["text"]) for c in fields["captions"]] == [
        ("round-1", "1", "c1", "round 1 of row 0."),
        ("round-2", "2", "c2", "round 2 of row 0."),
    ]
    assert json.loads(found["004.json"])["captions"] == []
    assert (figures["samples"], figures["exported"]) == (12, 10)
    assert figures["left_out"] == {"image_unreadable": 1, "no_image": 1}
    assert figures["licenses"] == {"CC0": 4, "not stated": 6}
    assert figures["captions"]["round-2"] == {
        "captioned": 9, "failed": 2, "flag repetition": 2, "kept": 7, "not_selected": 1
    }  # fmt: skip


def test_an_export_is_a_corpus(campaign: Campaign) -> None:
    for format in ("webdataset", "parquet"):
        campaign.export(format, format)
        corpus = campaign.build.corpus(campaign.folder / format, campaign.folder / f"index-{format}")
        samples = list(corpus.read("00000"))
        assert [s.key for s in samples] == ["000", "001", "003", "004"]
        assert samples[0].alt_text == "alt 0. round 2 of row 0."
        assert all(corpus.decode(s).size == (8, 6) for s in samples)
        assert corpus.total_rows() == 10


def test_parquet(campaign: Campaign) -> None:
    campaign.export("out", "parquet", "recaption")
    table = pq.read_table(campaign.folder / "out" / "00000.parquet")
    assert table.column_names[:6] == ["key", "image", "caption", "alt_text", "image_sha256", "captions"]
    assert table["caption"].to_pylist() == ["round 2 of row 0.", "round 1 of row 1.", "round 1 of row 3.", "alt 4"]
    assert (table.schema.field("number").type, table["license"].to_pylist()) == (pa.int64(), ["CC0"] * 4)
    assert [c["layer"] for c in table["captions"][0].as_py()] == ["round-1", "round-2"]


def test_captions_alone(campaign: Campaign) -> None:
    figures = campaign.export("out", "captions")
    assert figures["left_out"] == {"image_unreadable": 1, "no_image": 1, "nothing_to_say": 1}
    table = pq.read_table(campaign.folder / "out" / "00000.parquet")
    assert "image" not in table.column_names
    assert "alt_text" not in table.column_names
    rows = table.select(["sample_id", "layer", "text"]).to_pylist()
    assert [(r["sample_id"], r["layer"]) for r in rows] == [
        ("00000/000", "round-1"),
        ("00000/000", "round-2"),
        ("00000/001", "round-1"),
        ("00000/003", "round-1"),
    ]
    picture = members(campaign.folder / "s" / "00000.tar")["003.png"]
    assert table["image_sha256"][3].as_py() == sha256(picture)


def test_an_edit_is_exported_in_place_of_its_caption(campaign: Campaign) -> None:
    rows = campaign.verdicts[1].read("pretrain", "00000").to_pylist()
    edited = [{**row, "text": "An edit. An edit." if row["row"] == 0 else None} for row in rows]
    campaign.verdicts[1].write("pretrain", "00000", pa.Table.from_pylist(edited, VERDICT))
    figures = campaign.export("out", "parquet", filters=FiltersConfig())
    table = pq.read_table(campaign.folder / "out" / "00000.parquet")
    assert table["caption"][0].as_py() == "alt 0. An edit. An edit."
    cited = [(c["text"], c["layer"], c["mean_logprob"]) for c in table["captions"][0].as_py()]
    assert [text for text, _, _ in cited] == ["round 1 of row 0.", "An edit. An edit."]
    assert cited[1][1:] == ("round-2", None), "no model says how sure it is"
    assert figures["captions"]["round-2"]["edited"] == 1
    assert "edited" not in figures["captions"]["round-1"]


def test_mixed_items_are_lines(campaign: Campaign) -> None:
    campaign.export("out", rule="mixed")
    assert members(campaign.folder / "out" / "00000.tar")["000.txt"] == b"alt 0\nround 2 of row 0."


def test_without_layers(campaign: Campaign) -> None:
    campaign.layers, campaign.verdicts = [], []
    assert campaign.export("out")["exported"] == 11
    assert members(campaign.folder / "out" / "00000.tar")["002.txt"] == b"alt 2"


def test_samples_with_nothing_to_say_are_left_out(build: Any, tmp_path: Path) -> None:
    build.tar(tmp_path / "s" / "0.tar", [("a.png", build.picture()), ("b.png", b"no picture"), ("b.txt", b"b")])
    corpus = build.corpus(tmp_path / "s", tmp_path / "i")
    figures = export(corpus, [], [], FuseConfig(), Store(tmp_path / "out"), "webdataset", {})
    assert (figures["exported"], figures["left_out"]) == (0, {"image_type": 1, "nothing_to_say": 1})


def test_the_data_card(campaign: Campaign) -> None:
    campaign.export("out", filters=FiltersConfig(min_words=2))
    card = (campaign.folder / "out" / "README.md").read_text("utf-8")
    for line in (
        "# Two shards",
        "| source | pretrain |",
        "| samples in this export | 10 |",
        "| left out: image_unreadable | 1 |",
        "### round-2",
        "| checkpoint_digest | c2 |",
        "| flag repetition | 2 |",
        "| detailed | Describe \\| the image. |",
        "Rule `concat`",
        "| min_words | 2 |",
        "| CC0 | 4 |",
        "| not stated | 6 |",
        "| 1 | 0.5 |",
    ):
        assert line in card


@pytest.mark.parametrize("format", ["webdataset", "parquet", "captions"])
def test_interrupted_and_resumed_is_the_same(campaign: Campaign, format: str) -> None:
    whole = campaign.export("whole", format)

    def dies(function: Any, shards: Any) -> Any:
        yield function(shards[0])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        campaign.export("resumed", format, run=dies)
    assert not (campaign.folder / "resumed" / "README.md").exists()
    made: list[str] = []

    def counted(function: Any, shards: Any) -> Any:
        made.extend(ref.shard for ref in shards)
        return map(function, shards)

    assert campaign.export("resumed", format, run=counted) == whole
    assert made == ["00001"]

    def content(name: str) -> dict[str, bytes]:
        root = campaign.folder / name
        return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}

    assert content("resumed") == content("whole")
    assert campaign.export("whole", format, run=counted) == whole
    assert made == ["00001"]


def test_other_settings_need_another_folder(campaign: Campaign) -> None:
    campaign.export("out")
    for change in (
        {"rule": "mixed"},
        {"format": "parquet"},
        {"filters": FiltersConfig(cut_at_repeated_sentence=False)},
    ):
        with pytest.raises(CorpusError, match=r"made with other (fuse|format|filters).*another folder"):
            campaign.export("out", **change)


def test_a_corpus_is_never_written_into(campaign: Campaign) -> None:
    before = {p: p.read_bytes() for p in (campaign.folder / "s").rglob("*")}
    with pytest.raises(CorpusError, match=r"is not an export, and holds 00000\.tar"):
        campaign.export("s")
    assert {p: p.read_bytes() for p in (campaign.folder / "s").rglob("*")} == before


def test_unknown_formats(campaign: Campaign) -> None:
    with pytest.raises(ConfigError, match=r"export\.format = 'zip'"):
        campaign.export("out", "zip")


def test_keys_and_columns_that_would_do_harm(build: Any, tmp_path: Path) -> None:
    """Keys from a hostile Parquet file cannot leave the folder that the export is unpacked to, nor collide."""
    keys = ["../../etc/x", "a.b", "a_b", "/abs", "good/key"]
    columns = {
        "key": keys,
        "image": [build.picture()] * 5,
        "caption": [f"c {k}" for k in keys],
        "captions": ["mine"] * 5,
        "mixed": pa.array([[1], None, [2, 3], [], [4]]),
        "raw": [b"\xff"] * 5,
        "when": pa.array([0] * 5, pa.timestamp("s")),
    }
    (tmp_path / "s").mkdir()
    pq.write_table(pa.table(columns), tmp_path / "s" / "0.parquet")
    corpus = build.corpus(tmp_path / "s", tmp_path / "i")
    export(corpus, [], [], FuseConfig(), Store(tmp_path / "out"), "webdataset", {})
    found = members(tmp_path / "out" / "0.tar")
    names = [name[:-4] for name in found if name.endswith("png")]
    assert names == ["_/_/etc/x-000000", "a_b-000001", "a_b", "abs-000003", "good/key"]
    fields = [json.loads(found[f"{name}.json"]) for name in names]
    assert [f["key"] for f in fields] == keys
    assert fields[0].items() >= {"source_captions": "mine", "captions": [], "mixed": [1], "raw": "/w=="}.items()
    export(corpus, [], [], FuseConfig(), Store(tmp_path / "columns"), "parquet", {})
    table = pq.read_table(tmp_path / "columns" / "0.parquet")
    assert table["mixed"].to_pylist() == ["[1]", None, "[2, 3]", "[]", "[4]"]
    assert table["raw"].to_pylist() == [b"\xff"] * 5


def test_what_is_screened_or_taken_down_is_not_exported(campaign: Campaign, tmp_path: Path) -> None:
    verdicts = ImageVerdicts(Store(tmp_path / "images"))
    for ref in campaign.corpus.shards:
        ShardScreen(campaign.corpus, verdicts, ScreenConfig(min_side=1))(ref)
    table = verdicts.read("pretrain", "00001")
    flags = pa.array([["duplicate"], *[[]] * 5], pa.list_(pa.string()))
    verdicts.write("pretrain", "00001", table.set_column(table.schema.get_field_index("flags"), "flags", flags))
    store, path = Store(tmp_path / "takedown"), tmp_path / "list.txt"
    path.write_text("00000/000\n")
    screening = Screening(campaign.corpus, verdicts, Takedowns.look(store, str(path)))
    figures = campaign.export("out", screening=screening)
    assert figures["exported"] == 8
    assert figures["left_out"].items() >= {"screened: takedown": 1, "screened: duplicate": 1}.items()
    assert "000.png" not in members(tmp_path / "out" / "00000.tar")
    assert "006.png" not in members(tmp_path / "out" / "00001.tar")
    assert "| left out: screened: takedown | 1 |" in (tmp_path / "out" / "README.md").read_text("utf-8")
    with pytest.raises(CorpusError, match="other screening"):
        campaign.export("out")


def test_an_export_is_written_again_where_the_takedown_list_has_grown(campaign: Campaign, tmp_path: Path) -> None:
    before = campaign.export("out", "captions")
    store, path = Store(tmp_path / "takedown"), tmp_path / "list.txt"
    picture = members(tmp_path / "s" / "00000.tar")["003.png"]
    path.write_text(f"{sha256(picture)}\n")
    screening = Screening(campaign.corpus, None, Takedowns.look(store, str(path)))
    after = campaign.export("out", "captions", screening=screening)
    assert after["exported"] == before["exported"] - 1
    exported = pq.read_table(tmp_path / "out" / "00000.parquet")["sample_id"].to_pylist()
    assert "00000/003" not in exported
    stamps = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").glob("*.parquet")}
    assert campaign.export("out", "captions", screening=screening) == after
    assert stamps == {file: file.stat().st_mtime_ns for file in (tmp_path / "out").glob("*.parquet")}


def test_interleaved_documents_pass_through(build: Any, tmp_path: Path) -> None:
    document = {"images": [None, "https://x.example/1.jpg"], "texts": ["before", None], "metadata": {"n": [1, 2.5]}}
    pair = [("a.png", build.picture()), ("a.txt", b"alt")]
    build.tar(tmp_path / "s" / "0.tar", [*pair, ("b.json", json.dumps(document).encode())])
    corpus = build.corpus(tmp_path / "s", tmp_path / "i")
    figures = export(corpus, [], [], FuseConfig(), Store(tmp_path / "out"), "webdataset", {})
    assert (figures["samples"], figures["exported"], figures["left_out"]) == (2, 2, {})
    found = members(tmp_path / "out" / "0.tar")
    assert json.loads(found["b.json"]) == document
    assert sorted(found) == ["a.json", "a.png", "a.txt", "b.json"]
    again = build.corpus(tmp_path / "out", tmp_path / "again")
    assert [s.problem.reason.value for s in again.read("0") if s.problem] == ["document"]
    figures = export(corpus, [], [], FuseConfig(), Store(tmp_path / "table"), "parquet", {})
    assert figures["left_out"] == {"document": 1}, "a table of pictures has no place for it, and says so"
