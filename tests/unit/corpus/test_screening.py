from __future__ import annotations

import hashlib
import io
import json
import pickle
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vila2_ray.config import ColumnsConfig, CorpusConfig, ScreenConfig
from vila2_ray.corpus import duplicates
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.corpus.duplicates import flag_duplicates
from vila2_ray.corpus.hashing import write_hashes
from vila2_ray.corpus.screening import (
    ImageVerdicts,
    Screening,
    ShardScreen,
    Takedowns,
    copy_lists,
    lists_digest,
)
from vila2_ray.errors import CorpusError, StorageError
from vila2_ray.progress import NullProgress
from vila2_ray.storage import Store


def scene(seed: int, size: tuple[int, int] = (96, 96)) -> Image.Image:
    """Soft patches that differ from seed to seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def encode(image: Image.Image, format: str = "PNG", **save: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **save)
    return out.getvalue()


def write_tar(path: Path, pictures: Iterable[bytes], first: int = 0, **fields: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for number, data in enumerate(pictures, first):
            told = {"url": f"https://x.example/{path.stem}/{number}", "caption": f"alt {number}", **fields}
            for name, content in ((f"{number:03}.img", data), (f"{number:03}.json", json.dumps(told).encode())):
                ending = "jpg" if content[:2] == b"\xff\xd8" else "png"
                member = tarfile.TarInfo(name.replace(".img", f".{ending}"))
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


class Screened:
    """Corpora below a folder, screened one shard after the other as a campaign does it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.verdicts = folder, ImageVerdicts(Store(folder / "verdicts"))

    def corpus(self, source: str = "pretrain") -> Corpus:
        columns = ColumnsConfig()
        return Corpus.open(str(self.folder / source), source, Store(self.folder / "index"), columns, 1_000_000)

    def screen(self, source: str = "pretrain", **config: Any) -> dict[str, int]:
        corpus, settings = self.corpus(source), ScreenConfig(**config)
        counts: dict[str, int] = {}
        for ref in corpus.shards:
            for name, count in ShardScreen(corpus, self.verdicts, settings)(ref).items():
                counts[name] = counts.get(name, 0) + count
        if settings.finds_duplicates and source == "pretrain":
            return flag_duplicates(corpus, self.verdicts, settings, Store(self.folder / "work"), map)
        return counts

    def flags(self, source: str = "pretrain") -> dict[str, list[str]]:
        """`<shard>/<row>` → flags."""
        return {
            f"{ref.shard}/{row}": flags
            for ref in self.corpus(source).shards
            for row, flags in self.verdicts.flags(source, ref.shard).items()
        }


@pytest.fixture
def screened(tmp_path: Path) -> Screened:
    return Screened(tmp_path)


def test_sizes_are_upright_and_what_cannot_be_read_is_left_to_captioning(screened: Screened) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    tall = encode(scene(0, (300, 100)), "JPEG", exif=turned)
    pictures = [encode(scene(1)), tall, encode(scene(2, (20, 30))), encode(scene(3))[:200], b"GIF89a"]
    write_tar(screened.folder / "pretrain" / "0.tar", pictures)
    counts = screened.screen(min_side=32, max_aspect=2.5)
    rows = screened.verdicts.read("pretrain", "0").to_pylist()
    assert [(row["width"], row["height"]) for row in rows] == [(96, 96), (100, 300), (20, 30), (96, 96), (None, None)]
    assert [row["flags"] for row in rows] == [[], ["max_aspect"], ["min_side"], [], []]
    assert [row["image_sha256"] for row in rows] == [hashlib.sha256(data).hexdigest() for data in pictures]
    assert {row["phash"] for row in rows} == {None}
    assert counts == {"samples": 5, "kept": 3, "max_aspect": 1, "min_side": 1}


def test_exact_duplicates_within_and_across_shards_keep_the_first(screened: Screened) -> None:
    a, b, c = (encode(scene(n)) for n in range(3))
    for number, pictures in enumerate([[a, b, a], [c, b], [a, encode(scene(9)), c]]):
        write_tar(screened.folder / "pretrain" / f"{number}.tar", pictures)
    counts = screened.screen(exact_duplicates=True)
    assert screened.flags() == {path: ["duplicate"] for path in ("0/2", "1/1", "2/0", "2/2")}
    assert counts == {"samples": 8, "kept": 4, "duplicate": 4}
    assert not Store(screened.folder / "work").list()


def test_what_is_left_out_anyway_does_not_push_out_its_twin(screened: Screened) -> None:
    small, large = encode(scene(0, (40, 40))), encode(scene(0, (200, 200)))
    write_tar(screened.folder / "pretrain" / "0.tar", [small, large, large])
    screened.screen(near_duplicates=True, min_side=100)
    assert screened.flags() == {"0/0": ["min_side"], "0/2": ["near_duplicate"]}


def test_resized_and_encoded_again_is_near_and_another_scene_is_not(screened: Screened) -> None:
    versions = [
        encode(scene(0)),
        encode(scene(0), "JPEG", quality=75),
        encode(scene(0).resize((60, 60)), "JPEG", quality=85),
    ]
    write_tar(screened.folder / "pretrain" / "0.tar", [versions[0], encode(scene(1))])
    write_tar(screened.folder / "pretrain" / "1.tar", [versions[1], encode(scene(2)), versions[0]])
    write_tar(screened.folder / "pretrain" / "2.tar", [versions[2], encode(scene(3))])
    screened.screen(near_duplicates=True, exact_duplicates=True)
    assert screened.flags() == {"1/0": ["near_duplicate"], "1/2": ["duplicate"], "2/0": ["near_duplicate"]}


def test_groups_and_partitions_change_nothing(screened: Screened, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    scenes = [encode(scene(n)) for n in range(6)]
    again = [encode(scene(n), "JPEG", quality=60) for n in range(6)]
    for shard in range(7):
        write_tar(screened.folder / "pretrain" / f"{shard}.tar", [(scenes + again)[i] for i in rng.integers(0, 12, 6)])
    counts = screened.screen(near_duplicates=True, exact_duplicates=True)
    whole = screened.flags()
    assert counts["kept"] == 6
    monkeypatch.setattr(duplicates, "ROWS_PER_GROUP", 10)
    monkeypatch.setattr(duplicates, "ROWS_PER_PARTITION", 7)
    Store(screened.folder / "verdicts").delete_tree()
    assert screened.screen(near_duplicates=True, exact_duplicates=True) == counts
    assert screened.flags() == whole


def test_an_interrupted_search_goes_on_where_it_stopped(screened: Screened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "ROWS_PER_GROUP", 4)
    monkeypatch.setattr(duplicates, "ROWS_PER_PARTITION", 5)
    for shard in range(4):
        write_tar(
            screened.folder / "pretrain" / f"{shard}.tar", [encode(scene(n % 5)) for n in range(shard, shard + 3)]
        )
    expected = screened.screen(exact_duplicates=True)
    flags = screened.flags()
    Store(screened.folder / "verdicts").delete_tree()
    corpus, config = screened.corpus(), ScreenConfig(exact_duplicates=True)
    for ref in corpus.shards:
        ShardScreen(corpus, screened.verdicts, config)(ref)
    done: list[str] = []

    def until(number: int) -> Any:
        def run(function: Any, items: Iterable[Any]) -> Any:
            for item in items:
                if len(done) == number:
                    raise KeyboardInterrupt
                done.append(f"{function.__name__} {item}")
                yield function(item)

        return run

    work = Store(screened.folder / "work")
    for number in range(1, 9):  # stopped again after every single task
        with pytest.raises(KeyboardInterrupt):
            flag_duplicates(corpus, screened.verdicts, config, work, until(number))
    counts = flag_duplicates(corpus, screened.verdicts, config, work, until(99))
    assert (counts, screened.flags()) == (expected, flags)
    earlier = [task for task in done if not task.startswith("merge")]
    assert len(earlier) == len({*earlier}), "a finished spill or search is not repeated"


def test_shards_are_screened_once_and_again_when_they_change(
    screened: Screened, monkeypatch: pytest.MonkeyPatch
) -> None:
    for shard in "01":
        write_tar(screened.folder / "pretrain" / f"{shard}.tar", [encode(scene(ord(shard)))])
    screened.screen(min_side=200)
    before = {path: path.stat().st_mtime_ns for path in (screened.folder / "verdicts").rglob("*.parquet")}
    assert screened.screen(min_side=200) == {"samples": 2, "kept": 0, "min_side": 2}
    assert before == {path: path.stat().st_mtime_ns for path in (screened.folder / "verdicts").rglob("*.parquet")}
    write_tar(screened.folder / "pretrain" / "1.tar", [encode(scene(5)), encode(scene(6, (300, 300)))])
    assert screened.screen(min_side=200) == {"samples": 3, "kept": 1, "min_side": 2}


def test_added_shards_are_compared_with_those_before_whatever_their_name(screened: Screened) -> None:
    write_tar(screened.folder / "pretrain" / "5.tar", [encode(scene(0)), encode(scene(1))])
    screened.screen(exact_duplicates=True)
    assert screened.flags() == {}
    write_tar(screened.folder / "pretrain" / "6.tar", [encode(scene(1))])
    write_tar(screened.folder / "pretrain" / "1.tar", [encode(scene(0))])
    screened.screen(exact_duplicates=True)
    assert screened.flags() == {"5/0": ["duplicate"], "6/0": ["duplicate"]}, "a function of the corpus, not its history"


def test_the_heldout_corpus_never_enters_training(screened: Screened) -> None:
    write_tar(screened.folder / "heldout" / "h.tar", [encode(scene(100)), encode(scene(101))])
    copy = encode(scene(100))
    again = encode(scene(101, (50, 50)), "JPEG", quality=70)
    write_tar(screened.folder / "pretrain" / "0.tar", [encode(scene(1)), copy, again])
    write_tar(screened.folder / "sft" / "0.tar", [again, encode(scene(2, (10, 10)))])
    for source in ("heldout", "pretrain", "sft"):
        screened.screen(source, heldout=True, min_side=20, exact_duplicates=True)
    assert screened.flags() == {"0/1": ["heldout"], "0/2": ["heldout"]}
    assert screened.flags("sft") == {"0/0": ["heldout"]}, "only what is held out is looked for in conversations"
    assert screened.flags("heldout") == {}


def test_lists_of_hashes_that_the_command_makes_are_found_by_either_kind(screened: Screened, tmp_path: Path) -> None:
    write_tar(tmp_path / "others" / "0.tar", [encode(scene(7)), b"\x89PNG\r\n\x1a\nbroken", encode(scene(8))])
    hashed = write_hashes(str(tmp_path / "others"), str(tmp_path / "lists" / "h.txt"), CorpusConfig(), NullProgress())
    assert (hashed.num_pictures, hashed.num_unreadable) == (3, 1)
    assert hashed.sentence.startswith("3 pictures, 1 of them by their bytes alone: ")
    lists = [str(tmp_path / "lists" / "h.txt")]
    text = Path(lists[0]).read_text()
    assert len(text.splitlines()) == 1 + 3 + 2
    copy_lists(lists, screened.verdicts)
    again = encode(scene(8), "JPEG", quality=80)
    write_tar(screened.folder / "pretrain" / "0.tar", [encode(scene(1)), encode(scene(7)), again])
    screened.screen(heldout_hashes=tuple(lists))
    assert screened.flags() == {"0/1": ["heldout"], "0/2": ["heldout"]}
    before = lists_digest(lists)
    Path(lists[0]).write_text(text + "\n# a comment\n" + text)
    assert lists_digest(lists) == before, "what a list says, not how"
    Path(lists[0]).write_text(text + "0123456789abcdef\n")
    assert lists_digest(lists) != before


def test_takedowns_by_id_digest_and_url(screened: Screened, tmp_path: Path) -> None:
    pictures = [encode(scene(n)) for n in range(5)]
    write_tar(screened.folder / "pretrain" / "0.tar", pictures)
    write_tar(screened.folder / "pretrain" / "1.tar", [encode(scene(9))], sha256="ab" * 32)
    path = tmp_path / "takedown.txt"
    digest = hashlib.sha256(pictures[3]).hexdigest()
    path.write_text(f"# ours\n0/001\n{digest}\nhttps://x.example/0/4\nhttps://y.example/0\n{'AB' * 32}\n")
    takedowns = Takedowns.look(Store(tmp_path / "takedown"), str(path))
    screening = pickle.loads(pickle.dumps(Screening(screened.corpus(), None, takedowns)))
    assert screening.flags("pretrain", "0") == {row: ["takedown"] for row in (1, 3, 4)}
    assert screening.flags("pretrain", "1") == {0: ["takedown"]}, "the digest of the picture before it was resized"
    screened.screen(min_side=100)
    both = Screening(screened.corpus(), screened.verdicts, takedowns)
    assert both.flags("pretrain", "0")[3] == ["min_side", "takedown"]
    assert both.flags("pretrain", "0")[0] == ["min_side"]


def test_parquet_shards_are_screened_and_taken_down_by_their_columns(screened: Screened, tmp_path: Path) -> None:
    pictures = [encode(scene(n)) for n in (0, 1, 0)]
    urls = ["https://x.example/a", None, "https://x.example/c"]
    (screened.folder / "pretrain").mkdir()
    columns = {"image": pictures, "caption": ["a", "b", "c"], "key": ["a", "b", "c"], "url": urls}
    pq.write_table(pa.table(columns), screened.folder / "pretrain" / "0.parquet")
    screened.screen(exact_duplicates=True)
    (tmp_path / "list.txt").write_text("https://x.example/a\n0/b\n")
    takedowns = Takedowns.look(Store(tmp_path / "takedown"), str(tmp_path / "list.txt"))
    found = Screening(screened.corpus(), screened.verdicts, takedowns)
    assert found.flags("pretrain", "0") == {0: ["takedown"], 1: ["takedown"], 2: ["duplicate"]}


def test_a_takedown_is_never_taken_back(tmp_path: Path) -> None:
    store, path = Store(tmp_path / "takedown"), tmp_path / "list.txt"
    assert Takedowns.look(store).digest() == ""
    path.write_text("# nobody yet\n")
    assert Takedowns.look(store, str(path)).names == ()
    path.write_text("0/1\n")
    first = Takedowns.look(store, str(path))
    path.write_text("0/2\n")
    second = Takedowns.look(store, str(path))
    assert second.entries().sample_ids == {"0/1", "0/2"}
    assert first.digest() != second.digest() == Takedowns.look(store).digest()
    path.unlink()
    with pytest.raises(StorageError, match=r"list.txt: no such file"):
        Takedowns.look(store, str(path))
    path.write_bytes(b"\xff\xfe\0")
    with pytest.raises(CorpusError, match="not UTF-8"):
        Takedowns.look(store, str(path))


def test_a_shard_without_verdicts_is_said_to_be_unscreened(screened: Screened) -> None:
    write_tar(screened.folder / "pretrain" / "0.tar", [encode(scene(0))])
    with pytest.raises(CorpusError, match=r"has not been screened.*--until screen"):
        Screening(screened.corpus(), screened.verdicts).flags("pretrain", "0")
