"""From what a request says about its prompt to the words that the model reads. Pure."""

from __future__ import annotations

from reprlib import Repr

from vila2_ray.captions.prompts import Prompts
from vila2_ray.serve.problems import Problem, shortened
from vila2_ray.skills.family import PROMPTS

_SKILL_OF = {prompt_id: skill for skill, family in PROMPTS.items() for prompt_id in family}
_DEFAULT = "detailed"
_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = 60


def refused(field: str, value: object, remedy: str) -> Problem:
    """A field of a request that cannot work, in the words of a ConfigError."""
    field = shortened(field)
    detail = f"{field} = {_SHORT.repr(value)}: {remedy}"
    return Problem(422, "invalid-request", "A field is wrong", detail, extra={"field": field})


def default_prompt(prompts: Prompts, skill: str = "") -> str:
    """Prompt id for a request that says none: a specialist's own, else the first of the campaign's."""
    if skill in PROMPTS:
        return next(iter(PROMPTS[skill]))
    return next((known for known in prompts.ids if known not in _SKILL_OF), _DEFAULT)


def wording(prompts: Prompts, prompt: str | None, question: str | None, skill: str = "") -> str:
    """The user's turn: `question` as it is, or the text of the prompt id, or the default's.

    Raises Problem when both are given, the id is unknown or the question is empty.
    """
    if prompt is not None and question is not None:
        raise refused("prompt", prompt, "give a prompt's id or a question of your own, not both")
    if question is not None:
        if not question.strip():
            raise refused("question", question, "ask something, or leave it out for the default prompt")
        return question
    prompt_id = default_prompt(prompts, skill) if prompt is None else prompt
    if prompt_id not in prompts.texts:
        known = ", ".join(sorted(prompts.texts))
        raise refused("prompt", prompt_id, f"no such prompt: take one of {known}, or ask your own `question`")
    return prompts.texts[prompt_id]


def listing(prompts: Prompts) -> list[dict[str, str]]:
    """Every prompt with the skill that it belongs to; "" for those of a generalist."""
    return [
        {"id": prompt_id, "text": text, "skill": _SKILL_OF.get(prompt_id, "")}
        for prompt_id, text in prompts.texts.items()
    ]
