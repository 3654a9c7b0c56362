"""A campaign folder written by hand, without Ray or a model, and what the report makes of it."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image

from vila2_ray import report
from vila2_ray.campaign import plan as plans
from vila2_ray.campaign.api import Campaign
from vila2_ray.campaign.layout import Layout
from vila2_ray.campaign.ledger import Ledger
from vila2_ray.campaign.promotion import promote
from vila2_ray.campaign.state import Marker, write_marker
from vila2_ray.config import Config
from vila2_ray.recipe import load_config, to_yaml
from vila2_ray.report.collect import collect
from vila2_ray.report.data import FinalModel, Span, Specialist
from vila2_ray.report.draw import draw_keys
from vila2_ray.report.tally import Tally, spread
from vila2_ray.schema import CAPTION, VERDICT
from vila2_ray.storage import Store

from .pages import Page, addresses

ROWS = 12
BROKEN, FAILED, FLAGGED = 3, 5, 7
TRUTH = {"objects": [{"name": "cat", "size": "small", "place": "left"}], "words": []}


def write_shards(folder: Path, *, truth: bool) -> None:
    folder.mkdir(parents=True)
    for shard in ("00000", "00001"):
        with tarfile.open(folder / f"{shard}.tar", "w") as tar:
            for row in range(ROWS):
                image = io.BytesIO()
                Image.new("RGB", (40, 30), (20 * row, 90, 90)).save(image, "PNG")
                members = {"png": image.getvalue()[: 20 if row == BROKEN else None], "txt": b"a dog" if row else b""}
                if truth:
                    members["truth.json"] = json.dumps(TRUTH).encode()
                for ending, content in members.items():
                    info = tarfile.TarInfo(f"{row:04}.{ending}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))


def write_layer(layout: Layout, k: int, text: str) -> None:
    for shard in ("00000", "00001"):
        rows = []
        for row in range(ROWS):
            key = {"source": "pretrain", "shard": shard, "row": row, "sample_id": f"{shard}/{row:04}", "variant": 0}
            if row == FAILED:
                rows.append({**key, "status": "failed", "error": "engine_died", "error_detail": "<b>twice</b>"})
            else:
                rows.append({**key, "status": "captioned", "text": text, "mean_logprob": -0.5, "prompt_id": "brief"})
        layer, verdicts = layout.layer(f"round-{k}", "f" * 64), layout.verdicts(f"round-{k}", "f" * 64)
        layer.write("pretrain", shard, pa.Table.from_pylist(rows, schema=CAPTION), {"engine": "fake", "specialist": ""})
        judged = [
            {**{name: r[name] for name in VERDICT.names[:5]}, "flags": ["too_short"] if r["row"] == FLAGGED else []}
            for r in rows
            if r["status"] == "captioned"
        ]
        verdicts.write("pretrain", shard, pa.Table.from_pylist(judged, schema=VERDICT))


def mark(store: Store, config: Config, **summaries: dict) -> None:
    for stage in plans.stages(config):
        if (name := stage.name.replace("-", "_")) in summaries:
            inputs = {"corpus:pretrain": "c" * 64, "base": "b" * 64} if stage.kind == "align" else {}
            write_marker(store, Marker(stage.name, "f" * 64, {}, inputs, "d" * 64, 1, summary=summaries[name]))


def make_campaign(
    tmp_path: Path, *, num_rounds: int = 2, truth: bool = True, scored: bool = True, skills: str = "[]"
) -> Campaign:
    write_shards(tmp_path / "shards", truth=truth)
    uri = str(tmp_path / "run")
    settings = [f"campaign={uri}", f"corpus.pretrain={tmp_path / 'shards'}", "rounds.max=3", f"specialists={skills}"]
    config = load_config("tiny", settings)
    store = Store(uri)
    store.write_text("campaign.yaml", to_yaml(config))
    mark(store, config, index={"pretrain": {"samples": 2 * ROWS, "shards": 2}}, align={})
    texts = {1: "a small dog at the left.", 2: "a small cat at the left."}
    for k in range(1, num_rounds + 1):
        write_layer(Layout(store), k, texts[k])
        mark(store, config, **{f"recaption_{k}": {}, f"filter_{k}": {}})
    if scored:
        for k in range(num_rounds + 1):
            scores = {"object_place_f1": 0.3 + 0.1 * k, "num_captions": 10, "vqa_read": float("nan")}
            mark(store, config, **{f"evaluate_{k}": {"scores": scores, "source": "heldout" if truth else "pretrain"}})
    ledger = Ledger(store, config.prices)
    for stage in ("index", "recaption-1", "recaption-1"):
        with ledger.record(stage):
            pass
    promote(store, "vlm-1", "checkpoints/vlm-1/sft", "11" * 32, {}, 1)
    promote(store, "vlm-2", "checkpoints/vlm-2/sft", "22" * 32, {}, 1)
    return Campaign(uri)


def test_a_campaign_is_collected_whole(tmp_path: Path) -> None:
    data = collect(make_campaign(tmp_path))
    assert data.metric == "object_place_f1"
    assert [(r.model, round(r.values["object_place_f1"], 2)) for r in data.scores] == [
        ("VLM_0", 0.3),
        ("VLM_1", 0.4),
        ("VLM_2", 0.5),
    ]
    first, second = data.layers
    assert (first.name, first.num_captioned, first.num_failed, first.num_flagged) == ("round-1", 22, 2, 2)
    assert (second.errors, second.flags) == ({"engine_died": 2}, {"too_short": 2})
    assert first.words is not None
    assert first.words.mean == 6
    assert first.provenance["engine"] == "fake"
    assert "specialist" not in first.provenance
    assert data.alt_words is not None
    assert data.alt_words.mean == 2
    assert data.num_corpus_samples == len(data.samples) == 2 * ROWS
    assert [(s.stage, s.num_captions) for s in data.stages] == [("index", 0), ("recaption-1", 22)]
    assert [(p.model, p.is_current) for p in data.promotions] == [("VLM_1", False), ("VLM_2", True)]
    assert ("base weights", "b" * 64) in data.provenance
    assert data.notes == ()


def test_specialists_stand_beside_the_generalist(tmp_path: Path) -> None:
    campaign = make_campaign(tmp_path, skills="[ocr]")
    store, config = campaign.store, campaign.config
    assert (collect(campaign).specialists, collect(campaign).final) == ((), None)
    scores = {"skill": {"word_accuracy": 0.9}, "generalist": {"word_accuracy": 0.4}, "scores": {}, "model": "ocr"}
    scores |= {"metric": "word_accuracy", "beats": True, "reason": "it is", "beside": "vlm-2"}
    mark(store, config, evaluate_ocr=scores, recaption_ocr={}, filter_ocr={})
    Layout(store).layer("ocr", "f" * 64).write("pretrain", "00000", CAPTION.empty_table())
    final = {"scores": {"object_place_f1": 0.6}, "skills": {"ocr": {"word_accuracy": 0.8}}, "source": "heldout"}
    mark(store, config, evaluate_final=final)
    data = collect(campaign)
    assert data.specialists == (Specialist("ocr", "word_accuracy", 0.4, 0.9, True),)
    assert data.final == FinalModel("VLM_2", (("object_place_f1", 0.5, 0.6), ("word_accuracy", 0.4, 0.8)))
    assert [layer.name for layer in data.layers] == ["round-1", "round-2", "ocr"]


def test_samples_hold_what_was_written_about_them(tmp_path: Path) -> None:
    samples = {sample.sample_id: sample for sample in collect(make_campaign(tmp_path)).samples}
    sample = samples["00001/0001"]
    assert (sample.alt_text, sample.alt_wrong, sample.truth) == (
        "a dog",
        (Span(2, 5, "absent"),),
        ("small cat (left)",),
    )
    assert [c.text for c in sample.captions] == ["a small dog at the left.", "a small cat at the left."]
    assert [c.wrong for c in sample.captions] == [(Span(8, 11, "absent"),), ()]
    assert sample.thumbnail
    assert samples[f"00000/{BROKEN:04}"].problem.startswith("image_unreadable")
    assert samples[f"00000/{BROKEN:04}"].thumbnail == b""
    assert samples[f"00000/{FAILED:04}"].captions[0].error == "engine_died"
    assert samples[f"00000/{FLAGGED:04}"].captions[1].flags == ("too_short",)
    assert samples["00000/0000"].alt_text == ""


def test_an_edit_is_shown_in_place_of_its_caption_and_counted(tmp_path: Path) -> None:
    campaign = make_campaign(tmp_path)
    verdicts = campaign.verdicts("round-1")
    assert verdicts is not None
    rows = verdicts.read("pretrain", "00000").to_pylist()
    edits = {1: "a cat on the left side of it.", FLAGGED: ""}
    told = pa.Table.from_pylist([{**row, "text": edits.get(row["row"])} for row in rows], VERDICT)
    verdicts.write("pretrain", "00000", told)
    data = collect(campaign)
    samples = {sample.sample_id: sample.captions[0] for sample in data.samples}
    assert (samples["00000/0001"].text, samples["00000/0001"].is_edited) == ("a cat on the left side of it.", True)
    assert samples[f"00000/{FLAGGED:04}"].text == "a small dog at the left.", "what was edited to nothing is still told"
    assert data.layers[0].words is not None
    assert data.layers[0].words.mean == pytest.approx(6 + 2 / 22)
    assert "edited by a person" in Path(report.build(campaign)).read_text("utf-8")


def test_the_page_is_written_into_the_campaign(tmp_path: Path) -> None:
    uri = report.build(make_campaign(tmp_path), num_samples=6)
    assert uri == str(tmp_path / "run" / "report" / "index.html")
    html = Path(uri).read_text("utf-8")
    page = Page(html)
    assert page.errors == addresses(html) == []
    assert len(page.all("article")) == 6
    assert "<b>twice</b>" not in html
    assert "Two rounds of recaptioning its own corpus raised object + place F1" in page.text


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"num_rounds": 0, "scored": False}, "Nothing has been captioned or scored yet"),
        ({"num_rounds": 1, "scored": False}, "22 captions in one layer, not scored yet"),
        ({"num_rounds": 0}, "no round has followed yet"),
        ({"num_rounds": 1}, "One round of recaptioning"),
        ({"truth": False}, "There is no held-out corpus"),
        ({"truth": False}, "wrong objects are not marked"),
    ],
)
def test_unfinished_campaigns_and_missing_truth(tmp_path: Path, options: dict, expected: str) -> None:
    page = Page(Path(report.build(make_campaign(tmp_path, **options))).read_text("utf-8"))
    assert expected in page.text
    assert page.errors == []


def test_images_that_were_moved_away_cost_the_images_only(tmp_path: Path) -> None:
    campaign = make_campaign(tmp_path)
    shutil.rmtree(tmp_path / "shards")
    data = collect(campaign)
    assert [c.text for c in data.samples[0].captions if c.status == "captioned"] != []
    assert not any(sample.thumbnail for sample in data.samples)
    assert "cannot be read" in data.notes[0]
    assert Page(Path(report.build(campaign)).read_text("utf-8")).errors == []


def test_the_same_campaign_shows_the_same_samples(tmp_path: Path) -> None:
    campaign = make_campaign(tmp_path)
    assert collect(campaign, 5).samples == collect(campaign, 5).samples


def test_a_few_bad_rows_are_always_among_the_samples_and_said_to_be() -> None:
    shard = ("pretrain", "00000")
    tally = Tally(
        rows={shard: 10_000}, flagged={(*shard, row) for row in range(50)}, failed={(*shard, 77), (*shard, 78)}
    )
    keys = draw_keys(tally, 48, 0)
    assert len(keys) == 48
    why = list(keys.values())
    assert (why.count("flagged"), why.count("failed"), why.count("random")) == (5, 2, 41)
    assert draw_keys(tally, 48, 0) == keys != draw_keys(tally, 48, 1)
    assert len(draw_keys(Tally(rows={shard: 3}), 48, 0)) == 3
    assert draw_keys(Tally(), 48, 0) == {}


def test_the_middle_of_lengths() -> None:
    assert spread([]) is None
    middle = spread(list(range(101)))
    assert middle is not None
    assert (middle.mean, middle.low, middle.high) == (50, 10, 90)
