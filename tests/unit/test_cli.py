"""The command line: help, exit codes, one sentence for each mistake, tables, progress that redraws itself."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from vila2_ray import cli, cli_head, cli_tables
from vila2_ray.campaign.api import StageStatus
from vila2_ray.campaign.estimate import EstimateRow
from vila2_ray.cli_progress import Screen
from vila2_ray.errors import CampaignBusy, ConfigError, CorpusError, StageFailed, Vila2Error
from vila2_ray.progress import LineProgress

COMMANDS = (
    "plan",
    "run",
    "submit",
    "stop",
    "status",
    "show",
    "report",
    "export",
    "recaption",
    "hash",
    "dead",
    "retry",
    "gc",
)
COMMANDS += ("gc", "recipes", "base", "build-sft", "evaluate", "promote")


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(command in shown for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([command, "--help"]) == 0
    assert "Usage" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["plan", "rounds.maximum=1"], "rounds.maximum"),
        (["plan", "--recipe", "huge"], "recipe = 'huge'"),
        (["run", "rounds.max=-1"], "rounds.max = -1"),
        (["submit", "rounds"], "override = 'rounds'"),
        (["status", "{tmp}/nothing"], "there is no campaign here"),
        (["show", "{tmp}/nothing"], "there is no campaign here"),
        (["report", "{tmp}/nothing"], "there is no campaign here"),
        (["export", "{tmp}/nothing"], "there is no campaign here"),
        (["plan", "corpus.pretrain={tmp}/nothing"], "nothing"),
        (["run", "campaign={tmp}/c", "--only", "dance"], "--only = 'dance'"),
        (["submit", "--show"], "campaign = 'runs/tiny'"),
        (["submit", "--show", "campaign=s3://b/c", "--secret", "KEY=hunter2"], "--secret = 'KEY=…'"),
        (["submit", "--show", "campaign=s3://b/c", "--secret", "KEY"], "file:/run/secrets/NAME"),
        (["submit", "--show", "campaign=s3://id:hunter2@b/c"], "pass it by --secret"),
        (["frobnicate"], "No such command"),
        (["export", "--format", "zip"], "zip"),
        (["dead", "{tmp}/nothing"], "there is no campaign here and no recaptioned corpus"),
        (["dead", "--reason", "tired"], "--reason = 'tired'"),
        (["retry", "{tmp}/nothing"], "Missing option '--reason'"),
        (["retry", "{tmp}/nothing", "--reason", "tired"], "must be one of no_image"),
        (["gc", "{tmp}/nothing"], "there is no campaign here"),
        (["promote", "{tmp}/nothing"], "there is no campaign here"),
        (["evaluate", "{tmp}/nothing"], "evaluate.benchmarks.pope.kind=pope"),
        (["evaluate", "{tmp}/nothing", "--only", "pope"], "--only = 'pope'"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([a.replace("{tmp}", str(tmp_path)) for a in arguments]) == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert "Traceback" not in shown.err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("a", 1, "b"), 2),
        (CorpusError("a.tar", "is empty"), 2),
        (CampaignBusy("host:17 runs it"), 3),
        (StageFailed("sft-0 gave up"), 1),
    ],
)
def test_exit_codes(
    error: Vila2Error, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(arguments: list[str] | None) -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    assert cli.main(["run"]) == code
    assert capsys.readouterr().err == f"vila2: {error}\n"
    monkeypatch.setenv("VILA2_DEBUG", "1")
    with pytest.raises(type(error)):
        cli.main(["run"])


def test_a_reader_that_leaves_is_no_traceback() -> None:
    command = f"{sys.executable} -m vila2_ray.cli run --help | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr


def test_hashes_of_a_folder_of_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, color in (("a", "red"), ("b", "blue")):
        Image.new("RGB", (8, 8), color).save(tmp_path / f"{name}.png")
    listed = tmp_path / "lists" / "hashes.txt"
    assert cli.main(["hash", str(tmp_path), "--to", str(listed)]) == 0
    assert f"2 pictures: {listed}" in capsys.readouterr().out
    lines = [line for line in listed.read_text().splitlines() if not line.startswith("#")]
    assert [len(line) for line in lines] == [64, 16, 64, 16]
    assert cli.main(["hash", str(tmp_path / "nowhere"), "--to", str(listed)]) == 2


def test_recipes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["recipes"]) == 0
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()} >= {"tiny", "vila2-8b"}


def test_progress_lines_replace_each_other_at_a_terminal() -> None:
    terminal = Terminal()
    screen = Screen(terminal)
    progress = LineProgress(screen, every_seconds=0)  # type: ignore[arg-type]
    progress.start("recaption-1", 10, "rows")
    progress.update(5)
    progress.update(10)
    progress.note("done")
    screen.close()
    shown = terminal.getvalue()
    assert shown.count("\n") == 2, "one line for the stage, one for the note"
    assert shown.count("\r\x1b[2K") == 2
    assert shown.endswith("\ndone\n")


def test_progress_lines_of_the_next_stage_leave_the_last_one_standing() -> None:
    terminal = Terminal()
    screen = Screen(terminal)
    screen.write("▸ align 1/2\n▸ al")
    screen.write("ign 2/2\n▸ sft-0 1/9\n")
    screen.close()
    assert terminal.getvalue() == "\r\x1b[2K▸ align 1/2\r\x1b[2K▸ align 2/2\n\r\x1b[2K▸ sft-0 1/9\n"


def test_a_log_file_gets_every_line_as_it_is() -> None:
    stream = io.StringIO()
    screen = Screen(stream)
    screen.write("▸ align 1/2\n▸ align 2/2\nlast")
    screen.close()
    assert stream.getvalue() == "▸ align 1/2\n▸ align 2/2\nlast\n"


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    stream = io.StringIO()
    monkeypatch.setattr(cli_tables, "console", lambda: Console(file=stream, width=100))
    return stream


def test_a_plan_says_what_it_does_not_know(printed: io.StringIO) -> None:
    rows = [
        EstimateRow("align", 5000, 250_000, 60.0, 0.001, "measured"),
        EstimateRow("sft-0", None, None, None, None, "unknown until measured"),
    ]
    cli_tables.print_plan(rows)
    shown = printed.getvalue()
    assert "5,000" in shown
    assert "unknown until measured" in shown
    assert "sum of the known" in shown


def test_scores_stand_a_column_for_each_round(printed: io.StringIO) -> None:
    scores = [{"object_place_f1": 0.357, "model": "vlm-0"}, {"object_place_f1": 0.46, "words_per_caption": 11.5}]
    cli_tables.print_scores(scores)
    shown = printed.getvalue()
    assert "VLM_0" in shown
    assert "VLM_1" in shown
    assert "46.0" in shown
    assert "11.5" in shown


def test_scores_at_the_end_of_a_run_are_the_few_that_matter(printed: io.StringIO) -> None:
    scores = [{"object_place_f1": 0.357, "words_per_caption": 11.5, "vqa_where_accuracy": 0.4}]
    cli_tables.print_scores(scores, briefly=True)
    assert "where" not in printed.getvalue()
    assert "11.5" in printed.getvalue()
    cli_tables.print_scores([{"seen_nowhere_else": 0.5}], briefly=True)
    assert "Seen nowhere else" in printed.getvalue()


def test_status_shows_counts_only_where_there_is_something_to_count(printed: io.StringIO) -> None:
    stages = [
        StageStatus("recaption-1", "running", 512, 5000, "rows", 3.0),
        StageStatus("sft-1", "missing", 0, 0, "steps", 0),
    ]
    cli_tables.print_status("runs/x", stages, {"model": "vlm-1"})
    shown = printed.getvalue()
    assert "5,000" in shown
    assert "steps" not in shown
    assert "promoted: vlm-1" in shown


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "–"), (9, "9 s"), (240, "4 min"), (9000, "2.5 h"), (300_000, "3.5 days")]
)
def test_clock(seconds: float | None, text: str) -> None:
    assert cli_tables.clock(seconds) == text


def test_a_recorded_head_whose_process_is_gone_or_another_is_not_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VILA2_CACHE", str(tmp_path))
    assert cli_head.find() is None
    for text in ("", "{}", f'{{"pid": {os.getpid()}, "began": "0", "dashboard": "http://127.0.0.1:1", "gcs": ""}}'):
        (tmp_path / "head.json").write_text(text)
        assert cli_head.find() is None


def test_stopping_a_head_never_ends_a_process_that_took_its_number() -> None:
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        cli_head.stop(cli_head.Head(bystander.pid, "0", "http://127.0.0.1:1", ""))
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_ctrl_c_is_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> list[str]:
        raise KeyboardInterrupt

    monkeypatch.setattr("vila2_ray.recipe.recipe_names", interrupted)
    assert cli.main(["recipes"]) == 130
    assert capsys.readouterr().err == "interrupted; run the same command again to go on\n"
