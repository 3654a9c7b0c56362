"""A checkpoint's benchmark results: asked through an engine, scored, written; what is there already is not asked again.

    <to>/<name>.parquet   SAID: what was asked, what the model said, what that is worth
    <to>/<name>.json      scores with intervals, counts, and what they are of (`key`); written last

Two files have the same key where checkpoint, benchmark, its annotation files and how it was asked are the same.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from vila2_ray.captions.prompts import seed as seed_of
from vila2_ray.config import BenchmarkConfig, JudgeConfig, SamplingConfig, semantic_fields
from vila2_ray.corpus.images import decode_image
from vila2_ray.engines.base import Engine, GenerationRequest, generate
from vila2_ray.errors import CorpusError, Reason, SampleError
from vila2_ray.evaluate.benchmarks import Opened, check_missing, goes_by_endpoint, open_benchmark
from vila2_ray.evaluate.items import Item
from vila2_ray.evaluate.judging import run_scorer
from vila2_ray.evaluate.rules.tally import Estimate, estimate
from vila2_ray.progress import NullProgress, Progress
from vila2_ray.storage import Store, absolute

if TYPE_CHECKING:
    from PIL import Image

SAID = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("answers", pa.list_(pa.string()), nullable=False),
        pa.field("groups", pa.list_(pa.string()), nullable=False),
        pa.field("said", pa.string()),  # null where the engine failed
        pa.field("score", pa.float32(), nullable=False),
    ]
)
"""A row per question that could be asked."""

_MAX_PIXELS = 100_000_000
_READERS = 8
"""Pictures that are read at the same time: far ones take a while each."""
_GAP_PIXELS = 16
"""Between pictures that are shown as one."""


@dataclass(frozen=True)
class Result:
    """What a checkpoint reaches on one benchmark."""

    name: str
    kind: str
    main: str
    """The score that it is known by."""
    scores: dict[str, float]
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Score → what holds 95 % of its bootstrap resamples, as far as they are known."""
    num_items: int = 0
    num_failed: int = 0
    """Questions that the engine gave no answer to: wrong."""
    num_missing: int = 0
    """Questions without a picture: left out."""
    data: str = ""
    """Digest of the annotation files."""
    checkpoint: str = ""
    """Digest of the weights that were asked."""
    engine: str = ""
    judge: str = ""
    """The model that scored open answers."""
    charged_dollars: float = 0.0
    """What the judge's endpoint took for that."""
    key: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Suite:
    """Benchmarks for one checkpoint. Picklable."""

    benchmarks: Mapping[str, BenchmarkConfig]
    to: Store
    """Where results go."""
    checkpoint: str
    """Its digest."""
    seed: int = 0
    asked_by: str = ""
    """What else decides answers, as text: quantisation, settings of the image processor."""
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    """The model that scores open answers."""

    def ask(self, opener: Callable[[], Engine], progress: Progress | None = None) -> dict[str, Result]:
        """Results of all benchmarks that an engine answers; it is opened when there is something to ask.

        Raises CorpusError, ConfigError and StageFailed (a judge), StorageError, EngineDied.
        """
        progress, found = progress or NullProgress(), {}
        for name, config in self.benchmarks.items():
            if config.kind == "command":
                continue
            opened = open_benchmark(config, self.judge)
            key = self._key(config, opened.digest)
            if (known := self._known(name, key)) is None:
                if opened.judge is not None:
                    opened.judge.look()
                known = self._ask_one(name, config, opened, key, opener(), progress)
            found[name] = known
        return found

    def run_commands(self, folder: Path, progress: Progress | None = None) -> dict[str, Result]:
        """Results of the user's scorers, which open the checkpoint's folder themselves: no engine may be open.

        Raises StageFailed.
        """
        progress, found = progress or NullProgress(), {}
        for name, config in self.benchmarks.items():
            if config.kind != "command":
                continue
            key = self._key(config, "")
            if (known := self._known(name, key)) is None:
                started = time.monotonic()
                progress.note(f"{name}: {config.command[0]} scores the checkpoint")
                path = absolute(config.path) if config.path else ""
                said = run_scorer(config.command, config.timeout_seconds, folder, path)
                seconds = time.monotonic() - started
                told: dict[str, Any] = {
                    "engine": config.command[0],
                    "checkpoint": self.checkpoint,
                    "key": key,
                    "seconds": seconds,
                }
                known = Result(name, config.kind, **said, **told)
                self._keep(known)
            found[name] = known
        return found

    def _key(self, config: BenchmarkConfig, data: str) -> str:
        told = [self.checkpoint, semantic_fields(config, ""), data, self.asked_by, self.seed]
        if goes_by_endpoint(config):
            told.append(["judged by", self.judge.model])
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def _known(self, name: str, key: str) -> Result | None:
        found = read_result(self.to, name)
        return found if found is not None and found.key == key else None

    def _keep(self, result: Result) -> None:
        self.to.write_text(f"{result.name}.json", json.dumps(asdict(result), indent=1, sort_keys=True))

    def _ask_one(
        self, name: str, config: BenchmarkConfig, opened: Opened, key: str, engine: Engine, progress: Progress
    ) -> Result:
        started = time.monotonic()
        said, unseen = _answers(name, opened, engine, progress)
        missing, total = opened.num_missing + len(unseen), opened.num_missing + len(opened.items)
        check_missing(config, missing, total, list(unseen.values())[:1])
        items = [item for item in opened.items if item.id not in unseen]
        if not items:
            raise CorpusError(config.path, "not one of its questions could be asked", "Look at its pictures")
        texts = [said[item.id] for item in items]
        tallies = opened.rule.judge(items, texts)
        estimates = estimate(opened.rule, items, tallies, self.seed)
        self.to.write_table(f"{name}.parquet", _table(items, texts, [tally["score"] for tally in tallies]))
        scores, intervals = _finite(estimates)
        result = Result(
            name=name,
            kind=config.kind,
            main=opened.rule.main if opened.rule.main in scores else next(iter(scores), ""),
            scores=scores,
            intervals=intervals,
            num_items=len(items),
            num_failed=sum(text is None for text in texts),
            num_missing=missing,
            data=opened.digest,
            checkpoint=self.checkpoint,
            engine=f"{engine.name} {engine.version}",
            judge=opened.judge.model if opened.judge else "",
            charged_dollars=opened.judge.dollars if opened.judge else 0.0,
            key=key,
            seconds=time.monotonic() - started,
        )
        self._keep(result)
        progress.note(f"{name}: {sentence(result)}")
        return result


def sentence(result: Result) -> str:
    """The main score with its interval, and what was left out."""
    low, high = result.intervals.get(result.main, (math.nan, math.nan))
    told = f"{result.main} {result.scores[result.main]:.4f}" if result.main else "no score"
    told += "" if math.isnan(low) else f" ({low:.4f}–{high:.4f})"
    told += f", {result.num_items:,} questions" if result.num_items else ""
    told += f", {result.num_failed:,} without an answer" if result.num_failed else ""
    told += f", judged by {result.judge}" if result.judge else ""
    told += f" for ${result.charged_dollars:.4f}" if result.charged_dollars else ""
    return told + (f", {result.num_missing:,} left out for want of a picture" if result.num_missing else "")


def read_result(store: Store, name: str) -> Result | None:
    """A result that `Suite` wrote; None where there is none, or one that this version does not know."""
    if not store.exists(f"{name}.json"):
        return None
    try:
        found = json.loads(store.read_text(f"{name}.json"))
        found["intervals"] = {score: (low, high) for score, (low, high) in found["intervals"].items()}
        return Result(**found)
    except (ValueError, TypeError, KeyError):
        return None


def read_results(store: Store) -> dict[str, dict[str, Result]]:
    """Model → benchmark → result, of a folder with a folder for each model."""
    found: dict[str, dict[str, Result]] = {}
    for file in store.list(suffix=".json"):
        model, slash, name = file.removesuffix(".json").partition("/")
        result = read_result(store.sub(model), name) if slash and "/" not in name else None
        if result is not None:
            found.setdefault(model, {})[name] = result
    return found


def resolved(benchmarks: Mapping[str, BenchmarkConfig]) -> dict[str, BenchmarkConfig]:
    """The same with absolute paths: engines run in other folders."""

    def whole(path: str) -> str:
        return absolute(path) if path else ""

    return {n: replace(each, path=whole(each.path), images=whole(each.images)) for n, each in benchmarks.items()}


def _answers(
    name: str, opened: Opened, engine: Engine, progress: Progress
) -> tuple[dict[str, str | None], dict[str, str]]:
    """Item id → what was said, and item id → what is wrong with its picture."""
    said: dict[str, str | None] = {}
    unseen: dict[str, str] = {}
    progress.start(name, len(opened.items), "questions")
    sampling = SamplingConfig(temperature=0.0, max_tokens=opened.max_tokens)
    for number, answer in enumerate(generate(engine, _requests(opened.items, sampling, unseen)), 1):
        said[str(answer.key[0])] = None if answer.problem else answer.text
        progress.update(number)
    progress.finish()
    return said, unseen


def _requests(items: Sequence[Item], sampling: SamplingConfig, unseen: dict[str, str]) -> Iterator[GenerationRequest]:
    """Questions about one picture follow each other: it is decoded, and mostly encoded, once."""
    ordered = sorted(items, key=_shown)
    shows = ((name, list(group)) for name, group in groupby(ordered, key=_shown))
    for name, group, image in _read_ahead(shows):
        for item in group:
            if isinstance(image, str):
                unseen[item.id] = f"{item.id}: {image}"
                continue
            yield GenerationRequest((item.id,), name, image, item.prompt, seed_of("benchmark", item.id), sampling)


def _shown(item: Item) -> str:
    return " ".join(picture.name for picture in item.pictures)


def _read_ahead(shows: Iterable[tuple[str, list[Item]]]) -> Iterator[tuple[str, list[Item], Image.Image | str]]:
    """Each with its picture, or why there is none; some are read and decoded while the engine works."""
    waiting: deque[tuple[str, list[Item], Future[Image.Image | str]]] = deque()
    source = iter(shows)
    with ThreadPoolExecutor(_READERS) as pool:
        while True:
            for name, group in islice(source, _READERS * 2 - len(waiting)):
                waiting.append((name, group, pool.submit(_look, group[0])))
            if not waiting:
                return
            name, group, image = waiting.popleft()
            yield name, group, image.result()


def _look(item: Item) -> Image.Image | str:
    try:
        return _joined([decode_image(picture.read(), _MAX_PIXELS) for picture in item.pictures])
    except (SampleError, CorpusError) as error:
        return str(error)


def _joined(images: Sequence[Image.Image]) -> Image.Image:
    """Several pictures side by side on white."""
    from PIL import Image

    if len(images) == 1:
        return images[0]
    width = sum(image.width for image in images) + _GAP_PIXELS * (len(images) - 1)
    height = max(image.height for image in images)
    if width * height > _MAX_PIXELS:
        raise SampleError(Reason.IMAGE_TOO_LARGE, f"{width} × {height} pixels together")
    whole, left = Image.new("RGB", (width, height), "white"), 0
    for image in images:
        whole.paste(image, (left, 0))
        left += image.width + _GAP_PIXELS
    return whole


def _finite(estimates: Mapping[str, Estimate]) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    known = {name: found for name, found in estimates.items() if math.isfinite(found.value)}
    ranges = {name: (found.low, found.high) for name, found in known.items() if math.isfinite(found.low)}
    return {name: found.value for name, found in known.items()}, ranges


def _table(items: Sequence[Item], said: Sequence[str | None], scores: Sequence[float]) -> pa.Table:
    rows: list[dict[str, Any]] = [
        {"id": i.id, "prompt": i.prompt, "answers": list(i.answers), "groups": list(i.groups), "said": s, "score": x}
        for i, s, x in zip(items, said, scores, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=SAID)
