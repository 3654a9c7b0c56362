import pytest
from hypothesis import given
from hypothesis import strategies as st

from vila2_ray.captions.words import contains, ends_sentence, has_content, ngrams, sentences, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A red apple, at the TOP left.", ["a", "red", "apple", "at", "the", "top", "left"]),
        ("The dog's T-shirt", ["the", "dogs", "t", "shirt"]),
        ("the ‘stop’ sign: “open”", ["the", "stop", "sign", "open"]),
        ("snake_case and 3.5 %", ["snake", "case", "and", "3", "5"]),
        ("Straße", ["strasse"]),
        ("猫が好き", ["猫", "が", "好", "き"]),
        ("一只cat。", ["一", "只", "cat"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("고양이 한 마리", ["고양이", "한", "마리"]),
        ("cafe\u0301", ["caf\u00e9"]),
        ("🍎 !?", []),
        ("", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_thai_letters_count_one_by_one_with_their_marks() -> None:
    assert len(words("แมวนั่งอยู่บนโต๊ะ")) > 8
    assert words("นั่ง") == ["นั่", "ง"]


@given(st.text())
def test_words_are_lower_case_stable_and_without_spaces(text: str) -> None:
    found = words(text)
    assert all(word and not any(char.isspace() for char in word) for word in found)
    assert words(" ".join(found)) == found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A cat. A dog!  Really?", ["A cat.", "A dog!", "Really?"]),
        ("Mr. Smith and Dr. B. Jones wait. They sit.", ["Mr. Smith and Dr. B. Jones wait.", "They sit."]),
        ("It is 3.5 m high. Yes.", ["It is 3.5 m high.", "Yes."]),
        ('He says "stop." Then he goes', ['He says "stop."', "Then he goes"]),
        ("one line\nanother line\n\n", ["one line", "another line"]),
        ("猫。犬！鳥", ["猫。", "犬！", "鳥"]),
        ("Wait... what", ["Wait...", "what"]),
        ("Terminal A. Gate C", ["Terminal A.", "Gate C"]),
        ("  ", []),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


@given(st.text())
def test_sentences_lose_nothing_but_space(text: str) -> None:
    assert "".join("".join(sentences(text)).split()) == "".join(text.split())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A cat.", True),
        ('"A cat."', True),
        ("A cat!) ", True),
        ("猫。", True),
        ("a cat,", False),
        ("a cat", False),
        ("", False),
    ],
)
def test_ends_sentence(text: str, expected: bool) -> None:
    assert ends_sentence(text) is expected


def test_ngrams() -> None:
    assert ngrams(["a", "b", "c"], 2) == [("a", "b"), ("b", "c")]
    assert ngrams(["a"], 2) == []


def test_contains() -> None:
    assert contains(["a", "b", "c"], ["b", "c"])
    assert not contains(["a", "b", "c"], ["a", "c"])
    assert not contains(["a"], ["a", "b"])
    assert not contains(["a"], [])


@pytest.mark.parametrize(
    ("text", "expected"), [("cat", True), ("7", True), ("🍎", True), ("...", False), (" | -", False), ("", False)]
)
def test_has_content(text: str, expected: bool) -> None:
    assert has_content(text) is expected
