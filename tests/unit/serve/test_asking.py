from __future__ import annotations

import pytest

from tests.unit.serve.scripted import SETTINGS, png, served
from vila2_ray.config import SamplingConfig
from vila2_ray.engines.live import Turn
from vila2_ray.errors import UnknownModel
from vila2_ray.serve.asking import Addressee, Wish, addressee, ask, check_length, names
from vila2_ray.serve.captioner import Standing
from vila2_ray.serve.intake import picture
from vila2_ray.serve.problems import Problem

STANDINGS = (
    Standing("promoted", "serving", served("promoted", "vlm-2")),
    Standing("vlm-0", "serving", served("vlm-0", "vlm-0")),
    Standing("ocr", "serving", served("ocr", "ocr-specialist", "ocr")),
    Standing("grounding", "loading"),
)
TURNS = (Turn("user", "What is it?"),)


@pytest.mark.parametrize(
    ("asked", "specialist", "found"),
    [
        (None, None, Addressee("promoted")),
        ("promoted", None, Addressee("promoted")),
        ("vlm-2", None, Addressee("promoted", model="vlm-2")),
        ("vlm-0", None, Addressee("vlm-0")),
        ("ocr", None, Addressee("ocr", "ocr")),
        (None, "ocr", Addressee("ocr", "ocr")),
        ("ocr-specialist", "ocr", Addressee("ocr", "ocr")),
        (None, "grounding", Addressee("grounding", "grounding")),
    ],
)
def test_names_lead_to_who_is_served(asked: str | None, specialist: str | None, found: Addressee) -> None:
    assert addressee(STANDINGS, asked, specialist) == found


@pytest.mark.parametrize(("asked", "specialist"), [("vlm-1", None), ("", None), (None, "spatial"), ("vlm-7", "ocr")])
def test_other_names_are_unknown(asked: str | None, specialist: str | None) -> None:
    with pytest.raises(UnknownModel):
        addressee(STANDINGS, asked, specialist)


def test_a_model_and_another_specialist_are_refused() -> None:
    with pytest.raises(Problem, match="specialist"):
        addressee(STANDINGS, "promoted", "ocr")


def test_nothing_is_served() -> None:
    with pytest.raises(UnknownModel):
        addressee((), None)


def test_names_that_can_be_asked_for() -> None:
    assert names(STANDINGS) == ("promoted", "vlm-0", "ocr", "grounding", "vlm-2", "ocr-specialist")


def test_who_is_asked_by_a_campaigns_name_must_be_who_answers() -> None:
    Addressee("promoted").check(served("promoted", "vlm-3"))
    Addressee("promoted", model="vlm-2").check(served("promoted", "vlm-2"))
    with pytest.raises(UnknownModel):
        Addressee("promoted", model="vlm-2").check(served("promoted", "vlm-3"))


def test_greedy_unless_asked_otherwise() -> None:
    assert Wish().sampling(SETTINGS) == SamplingConfig(max_tokens=SETTINGS.default_tokens)
    wish = Wish(max_tokens=5, min_tokens=2, temperature=0.5, top_p=0.9)
    assert wish.sampling(SETTINGS) == SamplingConfig(temperature=0.5, top_p=0.9, max_tokens=5, min_tokens=2)


def test_room_is_made_for_the_least_that_is_asked() -> None:
    assert Wish(min_tokens=40).sampling(SETTINGS).max_tokens == 40


@pytest.mark.parametrize(
    ("wish", "field"),
    [
        (Wish(max_tokens=65), "max_tokens"),
        (Wish(max_tokens=0), "max_tokens"),
        (Wish(min_tokens=65), "min_tokens"),
        (Wish(max_tokens=4, min_tokens=5), "min_tokens"),
    ],
)
def test_bounds_of_this_endpoint(wish: Wish, field: str) -> None:
    with pytest.raises(Problem) as refused:
        wish.sampling(SETTINGS)
    assert refused.value.extra["field"] == field


def test_length_counts_all_turns() -> None:
    check_length((Turn("user", "a" * 250), Turn("user", "b" * 250)), SETTINGS, "messages")
    with pytest.raises(Problem, match="501"):
        check_length((Turn("user", "a" * 250), Turn("user", "b" * 251)), SETTINGS, "messages")


def test_questions() -> None:
    red, blue = picture(png("red"), SETTINGS), picture(png("blue"), SETTINGS)
    sampling = SamplingConfig()

    def seed(image, turns, given=None) -> int:
        return ask(image, Addressee("promoted"), turns, sampling, given, request_id="r", streamed=True).seed

    assert seed(red, TURNS) == seed(red, TURNS)
    assert len({seed(red, TURNS), seed(blue, TURNS), seed(red, (Turn("user", "Why?"),))}) == 3
    assert seed(red, TURNS, 0) == 0

    one = ask(red, Addressee("ocr"), TURNS, sampling, None, request_id="r", index=3, streamed=False)
    other = ask(red, Addressee("ocr"), TURNS, sampling, None, request_id="r", index=3, streamed=False)
    assert one.key.startswith("r-3-")
    assert one.key != other.key
    assert (one.name, one.image, one.image_key, one.streamed) == ("ocr", png("red"), red.image_key, False)
