"""The page at /: the files in the folder page/, as they are. They need nothing from any other host."""

from __future__ import annotations

from fastapi import FastAPI

from vila2_ray.config.serving import ServeConfig
from vila2_ray.serve.heldfiles import PageFile, folder_files, json_file, mount_files


def mount_page(app: FastAPI, settings: ServeConfig) -> None:
    """Adds the page, which needs no API key.

    It knows the bounds of `settings`: it warns of pictures beyond them before it sends them.
    """
    mount_files(app, page_files() | {"limits.json": limits_file(settings)})


def page_files() -> dict[str, PageFile]:
    """Name → file, all there are."""
    return folder_files("vila2_ray.serve")


def limits_file(settings: ServeConfig) -> PageFile:
    """What the page must know of the endpoint's bounds."""
    names = ("max_body_mb", "max_images", "max_pixels", "max_tokens", "default_tokens")
    return json_file({name: getattr(settings, name) for name in names})
