from __future__ import annotations

import hmac
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vila2_ray.errors import ConfigError
from vila2_ray.serve.keys import PREFIX, Keys, add_key, new_key


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def read(file: Path) -> Keys:
    return Keys.read(file, recheck_seconds=0)


def write(file: Path, *lines: str) -> None:
    file.write_text("\n".join(lines) + "\n")
    file.chmod(0o600)


def test_a_key_is_known_by_its_name_and_the_file_does_not_tell_it(file: Path) -> None:
    alice, bob = add_key(file, "alice"), add_key(file, "bob@example.org")
    keys = read(file)
    assert (keys.check(alice), keys.check(bob)) == ("alice", "bob@example.org")
    assert alice.startswith(PREFIX)
    assert len(alice) >= 43 + len(PREFIX)
    assert alice != bob
    assert alice not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("other", ["", " ", "vila2-", "ALICE", "ä", "\ud800", "\0", "x" * 100_000])
def test_nothing_else_is_a_key_and_nothing_raises(file: Path, other: str) -> None:
    alice = add_key(file, "alice")
    keys = read(file)
    assert keys.check(other) is None
    assert keys.check(alice + other) is (None if other else keys.check(alice))  # type: ignore[comparison-overlap]


@given(st.text())
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_may_be_presented(tmp_path: Path, text: str) -> None:
    file = tmp_path / "any"
    if not file.exists():
        add_key(file, "alice")
    assert read(file).check(text) is None


def test_every_entry_is_compared_whichever_fits(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = [add_key(file, f"user{number}") for number in range(4)]
    keys, compared, compare = read(file), list[str](), hmac.compare_digest

    def counted(one: str, other: str) -> bool:
        compared.append(one)
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", counted)
    counts = []
    for presented in (secrets[0], secrets[3], "vila2-wrong"):
        compared.clear()
        keys.check(presented)
        counts.append(len(compared))
    assert counts == [4, 4, 4]


def test_a_deleted_line_revokes_and_an_added_one_admits(file: Path) -> None:
    alice, bob = add_key(file, "alice"), add_key(file, "bob")
    keys = read(file)
    write(file, *(line for line in file.read_text().splitlines() if not line.startswith("alice")))
    assert (keys.check(alice), keys.check(bob)) == (None, "bob")
    carol = add_key(file, "carol")
    assert keys.check(carol) == "carol"


def test_a_file_that_broke_changes_nothing_and_is_told_once(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    alice = add_key(file, "alice")
    keys = read(file)
    write(file, f"alice {alice}")
    assert [keys.check(alice) for _ in range(3)] == ["alice"] * 3
    assert len(caplog.records) == 1
    assert alice not in caplog.text
    file.unlink()
    assert keys.check(alice) == "alice"
    assert len(caplog.records) == 2


def test_an_emptied_file_admits_nobody(file: Path) -> None:
    alice = add_key(file, "alice")
    keys = read(file)
    write(file, "# all revoked")
    assert keys.check(alice) is None


@pytest.mark.parametrize("mode", [0o644, 0o606, 0o660, 0o622])
def test_a_file_open_to_strangers_is_refused(file: Path, mode: int) -> None:
    add_key(file, "alice")
    file.chmod(mode)
    with pytest.raises(ConfigError, match="open to others") as caught:
        read(file)
    assert "chmod" in caught.value.remedy


@pytest.mark.parametrize("line", ["alice", "alice 2026 sha256:00", "al ice 2026 x sha256:" + "0" * 64, "vila2-secret"])
def test_malformed_lines_are_named_by_number_and_not_shown(file: Path, line: str) -> None:
    write(file, "# name created hash", line)
    with pytest.raises(ConfigError, match="line 2") as caught:
        read(file)
    assert line not in str(caught.value)


def test_files_without_keys_are_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read(file)
    write(file, "# none yet")
    with pytest.raises(ConfigError, match="holds no key"):
        read(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        read(tmp_path)
    file.write_bytes(b"\xff\xfe\0")
    with pytest.raises(ConfigError, match="cannot be read"):
        read(file)


@pytest.mark.parametrize("name", ["", "two words", "-x", "a" * 65, "line\nbreak", "ä"])
def test_names_fit_into_a_line(name: str) -> None:
    with pytest.raises(ConfigError, match="name = "):
        new_key(name)


def test_a_name_is_taken_once(file: Path) -> None:
    add_key(file, "alice")
    with pytest.raises(ConfigError, match="has a key"):
        add_key(file, "alice")
    line = new_key("bob")[1]
    write(file, line, line)
    with pytest.raises(ConfigError, match="a name twice"):
        read(file)


def test_a_line_that_was_written_by_hand_without_its_end_is_kept(file: Path) -> None:
    secret, line = new_key("alice")
    file.write_text(line)
    file.chmod(0o600)
    add_key(file, "bob")
    assert read(file).check(secret) == "alice"
    assert len(file.read_text().splitlines()) == 2


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written"):
        add_key(tmp_path / "file" / "keys", "alice")


def test_the_file_is_looked_at_now_and_then_only(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alice = add_key(file, "alice")
    keys = Keys.read(file, recheck_seconds=3600)
    os.truncate(file, 0)
    assert keys.check(alice) == "alice"
