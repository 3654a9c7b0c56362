"""The tiny world: scenes, texts, pixels and shards. Painted with discs, so that no artwork is needed."""

from __future__ import annotations

import io
import json
import random
import subprocess
import sys
import tarfile

import pytest
from PIL import Image, ImageDraw

from vila2_ray.errors import ConfigError, StorageError
from vila2_ray.recipes.tiny import artwork, corpus, world
from vila2_ray.recipes.tiny.compose import SIDE, compose
from vila2_ray.skills.things import Annotation


@pytest.fixture
def discs() -> dict[str, Image.Image]:
    pictures = {}
    for index, name in enumerate(world.NAMES):
        pictures[name] = Image.new("RGBA", (80, 80))
        ImageDraw.Draw(pictures[name]).ellipse((8, 8, 71, 71), fill=(8 * index, 255 - 8 * index, 120, 255))
    return pictures


@pytest.fixture
def painted(discs, monkeypatch):
    monkeypatch.setattr(artwork, "load", lambda: discs)
    corpus._pictures.cache_clear()
    yield
    corpus._pictures.cache_clear()


@pytest.mark.parametrize("heldout", [False, True])
def test_truth_of_a_scene(discs, heldout):
    rng = random.Random(1)
    for _ in range(150):
        image, truth = compose(world.layout(rng, heldout=heldout), rng, discs, heldout=heldout)
        assert image.size == (SIDE, SIDE)
        assert world.is_held_out(truth) == heldout
        assert 1 <= len(truth["objects"]) <= 3
        spots = [thing["place"] for thing in (*truth["objects"], *truth["words"])]
        assert len(spots) == len(set(spots))
        for thing in (*truth["objects"], *truth["words"]):
            left, top, right, bottom = thing["box"]
            assert 0 <= left < right <= 999
            assert 0 <= top < bottom <= 999
            place = world.PLACES.index(thing["place"])
            assert (left + right) // 2 * 3 // 1000 == place % 3
            assert (top + bottom) // 2 * 3 // 1000 == place // 3
        for thing in truth["objects"]:
            longer = max(thing["box"][2] - thing["box"][0], thing["box"][3] - thing["box"][1]) * SIDE / 1000
            assert longer >= 27
            assert (longer > 35) == (thing["size"] == "large")
            assert (thing["artwork"] == "plain") != heldout


def test_texts_of_a_scene():
    truth = {
        "objects": [
            {"name": "red apple", "size": "large", "place": "top left"},
            {"name": "octopus", "size": "small", "place": "center"},
        ],
        "words": [{"text": "stop", "place": "bottom"}],
    }
    assert world.careful_caption(truth) == (
        "a large red apple at the top left, a small octopus at the center. a sign reading stop at the bottom."
    )
    asked = world.questions(truth, random.Random(0), None)
    assert [question["kind"] for question in asked] == ["exist", "exist", "where", "count", "size", "read"]
    assert {"kind": "count", "question": "how many objects are there?", "answer": "2"} in asked
    assert asked[-1] == {"kind": "read", "question": "what does the sign say?", "answer": "stop"}
    twins = {"objects": [{"name": "cat", "size": "small", "place": place} for place in ("top", "left")], "words": []}
    assert {question["kind"] for question in world.questions(twins, random.Random(0), None)} == {"exist", "count"}
    assert len(world.questions(twins, random.Random(0), 3)) == 3


def test_alt_text_is_short_and_wrong_as_often_as_the_webs():
    rng, junk, right = random.Random(5), 0, 0
    for _ in range(2000):
        truth = world.layout(rng)
        alt = world.alt_text(truth, rng)
        assert 1 <= len(alt.split()) <= 5
        junk += alt in world.JUNK
        right += any(thing["name"] in alt for thing in truth["objects"]) or "sign" in alt
    assert 0.17 < junk / 2000 < 0.23
    assert 0.57 < right / 2000 < 0.66


def test_a_sample_follows_from_its_number_alone(painted):
    first = [corpus.sample("pretrain", 0, number) for number in (3, 4)]
    assert first == [corpus.sample("pretrain", 0, number) for number in (3, 4)]
    assert first[0] != first[1] != corpus.sample("pretrain", 1, 4)


def test_members_of_each_split(painted):
    samples = [corpus.sample("pretrain", 0, number) for number in range(120)]
    assert {len({"png", "jpg"} & set(sample)) for sample in samples} == {1}
    assert 0 < sum("txt" not in sample for sample in samples) < 15
    assert set(json.loads(samples[0]["json"])) == {"url", "width", "height", "license"}
    turns = json.loads(corpus.sample("sft", 0, 0)["json"])["conversations"]
    assert [turn["from"] for turn in turns] == ["human", "gpt"] * 4
    assert [turn["value"].count("<image>\n") for turn in turns[::2]] == [1, 0, 0, 0]
    held = corpus.sample("heldout", 0, 0)
    assert json.loads(held["json"])["caption"] == world.careful_caption(json.loads(held["truth.json"]))


def test_shards_are_the_same_bytes_again_and_finished_ones_are_kept(painted, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        corpus._write_shard((tmp_path / folder / "00000.tar", "pretrain", 0, 0, 5))
    assert (tmp_path / "a" / "00000.tar").read_bytes() == (tmp_path / "b" / "00000.tar").read_bytes()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["00000.tar"]
    with tarfile.open(tmp_path / "a" / "00000.tar") as shard:
        assert len({name.split(".")[0] for name in shard.getnames()}) == 5


def test_wrong_settings_are_refused_by_name(tmp_path):
    with pytest.raises(ConfigError, match="sft = 0"):
        corpus.write_corpus(tmp_path, sft=0)
    (tmp_path / "corpus.json").write_text('{"seed": 7}')
    with pytest.raises(ConfigError, match="other settings"):
        corpus.write_corpus(tmp_path)


def test_artwork_of_another_digest_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setenv("VILA2_CACHE", str(tmp_path))
    tarball = tmp_path / "package.tgz"
    with tarfile.open(tarball, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("package/assets/1f34e.webp"), io.BytesIO())
    monkeypatch.setattr(artwork, "_npm_pack", lambda scratch: tarball)
    with pytest.raises(StorageError, match="is pinned"):
        artwork.fetch()
    assert not artwork.cache_folder().exists()


def test_without_npm_the_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("VILA2_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match=r"install Node\.js"):
        artwork.fetch()


def test_importing_the_world_loads_no_torch():
    code = "import sys, vila2_ray.recipes.tiny.corpus; sys.exit('torch' in sys.modules or 'ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.fixture
def small(painted, tmp_path, monkeypatch):
    """Writes a corpus of a few samples into `tmp_path`."""
    monkeypatch.setattr(artwork, "fetch", lambda: tmp_path)
    return lambda **counts: corpus.write_corpus(
        tmp_path, pretrain_shards=1, shard_size=4, sft=2, heldout=2, processes=1, **counts
    )


def test_annotations_of_the_experts_split_are_the_boxes_of_its_things(small, tmp_path):
    assert small(experts=6)["experts"] == 6
    lines = [json.loads(line) for line in (tmp_path / "experts" / corpus.ANNOTATIONS).read_text().splitlines()]
    assert [line["sample_id"] for line in lines] == [
        *(f"00000/{n:06}" for n in range(4)),
        *(f"00001/{n:06}" for n in (4, 5)),
    ]
    for number, line in enumerate(lines):
        members = corpus.sample("experts", 0, number)
        assert {"txt", "json"}.isdisjoint(members)
        truth, told = json.loads(members["truth.json"]), Annotation.from_json(line)
        assert line["key"] == f"{number:06}"
        assert told.lines is None  # printed words are for the OCR engine
        assert told.things == Annotation.from_truth(truth).things


def test_a_corpus_from_before_a_split_is_completed_by_it(small, tmp_path):
    small(experts=3)
    before = json.loads((tmp_path / "corpus.json").read_text())
    kept = (tmp_path / "pretrain" / "00000.tar").stat().st_mtime_ns
    for file in (tmp_path / "experts").iterdir():
        file.unlink()
    del before["samples"]["experts"]
    (tmp_path / "corpus.json").write_text(json.dumps(before))
    small(experts=5)
    assert json.loads((tmp_path / "corpus.json").read_text())["samples"]["experts"] == 5
    assert (tmp_path / "pretrain" / "00000.tar").stat().st_mtime_ns == kept
    assert len((tmp_path / "experts" / corpus.ANNOTATIONS).read_text().splitlines()) == 5
    with pytest.raises(ConfigError, match="other settings"):
        small(experts=6)
