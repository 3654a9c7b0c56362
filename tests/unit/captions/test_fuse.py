import pytest
from hypothesis import given
from hypothesis import strategies as st

from vila2_ray.captions.fuse import Turn, cut_at_repeated_sentence, fuse, join_texts
from vila2_ray.captions.words import words
from vila2_ray.errors import ConfigError

ALT, ONE, TWO = "red apple photo", ("describe.", "A small red apple."), ("tell.", "An apple and a cat.")
RULES = ("alt_text", "recaption", "concat", "mixed")


def texts(*args: object, **kwargs: object) -> list[str]:
    items = fuse(*args, **kwargs)  # type: ignore[arg-type]
    assert all(len(item) == 1 and item[0].role == "assistant" for item in items)
    return [item[0].text for item in items]


def test_rules() -> None:
    assert texts(ALT, [ONE], "alt_text") == [ALT]
    assert texts(ALT, [ONE], "recaption") == ["A small red apple."]
    assert texts(ALT, [ONE], "concat") == ["red apple photo. A small red apple."]
    assert texts(ALT, [ONE], "mixed") == [ALT, "A small red apple."]


def test_several_captions_are_items_of_their_own() -> None:
    assert texts(ALT, [ONE, TWO], "alt_text") == [ALT]
    assert texts(ALT, [ONE, TWO], "recaption") == [ONE[1], TWO[1]]
    assert texts(ALT, [ONE, TWO], "concat") == [f"{ALT}. {ONE[1]}", f"{ALT}. {TWO[1]}"]
    assert texts(ALT, [ONE, TWO], "mixed") == [ALT, ONE[1], TWO[1]]


@pytest.mark.parametrize("rule", ["recaption", "concat", "mixed"])
def test_without_captions_there_is_the_alt_text(rule: str) -> None:
    assert texts(ALT, [], rule) == [ALT]
    assert texts(ALT, [("describe.", "  ")], rule) == [ALT]


@pytest.mark.parametrize("alt_text", ["", "  \n", "...", "-|-"])
def test_without_alt_text_there_are_the_captions(alt_text: str) -> None:
    assert texts(alt_text, [ONE], "alt_text") == []
    for rule in ("recaption", "concat", "mixed"):
        assert texts(alt_text, [ONE], rule) == [ONE[1]]


@pytest.mark.parametrize("rule", RULES)
def test_nothing_to_train_on(rule: str) -> None:
    assert fuse("", [], rule) == []  # type: ignore[arg-type]


def test_prompted_items_ask_first() -> None:
    brief, told = Turn("user", "caption"), Turn("user", "describe.")
    assert fuse(ALT, [ONE], "mixed", True, "caption") == [
        (brief, Turn("assistant", ALT)),
        (told, Turn("assistant", ONE[1])),
    ]
    assert fuse(ALT, [ONE], "concat", True, "caption") == [(told, Turn("assistant", f"{ALT}. {ONE[1]}"))]
    assert fuse(ALT, [], "concat", True, "caption") == [(brief, Turn("assistant", ALT))]


READ, PLACED = ("what does it say?", "stop"), ("where is the cat?", "left of the dog.")


def told(*turns: tuple[str, str]) -> tuple[Turn, ...]:
    return tuple(turn for asked, said in turns for turn in (Turn("user", asked), Turn("assistant", said)))


def test_turns_go_on_from_the_first_item_in_their_order() -> None:
    alone = (Turn("assistant", f"{ALT}. {ONE[1]}"),)
    assert fuse(ALT, [ONE], "concat", turns=[PLACED, READ]) == [alone + told(PLACED, READ)]
    first, second = fuse(ALT, [ONE], "mixed", True, "caption", [READ])
    assert first == told(("caption", ALT), READ)
    assert second == told(ONE)
    assert fuse(ALT, [], "mixed", turns=[]) == fuse(ALT, [], "mixed")


def test_turns_without_anything_before_them_are_an_item() -> None:
    assert fuse("", [], "concat", turns=[READ, PLACED]) == [told(READ, PLACED)]


def test_turns_apart_are_items_of_their_own() -> None:
    assert fuse(ALT, [], "concat", turns=[READ, PLACED], apart=True) == [
        (Turn("assistant", ALT),),
        told(READ),
        told(PLACED),
    ]
    assert fuse("", [], "concat", turns=[READ], apart=True) == [told(READ)]


def test_what_cannot_be_fused_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"fuse\.rule"):
        fuse(ALT, [ONE], "both")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"fuse\.prompted"):
        fuse(ALT, [], "alt_text", True, "")


@pytest.mark.parametrize(
    ("first", "second", "joined"),
    [
        ("red apple", "A cat.", "red apple. A cat."),
        ("red apple.", "A cat.", "red apple. A cat."),
        ("red apple!", "A cat.", "red apple! A cat."),
        ("red apple ,", "A cat.", "red apple. A cat."),
        ("red apple -", " A cat. ", "red apple. A cat."),
        ('"red apple."', "A cat.", '"red apple." A cat.'),
        ("赤いりんご", "猫がいる。", "赤いりんご。猫がいる。"),
        ("", "A cat.", "A cat."),
        ("red apple", "", "red apple"),
    ],
)
def test_joint(first: str, second: str, joined: str) -> None:
    assert join_texts(first, second) == joined


def test_line_breaks_of_web_text_become_spaces() -> None:
    assert texts("red\n apple\tphoto", [], "concat") == ["red apple photo"]


@given(st.text(), st.lists(st.text(), max_size=3), st.sampled_from(RULES))
def test_items_say_what_came_in_and_nothing_else(alt_text: str, captions: list[str], rule: str) -> None:
    said = texts(alt_text, [("p", caption) for caption in captions], rule)
    assert all(text.strip() for text in said)
    allowed = {word for text in (alt_text, *captions) for word in words(text)}
    assert {word for text in said for word in words(text)} <= allowed
    if any(words(caption) for caption in captions) and rule != "alt_text":
        assert said


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A cat. A dog. A cat. A bird.", "A cat. A dog."),
        ("A cat.  A dog!\nA CAT", "A cat.  A dog!"),
        ("A cat. A cat. A cat. A ca", "A cat."),
        ("A cat. A dog.", "A cat. A dog."),
        ("no end", "no end"),
        ("猫がいる。猫がいる。", "猫がいる。"),
        ("Mr. Smith sits. Mr. Jones stands.", "Mr. Smith sits. Mr. Jones stands."),
        ("Look! ... And ... so on.", "Look! ... And ... so on."),
        ("", ""),
    ],
)
def test_cut_at_repeated_sentence(text: str, expected: str) -> None:
    assert cut_at_repeated_sentence(text) == expected


@given(st.lists(st.sampled_from(["A cat.", "A dog!", "It is red.", "So\n", "the end"]), max_size=8))
def test_a_cut_text_repeats_nothing_and_is_a_beginning(parts: list[str]) -> None:
    text = " ".join(parts)
    cut = cut_at_repeated_sentence(text)
    assert text.strip().startswith(cut.strip())
    assert cut_at_repeated_sentence(cut) == cut
