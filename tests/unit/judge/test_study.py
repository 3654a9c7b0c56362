"""Studies: drawn once, votes never changed, the last one counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from vila2_ray.errors import ConfigError, CorpusError
from vila2_ray.judge.study import Pair, Shown, Study, Vote, sorted_by
from vila2_ray.storage import Store

PAIRS = [
    Pair(f"{n:016x}", "pretrain", "00000", n, f"00000/{n}", Shown("alt_text", 0, "cat"), Shown("round-1", 0, "a cat"))
    for n in range(3)
]


def study(folder: Path) -> Study:
    return Study.draw(Store(folder / "first"), PAIRS, {"seed": 0}, ["hallucination", "detail"])


def vote(number: int, rater: str = "ann", **parts: object) -> Vote:
    told = {"kind": "person", "swapped": False, "answers": {"detail": "second"}, "voted_at": 1.0, **parts}
    return Vote(PAIRS[number].pair_id, rater, **told)  # type: ignore[arg-type]


def test_a_study_is_drawn_once(tmp_path: Path) -> None:
    made = study(tmp_path)
    assert study(tmp_path).pairs() == made.pairs() == PAIRS
    assert made.criteria == ("hallucination", "detail")
    with pytest.raises(ConfigError, match="was drawn with seed = 0"):
        Study.draw(made.store, PAIRS[:1], {"seed": 1}, ["hallucination", "detail"])


def test_who_names_no_study_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such study"):
        Study(Store(tmp_path / "none")).told()


def test_the_last_vote_counts_and_none_is_overwritten(tmp_path: Path) -> None:
    made = study(tmp_path)
    made.cast(vote(0))
    made.cast(vote(0, answers={"detail": "tie"}))
    made.cast(vote(0, swapped=True))
    made.cast(vote(1, rater="bob"))
    assert len(made.store.list(prefix="votes")) == 4
    assert [v.answers["detail"] for v in made.votes("ann")] == ["tie", "second"]
    assert made.judged_by("ann") == {(PAIRS[0].pair_id, False), (PAIRS[0].pair_id, True)}
    assert [len(found) for _, found in sorted_by(made.votes(), made.pairs())] == [2, 1, 0]


def test_of_ten_votes_and_more_the_last_counts(tmp_path: Path) -> None:
    made = study(tmp_path)
    for number in range(12):
        made.cast(vote(0, seconds=float(number)))
    assert [v.seconds for v in made.votes()] == [11.0]


@pytest.mark.parametrize("rater", ["", "../x", "a b", "ä", "a/b"])
def test_raters_names_cannot_lead_elsewhere(tmp_path: Path, rater: str) -> None:
    with pytest.raises(ConfigError, match="rater"):
        study(tmp_path).cast(vote(0, rater=rater))


def test_a_broken_vote_is_named(tmp_path: Path) -> None:
    made = study(tmp_path)
    made.store.write_text(f"votes/ann/{PAIRS[0].pair_id}-0-0-abc.json", "{")
    with pytest.raises(CorpusError, match=r"abc\.json.*is no vote"):
        made.votes()
