from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vila2_ray.serve.stops import Cut

TEXTS = st.text(alphabet="ab.", max_size=20)


@given(st.lists(TEXTS, max_size=6), st.lists(st.text(alphabet="ab.", min_size=1, max_size=4), max_size=3))
def test_however_a_text_comes_it_ends_at_the_first_stop(pieces: list[str], stops: list[str]) -> None:
    cut, text = Cut(tuple(stops)), "".join(pieces)
    said = ""
    for piece in pieces:
        said += cut.feed(piece)
        assert not any(stop in said for stop in stops)
    if not cut.stopped:
        said += cut.rest()
    ends = [at for stop in stops if (at := text.find(stop)) >= 0]
    assert cut.stopped == bool(ends)
    # Among stops that overlap, the one that is whole first ends the text: a later one may have begun before it.
    assert text.startswith(said)
    assert not any(stop in said for stop in stops)
    if not ends:
        assert said == text
    if len(set(stops)) == 1:
        assert said == text[: min(ends, default=len(text))]


def test_what_may_become_a_stop_is_held_back() -> None:
    cut = Cut(("\n\n",))
    assert cut.feed("one\n") == "one"
    assert cut.feed("two") == "\ntw"
    assert cut.feed("\n") == "o"
    assert cut.feed("\nthree") == ""
    assert cut.stopped
    assert cut.feed("four") == ""


def test_without_stops_nothing_is_held_back() -> None:
    assert Cut(()).feed("all of it") == "all of it"
