"""The app for people who judge: blind, resumable, bounded; several raters at once, with keys and without."""

from __future__ import annotations

import json
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.unit.judge.studies import CRITERIA, NEW, OLD, corpus, study
from vila2_ray.errors import StorageError
from vila2_ray.judge.app import MAX_EDIT_CHARS, create_judge_app
from vila2_ray.judge.study import Study
from vila2_ray.serve.keys import Keys, add_key

ANN = {"X-Rater": "ann"}


def client(
    folder: Path, made: Study | None = None, keys: Keys | None = None, broken: tuple[int, ...] = ()
) -> TestClient:
    held = corpus(folder, broken=broken)
    app = create_judge_app(made or study(folder), lambda source: held, keys)
    return TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)


def ballot(pair: str, name: str = "b", better: str = "left", **more: Any) -> dict[str, Any]:
    return {"pair": pair, "ballot": name, "answers": dict.fromkeys(CRITERIA, better), **more}


def todo(asked: TestClient, headers: dict[str, str] = ANN) -> list[str]:
    found: list[str] = asked.get("/v1/session", headers=headers).json()["todo"]
    return found


def test_nothing_tells_which_layer_a_caption_is_of(tmp_path: Path) -> None:
    asked, got = client(tmp_path), []
    for rater in ("ann", "bob"):
        headers = {"X-Rater": rater}
        got.append(asked.get("/v1/session", headers=headers))
        for name in got[-1].json()["todo"]:
            got.append(asked.get(f"/v1/pairs/{name}", headers=headers))
            got.append(asked.get(f"/v1/pairs/{name}/picture", headers=headers))
            edited = ballot(name, name, edits={"left": "Better.", "right": ""})
            got.append(asked.post("/v1/votes", json=edited, headers=headers))
            got.append(asked.get(f"/v1/pairs/{name}", headers=headers))
            assert got[-1].json()["said"] == {"answers": edited["answers"], "edits": edited["edits"]}
        got.append(asked.get("/v1/session", headers=headers))
    got += [asked.post("/v1/votes", json=body, headers=ANN) for body in ({}, ballot("x"))]
    assert {one.status_code for one in got} == {200, 422, 404}
    ids = [pair.pair_id for pair in study(tmp_path).pairs()]
    for one in got:
        told = f"{one.url} {dict(one.headers)} {one.content.decode('latin-1')}"
        assert not any(name in told for name in (OLD, NEW, *ids, "00000"))
        if not one.headers["content-type"].startswith("image/"):
            assert not re.search(r"\b(first|second|swapped|layer|variant)\b", told)


def test_no_file_of_the_page_knows_an_order(tmp_path: Path) -> None:
    asked = client(tmp_path)
    scripts = ("main.js", "sitting.js", "ballot.js", "outbox.js", "pairs.js", "past.js", "side.js", "rater.js")
    for path in ("/", "/page/entry.json", *(f"/page/{name}" for name in scripts)):
        text = asked.get(path).text
        assert not re.search(r"\b(first|second)(_|\b)|swapped|alt_text", text), path


def test_texts_are_sent_as_they_are_and_pictures_privately(tmp_path: Path) -> None:
    made = study(tmp_path, texts=("<img src=x onerror=alert(1)> {n}", "New \u202e {n}"))
    asked = client(tmp_path, made)
    name = todo(asked)[0]
    told = asked.get(f"/v1/pairs/{name}", headers=ANN).json()
    assert {told["left"][:4], told["right"][:4]} == {"<img", "New "}
    shown = asked.get(f"/v1/pairs/{name}/picture", headers=ANN)
    assert shown.headers["content-type"] == "image/png"
    assert shown.headers["cache-control"].startswith("private")
    assert shown.headers["x-content-type-options"] == "nosniff"
    assert asked.get(f"/v1/pairs/{name}", headers=ANN).headers["cache-control"] == "no-store"
    assert asked.get(f"/v1/pairs/{name}/picture", headers={"X-Rater": "bob"}).status_code == 404


def test_one_goes_on_where_one_stopped_also_after_a_restart(tmp_path: Path) -> None:
    asked = client(tmp_path)
    names = todo(asked)
    for name in names[:2]:
        told = asked.post("/v1/votes", json=ballot(name, name), headers=ANN)
    assert told.json() == {"done": 2, "total": 6}
    restarted = client(tmp_path / "again", Study(study(tmp_path).store))
    assert todo(restarted) == names[2:]
    for name in names[2:]:
        skipped = {"pair": name, "ballot": name, "answers": {}}
        told = restarted.post("/v1/votes", json=skipped if name == names[5] else ballot(name), headers=ANN)
    assert told.json() == {"done": 6, "total": 6}
    session = restarted.get("/v1/session", headers=ANN).json()
    assert (session["todo"], session["passed"]) == ([], [names[5]])


def test_what_was_said_of_a_pair_is_told_to_who_said_it(tmp_path: Path) -> None:
    made = study(tmp_path)
    asked = client(tmp_path, made)
    name, other = todo(asked)[:2]
    assert asked.get(f"/v1/pairs/{name}", headers=ANN).json()["said"] is None
    skipped = {"pair": name, "ballot": "b", "answers": {}, "edits": {"right": "Better."}}
    asked.post("/v1/votes", json=skipped, headers=ANN)
    restarted = client(tmp_path / "again", Study(made.store))
    told = restarted.get(f"/v1/pairs/{name}", headers=ANN).json()
    assert told["said"] == {"answers": {}, "edits": {"right": "Better."}}
    assert restarted.get(f"/v1/pairs/{other}", headers=ANN).json()["said"] is None
    for pair in todo(restarted, {"X-Rater": "bob"}):
        assert restarted.get(f"/v1/pairs/{pair}", headers={"X-Rater": "bob"}).json()["said"] is None


def test_a_picture_that_is_broken_is_said_and_passed_over(tmp_path: Path) -> None:
    made = study(tmp_path)
    asked = client(tmp_path, made, broken=(0, 1, 2, 3, 4, 5))
    name = todo(asked)[0]
    got = asked.get(f"/v1/pairs/{name}/picture", headers=ANN)
    assert (got.status_code, got.json()["type"]) == (422, "/problems/no-picture")
    assert asked.post("/v1/votes", json={"pair": name, "ballot": "b", "answers": {}}, headers=ANN).status_code == 200
    assert made.votes()[0].problem.startswith("image_unreadable")
    again = client(tmp_path / "again", made, broken=(0, 1, 2, 3, 4, 5))  # where nobody has asked for the picture
    assert again.post("/v1/votes", json={"pair": name, "ballot": "c", "answers": {}}, headers=ANN).status_code == 200
    assert made.votes()[0].problem.startswith("image_unreadable")
    assert again.get("/v1/session", headers=ANN).json()["passed"] == []


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"pair": "0" * 16}, 404),
        ({"pair": "../../x"}, 422),
        ({"answers": {"detail": "left"}}, 422),
        ({"answers": dict.fromkeys(CRITERIA, "first")}, 422),
        ({"answers": dict.fromkeys(CRITERIA, 1)}, 422),
        ({"answers": {f"c{n}": "left" for n in range(17)}}, 422),
        ({"edits": {"first": "x"}}, 422),
        ({"edits": {"left": "x" * (MAX_EDIT_CHARS + 1)}}, 422),
        ({"edits": {"left": "a\0b"}}, 422),
        ({"edits": {"left": "\ud800"}}, 422),
        ({"edits": {"left": "x" * 200_000}}, 413),
        ({"milliseconds": -1}, 422),
        ({"milliseconds": 1e300}, 422),
        ({"ballot": ""}, 422),
        ({"rater": "bob"}, 422),
    ],
)
def test_what_is_no_ballot_is_refused_in_problem_json(tmp_path: Path, change: dict[str, Any], status: int) -> None:
    made = study(tmp_path)
    asked = client(tmp_path, made)
    body = json.dumps({**ballot(todo(asked)[0]), **change})
    got = asked.post("/v1/votes", content=body, headers={**ANN, "Content-Type": "application/json"})
    assert (got.status_code, got.headers["content-type"]) == (status, "application/problem+json")
    assert str(tmp_path) not in got.text
    assert len(got.content) < 2000
    assert made.store.list(prefix="votes") == []


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff\xfe"])
def test_broken_bodies_are_refused(tmp_path: Path, body: bytes) -> None:
    got = client(tmp_path).post("/v1/votes", content=body, headers={**ANN, "Content-Type": "application/json"})
    assert got.status_code in (400, 422)
    assert got.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("rater", ["", "a/b", "../x", "model:gpt", "a" * 65, "a b"])
def test_who_can_not_be_called_so_is_told(tmp_path: Path, rater: str) -> None:
    got = client(tmp_path).get("/v1/session", headers={"X-Rater": rater})
    assert (got.status_code, got.json()["type"]) == (422, "/problems/no-rater")


def test_with_keys_the_keys_name_is_the_rater(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    secret = add_key(file, "ann")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    made = study(tmp_path)
    asked = client(tmp_path, made, Keys.read(file))
    assert asked.get("/page/entry.json").json() == {"needs": "key"}
    assert asked.get("/").status_code == 200
    for path in ("/v1/session", "/v1/pairs/x", "/v1/pairs/x/picture", "/v1/votes"):
        for headers in ({}, {"X-Rater": "ann"}, {"Authorization": "Bearer vila2-wrong"}):
            assert asked.get(path, headers=headers).status_code == 401
    bearer = {"Authorization": f"Bearer {secret}", "X-Rater": "bob"}
    assert asked.get("/v1/session", headers=bearer).json()["rater"] == "ann"
    asked.post("/v1/votes", json=ballot(todo(asked, bearer)[0]), headers=bearer)
    assert [vote.rater for vote in made.votes()] == ["ann"]


def test_without_keys_strangers_pages_are_refused(tmp_path: Path) -> None:
    asked = client(tmp_path)
    assert asked.get("/page/entry.json").json() == {"needs": "name"}
    for headers in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}):
        assert asked.get("/v1/session", headers={**ANN, **headers}).status_code == 403


def test_raters_vote_at_once(tmp_path: Path) -> None:
    made = study(tmp_path)
    asked = client(tmp_path, made)
    raters = [f"rater{n}" for n in range(8)]

    def judge(rater: str) -> int:
        headers = {"X-Rater": rater}
        for number, name in enumerate(todo(asked, headers)):
            for _ in range(2):  # as after a lost connection
                told = asked.post("/v1/votes", json=ballot(name, f"b{number}"), headers=headers)
        return int(told.json()["done"])

    with asked, ThreadPoolExecutor(8) as pool:
        assert list(pool.map(judge, raters)) == [6] * 8
    votes = made.votes()
    assert len(votes) == len(made.store.list(prefix="votes")) == 48
    assert {vote.rater for vote in votes} == set(raters)
    assert len({vote.swapped for vote in votes}) == 2


def test_a_vote_that_cannot_be_kept_is_not_counted_and_can_come_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = study(tmp_path)
    asked = client(tmp_path, made)
    name = todo(asked)[0]
    with monkeypatch.context() as patched:
        patched.setattr(made.store, "write_text", lambda *_: (_ for _ in ()).throw(StorageError("disk is full")))
        got = asked.post("/v1/votes", json=ballot(name), headers=ANN)
        assert (got.status_code, "disk" in got.text) == (500, False)
    assert asked.post("/v1/votes", json=ballot(name), headers=ANN).json()["done"] == 1
