"""The pictures of a request, from wherever they are, all at once; a bad one is its Problem."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from vila2_ray.config.serving import ServeConfig
from vila2_ray.serve.captionforms import GivenImage
from vila2_ray.serve.fetch import fetch
from vila2_ray.serve.intake import Picture, from_base64, from_data_url, picture
from vila2_ray.serve.problems import Problem

T = TypeVar("T")
_IN_THREAD_BYTES = 2**20
"""From this size on, decoding base64 and hashing would hold up everybody else; below it, a thread costs more."""


async def taken(given: Sequence[bytes | GivenImage], settings: ServeConfig) -> list[Picture | Problem]:
    """One for each that was given, in order."""
    if len(given) == 1:
        return [await _taken(given[0], "image" if isinstance(given[0], bytes) else "images[0]", settings)]
    named = [(one, f"image[{i}]" if isinstance(one, bytes) else f"images[{i}]") for i, one in enumerate(given)]
    return list(await asyncio.gather(*(_taken(one, field, settings) for one, field in named)))


async def at_url(url: str, settings: ServeConfig, field: str) -> Picture:
    """The picture in a data: URL or, where that is allowed, at an http(s) address. Raises Problem."""
    if url[:5].lower() == "data:":
        data = await _unhurried(len(url), partial(from_data_url, url, field))
    else:
        data = await fetch(url, settings)
    return await _unhurried(len(data), partial(picture, data, settings, field))


async def _taken(given: bytes | GivenImage, field: str, settings: ServeConfig) -> Picture | Problem:
    try:
        if isinstance(given, bytes):
            return await _unhurried(len(given), partial(picture, given, settings, field))
        if given.url is not None:
            return await at_url(given.url, settings, f"{field}.url")
        text = given.data or ""
        data = await _unhurried(len(text), partial(from_base64, text, f"{field}.data"))
        return await _unhurried(len(data), partial(picture, data, settings, f"{field}.data"))
    except Problem as problem:
        return problem


async def _unhurried(num_bytes: int, work: Callable[[], T]) -> T:
    return work() if num_bytes < _IN_THREAD_BYTES else await asyncio.to_thread(work)
