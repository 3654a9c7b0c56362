"""A study as people get it: left and right, under names that tell nothing; what they say becomes votes.

Each rater has a desk. There a pair has a name of its own, and its sides are drawn for this rater; which layer stands
where is known on this side of the desk alone.

Every third pair that a rater is asked comes from a common share, the study's first fifth in its order; the others come
from the rest in an order of the rater's own. So few votes of each already tell how far raters agree, which needs pairs
that several have judged, and still see many pairs, which is what win rates need.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypedDict

from vila2_ray.judge.pairs import swapped
from vila2_ray.judge.rubric import criteria
from vila2_ray.judge.study import Answer, Pair, Study, Vote, is_rater

Side = Literal["left", "right"]
Better = Literal["left", "tie", "right"]
COMMON_SHARE = 0.2
"""Of a study's pairs, that all raters are asked early."""
COMMON_EVERY = 3
"""Each so many-th pair is of the common share."""
_MODEL = "model:"
_KEPT_DESKS = 256
_KEPT_BALLOTS = 512


class Said(TypedDict):
    """What a rater said of a pair, by sides. No answers: it was passed over."""

    answers: dict[str, Better]
    edits: dict[Side, str]


@dataclass(frozen=True)
class Ballot:
    """What a rater says of a pair, by sides."""

    pair: str
    """As the desk calls it."""
    name: str
    """Of this ballot: one that comes again, as after a lost connection, is kept once."""
    answers: Mapping[str, Better]
    """Every criterion, or none: the pair is passed over."""
    edits: Mapping[Side, str] = field(default_factory=dict)
    seconds: float = 0.0


class Desks:
    """One study's desks. May be asked by several threads."""

    def __init__(self, study: Study, left_out: Collection[str] = ()) -> None:
        """`left_out`: pairs that nobody is to see any more."""
        told = study.told()
        self.study, self.criteria = study, criteria(told["criteria"])
        self.seed = int(told["drawn_by"].get("seed", 0))
        self.pairs = [pair for pair in study.pairs() if pair.first.text != pair.second.text]  # equal ones are ties
        ids = "".join(pair.pair_id for pair in self.pairs)
        self.study_id = _hash(json.dumps(told, sort_keys=True), ids)[:12]
        """Tells studies apart, and nothing about them."""
        self.pairs = [pair for pair in self.pairs if pair.pair_id not in left_out]
        self._desks: OrderedDict[str, Desk] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, rater: str) -> Desk:
        """A rater's desk."""
        with self._lock:
            if rater not in self._desks:
                self._desks[rater] = Desk(self, rater)
                while len(self._desks) > _KEPT_DESKS:
                    self._desks.popitem(last=False)
            self._desks.move_to_end(rater)
            return self._desks[rater]


class Desk:
    """What one rater sees and has said."""

    def __init__(self, desks: Desks, rater: str) -> None:
        self.study, self.rater, self.seed = desks.study, rater, desks.seed
        self.criteria = tuple(criterion.name for criterion in desks.criteria)
        self._pairs = {_hash(desks.study_id, rater, p.pair_id)[:16]: p for p in in_order(desks.pairs, rater)}
        self._voted: set[str] | None = None
        self._ballots: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def total(self) -> int:
        return len(self._pairs)

    def pair(self, name: str) -> Pair | None:
        """The pair that is called so here."""
        return self._pairs.get(name)

    def sides(self, pair: Pair) -> dict[str, str]:
        """The texts as they stand before this rater."""
        first, second = pair.first.text, pair.second.text
        return {"left": second, "right": first} if self._swaps(pair) else {"left": first, "right": second}

    def todo(self) -> list[str]:
        """What is still to be judged, in order; looks anew at what has been voted on."""
        with self._lock:
            self._voted = self._look()
            return [name for name, pair in self._pairs.items() if pair.pair_id not in self._voted]

    def num_done(self) -> int:
        """Pairs with a vote of this rater, those passed over included."""
        with self._lock:
            voted = self._known()
            return sum(pair.pair_id in voted for pair in self._pairs.values())

    def said(self, pair: Pair) -> Said | None:
        """What this rater said last of a pair; None where nothing was said. Reads one vote at most."""
        with self._lock:
            if pair.pair_id not in self._known():
                return None
        if (vote := self.study.last(self.rater, pair.pair_id)) is None:
            return None
        swaps = self._swaps(pair)
        return {
            "answers": {name: "tie" if said == "tie" else _side(said, swaps) for name, said in vote.answers.items()},
            "edits": {_side(caption, swaps): text for caption, text in vote.edits.items()},
        }

    def passed_over(self) -> list[str]:
        """Pairs that this rater did not want to judge, though they could be judged. Reads every vote of the rater."""
        passed = {vote.pair_id for vote in self.study.votes(self.rater) if not vote.answers and not vote.problem}
        return [name for name, pair in self._pairs.items() if pair.pair_id in passed]

    def cast(self, ballot: Ballot, problem: Callable[[Pair], str] = lambda _: "") -> None:
        """Keep what a ballot says; `problem` tells why a pair that is passed over could not be judged.

        Raises KeyError for a pair that is not here, ValueError where not every criterion is answered.
        """
        pair, swaps = self._pairs[ballot.pair], self._swaps(self._pairs[ballot.pair])
        if ballot.answers and set(ballot.answers) != set(self.criteria):
            raise ValueError(f"answer each of {', '.join(self.criteria)}, or none to pass the pair over")
        shown = self.sides(pair)
        vote = Vote(
            pair.pair_id,
            self.rater,
            "person",
            swaps,
            {name: _resolved(ballot.answers[name], swaps) for name in self.criteria if ballot.answers},
            time.time(),
            {_resolved(side, swaps): text for side, text in ballot.edits.items() if text != shown[side]},
            problem="" if ballot.answers else problem(pair),
            seconds=ballot.seconds,
        )
        with self._lock:  # one after the other, so that the last one to come is the last one kept
            if (ballot.pair, ballot.name) in self._ballots:
                return
            self.study.cast(vote)
            self._ballots[ballot.pair, ballot.name] = None
            if len(self._ballots) > _KEPT_BALLOTS:
                self._ballots.popitem(last=False)
            if self._voted is not None:
                self._voted.add(pair.pair_id)

    def _swaps(self, pair: Pair) -> bool:
        return swapped(self.seed, pair.pair_id, self.rater)

    def _known(self) -> set[str]:
        """What has been voted on, as far as this desk knows; with the lock held."""
        if self._voted is None:
            self._voted = self._look()
        return self._voted

    def _look(self) -> set[str]:
        return {pair_id for pair_id, _ in self.study.judged_by(self.rater)}


def is_person(name: str) -> bool:
    """Whether a person may vote under that name: models have names of their own."""
    return is_rater(name) and not name.startswith(_MODEL)


def in_order(pairs: Sequence[Pair], rater: str) -> Iterator[Pair]:
    """All pairs, in the order in which a rater is asked."""
    num_common = -int(-len(pairs) * COMMON_SHARE // 1)
    common = list(pairs[:num_common])
    own = sorted(pairs[num_common:], key=lambda pair: _hash(rater, pair.pair_id))
    common.reverse()
    own.reverse()
    for place in range(len(pairs)):
        takes_common = common and (place % COMMON_EVERY == 0 or not own)
        yield (common if takes_common else own).pop()


def _resolved(side: Better, swaps: bool) -> Answer:
    if side == "tie":
        return "tie"
    return "second" if (side == "left") == swaps else "first"


def _side(caption: str, swaps: bool) -> Side:
    return "left" if (caption == "second") == swaps else "right"


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
