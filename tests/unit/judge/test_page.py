"""The files of the page for people who judge, without a browser."""

from __future__ import annotations

import pytest

from tests.unit.pagefiles import check_is_its_own, check_is_whole
from vila2_ray.judge.app import page_files

FILES = page_files()


@pytest.mark.parametrize("name", sorted(FILES))
def test_nothing_refers_to_another_host_or_stands_inline(name: str) -> None:
    check_is_its_own(name, FILES[name])


def test_what_the_page_needs_is_there() -> None:
    check_is_whole(FILES)
