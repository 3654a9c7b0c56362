"""What an export leaves out, warns of or refuses, and what it says of that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vila2_ray.config import FuseConfig, PolicyConfig, ScreenConfig
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.corpus.export import export
from vila2_ray.corpus.hookverdicts import HookVerdicts, Judged
from vila2_ray.corpus.policy import Policy
from vila2_ray.corpus.screening import ImageVerdicts, Screening, ShardScreen, Takedowns, copy_lists, measure
from vila2_ray.errors import ConfigError, CorpusError
from vila2_ray.progress import NullProgress
from vila2_ray.schema import HOOK_VERDICT
from vila2_ray.storage import Store

LICENCES = ["CC0", "cc-by-4.0", "Proprietary", None, "unknown", "CC-BY-SA 4.0"]


class Notes(NullProgress):
    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture
def corpus(build: Any, tmp_path: Path) -> Corpus:
    """Shards 0 and 1 of six gradients each, every one with another look, with the licences above."""
    for number in range(2):
        members = []
        for row, licence in enumerate(LICENCES):
            fields = {"license": licence, "language": ("en", "de")[number]}
            picture = build.picture("white" if row % 2 else "navy", (32 + 8 * row, 24 + 16 * number))
            members += [
                (f"{number}{row}.png", picture),
                (f"{number}{row}.txt", b"alt"),
                (f"{number}{row}.json", json.dumps(fields).encode()),
            ]
        build.tar(tmp_path / "s" / f"{number}.tar", members)
    return build.corpus(tmp_path / "s", tmp_path / "index")


def write(corpus: Corpus, to: Path, policy: Policy | None = None, format: Any = "webdataset", **more: Any) -> Any:
    return export(corpus, [], [], FuseConfig(), Store(to), format, {}, policy=policy, **more)


def judged(corpus: Corpus, store: Store, finds: Any, scores: dict[str, Any], min_score: float = 0.5) -> Judged:
    """A hook that gave these scores by sample id; a text is why there is none, every other sample got 0."""
    verdicts = HookVerdicts(store)
    for ref in corpus.shards:
        rows = []
        for sample in corpus.read(ref):
            said = scores.get(sample.sample_id, 0.0)
            key = {"source": ref.source, "shard": ref.shard, "row": sample.row, "sample_id": sample.sample_id}
            is_problem = isinstance(said, str)
            rows.append({**key, "score": None if is_problem else said, "problem": said if is_problem else None})
        verdicts.write(ref.source, ref.shard, pa.Table.from_pylist(rows, HOOK_VERDICT))
    return Judged(finds, finds, verdicts, min_score, {"hook": finds, "digest": "d1"})


def test_without_a_policy_missing_licences_are_warned_of(corpus: Corpus, tmp_path: Path) -> None:
    notes = Notes()
    figures = write(corpus, tmp_path / "out", progress=notes)
    assert (figures["exported"], figures["left_out"], figures["warned"]) == (12, {}, {"no licence stated": 4})
    assert figures["languages"] == {"de": 6, "en": 6}
    assert figures["unchecked"] == ["nsfw", "people", "evaluation images"]
    assert notes.said == [
        "export: 4 samples with: no licence stated; they are exported, and the card says so",
        "export: nothing looked for nsfw, people, evaluation images; the card says so",
    ]
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    for line in (
        "| no licence stated | exported all the same | 0 | 4 |",
        "| nsfw | left out | not looked for | not looked for |",
        "| Proprietary | 2 |",
        "| de | 6 |",
    ):
        assert line in card


def test_licences_are_allowed_by_name_or_pattern(corpus: Corpus, tmp_path: Path) -> None:
    rules = PolicyConfig(licences=("cc0", "CC-BY-*"), unknown_licence="leave_out")
    figures = write(corpus, tmp_path / "out", Policy(rules), "parquet")
    assert figures["left_out"] == {"policy: licence not allowed": 2, "policy: no licence stated": 4}
    table = pq.read_table(tmp_path / "out" / "0.parquet")
    assert table["license"].to_pylist() == ["CC0", "cc-by-4.0", "CC-BY-SA 4.0"]
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "| licence not allowed | left out | 2 | 0 |" in card
    assert "Allowed licences: `cc0`, `CC-BY-*`." in card


def test_a_refusal_names_counts_samples_and_remedy_and_writes_nothing(corpus: Corpus, tmp_path: Path) -> None:
    rules = PolicyConfig(licences=("cc*",), unknown_licence="refuse", other_licence="refuse")
    said = r"other_licence = 'refuse': 2 samples with: licence not allowed, for example 0/02, 1/12 \(4 more for other"
    with pytest.raises(ConfigError, match=rf"{said}.*take them down.*export\.policy\.other_licence=leave_out"):
        write(corpus, tmp_path / "out", Policy(rules))
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
    assert write(corpus, tmp_path / "out", Policy(PolicyConfig(unknown_licence="leave_out")))["exported"] == 8


def test_what_is_left_out_anyway_is_not_refused(corpus: Corpus, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("0/03\n0/04\n1/13\n1/14\n")
    screening = Screening(corpus, None, Takedowns.look(Store(tmp_path / "takedown"), str(tmp_path / "list.txt")))
    rules = Policy(PolicyConfig(unknown_licence="refuse"))
    assert write(corpus, tmp_path / "out", rules, screening=screening)["exported"] == 8


def test_hooks_by_action(corpus: Corpus, tmp_path: Path) -> None:
    nsfw = judged(corpus, Store(tmp_path / "n"), "nsfw", {"0/00": 0.9, "0/01": 0.4, "1/10": "image_unreadable"})
    people = judged(corpus, Store(tmp_path / "p"), "people", {"0/00": 1.0, "0/05": 0.5})
    rules = PolicyConfig(unknown_licence="warn")
    figures = write(corpus, tmp_path / "out", Policy(rules, (nsfw, people)))
    assert figures["left_out"] == {"policy: nsfw": 1, "policy: nsfw not judged": 1}
    assert figures["warned"] == {"no licence stated": 4, "people": 1}
    assert figures["hooks"] == [{"hook": "nsfw", "digest": "d1"}, {"hook": "people", "digest": "d1"}]
    assert figures["unchecked"] == ["evaluation images"]
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "| nsfw | left out | 1 | 0 |\n| nsfw not judged | left out | 1 | 0 |\n| people |" in card
    assert "| nsfw | d1 |" in card
    refuses = Policy(PolicyConfig(people="refuse"), (nsfw, people))
    with pytest.raises(ConfigError, match=r"people = 'refuse': 1 sample with: people, for example 0/05;"):
        write(corpus, tmp_path / "other", refuses)
    stricter = Policy(rules, (Judged("nsfw", "nsfw", nsfw.verdicts, 0.3), people))
    with pytest.raises(CorpusError, match="made with other policy"):
        write(corpus, tmp_path / "out", stricter)
    assert write(corpus, tmp_path / "stricter", stricter)["left_out"]["policy: nsfw"] == 2


def test_a_hook_that_has_not_looked_everywhere_is_an_error(corpus: Corpus, tmp_path: Path) -> None:
    hook = judged(corpus, Store(tmp_path / "n"), "nsfw", {})
    hook.verdicts.store.delete("pretrain/1.parquet")
    with pytest.raises(CorpusError, match="hook nsfw has not looked at this shard"):
        write(corpus, tmp_path / "out", Policy(PolicyConfig(), (hook,)))


def compared(corpus: Corpus, store: Store, *listed: Path) -> ImageVerdicts:
    verdicts = ImageVerdicts(store)
    names = tuple(map(str, listed))
    copy_lists(names, verdicts)
    for ref in corpus.shards:
        ShardScreen(corpus, verdicts, ScreenConfig(heldout_hashes=names))(ref)
    return verdicts


def test_images_like_those_of_an_evaluation_stay_out_and_a_longer_list_is_applied(
    corpus: Corpus, build: Any, tmp_path: Path
) -> None:
    target = measure(next(corpus.read("0", [0])), 10**6, looks=True)
    assert target["phash"] is not None
    (tmp_path / "first.txt").write_text("0" * 64 + "\n")
    (tmp_path / "second.txt").write_text(f"{target['image_sha256']}\n")
    nobody = Policy(PolicyConfig(), (), compared(corpus, Store(tmp_path / "e" / "a"), tmp_path / "first.txt"))
    before = write(corpus, tmp_path / "out", nobody)
    assert (before["exported"], before["left_out"]) == (12, {})
    one = Policy(PolicyConfig(), (), compared(corpus, Store(tmp_path / "e" / "b"), tmp_path / "second.txt"))
    after = write(corpus, tmp_path / "out", one)
    assert after["left_out"] == {"policy: evaluation image": 1}
    assert "evaluation images" not in after["unchecked"]
    assert "| evaluation image | left out | 1 | 0 |" in (tmp_path / "out" / "README.md").read_text("utf-8")
    (tmp_path / "looks.txt").write_text(f"{target['phash']}\n")
    alike = Policy(PolicyConfig(), (), compared(corpus, Store(tmp_path / "e" / "c"), tmp_path / "looks.txt"))
    assert write(corpus, tmp_path / "looks", alike)["left_out"]["policy: evaluation image"] >= 1


def test_what_is_taken_down_later_is_withdrawn_and_told(corpus: Corpus, tmp_path: Path) -> None:
    write(corpus, tmp_path / "out", format="parquet")
    before = json.loads((tmp_path / "out" / "croissant.json").read_text("utf-8"))
    (tmp_path / "list.txt").write_text("0/00\n1/11\n")
    screening = Screening(corpus, None, Takedowns.look(Store(tmp_path / "takedown"), str(tmp_path / "list.txt")))
    notes = Notes()

    def dies(function: Any, shards: Any) -> Any:
        yield function(shards[0])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(corpus, tmp_path / "out", format="parquet", screening=screening, run=dies)
    assert not (tmp_path / "out" / "croissant.json").exists(), "its digests were those of files that are gone"
    figures = write(corpus, tmp_path / "out", format="parquet", screening=screening, progress=notes)
    assert figures["left_out"] == {"screened: takedown": 2}
    assert notes.said[0] == "export: 1 taken down since it was last written, and left out now"
    after = json.loads((tmp_path / "out" / "croissant.json").read_text("utf-8"))
    assert [f["name"] for f in after["distribution"]] == [f["name"] for f in before["distribution"]]
    assert [f.get("sha256") for f in after["distribution"]] != [f.get("sha256") for f in before["distribution"]]
    fresh = write(corpus, tmp_path / "fresh", format="parquet", screening=screening)
    assert fresh == figures
    for name in ("README.md", "croissant.json", "0.parquet", "1.parquet"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "fresh" / name).read_bytes()
