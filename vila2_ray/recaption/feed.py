"""One engine, kept full by several row ranges at once: while the last captions of one are written, the next are begun.

Threads that hold a range each decode and prepare its images and hand in requests; one thread of the feed's own adds
them to the engine, steps it, and gives every answer back to the range that asked. No Ray.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from vila2_ray.engines.base import Engine, Generation, GenerationRequest, Key, generate
from vila2_ray.errors import EngineDied


@dataclass
class _Asked:
    """What one range has asked for and been told."""

    num_asked: int = 0
    all_asked: bool = False
    answers: dict[Key, Generation] = field(default_factory=dict)

    @property
    def is_done(self) -> bool:
        return self.all_asked and len(self.answers) == self.num_asked


class EngineFeed:
    """Shares `engine` among threads. `on_death` is called, in the feed's thread, when the engine cannot go on.

    Requests are made by `decode_threads` ranges at a time, in the order in which the ranges came, so that ranges finish
    one after the other rather than all at the end.
    """

    def __init__(self, engine: Engine, decode_threads: int, on_death: Callable[[EngineDied], None]) -> None:
        self.engine = engine
        self.opened_at = time.time()
        self._on_death = on_death
        self._making = threading.Semaphore(decode_threads)
        self._generating = threading.Lock()
        self._changed = threading.Condition()
        self._ready: deque[tuple[GenerationRequest, _Asked]] = deque()
        self._most_ready = max(8, engine.batch_size // 4)
        self._num_asking = 0
        self._owners: dict[Key, _Asked] = {}
        self._broken: BaseException | None = None
        self._closed = False
        self._engine_seconds = 0.0
        self._thread: threading.Thread | None = None
        if engine.batches_continuously:
            self._thread = threading.Thread(target=self._drive, name="engine", daemon=True)
            self._thread.start()

    def answer(self, requests: Iterable[GenerationRequest]) -> dict[Key, Generation]:
        """Answers to the requests of one range, by key. Blocks; called from a thread of its own for each range.

        Raises what making the requests raises, and what broke the engine.
        """
        if self._thread is None:
            return self._answer_alone(requests)
        mine = _Asked()
        with self._changed:
            self._num_asking += 1
        try:
            with self._making:
                for request in requests:
                    self._hand_in(request, mine)
        finally:  # also when making them failed: what was handed in is waited for, so that its keys are free again
            with self._changed:
                self._num_asking -= 1
                mine.all_asked = True
                self._changed.notify_all()
                self._changed.wait_for(lambda: mine.is_done or self._broken)
        if self._broken is not None:
            raise self._broken
        return mine.answers

    def take_engine_seconds(self) -> float:
        """Seconds that the engine was stepping since this was last asked."""
        with self._changed:
            seconds, self._engine_seconds = self._engine_seconds, 0.0
        return seconds

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        self.engine.close()

    def _answer_alone(self, requests: Iterable[GenerationRequest]) -> dict[Key, Generation]:
        """For engines that answer whole batches: a range at a time, so that its batches are the same in every run.

        The next range is decoded meanwhile.
        """
        with self._making:
            made = list(requests)
        with self._generating:
            began = time.monotonic()
            try:
                return {answer.key: answer for answer in generate(self.engine, made)}
            except EngineDied as death:
                self._on_death(death)
                raise
            finally:
                with self._changed:
                    self._engine_seconds += time.monotonic() - began

    def _hand_in(self, request: GenerationRequest, mine: _Asked) -> None:
        with self._changed:
            self._changed.wait_for(lambda: len(self._ready) < self._most_ready or self._broken)
            if self._broken is not None:
                raise self._broken
            mine.num_asked += 1
            self._ready.append((request, mine))
            self._changed.notify_all()

    def _drive(self) -> None:
        starting = True
        try:
            while self._fill(starting):
                if starting and self._is_filling():
                    continue
                began = time.monotonic()
                answers = self.engine.step()
                with self._changed:
                    self._engine_seconds += time.monotonic() - began
                    for answer in answers:
                        self._owners.pop(answer.key).answers[answer.key] = answer
                    self._changed.notify_all()
                starting = not self.engine.num_pending
        except BaseException as error:
            if isinstance(error, EngineDied):
                self._on_death(error)
            with self._changed:
                self._broken = error
                self._changed.notify_all()

    def _has_work(self, starting: bool) -> bool:
        return self.engine.num_pending > 0 and not (starting and self._num_asking)

    def _is_filling(self) -> bool:
        """Whether an engine that starts from nothing should wait: a batch that starts together stays together."""
        with self._changed:
            return self._num_asking > 0 and self.engine.num_pending < self.engine.batch_size // 2

    def _fill(self, starting: bool) -> bool:
        """Add what is ready as far as the engine has room, waiting while there is nothing to do; false: closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._closed or self._has_work(starting))
            room = self.engine.batch_size - self.engine.num_pending
            taken = [self._ready.popleft() for _ in range(min(room, len(self._ready)))]
            for request, asked in taken:
                self._owners[request.key] = asked
            self._changed.notify_all()
            closed = self._closed and not self.engine.num_pending
        for request, _ in taken:
            self.engine.add(request)
        return not closed
