"""Resumable training state: saved while training goes on, read back by any number of ranks.

torch.distributed.checkpoint copies what a rank holds of parameters and AdamW moments to main memory and writes it as
safetensors in a thread; nothing pickled is written or read. A save is done when the files of all ranks are in their
place; then rank 0 writes the marker that names it, whole or not at all, and deletes what the marker no longer names.
The marker carries the key of the work it belongs to: state of other work in the same folder is never continued.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter

from vila2_ray.errors import CheckpointError
from vila2_ray.logs import tell
from vila2_ray.storage import Store
from vila2_ray.train.parallelize import Place

warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)  # one process alone: on purpose

_MARKER = "last.json"
_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass
class Course:
    """The course of a stage up to a step; what a save carries besides tensors."""

    losses: list[float] = field(default_factory=list)
    """One per step."""
    seconds: float = 0.0
    """Training time, earlier runs included."""
    num_updates: int = 0
    """Steps that changed the weights."""
    guard: dict[str, Any] = field(default_factory=dict)
    """What the guard of the loss remembers."""


class StepStore:
    """Keeps the state of one piece of work in a folder, its last `keep` saves. Every rank has one."""

    def __init__(self, store: Store, work: str, every_seconds: float, every_steps: int = 0, keep: int = 1) -> None:
        """`work` names what is trained on what: state under another name is ignored. `every_steps` 0: by time alone."""
        self._store, self._work, self._every_seconds, self._every_steps = store, work, every_seconds, every_steps
        self._keep = max(1, keep)
        self._saved_at = time.monotonic()
        self._kept: list[dict[str, Any]] = []
        self._on_its_way: Future[None] | None = None
        self._group: dist.ProcessGroup | None = None
        self._attempt = ""

    # --- reading back ------------------------------------------------------------------------------------------------

    def load(self, trained: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, place: Place) -> Course | None:
        """Put the last save into parameters and optimizer; its course, None when there is nothing to resume.

        Called by all ranks. Raises CheckpointError when the saved tensors are not those of this model.
        """
        self._begin(place)
        self._saved_at = time.monotonic()
        marker = self._marker()
        if marker is None or marker["work"] != self._work:
            return None
        self._kept = marker["kept"]
        last = self._kept[-1]
        optimizer.state.clear()
        tensors = _tensors(trained, optimizer)
        local = self._store.sub(last["folder"]).local_folder()
        reader = HuggingFaceStorageReader(str(local))
        saved = {name: tuple(entry.size) for name, entry in reader.read_metadata().state_dict_metadata.items()}
        if saved != {name: tuple(tensor.shape) for name, tensor in tensors.items()}:
            raise CheckpointError(
                self._store.path(last["folder"]), "holds other parameters than this model trains", "Delete it"
            )
        with torch.no_grad():
            dcp.load(tensors, storage_reader=reader, process_group=self._group, no_dist=place.world == 1)
        for parameter in trained.values():
            optimizer.state[parameter]["step"].fill_(last["num_updates"])
        return Course(marker["losses"][: last["step"]], last["seconds"], last["num_updates"], last["guard"])

    def _marker(self) -> dict[str, Any] | None:
        return json.loads(self._store.read_text(_MARKER)) if self._store.exists(_MARKER) else None

    def _begin(self, place: Place) -> None:
        """Ranks agree on a name for this attempt: what another left half-written must never mix with its files."""
        if self._attempt:
            return
        name = [uuid.uuid4().hex[:8]]
        if place.world > 1:
            self._group = dist.new_group(backend="gloo")  # saves go on beside the collectives of training
            dist.broadcast_object_list(name, src=0, group=self._group)
        self._attempt = name[0]
        if place.rank == 0:
            self._tidy(marker["kept"] if (marker := self._marker()) else [])

    # --- saving ------------------------------------------------------------------------------------------------------

    def is_due(self, step: int) -> bool:
        """Whether a save should follow this step (from 1). Rank 0's answer counts: clocks differ."""
        by_steps = bool(self._every_steps) and step % self._every_steps == 0
        return by_steps or time.monotonic() - self._saved_at >= self._every_seconds

    @property
    def is_busy(self) -> bool:
        """Whether a save is on its way, as this rank sees it. Raises what has gone wrong with it."""
        if self._on_its_way is not None and self._on_its_way.done():
            self._on_its_way.result()
            self._on_its_way = None
        return self._on_its_way is not None

    def start(
        self, trained: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, course: Course, place: Place
    ) -> None:
        """Copy the state to main memory and begin to write it. Called by all ranks, none of which is busy."""
        assert self._on_its_way is None
        self._begin(place)
        folder = f"step-{len(course.losses):08d}-{self._attempt}"
        local = None if self._store.is_local else Path(tempfile.mkdtemp(prefix="vila2-state-"))
        target = local or Path(self._store.path(folder))
        target.mkdir(parents=True, exist_ok=True)
        saved = dcp.async_save(
            _tensors(trained, optimizer),
            storage_writer=HuggingFaceStorageWriter(str(target), save_distributed=True),
            process_group=self._group,
            no_dist=place.world == 1,
        )
        assert isinstance(saved, Future)
        copied = Course(list(course.losses), course.seconds, course.num_updates, dict(course.guard))
        self._on_its_way = _then(saved, lambda: self._written(local, folder, copied, place))
        self._saved_at = time.monotonic()

    def settle(self, place: Place) -> None:
        """Wait for a save on its way. Called by all ranks at the same step."""
        if self._on_its_way is not None:
            self._on_its_way.result()
            self._on_its_way = None
        place.barrier()  # no rank reads before rank 0 has named it

    def _written(self, local: Path | None, folder: str, course: Course, place: Place) -> None:
        """In the thread that wrote this rank's files: bring them to their place; once all ranks have, name them."""
        if local is not None:
            try:
                self._store.upload_folder(local, folder)
            finally:
                shutil.rmtree(local, ignore_errors=True)
        if self._group is not None:
            dist.barrier(group=self._group)
        entry = {"folder": folder, "step": len(course.losses), "seconds": course.seconds}
        entry |= {"num_updates": course.num_updates, "guard": course.guard}
        self._kept = [*(kept for kept in self._kept if kept["step"] < len(course.losses)), entry][-self._keep :]
        if place.rank == 0:
            marker = {"work": self._work, "kept": self._kept, "losses": course.losses}
            self._store.write_text(_MARKER, json.dumps(marker))
            tell("checkpoint saved", step=len(course.losses), folder=folder)
            self._tidy(self._kept)

    def clear(self) -> None:
        """Delete all state: the work is done, or was other work."""
        self._store.delete(_MARKER)
        self._tidy([])

    def _tidy(self, kept: list[dict[str, Any]]) -> None:
        names = {entry["folder"] for entry in kept}
        found = {name.split("/")[0] for name in self._store.list() if name.startswith("step-")}
        for name in found - names:
            self._store.delete_tree(name)


def _tensors(trained: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Name → parameter or moment, as this rank holds it; moments that AdamW has not made yet are made, zero."""
    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in trained.items():
        state = optimizer.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            state.update({moment: torch.zeros_like(parameter) for moment in _MOMENTS})
        tensors[f"param/{name}"] = parameter.detach()
        tensors.update({f"{moment}/{name}": state[moment] for moment in _MOMENTS})
    return tensors


def _then(first: Future[Any], work: Callable[[], None]) -> Future[None]:
    """A future of `work`, done in the thread that finishes `first`."""
    after: Future[None] = Future()

    def run(done: Future[Any]) -> None:
        try:
            done.result()
            work()
            after.set_result(None)
        except BaseException as error:
            after.set_exception(error)

    first.add_done_callback(run)
    return after
