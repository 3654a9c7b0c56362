"""What a request for captions may say, as JSON or as a form, read and checked once."""

from __future__ import annotations

from typing import Any, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from starlette.datastructures import UploadFile
from starlette.requests import Request

from vila2_ray.config.serving import ServeConfig
from vila2_ray.serve.asking import Wish
from vila2_ray.serve.problems import Problem
from vila2_ray.serve.wording import refused

M = TypeVar("M", bound=BaseModel)
_FILE_FIELD = "image"
_MAX_FIELDS = 32
_MAX_COMMAS = 20_000
"""Of a JSON body. Pictures in base64 have none; each comma may cost an object, or an error told, of a kilobyte."""


class GivenImage(BaseModel):
    """One picture: its file in base64, or where it is."""

    model_config = ConfigDict(extra="forbid")

    data: str | None = Field(None, description="The file (JPEG, PNG, WebP, GIF, BMP or TIFF) in base64.")
    url: str | None = Field(None, description="A data: URL; http(s) only where the endpoint allows it.")

    @model_validator(mode="after")
    def _one_of_both(self) -> GivenImage:
        if (self.data is None) == (self.url is None):
            raise ValueError("give either data or url")
        return self


class Wishes(BaseModel):
    """What is asked of every picture."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    prompt: str | None = Field(None, description="Id of a prompt, see /v1/prompts. Without it: the model's own.")
    question: str | None = Field(None, description="Words of your own instead of a prompt.")
    specialist: str | None = Field(None, description="A skill whose specialist is to answer, with its own prompt.")
    model: str | None = Field(None, description="Who answers, see /v1/standing. Without it: the first there.")
    max_tokens: int | None = Field(None, ge=1, description="Where the caption is cut at the latest.")
    min_tokens: int | None = Field(None, ge=0, description="The caption does not end before these.")
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False, description="0, the default, is greedy.")
    top_p: float | None = Field(None, gt=0, le=1, allow_inf_nan=False, description="Nucleus sampling; 1 is off.")
    seed: int | None = Field(
        None, ge=0, lt=2**31, description="Without it: drawn from picture and prompt, always equal."
    )
    logprobs: bool = Field(
        False, description="Tell mean_logprob and min_logprob, which are null without; it costs time."
    )
    stream: bool = Field(False, description="Server-sent events: piece, caption, error, and done at the end.")

    def wish(self) -> Wish:
        return Wish(self.max_tokens, self.min_tokens, self.temperature, self.top_p, self.seed)


class CaptionsRequest(Wishes):
    """A request for captions, as JSON."""

    images: list[GivenImage] = Field(min_length=1)


async def read(request: Request, settings: ServeConfig) -> tuple[Wishes, list[bytes | GivenImage]]:
    """What is asked, and of which pictures: files as they came, or where else they are. Raises Problem."""
    media_type = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if media_type == "multipart/form-data":
        wishes, images = await _form(request, settings)
    elif media_type == "application/json":
        body = parsed(CaptionsRequest, await request.body())
        wishes, images = body, list(body.images)
    else:
        detail = f"Content-Type = {media_type[:60]!r}: send application/json or multipart/form-data"
        raise Problem(415, "body-type", "Not a body that is read here", detail)
    if len(images) > settings.max_images:
        raise refused("images", len(images), f"that many; send at most {settings.max_images} in a request")
    return wishes, images


def parsed(model: type[M], body: bytes) -> M:
    """The JSON body, checked strictly.

    Raises Problem 400 where it is none, 413 where it holds too many values, RequestValidationError for its fields.
    """
    if body.count(b",") > _MAX_COMMAS:
        detail = f"the body holds more than {_MAX_COMMAS:,} commas, so very many values: send fewer"
        raise Problem(413, "body-too-large", "Too many values", detail)
    try:
        return model.model_validate_json(body, strict=True)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        if errors[0]["type"] == "json_invalid":
            detail = f"the body is not JSON: {errors[0]['ctx']['error']}"
            raise Problem(400, "body-malformed", "The body cannot be read", detail) from error
        raise _wrong_fields(errors) from error


async def _form(request: Request, settings: ServeConfig) -> tuple[Wishes, list[bytes | GivenImage]]:
    """Fields of text by their names, empty ones as if they were not there; files in fields `image`."""
    said: dict[str, str] = {}
    images: list[bytes | GivenImage] = []
    async with request.form(max_files=settings.max_images + 1, max_fields=_MAX_FIELDS) as form:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                if name != _FILE_FIELD:
                    raise refused(name, value.filename, f"send files in fields called {_FILE_FIELD}")
                images.append(await value.read())
            elif name == _FILE_FIELD:
                raise refused(name, value[:40], "is text: send the picture as a file, with a filename")
            elif name in said:
                raise refused(name, value[:40], "is given twice")
            elif value:
                said[name] = value
    if not images:
        raise refused(_FILE_FIELD, None, "send at least one picture as a file in this field")
    try:
        return Wishes.model_validate(said), images
    except ValidationError as error:
        raise _wrong_fields(error.errors(include_url=False)) from error


def _wrong_fields(errors: list[Any]) -> RequestValidationError:
    return RequestValidationError([{**error, "loc": ("body", *error["loc"])} for error in errors])
