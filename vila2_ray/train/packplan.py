"""The pack plan: which items make which training sequence, from token lengths alone. Pure: numpy and pyarrow, no torch.

An epoch goes through the shards of every source in a new order, all sources side by side in proportion, in windows of
`shuffle_window` samples. Inside a window items are shuffled and packed: one to a sequence, or as many as fit, the
longest first, each where the least room is left over. Runs of eight steps' worth of sequences are sorted by length, so
that a step holds sequences of similar length and pads little; then the window's steps are shuffled. What does not fill
a step waits for the next window. Step t is the sequences [t·G, (t+1)·G) whatever the number of ranks, so a step number
is all that resuming needs.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vila2_ray.config import StageConfig
from vila2_ray.errors import CorpusError
from vila2_ray.schema import PACK

_SORTED_STEPS = 8
"""Steps whose sequences are sorted together: more pads less, fewer keeps steps more alike."""

LENGTHS = pa.schema([field for field in PACK if field.name not in ("sequence", "slot")])
"""What a plan is made from: one row per training item, in shard order."""


class ItemKey(NamedTuple):
    """Names one training item; its first three fields name the sample."""

    source: str
    shard: str
    row: int
    item: int


class Share(NamedTuple):
    """How much of a source an epoch takes."""

    weight: float = 1.0
    """Share of its samples, drawn anew for each epoch."""
    repeat: int = 1
    """How many times each."""


ALL = Share()


@dataclass(frozen=True)
class PackPlan:
    """A finished plan: `table` (schema PACK, in order of sequence and slot) and what was left out of it."""

    table: pa.Table
    batch_size: int
    """Sequences per step (G)."""
    num_too_long: int = 0
    """Items that hold more than max_length tokens and were dropped."""
    num_empty: int = 0
    """Items without a supervised token, dropped."""
    if TYPE_CHECKING:  # computed, not part of what a plan is
        _starts: Any = field(init=False)  # [sequences + 1] rows of the table at which sequences begin
        _columns: Any = field(init=False)  # lists of the key columns, once they were asked for

    def __post_init__(self) -> None:
        sequence = self.table["sequence"].to_numpy()
        starts = np.searchsorted(sequence, np.arange(int(sequence[-1]) + 2 if len(sequence) else 1))
        object.__setattr__(self, "_starts", starts)
        object.__setattr__(self, "_columns", None)

    @property
    def num_sequences(self) -> int:
        return len(self._starts) - 1

    @property
    def num_steps(self) -> int:
        return self.num_sequences // self.batch_size

    @property
    def num_items(self) -> int:
        return self.table.num_rows

    @property
    def num_tokens(self) -> int:
        return int(pc.sum(self.table["num_tokens"]).as_py() or 0)

    @property
    def num_supervised(self) -> int:
        return int(pc.sum(self.table["num_supervised"]).as_py() or 0)

    def num_supervised_of(self, step: int) -> int:
        """Supervised tokens of a step, all ranks."""
        start, stop = self._starts[step * self.batch_size], self._starts[(step + 1) * self.batch_size]
        return int(pc.sum(self.table["num_supervised"].slice(start, stop - start)).as_py())

    def by_source(self) -> dict[str, dict[str, int]]:
        """Source → items, tokens, supervised, images; repetitions included."""
        names = ["num_tokens", "num_supervised", "num_images"]
        table = self.table.group_by("source").aggregate([("source", "count"), *((name, "sum") for name in names)])
        counted = ("source_count", *(f"{name}_sum" for name in names))
        return {
            row["source"]: dict(
                zip(("items", "tokens", "supervised", "images"), (row[n] for n in counted), strict=True)
            )
            for row in sorted(table.to_pylist(), key=lambda row: row["source"])
        }

    @property
    def digest(self) -> str:
        """sha256 (hex) over every row and the batch size."""
        digest = hashlib.sha256(str(self.batch_size).encode())
        for name in self.table.column_names:
            column = self.table[name]
            if pa.types.is_string(column.type):
                encoded = column.combine_chunks().dictionary_encode()
                encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
                digest.update("\n".join(encoded.dictionary.to_pylist()).encode())
                digest.update(encoded.indices.to_numpy().astype(np.int64).tobytes())
            else:
                digest.update(column.to_numpy().astype(np.int64).tobytes())
        return digest.hexdigest()

    def sequence(self, number: int) -> list[ItemKey]:
        """The items of one sequence, in slot order."""
        if self._columns is None:
            columns = tuple(self.table[name].to_pylist() for name in ItemKey._fields)
            object.__setattr__(self, "_columns", columns)
        start, stop = self._starts[number], self._starts[number + 1]
        return [ItemKey(*key) for key in zip(*(c[start:stop] for c in self._columns), strict=True)]

    def real_token_share(self, micro_batch_size: int, world: int = 1) -> float:
        """Share of the positions in padded micro-batches that hold a token, 0–1; 1.0 for an empty plan."""
        tokens = (
            np.add.reduceat(self.table["num_tokens"].to_numpy(), self._starts[:-1]) if self.num_items else np.zeros(0)
        )
        padded = 0
        for step in range(self.num_steps):
            for rank in range(world):
                lengths = tokens[rank_slice(step, self.batch_size, rank, world)]
                for at in range(0, len(lengths), micro_batch_size):
                    micro = lengths[at : at + micro_batch_size]
                    padded += int(micro.max()) * len(micro)
        return float(tokens.sum() / padded) if padded else 1.0


def rank_slice(step: int, batch_size: int, rank: int, world: int) -> range:
    """Sequence numbers of a step that belong to a rank: every world-th, for neighbours have similar lengths."""
    return range(step * batch_size + rank, (step + 1) * batch_size, world)


def make_plan(
    lengths: pa.Table,
    stage: StageConfig,
    *,
    seed: int,
    shuffle_window: int,
    shares: Mapping[str, Share] | None = None,
) -> PackPlan:
    """Plan a stage. `lengths` (schema LENGTHS) lists the items in shard order, those of a sample next to each other and
    the shards of a source after each other; `shares` tells how much of a source is used, all of it by default.

    Items that are too long or have nothing to learn from are dropped and counted. An incomplete last step is dropped,
    unless it is the only one: then its sequences are repeated until it is full.
    Raises CorpusError when no item is left.
    """
    size = stage.batch_size
    all_tokens, supervised = lengths["num_tokens"].to_numpy(), lengths["num_supervised"].to_numpy()
    too_long, empty = all_tokens > stage.max_length, supervised <= 0
    kept = np.flatnonzero(~too_long & ~empty)
    if not len(kept):
        raise CorpusError(
            "training data", f"none of {lengths.num_rows} items can be trained on", "Look at max_length and the corpus"
        )
    lengths = lengths.take(pa.array(kept))
    tokens = lengths["num_tokens"].to_numpy().astype(np.int64)
    items = _Items(lengths, shares or {}, seed)
    steps: list[list[np.ndarray]] = []
    waiting: list[np.ndarray] = []
    epoch = 0
    while epoch < stage.num_epochs:
        rng = np.random.default_rng([seed, epoch])
        order = items.epoch(epoch, rng)
        stop = round(stage.num_epochs * len(order)) - epoch * len(order)
        for window in _windows(order[:stop], items.sample, shuffle_window):
            rng.shuffle(window)
            full, waiting = _sequences(window, waiting, tokens, stage, rng)
            steps += _steps(full, tokens, size, rng)
        epoch += 1
    if not steps and not waiting:
        raise CorpusError("training data", "no sample was drawn", "Raise corpus.sources.<name>.weight or the epochs")
    if not steps:
        steps = [[waiting[i % len(waiting)] for i in range(size)]]
    if stage.max_steps:
        steps = steps[: stage.max_steps]
    table = _table(lengths, [sequence for step in steps for sequence in step])
    return PackPlan(table, size, num_too_long=int(too_long.sum()), num_empty=int((empty & ~too_long).sum()))


class _Items:
    """The items that can be planned, and in what order an epoch takes them."""

    def __init__(self, lengths: pa.Table, shares: Mapping[str, Share], seed: int) -> None:
        self._seed = seed
        self._rows = lengths["row"].to_numpy()
        source, shard = _codes(lengths["source"]), _codes(lengths["shard"])
        self._shard = np.cumsum(_changes(source) | _changes(shard))
        self.sample = np.cumsum(_changes(self._shard) | _changes(self._rows))
        """Per item: a number that grows at every new sample."""
        firsts = np.flatnonzero(_changes(self._shard))
        names = [lengths[name].take(pa.array(firsts)).to_pylist() for name in ("source", "shard")]
        self._names = [f"{source}/{shard}" for source, shard in zip(*names, strict=True)]
        self._parts: list[tuple[np.ndarray, Share]] = []
        for name in dict.fromkeys(names[0]):
            code = source[firsts[names[0].index(name)]]
            self._parts.append((np.flatnonzero(source == code), shares.get(name, ALL)))

    def epoch(self, epoch: int, rng: np.random.Generator) -> np.ndarray:
        """Item numbers: every source shard after shard in a new order, the sources side by side in proportion."""
        orders = []
        for items, share in self._parts:
            if share.weight < 1:
                items = items[self._drawn(items, epoch) < share.weight]
            orders += [np.concatenate([self._by_shard(items, rng) for _ in range(share.repeat)])]
        if len(orders) == 1:
            return orders[0]
        places = []
        for order in orders:
            nth = np.cumsum(_changes(self.sample[order]))
            places.append((nth - 0.5) / nth[-1] if len(nth) else nth)
        return np.concatenate(orders)[np.argsort(np.concatenate(places), kind="stable")]

    def _by_shard(self, items: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        starts = np.append(np.flatnonzero(_changes(self._shard[items])), len(items))
        pieces = [items[starts[i] : starts[i + 1]] for i in rng.permutation(len(starts) - 1)]
        return np.concatenate(pieces) if pieces else items

    def _drawn(self, items: np.ndarray, epoch: int) -> np.ndarray:
        """[items] uniform in [0, 1), the same for all items of a sample whatever else there is."""
        told = [f"{self._seed}/{epoch}/{name}".encode() for name in self._names]
        keys = np.array([int.from_bytes(hashlib.blake2b(t, digest_size=8).digest(), "big") for t in told], np.uint64)
        number = keys[self._shard[items] - 1] + self._rows[items].astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # splitmix64
            number = (number ^ (number >> np.uint64(shift))) * np.uint64(factor)
        return ((number ^ (number >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) / 2**53


def _codes(column: pa.ChunkedArray) -> np.ndarray:
    """A number for each different text."""
    codes = column.combine_chunks().dictionary_encode()
    codes = codes.combine_chunks() if isinstance(codes, pa.ChunkedArray) else codes
    return codes.indices.to_numpy()


def _changes(values: np.ndarray) -> np.ndarray:
    """[N] bool: the value differs from the one before; the first always does."""
    return np.append(np.ones(min(1, len(values)), bool), values[1:] != values[:-1])


def _windows(order: np.ndarray, sample: np.ndarray, num_samples: int) -> list[np.ndarray]:
    """Cut an order after every `num_samples` samples."""
    nth = np.cumsum(_changes(sample[order])) - 1
    return np.split(order, np.flatnonzero(np.diff(nth // num_samples)) + 1)


def _sequences(
    window: np.ndarray, waiting: list[np.ndarray], tokens: np.ndarray, stage: StageConfig, rng: np.random.Generator
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Sequences that fill whole steps, and those that wait; of packed ones the emptiest do, to be packed again."""
    if stage.max_samples_per_sequence == 1:
        sequences = waiting + list(window[:, None])
    else:
        loose = np.concatenate([*waiting, window])
        sequences = best_fit(loose, tokens[loose], stage.max_length, stage.max_samples_per_sequence)
        sequences = [sequences[i] for i in rng.permutation(len(sequences))]
        sequences.sort(key=lambda sequence: -int(tokens[sequence].sum()))
    num_full = len(sequences) // stage.batch_size * stage.batch_size
    full, waiting = sequences[:num_full], sequences[num_full:]
    if stage.max_samples_per_sequence != 1:
        full = [full[i] for i in rng.permutation(len(full))]
    return full, waiting


def best_fit(items: np.ndarray, tokens: np.ndarray, max_length: int, max_samples: int = 0) -> list[np.ndarray]:
    """Pack `items` [N] of `tokens` [N] each: at most `max_length` tokens and, unless 0, `max_samples` items a sequence.

    Best fit decreasing, at most 11/9 of the fewest sequences possible (Johnson 1973). Items of a sequence keep their
    order.
    """
    members: list[list[int]] = []
    with_room: dict[int, list[int]] = {}
    rooms: list[int] = []  # the different ones, ascending
    for at in np.argsort(-tokens, kind="stable").tolist():
        length = int(tokens[at])
        place = bisect.bisect_left(rooms, length)
        if place == len(rooms):
            sequence, room = len(members), max_length
            members.append([])
        else:
            room = rooms[place]
            sequence = with_room[room].pop()
            if not with_room[room]:
                rooms.pop(place)
        members[sequence].append(at)
        room -= length
        if room and len(members[sequence]) != max_samples:
            if not with_room.get(room):
                bisect.insort(rooms, room)
            with_room.setdefault(room, []).append(sequence)
    return [items[sorted(sequence)] for sequence in members]


def _steps(
    sequences: list[np.ndarray], tokens: np.ndarray, size: int, rng: np.random.Generator
) -> list[list[np.ndarray]]:
    """Steps of similar lengths, in random order."""
    length = np.array([tokens[sequence].sum() for sequence in sequences], np.int64)
    steps = []
    for group in range(0, len(sequences), size * _SORTED_STEPS):
        order = group + np.argsort(length[group : group + size * _SORTED_STEPS], kind="stable")
        steps += [[sequences[i] for i in order[at : at + size]] for at in range(0, len(order), size)]
    return [steps[i] for i in rng.permutation(len(steps))]


def _table(lengths: pa.Table, sequences: list[np.ndarray]) -> pa.Table:
    counts = np.array([len(sequence) for sequence in sequences])
    slots = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    rows = lengths.take(pa.array(np.concatenate(sequences)))
    columns = {"sequence": np.repeat(np.arange(len(sequences)), counts), "slot": slots}
    columns |= {name: rows[name] for name in rows.column_names}
    return pa.table(
        [
            pa.chunked_array([columns[f.name]]).cast(f.type)
            if f.name in ("sequence", "slot")
            else columns[f.name].cast(f.type)
            for f in PACK
        ],
        schema=PACK,
    )
