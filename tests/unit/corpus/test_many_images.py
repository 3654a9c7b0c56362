"""Shards whose samples have several images or none: documents, conversations, text; as tar, Parquet and JSON."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vila2_ray.config import ScreenConfig, SourceKind
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.corpus.screening import ImageVerdicts, Screening, ShardScreen, Takedowns
from vila2_ray.errors import CorpusError, Reason, SampleError
from vila2_ray.storage import Store


def opened(uri: Path, tmp_path: Path, holds: SourceKind, images: Path | str = "") -> Corpus:
    return Corpus.open(str(uri), "docs", Store(tmp_path / "index"), holds=holds, images=str(images))


def reasons(corpus: Corpus) -> list[Reason | None]:
    return [s.problem.reason if s.problem else None for s in corpus.read(corpus.shards[0], images=False)]


def test_numbered_images_of_a_tar_belong_to_their_document(build: Any, tmp_path: Path) -> None:
    red, blue = build.picture("red"), build.picture("blue")
    document = json.dumps({"images": ["u", None, "v"], "texts": [None, "a cat", None]}).encode()
    members = [("a.0.png", red), ("a.json", document), ("a.2.png", blue), ("loose.0.png", red), *build.samples(1)]
    corpus = opened(build.tar(tmp_path / "s" / "0.tar", members), tmp_path, "documents")
    with_images, without = list(corpus.read("0")), list(corpus.read("0", images=False))
    assert [s.key for s in with_images] == ["a", "000"]
    assert with_images[0].pictures == {0: red, 2: blue}
    assert without[0].pictures == {0: None, 2: None}
    assert with_images[1].pictures == {}
    assert corpus.decode_numbered(with_images[0], 2).getpixel((0, 0)) == (0, 0, 255)
    assert corpus.decode_numbered(with_images[1], 0).size == (8, 6)
    with pytest.raises(SampleError, match="image 1 is not there"):
        corpus.decode_numbered(with_images[0], 1)
    assert reasons(corpus) == [Reason.DOCUMENT, None]
    (again,) = corpus.read("0", [0])
    assert again.pictures == with_images[0].pictures


def test_an_index_without_numbered_images_is_as_it_always_was(build: Any, tmp_path: Path) -> None:
    members = [*build.samples(2), ("000.0.png", build.picture()), ("x.1.png", build.picture())]
    corpus = opened(build.tar(tmp_path / "s" / "0.tar", members), tmp_path, "pairs")
    assert "picture_numbers" not in corpus.index("0").column_names
    assert corpus.num_rows("0") == 2


@pytest.mark.parametrize("as_struct", [False, True])
def test_lists_of_images_in_parquet(build: Any, tmp_path: Path, as_struct: bool) -> None:
    red, blue = build.picture("red"), build.picture("blue")
    lists: list[Any] = [[red, None, blue], [], None, [None, red]]
    kind: pa.DataType = pa.binary()
    if as_struct:
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        lists = [x and [{"bytes": i, "path": "p"} if n % 2 == 0 else i and {"bytes": i, "path": None}
                        for n, i in enumerate(x)] for x in lists]  # fmt: skip
    texts = [[None, "a cat", None], ["a text"], ["more"], ["a dog", None]]
    table = pa.table({"images": pa.array(lists, pa.list_(kind)), "texts": texts})
    (tmp_path / "s").mkdir()
    pq.write_table(table, tmp_path / "s" / "0.parquet")
    corpus = opened(tmp_path / "s", tmp_path, "documents")
    samples = list(corpus.read("0"))
    assert [s.pictures for s in samples] == [{0: red, 2: blue}, {}, {}, {1: red}]
    assert [dict.fromkeys(s.pictures) for s in samples] == [s.pictures for s in corpus.read("0", images=False)]
    assert samples[0].extra == {"texts": texts[0]}
    assert set(reasons(corpus)) == {Reason.DOCUMENT}


def test_parquet_without_images_is_text_unless_pairs_are_wanted(build: Any, tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    pq.write_table(pa.table({"text": ["one", "two"]}), tmp_path / "s" / "0.parquet")
    corpus = opened(tmp_path / "s", tmp_path, "text")
    assert [s.extra["text"] for s in corpus.read("0")] == ["one", "two"]
    assert set(reasons(corpus)) == {Reason.NO_IMAGE}
    with pytest.raises(CorpusError, match="no column of images"):
        opened(tmp_path / "s", tmp_path, "pairs").total_rows()


def test_conversations_in_parquet_know_which_have_no_image(build: Any, tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    turns = [[{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]] * 2
    pq.write_table(pa.table({"image": [build.picture(), None], "conversations": turns}), tmp_path / "s" / "0.parquet")
    assert reasons(opened(tmp_path / "s", tmp_path, "chat")) == [None, Reason.NO_IMAGE]


LIST: list[dict[str, Any]] = [
    {"id": "é1", "image": "coco/1.png", "conversations": [{"from": "human", "value": "<image>\nqué?"}]},
    {"id": "é1", "image": ["coco/1.png", "2.png"], "conversations": []},
    {"id": 7, "conversations": []},
    {"image": "../out.png", "conversations": []},
    {"image": "gone.png", "conversations": []},
    {"text_list": ["a"], "image_info": [{"image_name": "2.png", "matched_text_index": 0}, {"image_name": None}]},
]


@pytest.mark.parametrize("name", ["mix.json", "mix.jsonl"])
def test_json_with_a_folder_of_images(build: Any, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "pictures"
    (folder / "coco").mkdir(parents=True)
    (folder / "coco" / "1.png").write_bytes(build.picture("red"))
    (folder / "2.png").write_bytes(build.picture("blue"))
    (tmp_path / "out.png").write_bytes(build.picture("red"))
    lines = [json.dumps(fields, ensure_ascii=False, indent=None) for fields in LIST]
    text = "\n \n".join(lines) + "\n" if name.endswith("l") else "\ufeff[\n  " + " ,\n".join(lines) + "\n]\n"
    (tmp_path / name).write_text(text, "utf-8")
    corpus = opened(tmp_path / name, tmp_path, "chat", folder)
    samples = list(corpus.read("mix"))
    assert [s.key for s in samples] == ["é1", "é1-1", "7", "000000003", "000000004", "000000005"]
    assert [s.extra.get("conversations") for s in samples[:3]] == [f.get("conversations") for f in LIST[:3]]
    assert samples[0].image == build.picture("red")
    assert samples[1].pictures == {0: build.picture("red"), 1: build.picture("blue")}
    assert samples[5].pictures == {0: build.picture("blue")}
    found = [s.problem.reason if s.problem else None for s in samples]
    no = Reason.NO_IMAGE
    assert found == [None, no, no, no, no, Reason.DOCUMENT]
    assert [s.row for s in corpus.read("mix", [4, 0, 5])] == [4, 0, 5]
    assert [s.pictures for s in corpus.read("mix", [1], images=False)] == [{0: None, 1: None}]


def test_json_that_is_no_list_and_json_beside_pictures(build: Any, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"id": 3}')
    with pytest.raises(CorpusError, match=r"holds no list.*jsonl"):
        opened(tmp_path / "a.json", tmp_path, "chat").total_rows()
    (tmp_path / "a.json").write_text('[{"id": 3}, {"id"')
    with pytest.raises(CorpusError, match="not JSON"):
        opened(tmp_path / "a.json", tmp_path, "chat").total_rows()
    (tmp_path / "album").mkdir()
    (tmp_path / "album" / "a.png").write_bytes(build.picture())
    (tmp_path / "album" / "a.json").write_text('{"conversations": []}')
    (shard,) = opened(tmp_path / "album", tmp_path, "chat").shards
    assert shard.kind == "folder"


def test_json_lines_are_no_pairs(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n')
    with pytest.raises(CorpusError, match=r"neither a \.tar"):
        opened(tmp_path / "a.jsonl", tmp_path, "pairs")


def test_a_document_is_left_out_for_any_of_its_images(build: Any, tmp_path: Path) -> None:
    def square(seed: int) -> bytes:
        pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
        out = io.BytesIO()
        Image.fromarray(pixels).resize((64, 64), Image.Resampling.NEAREST).save(out, "PNG")
        return out.getvalue()

    one, two, three = (square(seed) for seed in range(3))
    document = json.dumps({"images": ["http://u/1", "http://u/2"], "texts": ["a", "b"]}).encode()
    members = [("a.json", document.replace(b"u/1", b"v/1")), ("a.0.png", one), ("a.1.png", two)]
    members += [("b.json", document), ("b.0.png", three)]
    corpus = opened(build.tar(tmp_path / "s" / "0.tar", members), tmp_path, "documents")
    verdicts = ImageVerdicts(Store(tmp_path / "v"))
    held = Corpus.open(str(build.tar(tmp_path / "h" / "0.tar", [("x.png", two)])), "heldout", Store(tmp_path / "index"))
    for which in (held, corpus):
        ShardScreen(which, verdicts, ScreenConfig(heldout=True))(which.shards[0])
    assert verdicts.flags("docs", "0") == {0: ["heldout"]}

    def taken_down(entry: str) -> set[int]:
        (tmp_path / "list.txt").write_text(entry + "\n")
        lists = Takedowns.look(Store(tmp_path / f"t{len(list(tmp_path.iterdir()))}"), str(tmp_path / "list.txt"))
        return set(Screening(corpus, None, lists).flags("docs", "0"))

    assert taken_down("http://u/1") == {1}
    assert taken_down(hashlib.sha256(two).hexdigest()) == {0}
    assert taken_down("0/b") == {1}
