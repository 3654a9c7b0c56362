import pytest

from vila2_ray.config import ScreenConfig
from vila2_ray.errors import ConfigError
from vila2_ray.screening.rules import size_flags


def test_without_limits_every_size_is_kept() -> None:
    assert size_flags(1, 10_000, ScreenConfig()) == []


@pytest.mark.parametrize(
    ("size", "flags"),
    [
        ((200, 200), []),
        ((199, 300), ["min_side"]),
        ((300, 199), ["min_side"]),
        ((200, 600), []),
        ((601, 200), ["max_aspect"]),
        ((100, 301), ["min_side", "max_aspect"]),
    ],
)
def test_limits_are_kept_themselves(size: tuple[int, int], flags: list[str]) -> None:
    assert size_flags(*size, ScreenConfig(min_side=200, max_aspect=3.0)) == flags


@pytest.mark.parametrize(
    "wrong", [{"min_side": -1}, {"max_aspect": -2.0}, {"max_aspect": 0.5}, {"near_distance": 13}, {"near_distance": -1}]
)
def test_limits_that_cannot_be_are_refused_by_name(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"screen.{next(iter(wrong))}"):
        ScreenConfig(**wrong)  # type: ignore[arg-type]


def test_takedowns_and_a_distance_need_no_stage() -> None:
    assert not ScreenConfig(near_distance=2, takedown="list.txt").is_on
    assert all(
        ScreenConfig(**on).is_on  # type: ignore[arg-type]
        for on in ({"min_side": 1}, {"max_aspect": 2.0}, {"exact_duplicates": True}, {"heldout_hashes": ("x",)})
    )
