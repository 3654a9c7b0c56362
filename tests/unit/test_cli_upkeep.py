"""`vila2 dead`, `retry` and `gc` as they are typed: what they print, and that nothing goes unasked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.campaign.folders import ROUND_0, begin, finish
from tests.unit.campaign.layers import SOURCE, rows
from vila2_ray import cli
from vila2_ray.campaign.retry import Retried
from vila2_ray.cli_dead import _said
from vila2_ray.cli_gc import size
from vila2_ray.corpus.layers import Layer
from vila2_ray.storage import Store


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What `vila2 recaption` would have left, with two dead letters."""
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    store = Store(tmp_path / "out")
    store.write_text("recaption-0123abcd.json", "{}")

    def change(row: int, variant: int) -> dict[str, str]:
        detail = "[bold]twice[/bold] on this row"
        return {"status": "failed", "error": "engine_died", "error_detail": detail} if row in (2, 5) else {}

    layer = Layer(store.sub("captions", "recaption", "0123abcd"))
    layer.write(SOURCE, "00000", rows("00000", range(8), 1, change))
    return store.uri


def test_dead_letters_as_a_table(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["dead", folder]) == 0
    shown = capsys.readouterr().out
    assert "recaption-0123abcd" in shown
    assert "engine_died" in shown
    assert "00000/002" in shown
    assert "[bold]twice[/bold]" in shown, "what others wrote is no markup"


def test_dead_letters_for_programs(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["dead", folder, "--json", "--layer", "recaption-0123abcd", "--reason", "engine_died"]) == 0
    (dead,) = json.loads(capsys.readouterr().out)
    assert (dead["layer"], dead["reason"], dead["num_rows"], dead["num_samples"]) == (
        "recaption-0123abcd",
        "engine_died",
        2,
        2,
    )
    assert dead["examples"][0]["sample_id"] == "00000/002"


def test_retry_puts_back_and_says_what_comes_next(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["retry", folder, "--reason", "no_image"]) == 0
    assert "nothing failed for no_image" in capsys.readouterr().out
    assert cli.main(["retry", folder, "--reason", "engine_died", "--reason", "engine_error"]) == 0
    assert "2 samples put back; the same vila2 recaption command" in capsys.readouterr().out
    assert cli.main(["dead", folder]) == 0
    assert "no dead letters" in capsys.readouterr().out


def test_a_new_layer_is_said_with_the_command_that_reads_it() -> None:
    said = _said(Retried("round-2", 7, "round-2-retry-1", 6, 1), ["engine_died"], is_campaign=True)
    assert "7 samples captioned again, 6 captions and 1 failed rows" in said
    assert "layers.round-2=round-2-retry-1 --from filter-2" in said
    assert "vila2 run command as before" in _said(Retried("round-2", 1), ["x"], is_campaign=True)


def test_gc_shows_before_it_deletes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    config = begin(tmp_path / "campaign", "rounds.max=1")
    finish(config, *ROUND_0)
    store = Store(config.campaign)
    assert cli.main(["gc", config.campaign]) == 0
    assert "nothing to collect" in capsys.readouterr().out
    store.write_bytes("checkpoints/vlm-7/sft/model.safetensors", b"0" * 2048)
    assert cli.main(["gc", config.campaign]) == 0
    shown = capsys.readouterr().out
    assert "checkpoints/vlm-7/sft" in shown
    assert "2.0 kB" in shown
    assert "nothing was deleted" in shown
    assert store.exists("checkpoints/vlm-7/sft/model.safetensors")
    assert cli.main(["gc", config.campaign, "--delete"]) == 0
    assert "deleted 1 folder, 2.0 kB" in capsys.readouterr().out
    assert not store.exists("checkpoints/vlm-7/sft/model.safetensors")


def test_sizes() -> None:
    assert [size(n) for n in (0, 999, 1500, 3_400_000, 1_200_000_000_000)] == [
        "0 B",
        "999 B",
        "1.5 kB",
        "3.4 MB",
        "1.2 TB",
    ]
