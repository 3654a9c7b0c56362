"""`vila2 status --watch`: a campaign while it runs, from any machine that reads its folder. No Ray, nothing written.

At a terminal a table is redrawn; elsewhere there is a line for every change. It ends when the driver ends, or at once
where none runs. A driver that has died is told of by its silence, and watching goes on: a job may start another.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.live import Live as Screen
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

from vila2_ray.campaign import plan as plans
from vila2_ray.campaign.api import Campaign
from vila2_ray.campaign.live import EVERY_SECONDS, Live, read_live
from vila2_ray.campaign.promotion import read_promoted
from vila2_ray.campaign.specialists import is_left_out
from vila2_ray.campaign.state import Marker
from vila2_ray.cli_tables import clock, console, print_scores
from vila2_ray.errors import StorageError

LOOK_SECONDS = 2.0
_SILENT_SECONDS = 3 * EVERY_SECONDS
_SHOWN_FIGURES = {"loss": "loss {:.3g}", "output_tokens": "{:,.0f} tokens", "data_wait_share": "data wait {:.0%}"}

_OF_STAGE = 4
"""So many of `_parts` are the running stage's."""
_LINES_BESIDE_STAGES = 12
"""Of a terminal: title, head, borders, what stands below, a line that wraps."""


@dataclass(frozen=True)
class Sight:
    """A campaign at one look."""

    uri: str
    stages: tuple[str, ...]
    finished: Mapping[str, Marker]
    promoted: str
    live: Live | None
    silent_seconds: float
    """Since the driver's last sign of life."""

    @property
    def is_running(self) -> bool:
        return self.live is not None and not self.live.ended

    @property
    def is_silent(self) -> bool:
        return self.is_running and self.silent_seconds >= _SILENT_SECONDS


class Watcher:
    """Looks at a campaign again and again, reading little: markers only when the driver has moved on."""

    def __init__(self, campaign: Campaign, now: Callable[[], float] = time.monotonic) -> None:
        self._campaign, self._now = campaign, now
        self._stages = tuple(stage.name for stage in plans.stages(campaign.config))
        self._beat: tuple[float, int] | None = None
        self._beat_at = 0.0
        self._place: tuple[object, ...] | None = None
        self._finished: Mapping[str, Marker] = {}
        self._promoted = ""

    def look(self) -> Sight:
        """Raises StorageError."""
        live = read_live(self._campaign.store)
        place = (live.started_at, live.stage, live.ended) if live else ()
        if place != self._place:
            self._finished = self._campaign.markers()
            self._promoted = (read_promoted(self._campaign.store)["current"] or {}).get("model", "")
            self._place = place
        return Sight(
            self._campaign.uri, self._stages, self._finished, self._promoted, live, self._silence(live) if live else 0.0
        )

    def _silence(self, live: Live) -> float:
        """By our own clock from the second beat on: other machines' clocks may differ."""
        beat = live.started_at, live.beat
        if beat != self._beat:
            at_first = max(0.0, time.time() - live.written_at) if self._beat is None else 0.0
            self._beat, self._beat_at = beat, self._now() - at_first
        return self._now() - self._beat_at


def watch(uri: str) -> int:
    """Show a campaign until its driver ends; 1 where it failed. Ctrl-C ends the watching, not the driver."""
    campaign, out = Campaign(uri), console()
    sight = _follow(Watcher(campaign), out)
    if sight is None:
        return 0
    out.print(drawn(sight))  # not `vila2 status`, which counts rows and so needs the corpus
    print_scores(campaign.scores(), briefly=True)
    live = sight.live
    if live is None or live.ended == "done":
        out.print("no driver runs it now")
        return 0
    out.print(f"no driver runs it now, the last one {live.ended}: {escape(live.why)}", soft_wrap=True)
    return int(live.ended == "failed")


def _follow(watcher: Watcher, out: Console) -> Sight | None:
    """The last sight; None where watching was interrupted."""
    show = _Drawn(out) if out.is_terminal else _Lines(out)
    try:
        with show:
            while True:
                try:
                    sight = watcher.look()
                except StorageError as error:  # read while it was written, or an object store that is tired
                    show.problem(str(error))
                else:
                    if not sight.is_running:
                        return sight
                    show.sight(sight)
                time.sleep(LOOK_SECONDS)
    except KeyboardInterrupt:
        print("no longer watching; the campaign goes on", file=sys.stderr)
        return None


class _Drawn:
    """A table that is drawn anew."""

    def __init__(self, out: Console) -> None:
        self._screen = Screen(console=out, auto_refresh=False)

    def __enter__(self) -> _Drawn:
        self._screen.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._screen.stop()

    def sight(self, sight: Sight) -> None:
        self._screen.update(drawn(sight, self._screen.console.height - _LINES_BESIDE_STAGES), refresh=True)

    def problem(self, sentence: str) -> None:
        self._screen.update(f"[red]{escape(sentence)}[/]", refresh=True)


class _Lines:
    """A line for every change, for logs and pipes."""

    def __init__(self, out: Console) -> None:
        self._out, self._last = out, ""
        self._is_silent = False

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None: ...

    def sight(self, sight: Sight) -> None:
        if not (sight.is_silent and self._is_silent):
            self._say(line(sight))
        self._is_silent = sight.is_silent

    def problem(self, sentence: str) -> None:
        self._say(sentence)

    def _say(self, text: str) -> None:
        if text != self._last:
            self._out.print(text, markup=False, soft_wrap=True)
            self._last = text


def line(sight: Sight) -> str:
    """The sight in one line; the same while nothing has changed."""
    assert sight.live is not None
    if sight.is_silent:
        return f"{sight.live.stage or 'between stages'}: {_silence(sight)}"
    return _joined([sight.live.stage or "between stages", *_parts(sight)])


def drawn(sight: Sight, most: int = 1000) -> RenderableType:
    """The sight as a table of stages, at `most` so many, the running one with its bar; what it costs below."""
    table = Table("stage", "state", "", "", title=sight.uri, title_justify="left", title_style="bold")
    first, last = _window(sight, max(3, most))
    if first:
        table.add_row(f"[dim]{first} before[/]")
    for name in sight.stages[first:last]:
        table.add_row(*_row(sight, name))
    if rest := len(sight.stages) - last:
        table.add_row(f"[dim]{rest} to come[/]")
    below = [escape(_joined(_parts(sight)[_OF_STAGE:]))]
    if sight.is_silent:
        below.append(f"[red]{_silence(sight)}[/]")
    if sight.live is not None and sight.is_running:
        driver = f"process {sight.live.pid} on {escape(sight.live.host)}"
        below.append(f"[dim]driver: {driver}. Ctrl-C ends the watching alone[/]")
    return Group(table, *(text for text in below if text))


def _row(sight: Sight, name: str) -> tuple[RenderableType, ...]:
    live, marker = sight.live, sight.finished.get(name)
    if live is not None and name == live.stage and marker is None:
        state = "[yellow]running[/]" if sight.is_running else "[red]stopped[/]"
        bar = ProgressBar(total=live.total or None, completed=live.done, width=24, pulse=not live.total)
        return name, state, bar, escape(_joined(_parts(sight)[:_OF_STAGE]))
    if marker is None:
        return f"[dim]{name}[/]", "[dim]missing[/]"
    spent = live.spent.get(name, {}) if live is not None else {}
    state = "[dim]left out[/]" if is_left_out(marker) else "[green]done[/]"
    return name, state, clock(spent.get("seconds") or marker.seconds, ""), _dollars(spent)


def _window(sight: Sight, most: int) -> tuple[int, int]:
    """[first, last) of the stages that have room: the running one, or the next, with those around it."""
    names = sight.stages
    now = sight.live.stage if sight.live is not None else ""
    missing = (k for k, name in enumerate(names) if name not in sight.finished)
    at = names.index(now) if now in names else next(missing, len(names) - 1)
    first = max(0, min(at - most // 3, len(names) - most))
    return first, min(len(names), first + most)


def _parts(sight: Sight) -> list[str]:
    """Count, rate, time left, figures; then dead letters, cost, the promoted model."""
    promoted = f"promoted: {sight.promoted}" if sight.promoted else ""
    live = sight.live
    if live is None:
        return ["", "", "", "", promoted]
    counts = f"{live.done:,}/{live.total:,} {live.unit}" if live.total else f"{live.done:,} {live.unit}"
    step = f" ({live.step})" if live.step and live.step != live.stage else ""
    rate = f"{live.rate:,.{1 if live.rate < 10 else 0}f}/s" if live.rate else ""
    left = clock(live.seconds_left, "")
    figures = "  ".join(told.format(live.figures[n]) for n, told in _SHOWN_FIGURES.items() if n in live.figures)
    dead = ", ".join(f"{count:,} {reason}" for reason, count in sorted(live.dead_letters.items()))
    gpu_hours = sum(spent.get("gpu_seconds", 0.0) for spent in live.spent.values()) / 3600
    cost = f"${live.dollars:,.2f} so far" + (f", {gpu_hours:,.1f} GPU-hours" if gpu_hours >= 0.05 else "")
    return [
        counts + step if live.unit else "",
        rate,
        f"{left} left" if left else "",
        figures,
        f"dead letters: {dead}" if dead else "",
        cost if live.spent else "",
        promoted,
    ]


def _joined(parts: Sequence[str]) -> str:
    return "  ".join(part for part in parts if part)


def _silence(sight: Sight) -> str:
    return f"no sign of life for {clock(sight.silent_seconds)}: the driver died, or its storage cannot be reached"


def _dollars(spent: Mapping[str, float]) -> str:
    return f"${spent['dollars']:,.2f}" if spent.get("dollars") else ""
