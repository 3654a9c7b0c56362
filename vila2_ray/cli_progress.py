"""Progress lines at a terminal: the newest of a stage replaces the one before; all else is printed as it is."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO, cast

from vila2_ray.progress import MARK, LineProgress, Progress


@contextmanager
def shown_progress() -> Iterator[Progress]:
    """Progress of whatever runs inside, on standard output."""
    screen = Screen()
    try:
        yield LineProgress(cast(TextIO, screen))
    finally:
        screen.close()


class Screen:
    """Takes text in pieces of any size, as a log is followed; a stream for `LineProgress` and `print` as well."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._redraws = self._stream.isatty()
        self._pending = ""
        self._open_stage = ""
        """Stage of the progress line that the cursor stands in; empty when it stands at the beginning of a line."""

    def write(self, text: str) -> int:
        *lines, self._pending = (self._pending + text).split("\n")
        for line in lines:
            self._line(line.rstrip("\r"))
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def close(self) -> None:
        """Print what has no line end yet and leave the cursor at the beginning of a line. The stream stays open."""
        if self._pending:
            self.write("\n")
        self._leave_progress_line()

    def _line(self, line: str) -> None:
        if not (self._redraws and line.startswith(MARK)):
            self._leave_progress_line()
            self._stream.write(line + "\n")
            return
        stage = line[len(MARK) :].split()[:1]
        if stage != [self._open_stage]:
            self._leave_progress_line()
        width = shutil.get_terminal_size().columns - 1  # a wrapped line could not be redrawn
        self._stream.write("\r\x1b[2K" + line[:width])
        self._stream.flush()
        self._open_stage = stage[0] if stage else MARK

    def _leave_progress_line(self) -> None:
        if self._open_stage:
            self._stream.write("\n")
            self._open_stage = ""
        self._stream.flush()
