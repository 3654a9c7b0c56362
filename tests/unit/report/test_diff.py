import time

from vila2_ray.report.data import Span
from vila2_ray.report.diff import Difference, marked, word_diff


def added(earlier: str, later: str) -> list[str]:
    return [later[start:stop] for start, stop in word_diff(earlier, later).added]


def removed(earlier: str, later: str) -> list[str]:
    return [text for _, text in word_diff(earlier, later).removed]


def test_words_that_came_and_went_are_found() -> None:
    earlier, later = "a small dog at the left.", "a small cat at the left, asleep."
    assert added(earlier, later) == ["cat", ", asleep"]
    assert removed(earlier, later) == ["dog"]


def test_case_and_spacing_are_no_differences() -> None:
    assert word_diff("A  Cat\nsleeps", "a cat sleeps") == Difference()


def test_scripts_without_spaces_are_compared_by_character() -> None:
    assert added("红色的猫", "红色的狗") == ["狗"]


def test_empty_texts() -> None:
    assert word_diff("", "") == Difference()
    assert added("", "a cat") == ["a cat"]
    assert word_diff("a cat", "").removed == ((0, "a cat"),)


def test_endless_texts_cost_no_time() -> None:
    started = time.process_time()  # not that of others on the machine
    word_diff("a b " * 50_000, "b a c " * 50_000)
    assert time.process_time() - started < 8


def test_without_marks_nothing_but_the_text_comes_out() -> None:
    assert marked("a cat & a <dog>") == "a cat &amp; a &lt;dog&gt;"


def test_marks_may_overlap_and_keep_the_text() -> None:
    earlier, text = "a small dog", "a small cat"
    html = marked(text, word_diff(earlier, text), [Span(2, 11, "absent")])
    assert "<del>dog </del>" in html
    assert '<ins><mark class="absent end" title="not in the picture">cat</mark></ins>' in html
    bare = html.replace("<del>dog </del>", "").striptags()
    assert " ".join(bare.split()) == text


def test_spans_beyond_the_text_are_left_out() -> None:
    assert marked("cat", None, [Span(1, 9, "absent"), Span(-2, 2, "repeated")]) == "cat"


def test_hostile_words_are_escaped_in_every_kind_of_mark() -> None:
    bad = "<script>alert(1)</script>"
    html = marked(bad, word_diff(f"before {bad[::-1]}", bad), [Span(0, len(bad), "repeated")])
    assert "<script" not in html
    assert "&lt;script" in html
