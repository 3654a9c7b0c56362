"""Keeps what is served in step with what the campaign and its operators wish: looks, decides, acts, tells the routes.

What it decides is `following.decide`; what runs is asked of the fleet at every step. So it can end at any moment: the
next one finds the same fleet, and those who send questions go by the last table until it has looked.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from vila2_ray.errors import EngineDied, NotReady, Overloaded, in_one_line, own_cause
from vila2_ray.serve.captioner import Served
from vila2_ray.serve.following import Action, Bounds, Check, GiveUp, Route, Start, Stop, decide
from vila2_ray.serve.logs import SERVE
from vila2_ray.serve.routing import Route as RouteTo
from vila2_ray.serve.routing import Table
from vila2_ray.serve.states import Memory, Run, Version, name_of, standing
from vila2_ray.serve.wishes import Wish

QUICK_SECONDS = 0.25
"""Between two steps while something changes."""
LONG_POLL_SECONDS = 20.0
_MAY_PASS = (OSError, MemoryError, asyncio.TimeoutError, EngineDied, NotReady, Overloaded)
"""What trying again may cure; whatever else a load or a smoke caption raises is the checkpoint's fault."""
_LOG = logging.getLogger(SERVE)


class Fleet(Protocol):
    """Where versions run. Its methods raise what the cluster raises; the follower tries again."""

    async def runs(self) -> list[Run]:
        """All versions that are there."""

    async def version(self, key: str) -> Version | None:
        """Of one that runs; None where it does not answer."""

    async def start(self, version: Version) -> None:
        """Begin to load it; returns soon."""

    async def smoke(self, key: str) -> str:
        """Have it caption its smoke picture; which engine answers. Raises what is wrong with it."""

    async def stop(self, key: str) -> None:
        """It gets no more questions; end it when it has answered those that it has. Returns soon."""

    async def room(self) -> int:
        """How many more replicas fit now."""

    async def close(self) -> None:
        """End all versions."""


class Follower:
    """`run` until cancelled, or `step` by hand."""

    def __init__(
        self,
        names: Sequence[str],
        look: Callable[[], tuple[Wish, ...]],
        fleet: Fleet,
        bounds: Bounds,
        poll_seconds: float,
    ) -> None:
        self.names, self.fleet = tuple(names), fleet
        self._look, self._bounds, self._poll_seconds = look, bounds, poll_seconds
        self._wishes: tuple[Wish, ...] = ()
        self._looked_at = float("-inf")
        self._memories = {name: Memory() for name in names}
        self._versions: dict[str, Version] = {}
        self._engines: dict[str, str] = {}
        self._served: dict[str, Served] = {}
        self._checks: dict[str, asyncio.Task[None]] = {}
        self._table = Table()
        self._change, self._poked = asyncio.Event(), asyncio.Event()

    async def run(self) -> None:
        while True:
            changes = True
            try:
                changes = await self.step()
            except Exception as error:
                _LOG.warning("the cluster or the campaign does not answer (%s); trying again", in_one_line(error))
            self._poked.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                wait = min(QUICK_SECONDS, self._poll_seconds) if changes else self._poll_seconds
                await asyncio.wait_for(self._poked.wait(), wait)

    async def table(self, mark: str) -> Table:
        """The table once it is another than `mark`, or after a while the same again."""
        deadline = time.monotonic() + LONG_POLL_SECONDS
        while not self._table.mark or self._table.mark == mark:
            left = deadline - time.monotonic()
            if left <= 0:
                break
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._change.wait(), left)
        return self._table

    async def close(self) -> None:
        """End what it has started, the fleet too."""
        for task in list(self._checks.values()):
            task.cancel()
        await self.fleet.close()

    async def step(self) -> bool:
        """Look, and do what is next; whether there is more to come soon."""
        await self._look_at_wishes()
        runs = await self.fleet.runs()
        await self._ask_versions(runs)
        acted = False
        for stray in {run.key for run in runs if name_of(run.key) not in self.names and run.phase != "stopping"}:
            await self.fleet.stop(stray)
        room: int | None = None
        for wish in self._wishes:
            own = [run for run in runs if name_of(run.key) == wish.name]
            self._memories[wish.name] = memory = self._memories[wish.name].seen(own)
            if room is None and _may_start(wish, own, memory):
                room = await self.fleet.room()
            actions = decide(wish, own, memory, self._versions, bool(room), self._bounds, time.time())
            for action in actions:
                await self._do(wish, action)
            acted = acted or bool(actions)
            room = room - sum(isinstance(action, Start) for action in actions) if room is not None else None
        runs = await self.fleet.runs() if acted else runs
        self._publish(runs)
        return acted or self._is_unsettled(runs)

    # --- looking -----------------------------------------------------------------------------------------------------

    async def _look_at_wishes(self) -> None:
        """At most every `poll_seconds`; while the campaign does not answer, the last wishes hold."""
        if time.monotonic() - self._looked_at < self._poll_seconds and self._wishes:
            return
        try:
            self._wishes = await asyncio.to_thread(self._look)
            self._looked_at = time.monotonic()
        except (OSError, ValueError) as error:
            _LOG.warning("the campaign cannot be read (%s); what is served stays", in_one_line(error))
        for wish in self._wishes:
            if wish.target is not None:
                version = Version(wish.name, wish.target)
                self._versions[version.key] = version

    async def _ask_versions(self, runs: Sequence[Run]) -> None:
        """Whose target is not known: a follower before this one started it."""
        for run in runs:
            if run.phase == "running" and run.key not in self._versions:
                found = await self.fleet.version(run.key)
                if found is not None:
                    self._versions[run.key] = found

    # --- acting ------------------------------------------------------------------------------------------------------

    async def _do(self, wish: Wish, action: Action) -> None:
        memory, now = self._memories[wish.name], time.time()
        if isinstance(action, Start):
            _LOG.info("%s: %s is being loaded", wish.name, action.version.target.label)
            await self.fleet.start(action.version)
        elif isinstance(action, Check):
            self._memories[wish.name] = memory.asked(action.version.key)
            self._checks[action.version.key] = asyncio.create_task(self._check(wish, action.version))
        elif isinstance(action, Route):
            self._route(wish.name, action.version, now)
        elif isinstance(action, GiveUp):
            self._give_up(wish, action.key, action.why, action.is_final)
        elif isinstance(action, Stop):
            await self.fleet.stop(action.key)

    def _route(self, name: str, version: Version | None, now: float) -> None:
        self._memories[name] = self._memories[name].routed_to(version, now)
        if version is None:
            _LOG.warning("%s: drained reload, for there is no room for two; nothing answers meanwhile", name)
            return
        target = version.target
        engine = self._engines.get(version.key, "")
        self._served[version.key] = Served(name, target.model, target.digest, target.skill, engine, now)
        _LOG.info("%s: %s is served", name, target.label)

    def _give_up(self, wish: Wish, key: str, why: str, is_final: bool) -> None:
        _LOG.error("%s: %s is not put to service: %s", wish.name, key, why)
        memory = self._memories[wish.name]
        self._memories[wish.name] = memory.failed(key, why, is_final, wish.said_at, time.time())

    async def _check(self, wish: Wish, version: Version) -> None:
        try:
            self._engines[version.key] = await asyncio.wait_for(
                self.fleet.smoke(version.key), self._bounds.load_seconds
            )
            self._memories[wish.name] = self._memories[wish.name].checked(version.key, is_good=True)
        except Exception as error:
            own = own_cause(error)
            why = in_one_line(own or error)  # without paths: people who ask are told it
            self._give_up(wish, version.key, why, not isinstance(own or error, _MAY_PASS))
            with contextlib.suppress(Exception):  # what still runs is seen, and stopped, by the next step
                await self.fleet.stop(version.key)
        finally:
            self._checks.pop(version.key, None)
            self._poked.set()

    # --- telling -----------------------------------------------------------------------------------------------------

    def _publish(self, runs: Sequence[Run]) -> None:
        """A new table, if it says anything new. The first one waits until what ran before is known again."""
        if not self._wishes or (not self._table.mark and self._finds_its_way(runs)):
            return
        routes = {
            name: RouteTo(memory.routed, self._served[memory.routed])
            for name, memory in self._memories.items()
            if memory.routed
        }
        now, told = time.time(), []
        for wish in self._wishes:
            own = [run for run in runs if name_of(run.key) == wish.name]
            served = routes[wish.name].served if wish.name in routes else None
            told.append(standing(wish, own, self._memories[wish.name], served, now))
        table = Table(self._table.mark, routes, tuple(told))
        if table != self._table or not self._table.mark:
            self._table = replace(table, mark=uuid.uuid4().hex)
            self._change.set()
            self._change = asyncio.Event()

    def _finds_its_way(self, runs: Sequence[Run]) -> bool:
        """Whether a name has something that runs and is not yet known to be good."""
        names = {name_of(run.key) for run in runs if run.phase == "running"}
        return any(name in names and not memory.routed for name, memory in self._memories.items())

    def _is_unsettled(self, runs: Sequence[Run]) -> bool:
        routed = {memory.routed for memory in self._memories.values()}
        return bool(self._checks) or any(run.key not in routed for run in runs)


def _may_start(wish: Wish, runs: Sequence[Run], memory: Memory) -> bool:
    """Whether room may matter: what is wished is not served."""
    return wish.target is not None and Version(wish.name, wish.target).key != memory.routed
