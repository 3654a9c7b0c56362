"""The pack plan: which items make which training sequence, from token lengths alone. Pure: numpy and pyarrow, no torch.

An epoch goes through the shards in a new order, in windows of `shuffle_window` samples. Inside a window items are
shuffled and packed greedily into sequences; runs of eight steps' worth of sequences are sorted by length, so that a
step holds sequences of similar length and pads little; then the window's steps are shuffled. What does not fill a step
waits for the next window. Step t is the sequences [t·G, (t+1)·G) whatever the number of ranks, so a step number is all
that resuming needs.
"""

from __future__ import annotations

import hashlib
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


def make_plan(lengths: pa.Table, stage: StageConfig, *, seed: int, shuffle_window: int) -> PackPlan:
    """Plan a stage. `lengths` (schema LENGTHS) lists the items in shard order, those of a sample next to each other.

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
    shard, sample = _codes(lengths)
    steps: list[list[np.ndarray]] = []
    waiting: list[np.ndarray] = []
    remaining = round(stage.num_epochs * len(tokens))
    epoch = 0
    while remaining > 0:
        rng = np.random.default_rng([seed, epoch])
        for window in _windows(_epoch_order(shard, rng)[:remaining], sample, shuffle_window):
            rng.shuffle(window)
            sequences = waiting + _pack(window, tokens, stage.max_length, stage.max_samples_per_sequence)
            num_full = len(sequences) // size * size
            steps += _steps(sequences[:num_full], tokens, size, rng)
            waiting = sequences[num_full:]
        remaining -= len(tokens)
        epoch += 1
    if not steps:
        steps = [[waiting[i % len(waiting)] for i in range(size)]]
    if stage.max_steps:
        steps = steps[: stage.max_steps]
    table = _table(lengths, [sequence for step in steps for sequence in step])
    return PackPlan(table, size, num_too_long=int(too_long.sum()), num_empty=int((empty & ~too_long).sum()))


def _codes(lengths: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Per item: a number that grows by one at every new shard, and one that grows at every new sample."""
    changes = np.zeros(lengths.num_rows, bool)
    for name in ("source", "shard"):
        codes = lengths[name].combine_chunks().dictionary_encode()
        codes = codes.combine_chunks() if isinstance(codes, pa.ChunkedArray) else codes
        numbers = codes.indices.to_numpy()
        changes[1:] |= numbers[1:] != numbers[:-1]
    rows = lengths["row"].to_numpy()
    new_sample = changes.copy()
    new_sample[1:] |= rows[1:] != rows[:-1]
    return np.cumsum(changes), np.cumsum(new_sample)


def _epoch_order(shard: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Item numbers, shard after shard in a new order."""
    starts = np.append(np.flatnonzero(np.diff(shard, prepend=-1)), len(shard))
    return np.concatenate([np.arange(starts[i], starts[i + 1]) for i in rng.permutation(len(starts) - 1)])


def _windows(order: np.ndarray, sample: np.ndarray, num_samples: int) -> list[np.ndarray]:
    """Cut an order after every `num_samples` samples."""
    samples = sample[order]
    nth = np.cumsum(np.append(0, samples[1:] != samples[:-1]))
    return np.split(order, np.flatnonzero(np.diff(nth // num_samples)) + 1)


def _pack(window: np.ndarray, tokens: np.ndarray, max_length: int, max_samples: int) -> list[np.ndarray]:
    """Fill sequences in order: a sequence ends before the item that would overfill it."""
    if max_samples == 1:
        return list(window[:, None])
    cuts, count, total = [], 0, 0
    for at, length in enumerate(tokens[window].tolist()):
        if count == max_samples or total + length > max_length:
            cuts.append(at)
            count = total = 0
        count, total = count + 1, total + length
    return np.split(window, cuts)


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
