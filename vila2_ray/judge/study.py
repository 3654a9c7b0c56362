"""A study: pairs of captions that were drawn once, and the votes on them, each a small file that is never changed.

    <study>/study.json                          what was drawn, and what is asked
    <study>/pairs-<digest>.parquet              schema PAIR, in the order in which they are asked
    <study>/votes/<rater>/<pair>-<swap>-<time>.json   one vote; the last of a rater on a pair in one order counts

Nobody appends to a file (S3 cannot): a vote is one atomic write under a name of its own, so that any number of raters
vote at once, a kill loses none, and who comes back goes on where nothing lies yet.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import pyarrow as pa

from vila2_ray.captions.votes import ALT_TEXT_LAYER
from vila2_ray.corpus.shardfiles import table_digest
from vila2_ray.errors import ConfigError, CorpusError
from vila2_ray.schema import PAIR
from vila2_ray.storage import ConditionFailed, Store

Answer = Literal["first", "second", "tie"]
ANSWERS: tuple[Answer, ...] = ("first", "second", "tie")
ALT_TEXT = ALT_TEXT_LAYER
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:+-]{0,63}")
_VOTE = re.compile(r"(?P<pair>[0-9a-f]+)-(?P<swap>[01])-\d+-[0-9a-f]+\.json")
_READERS = 16


@dataclass(frozen=True)
class Shown:
    """One of the two captions of a pair."""

    layer: str
    variant: int
    text: str


@dataclass(frozen=True)
class Pair:
    """Two captions of one image, in the order of the layers that were compared; judges see them in a drawn order."""

    pair_id: str
    source: str
    shard: str
    row: int
    sample_id: str
    first: Shown
    second: Shown


@dataclass(frozen=True)
class Vote:
    """What one rater says of one pair, whichever stood on the left."""

    pair_id: str
    rater: str
    kind: Literal["person", "model"]
    swapped: bool
    """The second one stood on the left, or was read first."""
    answers: Mapping[str, Answer]
    """Criterion → the better one. Empty: the pair was passed over, or `problem` says why it could not be judged."""
    voted_at: float
    """Unix time."""
    edits: Mapping[str, str] = field(default_factory=dict)
    """`first` or `second` → the text that it should have been."""
    reason: str = ""
    problem: str = ""
    seconds: float = 0.0
    """From showing to voting."""
    input_tokens: int = 0
    output_tokens: int = 0

    def __post_init__(self) -> None:
        if bad := set(self.answers.values()) - set(ANSWERS):
            raise ValueError(f"an answer is one of {', '.join(ANSWERS)}, not {sorted(bad)}")
        if set(self.edits) - {"first", "second"}:
            raise ValueError("edits are of the first or the second caption")


class Study:
    """Pairs and votes in a folder. Picklable; may be asked by several threads and processes at once."""

    def __init__(self, store: Store) -> None:
        self.store = store

    @property
    def name(self) -> str:
        return self.store.uri.rpartition("/")[2]

    @classmethod
    def draw(cls, store: Store, pairs: Sequence[Pair], drawn_by: Mapping[str, Any], criteria: Sequence[str]) -> Study:
        """A new study of these pairs. Once: where it lies already, it stays as it is.

        Raises ConfigError where one lies there that was drawn otherwise (`drawn_by`: layers, samples, seed …).
        """
        study = cls(store)
        told: dict[str, Any] = {"drawn_by": dict(drawn_by), "criteria": list(criteria)}
        if not store.exists("study.json"):
            table = pa.Table.from_pylist([_row(pair) for pair in pairs], schema=PAIR)
            told["pairs"] = f"pairs-{table_digest(table)[:12]}.parquet"  # another draw at this moment has other pairs
            store.write_table(told["pairs"], table)
            with contextlib.suppress(ConditionFailed):
                store.put_if("study.json", json.dumps(told, indent=1, sort_keys=True).encode(), None)
        study.check(drawn_by, criteria)
        return study

    def check(self, drawn_by: Mapping[str, Any], criteria: Sequence[str]) -> None:
        """Raises ConfigError where it was drawn otherwise; what came out of it (`equal`) does not count."""
        there = self.told()
        wished = json.loads(json.dumps({"drawn_by": dict(drawn_by), "criteria": list(criteria)}))
        for name in sorted({*wished["drawn_by"], *there["drawn_by"]} - {"equal"}):
            if (was := there["drawn_by"].get(name)) != wished["drawn_by"].get(name):
                raise ConfigError("--study", self.name, f"was drawn with {name} = {was!r}; give another one a new name")
        if there["criteria"] != wished["criteria"]:
            asked = ", ".join(there["criteria"])
            raise ConfigError("--study", self.name, f"asks about {asked}; give another one a new name")

    def told(self) -> dict[str, Any]:
        """What it was drawn by, and its criteria. Raises ConfigError where there is no such study."""
        if not self.store.exists("study.json"):
            raise ConfigError("study", self.store.uri, "there is no such study; draw one with vila2 judge draw")
        try:
            found: dict[str, Any] = json.loads(self.store.read_text("study.json"))
        except ValueError as error:
            raise CorpusError(self.store.path("study.json"), f"is no JSON ({error})", "Draw another study") from error
        return found

    @property
    def criteria(self) -> tuple[str, ...]:
        """What is asked of each pair, in order."""
        return tuple(self.told()["criteria"])

    def pairs(self) -> list[Pair]:
        """In the order in which they are asked."""
        return [_pair(row) for row in self.store.read_table(self.told()["pairs"]).to_pylist()]

    def cast(self, vote: Vote) -> str:
        """Keep a vote; its file's name. A later one of the same rater on the same pair counts in its place."""
        if not is_rater(vote.rater):
            raise ConfigError("rater", vote.rater, "1 to 64 letters, digits and . _ @ : + -, a letter or digit first")
        stem = f"{vote.pair_id}-{int(vote.swapped)}-{time.time_ns():020}-{uuid.uuid4().hex[:6]}"
        name = f"votes/{vote.rater}/{stem}.json"
        self.store.write_text(name, json.dumps(asdict(vote)))
        return name

    def judged_by(self, rater: str) -> set[tuple[str, bool]]:
        """(pair, swapped) of what a rater has voted on, by one listing."""
        names = self.store.list(prefix=f"votes/{rater}")
        return {(found["pair"], found["swap"] == "1") for name in names if (found := _VOTE.fullmatch(_base(name)))}

    def votes(self, rater: str = "") -> list[Vote]:
        """The votes that count, of one rater or of all, in the order of their names.

        Raises CorpusError for a broken one.
        """
        last: dict[tuple[str, str, str], str] = {}
        for name in self.store.list(prefix=f"votes/{rater}" if rater else "votes"):
            if found := _VOTE.fullmatch(_base(name)):
                last[name.split("/")[-2], found["pair"], found["swap"]] = name
        with ThreadPoolExecutor(_READERS) as pool:
            return list(pool.map(self._read, last.values()))

    def _read(self, name: str) -> Vote:
        try:
            return Vote(**json.loads(self.store.read_text(name)))
        except (ValueError, TypeError) as error:
            raise CorpusError(
                self.store.path(name), f"is no vote ({error}); delete it, and its rater votes again"
            ) from error

    def last(self, rater: str, pair_id: str) -> Vote | None:
        """What a rater said last of a pair, in either order; one listing, and that one file is read.

        Raises CorpusError for a broken one.
        """
        times: dict[str, str] = {}
        for name in self.store.list(prefix=f"votes/{rater}"):
            if (found := _VOTE.fullmatch(_base(name))) and found["pair"] == pair_id:
                times[name] = _base(name).split("-")[2]
        return self._read(max(times, key=times.__getitem__)) if times else None


def is_rater(name: str) -> bool:
    """Whether a rater can be called so."""
    return bool(_NAME.fullmatch(name))


def sorted_by(votes: Iterable[Vote], pairs: Sequence[Pair]) -> Iterator[tuple[Pair, list[Vote]]]:
    """Each pair with its votes, in the study's order; votes on pairs that are not in the study are left out."""
    found: dict[str, list[Vote]] = {pair.pair_id: [] for pair in pairs}
    for vote in votes:
        if vote.pair_id in found:
            found[vote.pair_id].append(vote)
    for pair in pairs:
        yield pair, found[pair.pair_id]


def _base(name: str) -> str:
    return name.rpartition("/")[2]


def _row(pair: Pair) -> dict[str, Any]:
    row = {name: getattr(pair, name) for name in ("pair_id", "source", "shard", "row", "sample_id")}
    for side in ("first", "second"):
        row |= {f"{side}_{name}": value for name, value in asdict(getattr(pair, side)).items()}
    return row


def _pair(row: Mapping[str, Any]) -> Pair:
    sides = [Shown(*(row[f"{side}_{name}"] for name in ("layer", "variant", "text"))) for side in ("first", "second")]
    return Pair(row["pair_id"], row["source"], row["shard"], row["row"], row["sample_id"], *sides)
