"""Sides, orders and ballots: what raters say by side becomes votes in the stored order."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.judge.studies import CRITERIA, study
from vila2_ray.judge.desks import Ballot, Desks, in_order, is_person
from vila2_ray.judge.pairs import swapped
from vila2_ray.judge.study import Study, Vote


def desks(folder: Path, num: int = 6) -> Desks:
    return Desks(study(folder, num))


def all_left(**other: str) -> dict[str, str]:
    return {**dict.fromkeys(CRITERIA, "left"), **other}


def test_sides_are_drawn_and_votes_are_in_the_stored_order(tmp_path: Path) -> None:
    held = desks(tmp_path, 40)
    desk = held.of("ann")
    num_swapped = 0
    for number, name in enumerate(desk.todo()):
        pair = desk.pair(name)
        assert pair is not None
        shown, swaps = desk.sides(pair), swapped(3, pair.pair_id, "ann")
        num_swapped += swaps
        assert shown["left"] == (pair.second if swaps else pair.first).text
        desk.cast(Ballot(name, f"b{number}", all_left(detail="tie", fluency="right"), {"left": "Better."}, 2.5))
    assert 8 <= num_swapped <= 32, "about half of 40"
    for vote in held.study.votes("ann"):
        left, right = ("second", "first") if vote.swapped else ("first", "second")
        assert vote.answers == {"hallucination": left, "detail": "tie", "fluency": right, "overall": left}
        assert vote.edits == {left: "Better."}
        assert (vote.kind, vote.seconds, vote.swapped) == ("person", 2.5, swapped(3, vote.pair_id, "ann"))


def test_names_are_each_raters_own_and_the_same_every_day(tmp_path: Path) -> None:
    held = desks(tmp_path)
    ann, bob = (set(held.of(rater).todo()) for rater in ("ann", "bob"))
    assert not ann & bob
    assert set(Desks(held.study).of("ann").todo()) == ann
    ids = {pair.pair_id for pair in held.pairs}
    assert not ids & ann


def test_the_common_share_comes_early_and_the_rest_in_orders_of_their_own(tmp_path: Path) -> None:
    pairs = study(tmp_path, 100).pairs()
    common = {pair.pair_id for pair in pairs[:20]}
    orders = [[pair.pair_id for pair in in_order(pairs, rater)] for rater in ("ann", "bob", "cy")]
    for order in orders:
        assert sorted(order) == sorted(pair.pair_id for pair in pairs), "each once"
        assert [name for name in order if name in common] == [pair.pair_id for pair in pairs[:20]]
        assert [place for place, name in enumerate(order) if name in common] == list(range(0, 60, 3))
    own = [{name for name in order[:30] if name not in common} for order in orders]
    assert len(own[0] | own[1] | own[2]) > 35, "of 80, by three raters with 20 of them each"


@pytest.mark.parametrize("num", [0, 1, 2, 4, 7])
def test_no_pair_is_lost_in_small_studies(tmp_path: Path, num: int) -> None:
    pairs = study(tmp_path, num).pairs() if num else []
    assert sorted(p.row for p in in_order(pairs, "ann")) == list(range(num))


def test_one_goes_on_where_one_stopped(tmp_path: Path) -> None:
    desk = desks(tmp_path).of("ann")
    todo = desk.todo()
    desk.cast(Ballot(todo[0], "b0", all_left()))
    desk.cast(Ballot(todo[1], "b1", {}))
    assert desk.num_done() == 2
    again = Desks(Study(desk.study.store)).of("ann")
    assert (again.todo(), again.num_done(), again.total) == (todo[2:], 2, 6)
    assert again.passed_over() == [todo[1]]


def test_a_ballot_that_comes_again_is_kept_once_and_the_last_one_counts(tmp_path: Path) -> None:
    desk = desks(tmp_path).of("ann")
    name = desk.todo()[0]
    for ballot in ("b0", "b0", "b1", "b0"):
        desk.cast(Ballot(name, ballot, all_left() if ballot == "b0" else dict.fromkeys(CRITERIA, "tie")))
    assert len(desk.study.store.list(prefix="votes")) == 2
    assert [set(vote.answers.values()) for vote in desk.study.votes()] == [{"tie"}]


def test_what_was_said_last_comes_back_by_sides(tmp_path: Path) -> None:
    held = desks(tmp_path, 8)
    desk, said = held.of("ann"), all_left(detail="tie", fluency="right")
    names = desk.todo()
    for name in names:
        desk.cast(Ballot(name, "b0", dict.fromkeys(CRITERIA, "tie"), {"right": "No."}))
        desk.cast(Ballot(name, "b1", said, {"left": "Better.", "right": ""}))
    assert len({vote.swapped for vote in held.study.votes()}) == 2
    for at in (desk, Desks(Study(held.study.store)).of("ann")):
        for name in names:
            pair = at.pair(name)
            assert pair is not None
            assert at.said(pair) == {"answers": said, "edits": {"left": "Better.", "right": ""}}
            assert held.of("bob").said(pair) is None


def test_telling_what_was_said_reads_one_vote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = desks(tmp_path).of("ann")
    names = desk.todo()
    for name in names[:5]:
        desk.cast(Ballot(name, name, all_left()))
    read: list[str] = []
    kept = desk.study.store.read_text

    def counted(name: str) -> str:
        read.append(name)
        return kept(name)

    monkeypatch.setattr(desk.study.store, "read_text", counted)
    for name in (names[5], names[2]):
        pair = desk.pair(name)
        assert pair is not None
        desk.said(pair)
        assert [pair.pair_id in one for one in read] == ([] if name == names[5] else [True])


def test_the_last_vote_on_a_pair_is_the_last_by_time_in_either_order(tmp_path: Path) -> None:
    made = study(tmp_path)
    pair = made.pairs()[0].pair_id
    for swaps, answer in ((False, "first"), (True, "second"), (False, "tie")):
        made.cast(Vote(pair, "ann", "person", swaps, {"detail": answer}, 1.0))  # type: ignore[dict-item]
    last = made.last("ann", pair)
    assert last is not None
    assert last.answers == {"detail": "tie"}
    assert made.last("ann", made.pairs()[1].pair_id) is made.last("bob", pair) is None


def test_ballots_answer_all_or_nothing_about_pairs_that_are_there(tmp_path: Path) -> None:
    desk = desks(tmp_path).of("ann")
    name = desk.todo()[0]
    for answers in ({"detail": "left"}, {**all_left(), "beauty": "left"}):
        with pytest.raises(ValueError, match="answer each of"):
            desk.cast(Ballot(name, "b", answers))
    with pytest.raises(KeyError):
        desk.cast(Ballot("elsewhere", "b", all_left()))
    assert desk.study.store.list(prefix="votes") == []


def test_what_is_left_as_it_was_is_no_edit_and_an_empty_one_is(tmp_path: Path) -> None:
    desk = desks(tmp_path).of("ann")
    name = desk.todo()[0]
    pair = desk.pair(name)
    assert pair is not None
    desk.cast(Ballot(name, "b", {}, {"left": desk.sides(pair)["left"], "right": ""}))
    [vote] = desk.study.votes()
    assert list(vote.edits.values()) == [""]


def test_why_a_pair_could_not_be_judged_is_kept_with_it(tmp_path: Path) -> None:
    desk = desks(tmp_path).of("ann")
    name = desk.todo()[0]
    desk.cast(Ballot(name, "b", {}), lambda pair: "image_unreadable")
    assert [vote.problem for vote in desk.study.votes()] == ["image_unreadable"]
    assert desk.passed_over() == []


def test_equal_texts_are_no_question(tmp_path: Path) -> None:
    assert Desks(study(tmp_path, 3, texts=("Same.", "Same."))).of("ann").todo() == []


def test_people_have_no_models_names() -> None:
    assert is_person("ann@example.org")
    assert not any(is_person(name) for name in ("model:x", "", "a/b", "a b", "../x"))
