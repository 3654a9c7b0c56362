from __future__ import annotations

import pytest

from vila2_ray.captions.prompts import FAMILY, Prompts
from vila2_ray.serve.problems import Problem
from vila2_ray.serve.wording import default_prompt, listing, wording
from vila2_ray.skills.family import PROMPTS as SKILLS

OWN = Prompts(("mine", "brief"), {"mine": "Say it my way."})


def test_prompts_by_id_and_words_of_ones_own() -> None:
    assert wording(OWN, "mine", None) == "Say it my way."
    assert wording(OWN, "ocr", None) == SKILLS["ocr"]["ocr"]
    assert wording(OWN, None, " What is it? ") == " What is it? "


def test_the_default_is_the_campaigns_first_prompt_or_the_specialists_own() -> None:
    assert wording(OWN, None, None) == "Say it my way."
    assert wording(OWN, None, None, "ocr") == SKILLS["ocr"]["ocr"]
    assert wording(Prompts(), None, None) == FAMILY["detailed"]
    assert default_prompt(Prompts(("ocr", "brief"))) == "brief"


@pytest.mark.parametrize(
    ("prompt", "question", "field"), [("nope", None, "prompt"), ("brief", "Why?", "prompt"), (None, "  ", "question")]
)
def test_what_cannot_be_asked(prompt: str | None, question: str | None, field: str) -> None:
    with pytest.raises(Problem) as refused:
        wording(OWN, prompt, question)
    assert (refused.value.status, refused.value.extra["field"]) == (422, field)
    assert refused.value.detail.startswith(f"{field} = ")


def test_the_listing_tells_of_which_skill_a_prompt_is() -> None:
    listed = {one["id"]: one for one in listing(OWN)}
    assert listed["mine"] == {"id": "mine", "text": "Say it my way.", "skill": ""}
    assert listed["grounding-plain"]["skill"] == "grounding"
