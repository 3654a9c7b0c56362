"""A rank's data, made by other processes: Ray Data reads, tokenizes and decodes on CPUs of its own; the rank collates.

A rank's part of the pack plan is cut into pieces of some dozen items, which come back in the plan's order, so that a
step holds exactly what the rank's own thread would have read, wherever training begins and however many ranks there
are. Tokens travel as they are. Pixels travel as the 256 levels that an image processor makes, a byte each, and are
looked up again bit for bit; those of a processor that does anything else travel as float32. Masks are never sent.

Ray Data's actors hold a piece or two each and wait while the rank has not taken what is finished.
"""

from __future__ import annotations

import contextlib
import pickle
import traceback
import warnings
from collections.abc import Callable, Container, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from vila2_ray.config import TrainConfig
from vila2_ray.errors import ConfigError, StageFailed, Vila2Error, in_one_line
from vila2_ray.raydata import quiet_context
from vila2_ray.train.corpussource import CorpusSource
from vila2_ray.train.features import FeatureCache
from vila2_ray.train.packplan import ItemKey, PackPlan
from vila2_ray.train.reading import Fetched, Reader, StepKeys
from vila2_ray.train.source import ImageKey, Source, Tokens

if TYPE_CHECKING:
    import ray.data
    from ray.data import DataContext

_PIECE_ITEMS = 32
_PIECES_PER_TASK = 4
_RESTARTS, _RETRIES = 20, 3
"""Deaths of a data worker in one run of a stage, and how often a piece is tried again."""


@dataclass(frozen=True)
class RemoteSource:
    """A source that `num_workers` processes for each rank open for themselves."""

    local: CorpusSource
    open: Callable[[], CorpusSource]
    """Picklable."""
    num_workers: int

    @property
    def blank(self) -> torch.Tensor:
        return self.local.blank

    @property
    def pad_token_id(self) -> int:
        return self.local.pad_token_id

    def tokens(self, keys: Sequence[ItemKey]) -> list[Tokens]:
        return self.local.tokens(keys)

    def pixels(self, keys: Sequence[ImageKey]) -> Sequence[torch.Tensor | None]:
        return self.local.pixels(keys)


def open_reader(plan: PackPlan, source: Source, **settings: Any) -> Reader:
    """The reader that fits the source: the rank's own thread, or Ray Data. `settings` are Reader's other fields."""
    return (RayReader if isinstance(source, RemoteSource) else Reader)(plan, source, **settings)


def check_cpus(train: TrainConfig, num_cpus: float) -> None:
    """Raises ConfigError where a cluster of `num_cpus` has none left for data workers, which would wait for ever."""
    needed = train.num_workers * (train.cpus_per_worker + train.data_workers)
    if train.data_workers and needed > num_cpus:
        raise ConfigError(
            "train.data_workers",
            train.data_workers,
            f"{train.num_workers} workers of {train.cpus_per_worker:g} CPUs with so many data workers each need "
            f"{needed:g} CPUs, and the cluster has {num_cpus:g}. 0 reads in the workers themselves",
        )


class Piece(NamedTuple):
    """Consecutive sequences of a rank."""

    num_sequences: int
    keys: list[ItemKey]
    shows: list[bool]
    """Whether the pixels of the item's images are wanted."""


class RayReader(Reader):
    """A reader whose tokens and pixels come from Ray Data."""

    def fetch(self, first: int, cached: Container[ImageKey]) -> Iterator[tuple[StepKeys, Fetched]]:
        pieces = list(self.pieces(first, cached))
        with contextlib.closing(self._fetched(pieces)) as arriving:
            held: list[Fetched] = []
            num_held = 0  # sequences that have arrived and were not asked for yet
            for keys in self.keys(first):
                while num_held < len(keys.sequences):
                    piece, fetched = next(arriving)
                    held.append(fetched)
                    num_held += piece.num_sequences
                num_held -= len(keys.sequences)
                yield keys, _merged(held)
                held = held[-1:] if num_held else []

    def shown(self, pixels: dict[ImageKey, torch.Tensor]) -> dict[ImageKey, torch.Tensor]:
        """With the rank's own source behind it: an image that came once may belong to a step that was left out."""
        return _Pixels(pixels, self.source)

    def pieces(self, first: int, cached: Container[ImageKey] = ()) -> Iterator[Piece]:
        """This rank's part of the steps from `first` on. Where `cached` keeps the outputs of a frozen tower for all of
        its images, each is wanted once.
        """
        seen: set[tuple[str, str, int]] | None = set() if self._is_kept(first, cached) else None
        piece = Piece(0, [], [])
        for keys in self.keys(first):
            for sequence in keys.sequences:
                for key in sequence:
                    piece.keys.append(key)
                    piece.shows.append(seen is None or key[:3] not in seen)
                    if seen is not None:
                        seen.add(key[:3])
                piece = piece._replace(num_sequences=piece.num_sequences + 1)
                if len(piece.keys) >= _PIECE_ITEMS:
                    yield piece
                    piece = Piece(0, [], [])
        if piece.keys:
            yield piece

    def _is_kept(self, first: int, cached: Container[ImageKey]) -> bool:
        if not isinstance(cached, FeatureCache) or not self.plan.num_items:
            return False
        samples = {key[:3] for keys in self.keys(first) for key in keys.items}
        return cached.holds(len(samples) * int(pc.max(self.plan.table["num_images"]).as_py()))

    def _fetched(self, pieces: list[Piece]) -> Generator[tuple[Piece, Fetched], None, None]:
        import ray
        from ray.data import DataContext

        assert isinstance(self.source, RemoteSource)
        context = _context(self.world)
        arrived = 0
        try:
            with DataContext.current(context):
                dataset = _dataset(pieces, self.source)
                for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
                    for row in batch.to_pylist():
                        if row["error"] is not None:
                            raise pickle.loads(row["error"])
                        assert row["piece"] == arrived, "pieces come in order"
                        yield pieces[arrived], unpacked(row["data"])
                        arrived += 1
        except ray.exceptions.RayError as error:
            raise StageFailed(
                f"the data workers gave up: {in_one_line(error)}. Run the same command again to go on from the last "
                "saved step; with train.data_workers=0 the training workers read by themselves"
            ) from error
        assert arrived == len(pieces), "every piece comes"


class _Pixels(dict[ImageKey, torch.Tensor]):
    """Pixels by image; what is missing is read when it is asked for."""

    def __init__(self, pixels: dict[ImageKey, torch.Tensor], source: Source) -> None:
        super().__init__(pixels)
        self._source = source

    def __missing__(self, key: ImageKey) -> torch.Tensor:
        (made,) = self._source.pixels([key])
        return self._source.blank if made is None else made


class Fetcher:
    """A data worker: a piece of the plan in, its tokens and pixels out. What goes wrong comes back as a value."""

    def __init__(self, open_source: Callable[[], CorpusSource]) -> None:
        self._open = open_source
        self._source: CorpusSource | None = None

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Rows of (`piece`, pickled `items`) → rows of (`piece`, pickled `data` or `error`)."""
        rows = []
        for row in batch.to_pylist():
            made: dict[str, Any] = {"piece": row["piece"], "data": None, "error": None}
            try:
                if self._source is None:
                    torch.set_num_threads(1)
                    self._source = self._open()
                made["data"] = packed(self._source, pickle.loads(row["items"]))
            except Exception as error:
                if not isinstance(error, Vila2Error):
                    error = StageFailed(f"a data worker met an error that it does not know:\n{traceback.format_exc()}")
                made["error"] = pickle.dumps(error)
            rows.append(made)
        return pa.Table.from_pylist(rows, _OUT)


_OUT = pa.schema([("piece", pa.int64()), ("data", pa.large_binary()), ("error", pa.binary())])


def packed(source: CorpusSource, piece: Piece) -> bytes:
    """Tokens of a piece and the pixels that it shows."""
    keys = list(dict.fromkeys(piece.keys))
    tokens = dict(zip(keys, source.tokens(keys), strict=True))
    wanted = [key for key, shows in zip(piece.keys, piece.shows, strict=True) if shows]
    images = list(dict.fromkeys(image for key in wanted for image in tokens[key].images))
    levels = source.pixel_levels
    pixels = {
        image: None if made is None else _to_levels(made.numpy(), levels)
        for image, made in zip(images, source.pixels(images) if images else [], strict=True)
    }
    return pickle.dumps((tokens, pixels, levels), protocol=5)


def unpacked(data: bytes) -> Fetched:
    """What `packed` packed, bit for bit."""
    tokens, pixels, levels = pickle.loads(data)
    return Fetched(
        tokens, {image: None if made is None else _to_pixels(made, levels) for image, made in pixels.items()}
    )


def _to_levels(pixels: np.ndarray, levels: np.ndarray | None) -> np.ndarray:
    """[3, H, W] float32 → uint8 numbers of `levels` [3, 256]; unchanged where a pixel is none of them."""
    if levels is None:
        return pixels
    low, high = levels[:, :1, None], levels[:, -1:, None]
    numbers = np.clip(np.rint((pixels - low) * (255 / (high - low))), 0, 255).astype(np.uint8)
    return numbers if np.array_equal(_looked_up(numbers, levels), pixels) else pixels


def _to_pixels(made: np.ndarray, levels: np.ndarray | None) -> torch.Tensor:
    return torch.from_numpy(made if made.dtype != np.uint8 or levels is None else _looked_up(made, levels))


def _looked_up(numbers: np.ndarray, levels: np.ndarray) -> np.ndarray:
    return np.stack([table[channel] for table, channel in zip(levels, numbers, strict=True)])


def _merged(held: list[Fetched]) -> Fetched:
    if len(held) == 1:
        return held[0]
    tokens = {key: made for fetched in held for key, made in fetched.tokens.items()}
    return Fetched(tokens, {image: made for fetched in held for image, made in fetched.pixels.items()})


def _context(world: int) -> DataContext:
    """Ray Data's settings for one rank: quiet, in order, and no more of the object store than its share of one half."""
    import ray
    from ray.data import ExecutionResources

    context = quiet_context()
    context.target_max_block_size = 1  # a block is a row, a row is a piece
    context.target_min_block_size = 1
    context.execution_options.preserve_order = True
    store = ray.cluster_resources().get("object_store_memory", 0.0) / 2 / world
    # without a limit on GPUs, Ray Data asks a busy cluster for nodes that have some
    context.execution_options.resource_limits = ExecutionResources.for_limits(gpu=0, object_store_memory=store or None)
    return context


def _dataset(pieces: list[Piece], source: RemoteSource) -> ray.data.Dataset:
    import ray
    from ray.data import ActorPoolStrategy

    rows = [{"piece": number, "items": pickle.dumps(piece)} for number, piece in enumerate(pieces)]
    tables = [pa.Table.from_pylist(rows[at : at + _PIECES_PER_TASK]) for at in range(0, len(rows), _PIECES_PER_TASK)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Ray 2.60 has no named parameters for restarts and retries
        return ray.data.from_arrow(tables).map_batches(
            Fetcher,
            fn_constructor_args=(source.open,),
            batch_size=1,
            batch_format="pyarrow",
            zero_copy_batch=True,
            compute=ActorPoolStrategy(size=min(source.num_workers, len(tables)), max_tasks_in_flight_per_actor=2),
            num_cpus=1,
            max_restarts=_RESTARTS,
            max_task_retries=_RETRIES,
        )
