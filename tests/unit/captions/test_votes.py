"""What raters' answers come to: shares worked out by hand, which judgements count, and edits."""

from __future__ import annotations

import pytest

from tests.unit.judge.judgements import edited, judgement, table
from vila2_ray.captions.votes import ALT_TEXT, Comparison, ShardVotes, Votes, best, counting, shares, text_digest
from vila2_ray.errors import ConfigError, CorpusError
from vila2_ray.judge.study import ALT_TEXT as ALT_TEXT_LAYER

A, B, C = (0, 0), (0, 1), (1, 0)


def counted(*rows: dict, layers: tuple[str, ...] = ("round-1", "round-2"), **other: str) -> Votes | None:
    asked = {"criterion": "overall", "raters": "all", **other}
    return counting(table(*rows), layers, asked["criterion"], asked["raters"], "votes.csv")  # type: ignore[arg-type]


def of_shard(*rows: dict, **other: str) -> ShardVotes:
    found = counted(*rows, **other)
    return found.of_shard("pretrain", "00000") if found is not None else ShardVotes()


def test_a_share_is_the_mean_over_couples_of_the_mean_over_raters() -> None:
    votes = [
        Comparison(A, B, "ann", 1.0),
        Comparison(B, A, "bob", 0.5),  # a tie: of A over B, ann 1 and bob ½ come to ¾
        Comparison(A, ALT_TEXT, "ann", 0.0),
    ]
    assert shares(votes, [A, B, ALT_TEXT]) == {A: (0.75 + 0.0) / 2, B: 0.25, ALT_TEXT: 1.0}
    assert best(votes, [A, B, ALT_TEXT]) == ALT_TEXT
    assert best(votes, [A, B]) == A, "what cannot be chosen is compared with nothing"


def test_a_model_that_reads_both_orders_is_one_rater() -> None:
    votes = [Comparison(A, B, "model:judge", 1.0), Comparison(A, B, "model:judge", 1.0), Comparison(A, B, "ann", 0.0)]
    assert shares(votes, [A, B]) == {A: 0.5, B: 0.5}
    undecided = [Comparison(A, B, "model:judge", 1.0), Comparison(B, A, "model:judge", 1.0)]
    assert shares(undecided, [A, B]) == {A: 0.5, B: 0.5}, "always the one that it read first"


def test_of_equals_the_first_and_of_nothing_none() -> None:
    tie = [Comparison(A, C, "ann", 0.5), Comparison(C, ALT_TEXT, "ann", 0.5)]
    assert best(tie, [C, A, ALT_TEXT]) == C
    assert best(tie, [A, C, ALT_TEXT]) == A
    assert best(tie, [B, ALT_TEXT]) is None, "nobody has compared these two"
    assert best([], [A, B]) is None


def test_what_nobody_compared_cannot_win() -> None:
    assert best([Comparison(A, C, "ann", 0.0)], [B, C, A, ALT_TEXT]) == C


def test_comparisons_count_between_the_layers_and_the_alt_text() -> None:
    found = of_shard(
        judgement(0, "round-1", "round-2.1", "first"),
        judgement(1, ALT_TEXT_LAYER, "round-2", "second"),
        judgement(2, "round-1", "round-3", "first"),  # a layer that is not among these
        judgement(3, "round-1", "round-2", "tie", criterion="detail"),
        judgement(4, "round-1", "round-1", "first"),  # with itself
        judgement(5, "round-1", "round-2", "first", shard="00001"),
    )
    assert found.comparisons == {
        0: [Comparison((0, 0), (1, 1), "ann", 1.0)],
        1: [Comparison(ALT_TEXT, (1, 0), "ann", 0.0)],
    }
    assert found.edits == {}


def test_raters_can_be_people_alone() -> None:
    rows = (
        judgement(0, "round-1", "round-2", "first", rater="model:judge", kind="model"),
        judgement(0, "round-1", "round-2", "second"),
    )
    assert [c.rater for c in of_shard(*rows).comparisons[0]] == ["ann", "model:judge"]
    assert [c.rater for c in of_shard(*rows, raters="people").comparisons[0]] == ["ann"]
    assert counted(rows[0], raters="people") is None


def test_the_last_edit_counts_wherever_it_stands_in_the_file() -> None:
    found = of_shard(
        edited(0, "round-1", " The last\ufffcone. ", rater="bob", voted_at="2026-11-02T01:00:00+02:00"),
        edited(0, "round-1", "The first one.", voted_at="2026-11-01T22:59:59+00:00"),
        judgement(1, "round-1", "round-2.1", "second", criterion="edit", edit=""),
        edited(2, ALT_TEXT_LAYER, "Nothing of ours."),
        edited(3, "round-1", "A model's.", kind="model", rater="model:judge"),
    )
    assert found.edits == {(0, (0, 0)): "The last one.", (1, (1, 1)): ""}
    assert found.comparisons == {}


def test_without_a_criterion_edits_alone_count() -> None:
    rows = (judgement(0, "ocr", "alt_text", "second"), edited(0, "ocr", "STOP"))
    found = of_shard(*rows, layers=("ocr",), criterion="")
    assert found == ShardVotes({}, {(0, (0, 0)): "STOP"})


def test_the_digest_is_of_what_counts() -> None:
    rows = [judgement(0, "round-1", "round-2", "first"), edited(1, "round-2", "A cat.")]
    digest = counted(*rows).digest()
    assert counted(*reversed(rows)).digest() == digest
    again = {"voted_at": "2026-11-03T00:00:00Z", "seconds": 9.0, "reason": "why not"}
    assert counted(rows[0] | again, rows[1]).digest() == digest, "an equal vote that is cast again"
    assert counted(*rows, judgement(0, "round-3", "round-2", "first")).digest() == digest
    assert counted(rows[0] | {"answer": "tie"}, rows[1]).digest() != digest
    assert counted(rows[0], rows[1] | {"edit": "A dog."}).digest() != digest
    assert counted(*rows, layers=("round-3",)) is None


def test_what_cannot_count_is_said() -> None:
    with pytest.raises(ConfigError, match=r"pick.criterion = 'overall'.*votes.csv go by detail, fluency"):
        counted(*(judgement(0, "round-1", "round-2", "tie", criterion=name) for name in ("fluency", "detail")))
    with pytest.raises(CorpusError, match=r"votes.csv: voted_at"):
        counted(edited(0, "round-1", "A cat.", voted_at="yesterday"))
    with pytest.raises(CorpusError, match=r"pretrain/00000, row 0: a judgement's overall is 'left'"):
        of_shard(judgement(0, "round-1", "round-2", "left"))


def test_votes_on_texts_that_are_gone_do_not_count() -> None:
    old, new, fixed = (text_digest(text) for text in ("an  old caption", "a new caption", "a fixed caption"))
    rows = [
        judgement(0, "round-1", "round-2", "first") | {"first_digest": old, "second_digest": new},
        judgement(1, "round-1", "round-2", "first") | {"first_digest": new, "second_digest": new},
        edited(1, "round-1", "a fixed caption") | {"first_digest": new},
        judgement(1, "round-1", "round-2", "second") | {"first_digest": fixed, "second_digest": new, "rater": "bob"},
        edited(2, "round-1", "never seen") | {"first_digest": old},
        judgement(3, "round-1", "round-2", "tie"),  # of somebody's own file, which does not tell
    ]
    votes = counted(*rows)
    assert votes is not None
    texts = {(row, place): "a new caption" for row in range(4) for place in (A, C)}
    found = votes.of_shard("pretrain", "00000", texts)
    assert {row: [c.rater for c in each] for row, each in found.comparisons.items()} == {1: ["ann", "bob"], 3: ["ann"]}
    assert found.edits == {(1, A): "a fixed caption"}
    assert found.num_stale == 2
    assert votes.of_shard("pretrain", "00000").num_stale == 0
