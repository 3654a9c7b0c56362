"""From a checked request to questions: who is asked, how it decodes, with which seed. Names are looked up only here."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from vila2_ray.captions.prompts import seed as drawn_seed
from vila2_ray.config import SamplingConfig
from vila2_ray.config.serving import ServeConfig
from vila2_ray.engines.live import Turn
from vila2_ray.errors import UnknownModel
from vila2_ray.serve.captioner import Question, Served, Standing
from vila2_ray.serve.intake import Picture
from vila2_ray.serve.wording import refused


@dataclass(frozen=True)
class Addressee:
    """Who is asked."""

    name: str
    """The served name."""
    skill: str = ""
    model: str = ""
    """The campaign's name that the request asked by: then nothing else may answer."""

    def check(self, by: Served) -> None:
        """Raises UnknownModel when another checkpoint took over between the look-up and the answer."""
        if self.model and by.model != self.model:
            raise UnknownModel(self.model, (self.name, by.model))


def addressee(standings: Sequence[Standing], asked: str | None, specialist: str | None = None) -> Addressee:
    """The one that a request means: by served name, by campaign name while that is what is served, else the first.

    Raises UnknownModel for a name under which nothing is served, Problem when model and specialist differ.
    """
    if specialist is not None:
        expert = _specialist(standings, specialist)
        if asked is not None and _named(standings, asked).name != expert.name:
            raise refused("specialist", specialist, f"is another than model = {asked!r}; give one of the two")
        return expert
    if asked is None and not standings:
        raise UnknownModel("", ())
    return _addressed(standings[0]) if asked is None else _named(standings, asked)


def names(standings: Sequence[Standing]) -> tuple[str, ...]:
    """Every name that a request can ask for now."""
    models = (standing.served.model for standing in standings if standing.served is not None)
    return tuple(dict.fromkeys([*(standing.name for standing in standings), *models]))


@dataclass(frozen=True)
class Wish:
    """Decoding as a request asks for it; None where it does not say."""

    max_tokens: int | None = None
    min_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None

    def sampling(self, settings: ServeConfig) -> SamplingConfig:
        """Greedy unless asked otherwise. Raises Problem for what this endpoint does not allow."""
        if self.max_tokens is not None and not 1 <= self.max_tokens <= settings.max_tokens:
            raise refused("max_tokens", self.max_tokens, f"must lie between 1 and {settings.max_tokens}")
        max_tokens = self.max_tokens
        if max_tokens is None:
            max_tokens = min(max(settings.default_tokens, self.min_tokens or 0), settings.max_tokens)
        if self.min_tokens is not None and not 0 <= self.min_tokens <= max_tokens:
            raise refused("min_tokens", self.min_tokens, f"must lie between 0 and max_tokens = {max_tokens}")
        min_tokens = 1 if self.min_tokens is None else self.min_tokens
        return SamplingConfig(
            temperature=self.temperature or 0.0,
            top_p=1.0 if self.top_p is None else self.top_p,
            max_tokens=max_tokens,
            min_tokens=min_tokens,
        )


def check_length(turns: Sequence[Turn], settings: ServeConfig, field: str) -> None:
    """Raises Problem when a conversation is longer than the endpoint takes."""
    length = sum(len(turn.text) for turn in turns)
    if length > settings.max_prompt_characters:
        remedy = f"at most {settings.max_prompt_characters} may be asked, all turns together"
        raise refused(field, length, f"that many characters; {remedy}")


def ask(
    picture: Picture, to: Addressee, turns: tuple[Turn, ...], sampling: SamplingConfig, seed: int | None, *,
    request_id: str, index: int = 0, streamed: bool, with_logprobs: bool = False,
) -> Question:  # fmt: skip
    """The question about one picture. Without a seed it gets one from picture and words, the same every time."""
    return Question(
        key=f"{request_id}-{index}-{secrets.token_hex(4)}",  # clients may choose a request id, and choose it twice
        name=to.name,
        image=picture.data,
        image_key=picture.image_key,
        turns=turns,
        sampling=sampling,
        seed=_seed(picture.image_key, turns) if seed is None else seed,
        streamed=streamed,
        with_logprobs=with_logprobs,
    )


def _seed(image_key: str, turns: tuple[Turn, ...]) -> int:
    return drawn_seed(json.dumps([[turn.role, turn.text] for turn in turns]), image_key)


def _named(standings: Sequence[Standing], asked: str) -> Addressee:
    for standing in standings:
        if standing.name == asked:
            return _addressed(standing)
    for standing in standings:
        if standing.served is not None and standing.served.model == asked:
            return Addressee(standing.name, standing.served.skill, model=asked)
    raise UnknownModel(asked, names(standings))


def _specialist(standings: Sequence[Standing], skill: str) -> Addressee:
    for standing in standings:
        if standing.name == skill or (standing.served is not None and standing.served.skill == skill):
            return Addressee(standing.name, skill)
    raise UnknownModel(skill, tuple(s.name for s in standings))


def _addressed(standing: Standing) -> Addressee:
    return Addressee(standing.name, standing.served.skill if standing.served is not None else "")
