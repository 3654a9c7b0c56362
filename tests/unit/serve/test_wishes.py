"""What each name shall serve: promotion, models, specialists, and operators before all of them."""

from __future__ import annotations

from pathlib import Path

from tests.unit.campaign.test_serving import A, B, marker, promoted
from vila2_ray.campaign.promotion import promote
from vila2_ray.campaign.serving import Serving, Word, say
from vila2_ray.campaign.state import write_marker
from vila2_ray.serve.wishes import look, stage_of, wishes
from vila2_ray.storage import Store


def test_names_follow_promotion_and_training() -> None:
    names = ("promoted", "vlm-0", "ocr", "vlm-5")
    markers = {"vlm-0": marker("0", "aa11"), "ocr": marker("ocr", "dd44")}
    found = wishes(names, promoted(A, B), markers, Serving())
    assert [wish.name for wish in found] == list(names)
    assert [wish.target and wish.target.label for wish in found] == ["vlm-1@bb22", "vlm-0@aa11", "ocr@dd44", None]
    assert found[2].target is not None
    assert found[2].target.skill == "ocr"
    assert "vlm-5" in found[3].missing
    assert wishes(("promoted",), promoted(), {}, Serving())[0].missing


def test_a_pin_holds_against_promotion_until_it_is_taken_back() -> None:
    pin = Word("promoted", "rollback", A, "me@here", "B dreams", at=7.0)
    for history in (promoted(A, B), promoted(A, B, A, B)):
        [wish] = wishes(("promoted",), history, {}, Serving((pin,)))
        assert (wish.target, wish.said_at, wish.pinned) == (A, 7.0, "rolled back by me@here: B dreams")
    [free] = wishes(("promoted",), promoted(A, B), {}, Serving((pin, Word("promoted", "unpin", None, "me", at=9.0))))
    assert (free.target, free.said_at, free.pinned) == (B, 9.0, "")


def test_a_campaign_is_looked_at(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert [wish.target for wish in look(store, ("promoted", "vlm-0"))] == [None, None]
    write_marker(store, marker("0", "aa11"))
    promote(store, "vlm-1", B.checkpoint, B.digest, {}, 1)
    assert [wish.target for wish in look(store, ("promoted", "vlm-0"))] == [B, A]
    say(store, Word("promoted", "pin", A, "me"))
    assert look(store, ("promoted",))[0].target == A
    assert (stage_of("vlm-final"), stage_of("grounding")) == ("sft-final", "sft-grounding")
