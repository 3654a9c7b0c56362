"""What holds of the files of every page that is served."""

from __future__ import annotations

import re
from collections.abc import Mapping

from vila2_ray.serve.heldfiles import PageFile

ADDRESS = re.compile(r"(?:https?:)?//[a-z0-9.-]+", re.I)


def check_is_its_own(name: str, file: PageFile) -> None:
    """It refers to no other host, has nothing inline, and makes no HTML of text."""
    text = file.content.decode("utf-8")
    found = [url for url in ADDRESS.findall(text) if url != "http://www.w3.org"]  # the name of SVG itself
    assert found == []
    if name.endswith(".html"):
        assert not re.search(r"<script(?![^>]*\bsrc=)|\sstyle=|<style|\son[a-z]+=", text)
    if name.endswith(".js"):
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", text)


def check_is_whole(files: Mapping[str, PageFile]) -> None:
    """Every file and every element that is asked for is there."""
    page = files["index.html"].content.decode("utf-8")
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    for name, file in files.items():
        text = file.content.decode("utf-8")
        for needed in re.findall(r'from "\./([^"]+)"|(?:src|href)="page/([^"]+)"', text):
            assert "".join(needed) in files, f"{name} needs {needed}"
        for wanted in re.findall(r'byId\("([^"]+)"\)', text):
            assert wanted in ids, f"{name} asks for #{wanted}"
    named = re.findall(r'(?:for|href|aria-labelledby|aria-describedby)="#?([a-z -]+)"', page)
    assert {name for names in named for name in names.split()} - {"docs"} <= set(ids)
