"""What raters say of the captions of a sample: which one they would rather teach with, and what it should have said.

A *comparison* is of two captions, or of a caption and the alt text. It counts where both are still there to be chosen.
Of one couple a rater's answers are averaged (a model reads both orders), then the raters; a tie is half a vote for
each. A caption's share is the mean over the couples that it is in.

Who voted on a text that is no longer there (the layer was written anew) has said nothing of the one that is: such
comparisons and edits are left out, and counted.

An *edit* is a person's text for a caption: the last one by time is trained on in the caption's place, an empty one says
that nothing of it should be. Edits of the alt text change nothing: it is the corpus's, and no layer's.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from vila2_ray.captions.fuse import IMAGE_PLACE
from vila2_ray.config import Raters
from vila2_ray.errors import ConfigError, CorpusError

Place = tuple[int, int]
"""Of a caption: its layer's place among those that are judged, oldest first, and its variant."""
ALT_TEXT: Place = (-1, 0)
ALT_TEXT_LAYER = "alt_text"
"""In place of a layer's name: what the corpus came with."""
EDIT = "edit"
"""In place of a criterion: the row is an edit."""
_PERSON = "person"
_WON = {"first": 1.0, "tie": 0.5, "second": 0.0}
_SIDES = ("first", "second")
_COLUMNS = ["source", "shard", "row", "rater", "criterion", "answer", "edit"]
_COLUMNS += [f"{side}_{name}" for side in _SIDES for name in ("layer", "variant", "digest")]


class Comparison(NamedTuple):
    """One answer to which of two captions is better."""

    first: Place
    second: Place
    rater: str
    won: float
    """By the first: 1, by the second: 0, a tie: ½."""


@dataclass(frozen=True)
class ShardVotes:
    """What raters say of a shard's captions."""

    comparisons: dict[int, list[Comparison]] = field(default_factory=dict)
    """By row."""
    edits: dict[tuple[int, Place], str] = field(default_factory=dict)
    """Row and caption → what is trained on in its place; without a word: nothing."""
    num_stale: int = 0
    """Answers and edits that are of other texts."""


@dataclass(frozen=True)
class Votes:
    """The judgements that count for some layers. Picklable; `rows` are some columns of JUDGEMENT, in a fixed order."""

    layers: tuple[str, ...]
    """Oldest first."""
    rows: pa.Table

    def digest(self) -> str:
        """SHA-256 of what counts, in whatever file and order it came."""
        told = [[name, self.rows[name].to_pylist()] for name in self.rows.column_names]
        return hashlib.sha256(json.dumps([self.layers, told]).encode()).hexdigest()

    def of_shard(self, source: str, shard: str, texts: Mapping[tuple[int, Place], str] | None = None) -> ShardVotes:
        """What counts of a shard whose captions (and alt texts) are now `texts`; None: whatever they are.

        Raises CorpusError for an answer that is none.
        """
        here = pc.and_(pc.equal(self.rows["source"], source), pc.equal(self.rows["shard"], shard))
        current = _Current(texts)
        edits: dict[tuple[int, Place], str] = {}
        comparisons: dict[int, list[Comparison]] = {}
        num_stale = 0
        number = {name: each for each, name in enumerate(self.layers)}

        def place(layer: str, variant: int) -> Place:
            return (number[layer], variant) if layer in number else ALT_TEXT

        def order(told: dict[str, Any]) -> bool:
            return told["criterion"] != EDIT  # edits first, by their time: who comes later saw their texts

        for told in sorted(self.rows.filter(here).to_pylist(), key=order):
            places = {side: place(told[f"{side}_layer"], told[f"{side}_variant"]) for side in _SIDES}
            answer = told["answer"]
            if answer not in (_SIDES if told["criterion"] == EDIT else _WON):
                where = f"{source}/{shard}, row {told['row']}"
                raise CorpusError(where, f"a judgement's {told['criterion']} is {answer!r}, and not {', '.join(_WON)}")
            judged = (answer,) if told["criterion"] == EDIT else _SIDES
            if not all(current.is_shown(told["row"], places[side], told[f"{side}_digest"]) for side in judged):
                num_stale += 1
            elif told["criterion"] == EDIT:
                text = (told["edit"] or "").replace(IMAGE_PLACE, " ").strip()
                edits[told["row"], places[answer]] = text
                current.add(told["row"], places[answer], text)
            elif places["first"] != places["second"]:
                comparison = Comparison(places["first"], places["second"], told["rater"], _WON[answer])
                comparisons.setdefault(told["row"], []).append(comparison)
        return ShardVotes(comparisons, edits, num_stale)


class _Current:
    """Digests of the texts that a rater can have seen: a caption's own, and those of its edits."""

    def __init__(self, texts: Mapping[tuple[int, Place], str] | None) -> None:
        self._checks = texts is not None
        self._digests = {key: {text_digest(text)} for key, text in (texts or {}).items()}

    def add(self, row: int, place: Place, text: str) -> None:
        self._digests.setdefault((row, place), set()).add(text_digest(text))

    def is_shown(self, row: int, place: Place, digest: str | None) -> bool:
        return not self._checks or not digest or digest in self._digests.get((row, place), ())


def counting(judgements: pa.Table, layers: Sequence[str], criterion: str, raters: Raters, uri: str) -> Votes | None:
    """Of a table of JUDGEMENT what counts for `layers`; None where nothing does.

    That is comparisons by the criterion, by these raters, of the layers among each other and with the alt text, and
    people's edits of the layers; without a criterion edits alone. Rows are brought into an order that is the same
    however the file had them, edits by their time. Raises ConfigError where comparisons go by other criteria only, and
    CorpusError, which names `uri`, for times that are none.
    """
    asked = set(judgements["criterion"].unique().to_pylist()) - {EDIT}
    if criterion and asked and criterion not in asked:
        raise ConfigError("pick.criterion", criterion, f"the votes in {uri} go by {', '.join(sorted(asked))}")
    is_edit, is_persons = pc.equal(judgements["criterion"], EDIT), pc.equal(judgements["kind"], _PERSON)
    known = {side: _is_in(judgements[f"{side}_layer"], layers) for side in _SIDES}
    usable = {side: pc.or_(known[side], pc.equal(judgements[f"{side}_layer"], ALT_TEXT_LAYER)) for side in _SIDES}
    edited = pc.if_else(pc.equal(judgements["answer"], "first"), known["first"], known["second"])
    wanted = pc.and_(pc.and_(is_edit, is_persons), edited)
    if criterion:
        compared = pc.and_(pc.equal(judgements["criterion"], criterion), pc.and_(*usable.values()))
        compared = pc.and_(compared, is_persons) if raters == "people" else compared
        wanted = pc.or_(wanted, compared)
    rows = judgements.filter(wanted)
    if not rows.num_rows:
        return None
    try:
        times = rows["voted_at"].cast(pa.timestamp("us", "UTC"))
    except pa.ArrowInvalid as error:
        raise CorpusError(uri, f"voted_at must be times with their zone, as ISO 8601 writes them ({error})") from error
    # when a comparison was made decides nothing: an equal vote that is cast again is the same
    since = pc.if_else(pc.equal(rows["criterion"], EDIT), times.cast(pa.int64()), 0)
    rows = rows.select(_COLUMNS).append_column("since", since)
    rows = rows.sort_by([(name, "ascending") for name in ("since", *_COLUMNS)])
    columns = {name: rows[name] for name in _COLUMNS}  # every task gets them: a name that comes again is a number
    small = {name: each.dictionary_encode() if each.type == pa.string() else each for name, each in columns.items()}
    return Votes(tuple(layers), pa.table(small).combine_chunks())


def renamed(judgements: pa.Table, layer: str, to: str) -> pa.Table:
    """The same judgements of a layer that is called otherwise."""
    for name in (f"{side}_layer" for side in _SIDES):
        column = judgements[name]
        other = pc.if_else(pc.equal(column, layer), to, column)
        judgements = judgements.set_column(judgements.schema.get_field_index(name), name, other)
    return judgements


def best(comparisons: Iterable[Comparison], candidates: Sequence[Place]) -> Place | None:
    """The candidate with the greatest share of votes, of equals the first, in the order given; None without votes."""
    found = shares(comparisons, candidates)
    voted = [place for place in candidates if place in found]
    return max(voted, key=found.__getitem__) if voted else None


def shares(comparisons: Iterable[Comparison], candidates: Iterable[Place]) -> dict[Place, float]:
    """Share of votes, in [0, 1], of each candidate that was compared with another one."""
    there = set(candidates)
    by_couple: dict[tuple[Place, Place], dict[str, list[float]]] = {}
    for first, second, rater, won in comparisons:
        if not {first, second} <= there:
            continue
        couple, won = ((first, second), won) if first < second else ((second, first), 1 - won)
        by_couple.setdefault(couple, defaultdict(list))[rater].append(won)
    found: defaultdict[Place, list[float]] = defaultdict(list)
    for (one, other), by_rater in by_couple.items():
        share = fmean(fmean(answers) for answers in by_rater.values())
        found[one].append(share)
        found[other].append(1 - share)
    return {place: fmean(each) for place, each in found.items()}


def text_digest(text: str) -> str:
    """Of a text as raters see it, whatever its white space; begins with a letter, for spreadsheets."""
    return "t" + hashlib.sha256(" ".join(text.split()).encode("utf-8", "replace")).hexdigest()[:15]


def _is_in(column: pa.ChunkedArray, names: Sequence[str]) -> pa.ChunkedArray:
    return pc.is_in(column, pa.array(names, pa.string()))
