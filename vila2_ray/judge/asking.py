"""A model votes on a study: every pair in both orders, many questions at a time, none that it has voted on already.

A vote is kept the moment that it comes, so that a kill costs the questions that are under way, and no more.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from vila2_ray.errors import SampleError, StageFailed, Vila2Error
from vila2_ray.judge.endpoint import Endpoint, Judged, Refused, Unanswered
from vila2_ray.judge.rubric import Criterion, criteria
from vila2_ray.judge.study import Pair, Study, Vote
from vila2_ray.judge.verdict import Verdict, of_pair
from vila2_ray.progress import NullProgress, Progress

MAX_IN_A_ROW = 8
"""So many questions refused, or without an answer, and none answered between them: it is not the questions."""
_GRACE_SECONDS = 10.0
"""For questions under way when another has shown that it makes no sense to go on."""
_MAX_RATER_CHARS = 64

Picture = Callable[[Pair], tuple[bytes, str]]
"""The encoded picture of a pair, and its media type. Raises SampleError. Asked in threads."""


@dataclass
class Course:
    """How far a judge is: this run's questions, and what they took."""

    rater: str = ""
    num_known: int = 0
    """Voted on before."""
    num_asked: int = 0
    num_problems: int = 0
    """Votes without an answer, with the reason why."""
    problem: str = ""
    """The first of them."""
    num_unanswered: int = 0
    """No vote: to be asked again."""
    input_tokens: int = 0
    output_tokens: int = 0
    dollars: float = 0.0
    seconds: float = 0.0

    @property
    def sentence(self) -> str:
        """For people."""
        known = f", {self.num_known:,} were there" if self.num_known else ""
        told = f"{self.rater}: {self.num_asked:,} votes{known}"
        if self.num_problems:
            told += f", {self.num_problems:,} of the new ones without an answer (for one: {self.problem})"
        if not self.num_asked:
            return told
        tokens = f"{self.input_tokens:,} tokens read, {self.output_tokens:,} written"
        return f"{told}; {tokens}" + (f", ${self.dollars:,.4f}" if self.dollars else "")


def ask_study(
    study: Study,
    endpoint: Callable[[], Endpoint],
    picture: Picture,
    progress: Progress | None = None,
    *,
    on_course: Callable[[Course], None] = lambda course: None,
    again: bool = False,
    max_pairs: int = 0,
    left_out: Collection[str] = (),
) -> Course:
    """Ask what is missing; `on_course` hears of every vote.

    `again`: what could not be judged before is asked once more. `max_pairs`: only the first so many; 0: all.
    `left_out`: pairs that nobody is to see any more. Raises
    ConfigError (no such study, key, model), StageFailed where the endpoint gives up, and what `progress` raises; all
    votes until then are kept.
    """
    pairs = [pair for pair in study.pairs() if pair.pair_id not in left_out]
    asked = study.criteria, pairs[: max_pairs or None]
    return asyncio.run(_ask(study, *asked, endpoint, picture, progress or NullProgress(), on_course, again))


def rater_of(model: str) -> str:
    """A model's name as a rater: model:llava-hf-llava-7b."""
    name = "model:" + re.sub(r"[^A-Za-z0-9._@:+-]", "-", model)
    if len(name) > _MAX_RATER_CHARS:  # still one name for each model
        name = f"{name[: _MAX_RATER_CHARS - 9]}-{hashlib.sha256(model.encode()).hexdigest()[:8]}"
    return name


async def _ask(
    study: Study,
    names: Sequence[str],
    pairs: Sequence[Pair],
    endpoint: Callable[[], Endpoint],
    picture: Picture,
    progress: Progress,
    on_course: Callable[[Course], None],
    again: bool,
) -> Course:
    async with endpoint() as opened:
        rater = rater_of(await opened.name())
        known = _known(study, rater, again)
        missing = [(pair, orders) for pair in pairs if (orders := _orders(pair, known))]
        course = Course(rater, num_known=2 * len(pairs) - sum(len(orders) for _, orders in missing))
        progress.start(f"judge-{study.name}", 2 * len(pairs), "votes")
        asking = _Asking(study, criteria(names), opened, picture, progress, on_course, course)
        try:
            await asking.run(missing)
        finally:
            progress.finish()
    return course


def _known(study: Study, rater: str, again: bool) -> set[tuple[str, bool]]:
    if not again:
        return study.judged_by(rater)
    return {(vote.pair_id, vote.swapped) for vote in study.votes(rater) if not vote.problem}


def _orders(pair: Pair, known: set[tuple[str, bool]]) -> tuple[bool, ...]:
    return tuple(swapped for swapped in (False, True) if (pair.pair_id, swapped) not in known)


class _Asking:
    """One run over the pairs that are missing."""

    def __init__(
        self,
        study: Study,
        asked: Sequence[Criterion],
        endpoint: Endpoint,
        picture: Picture,
        progress: Progress,
        on_course: Callable[[Course], None],
        course: Course,
    ) -> None:
        self._study, self._criteria, self._endpoint = study, asked, endpoint
        self._picture, self._progress, self._on_course = picture, progress, on_course
        self.course, self._began = course, time.monotonic()
        self._refused: list[Vote] = []
        """Refusals since the last answer: kept as votes once it shows that others are answered."""
        self._in_a_row = 0
        self._has_answered = False
        self._error: BaseException | None = None

    async def run(self, missing: Iterable[tuple[Pair, tuple[bool, ...]]]) -> None:
        left = iter(missing)
        self._tell()
        await self._work(left, until_answered=True)  # a wrong key, name or form is sent but once
        workers = [asyncio.create_task(self._work(left)) for _ in range(self._endpoint.config.at_once)]
        try:
            await self._until_over(workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        await self._keep_refusals()
        if self._error is not None:
            raise self._gave_up(self._error)
        if self.course.num_unanswered:
            raise StageFailed(
                f"{self._name}: {self.course.num_unanswered:,} questions got no answer; all other votes are "
                "kept. Run the same command again to ask those"
            )

    async def _keep_refusals(self) -> None:
        """Those since the last answer, else every later run ends at the same questions. An endpoint that has never
        answered refuses everything: that says nothing of the questions.
        """
        refused, self._refused = self._refused, []
        if self._has_answered or self.course.num_known:
            for vote in refused:
                await self._cast(vote)
        elif refused and self._error is None:
            self._error = StageFailed(f"the judge's endpoint refuses every question: {refused[0].problem}")

    async def _until_over(self, workers: Sequence[asyncio.Task[None]]) -> None:
        pending = set(workers)
        while pending and self._error is None:
            _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        if pending:
            await asyncio.wait(pending, timeout=_GRACE_SECONDS)

    async def _work(self, left: Iterator[tuple[Pair, tuple[bool, ...]]], until_answered: bool = False) -> None:
        """Pair after pair, one question at a time. What goes wrong (a wrong key, a store that is away, a full disk) is
        kept and told once all are at rest: nobody hears a task's own error.
        """
        try:
            while self._error is None and not (until_answered and self._has_answered):
                if (following := next(left, None)) is None:
                    return
                await self._pair(*following)
        except Exception as error:
            self._error = self._error or error

    async def _pair(self, pair: Pair, orders: Sequence[bool]) -> None:
        try:
            shown = await asyncio.to_thread(self._picture, pair)
        except SampleError as error:
            for swapped in orders:
                await self._cast(self._vote(pair, swapped, problem=f"no picture: {error}"))
            return
        for swapped in orders:
            if self._error is not None:
                return
            await self._question(pair, swapped, shown)

    async def _question(self, pair: Pair, swapped: bool, shown: tuple[bytes, str]) -> None:
        ask = of_pair(self._criteria, pair.first.text, pair.second.text, swapped)
        try:
            judged = await self._endpoint.judge(ask, shown)
        except Refused as error:
            self._refused.append(self._vote(pair, swapped, error.judged, problem=f"refused: {error}"))
            self._count_in_a_row(StageFailed(f"the judge's endpoint refuses question after question: {error}"))
        except Unanswered as error:
            self.course.num_unanswered += 1
            self._charge(error.judged)
            self._count_in_a_row(error, is_final=error.is_away or not self._has_answered)
        else:
            await self._answered(pair, swapped, judged)

    async def _answered(self, pair: Pair, swapped: bool, judged: Judged[Verdict]) -> None:
        self._in_a_row, self._has_answered, refused, self._refused = 0, True, self._refused, []
        for vote in [*refused, self._vote(pair, swapped, judged, problem=judged.problem)]:
            await self._cast(vote)

    def _vote(self, pair: Pair, swapped: bool, judged: Judged[Any] | None = None, problem: str = "") -> Vote:
        read = judged.read if judged else None
        return Vote(
            pair_id=pair.pair_id,
            rater=self.course.rater,
            kind="model",
            swapped=swapped,
            answers=read.answers if read else {},
            voted_at=time.time(),
            reason=read.reason if read else "",
            problem=problem,
            seconds=judged.seconds if judged else 0.0,
            input_tokens=judged.input_tokens if judged else 0,
            output_tokens=judged.output_tokens if judged else 0,
        )

    async def _cast(self, vote: Vote) -> None:
        try:
            await asyncio.to_thread(self._study.cast, vote)
            course = self.course
            course.num_asked += 1
            course.num_problems += bool(vote.problem)
            course.problem = course.problem or vote.problem
            course.input_tokens += vote.input_tokens
            course.output_tokens += vote.output_tokens
            self._tell()
        except Exception as error:  # the votes that wait behind it are kept all the same
            self._error = self._error or error

    def _charge(self, took: Judged[Any] | None) -> None:
        """For what has become no vote."""
        if took is not None:
            self.course.input_tokens += took.input_tokens
            self.course.output_tokens += took.output_tokens
            self._tell()

    def _tell(self) -> None:
        course = self.course
        course.dollars = self._endpoint.config.dollars(course.input_tokens, course.output_tokens)
        course.seconds = time.monotonic() - self._began
        self._on_course(course)
        figures: dict[str, float | str] = {"problems": course.num_problems} if course.num_problems else {}
        figures |= {"dollars": f"{course.dollars:.2f}"} if course.dollars else {}
        self._progress.update(course.num_known + course.num_asked, **figures)

    def _count_in_a_row(self, error: Vila2Error, is_final: bool = False) -> None:
        self._in_a_row += 1
        if is_final or self._in_a_row >= MAX_IN_A_ROW:
            self._error = self._error or error

    @property
    def _name(self) -> str:
        return f"judge-{self._study.name}"

    def _gave_up(self, error: BaseException) -> BaseException:
        if not isinstance(error, StageFailed):
            return error
        kept = f"{self.course.num_known + self.course.num_asked:,} votes are kept"
        failed = StageFailed(f"{self._name}: {error}. {kept}; run the same command again to go on")
        failed.__cause__ = error
        return failed
