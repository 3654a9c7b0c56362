"""Processes that ask when they are told to: so two ways can take turns within seconds, and share a machine's moods.

An order is a JSON line on stdin: clients, route, seconds, settle. Answers are JSON lines on stdout: `begin` and `end`,
then the window. When stdin ends, the process says what it was told of the first pictures and ends.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from trials.load import REMEMBERED, Ask, closed_loop
from trials.processes import Server, cpu_between

_told_to: list[TextIO] = [sys.stdout]


def keep_stdout() -> None:
    """Lines go to stdout; what others print, here and in child processes, to stderr. A child that stays behind does not
    hold the pipe open."""
    _told_to[0] = os.fdopen(os.dup(1), "w")  # not inherited
    os.dup2(2, 1)


def print_line(**told: Any) -> None:
    print(json.dumps(told), file=_told_to[0], flush=True)


async def obey(make: Callable[[int, str], list[Ask]], said: dict[int, str]) -> None:
    """Time a window for each order. `make`: so many clients that ask by a route."""
    numbers = itertools.count()
    while line := await asyncio.to_thread(sys.stdin.readline):
        order = json.loads(line)
        clients = make(order["clients"], order["route"])
        window = await closed_loop(
            clients, order["seconds"], order["settle"], numbers, lambda event: print_line(event=event)
        )
        print_line(event="window", **asdict(window))
    print_line(event="said", texts=[said.get(number, "").strip() for number in range(REMEMBERED)])


class Asking:
    """A process that obeys, seen from outside."""

    def __init__(self, process: Server, *others: Server) -> None:
        """`others`: whose processor time counts, too: what it asks."""
        self.process, self.watched = process, (process, *others)

    @classmethod
    def start(cls, command: Sequence[str], environment: dict[str, str], log: Path, *others: Server) -> Asking:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        return cls(Server.start(command, environment, log, **pipes), *others)

    def warm(self, clients: int, route: str) -> None:
        """The first answers of all are slower."""
        self._window(clients, route, 2.0, 0.0)

    def window(self, clients: int, route: str, seconds: float, settle: float) -> dict[str, Any]:
        """As `load.Window`, with `cpu_seconds` of all processes by name. Raises SystemExit where nothing was right."""
        window = self._window(clients, route, seconds, settle)
        if not window["latencies_ms"]:
            raise SystemExit(f"{clients} clients got no right answer within {seconds} s: {window['failures'][:3]}")
        return window

    def _window(self, clients: int, route: str, seconds: float, settle: float) -> dict[str, Any]:
        stdin = self.process.process.stdin
        assert stdin is not None
        order = {"clients": clients, "route": route, "seconds": seconds, "settle": settle}
        stdin.write(json.dumps(order).encode() + b"\n")
        stdin.flush()
        self.await_line("begin")
        before = [seen for watched in self.watched for seen in watched.all()]
        self.await_line("end")
        after = [seen for watched in self.watched for seen in watched.all()]
        window = self.await_line("window")
        return {**window, "route": route, "cpu_seconds": cpu_between(before, after)}

    def await_line(self, event: str) -> dict[str, Any]:
        """The next thing it tells, which must be this one. Raises SystemExit when it has ended."""
        stdout = self.process.process.stdout
        assert stdout is not None
        line = stdout.readline()
        if not line:
            raise SystemExit(f"the asking process ended: {self.process.log_tail()}")
        told: dict[str, Any] = json.loads(line)
        assert told["event"] == event, told
        return told

    def said(self) -> list[str]:
        """What it was told of the first pictures. It takes no more orders."""
        stdin = self.process.process.stdin
        assert stdin is not None
        stdin.close()
        texts: list[str] = self.await_line("said")["texts"]
        return texts
