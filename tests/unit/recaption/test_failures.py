"""Many failed ranges in a row are told from a few, on one actor and on all."""

from __future__ import annotations

from vila2_ray.recaption.failures import FailedRange, FailuresInARow
from vila2_ray.recaption.plan import RowRange


def failed(number: int, actor: str = "a", num_rows: int = 16) -> FailedRange:
    piece = RowRange("pretrain", "00000", number * 16, number * 16 + num_rows)
    return FailedRange(piece, f"error {number}", actor)


def test_as_many_in_a_row_as_are_allowed_are_too_many() -> None:
    failures = FailuresInARow(most=3, range_rows=16)
    assert [bool(failures.add(failed(number))) for number in range(2)] == [False, False]
    assert [f.problem for f in failures.add(failed(2))] == ["error 0", "error 1", "error 2"]


def test_a_caption_in_between_starts_the_count_anew() -> None:
    failures = FailuresInARow(most=3, range_rows=16)
    for number in range(0, 10, 2):
        assert not failures.add(failed(number))
        assert not failures.add(failed(number + 1))
        failures.captioned("a")


def test_an_actor_that_does_nothing_but_fail_is_found_among_those_that_go_on_well() -> None:
    failures = FailuresInARow(most=3, range_rows=16)
    for number in range(2):
        assert not failures.add(failed(number, "broken"))
        failures.captioned("well")
    assert {f.actor for f in failures.add(failed(2, "broken"))} == {"broken"}


def test_failures_of_several_actors_add_up() -> None:
    failures = FailuresInARow(most=3, range_rows=16)
    assert not failures.add(failed(0, "a"))
    assert not failures.add(failed(1, "b"))
    assert len(failures.add(failed(2, "c"))) == 3


def test_pieces_of_a_range_and_a_few_hopeless_samples_count_for_little() -> None:
    failures = FailuresInARow(most=4, range_rows=16)
    assert not any(failures.add(failed(number, num_rows=1)) for number in range(31))
    assert len(failures.add(failed(31, num_rows=1))) == 32


def test_no_limit() -> None:
    failures = FailuresInARow(most=0, range_rows=16)
    assert not any(failures.add(failed(number)) for number in range(99))
