"""The child of a daemon: a process that runs one task, the one that its parent has given it, and ends.

A daemon in all that a task needs, without readers, sweeps and ops port. Its exit code tells the parent: 0 settled (or
nothing was given), 75 a server was away, 78 a bad setting; anything else is a crash, for which the task is convicted.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Final

from aiohttp import web

from daemon.config import Settings
from daemon.domain.errors import ConfigError, DependencyAway, Stopping
from daemon.events.log import EventLog
from daemon.observability.logging import logger
from daemon.pipeline.in_flight import InFlight
from daemon.pipeline.outcome import Abandoned, Outcome
from daemon.ports import Delivery
from daemon.processes.consumer import Daemon
from daemon.processes.lifecycle import Signals, end
from daemon.processes.quarantine import owner_name
from daemon.processes.rooms import arm_failpoints

_log = logger(__name__)

_EX_TEMPFAIL: Final = 75
#: the parent gives the entry away while we start: it is there, or comes within this
_GIVEN_S: Final = 10.0
_LOOK_S: Final = 0.1
#: connections to Postgres and Redis: one task needs few
_CONNECTIONS: Final = 2


class QuarantinedTask(Daemon):
    """One task of `queue` in this process; `outcome` is how its delivery ended, None when none was given."""

    outcome: Outcome | None = None

    def __init__(self, settings: Settings, queue: str, nonce: str) -> None:
        super().__init__(_slim(settings), [queue])
        self.consumer = owner_name(os.getpid(), nonce)
        self._queue = queue
        self._run: InFlight | None = None

    def force_stop(self) -> None:
        """Hand the task back at once."""
        super().force_stop()
        if self._run is not None:
            self._run.scope.interrupt(Stopping("the daemon stops"))

    async def run(self) -> None:
        """From start to the end of the task."""
        async with AsyncExitStack() as stack:
            await self._connect(stack)
            await self._start(stack)
            self._deps = replace(self._deps, in_quarantine=True, quarantine=None)
            async with asyncio.TaskGroup() as loops:
                background = [
                    loops.create_task(self._leases.run(_nothing), name="beat"),
                    loops.create_task(self._deltas.run(), name="deltas"),
                    loops.create_task(self._cancels.run(), name="cancels"),
                    loops.create_task(self._live(), name="liveness"),
                ]
                try:
                    d = await self._given()
                    if d is not None:
                        await self._run_one(d)
                finally:
                    await end(background)
            await self._deregister()

    async def _run_one(self, d: Delivery) -> None:
        if self.draining.is_set():  # told to stop before it began
            await self._work.requeue(d)
            return
        self._run = InFlight(d)
        self._leases.add(self._run)
        try:
            self.outcome = await self._attempt(self._run)
        finally:
            self._leases.remove(self._run)

    async def _given(self) -> Delivery | None:
        """The entry that is pending to our name."""
        for _ in range(round(_GIVEN_S / _LOOK_S)):
            found = await self._work.own_pending(self._queue, 1)
            if found:
                _log.info("quarantine.began", queue=self._queue, consumer=self.consumer)
                return found[0]
            await asyncio.sleep(_LOOK_S)
        _log.warning("quarantine.nothing_given", queue=self._queue, consumer=self.consumer)
        return None

    async def _live(self) -> None:
        """Our record is fresh for as long as we have an entry."""
        while True:
            await asyncio.sleep(self._settings.lease.liveness_s)
            try:
                await self._reclaimer.register()
            except DependencyAway as error:
                _log.warning("liveness.failed", error=type(error).__name__)

    async def _serve(self, stack: AsyncExitStack, more: Sequence[web.RouteDef]) -> None:
        """No ops port: it is the parent's."""

    def _admin_routes(self, events: EventLog) -> list[web.RouteDef]:
        return []


async def run_quarantined(settings: Settings, queue: str, nonce: str) -> int:
    """Run one task; the exit code. SIGTERM lets it finish, a second one hands it back."""
    arm_failpoints(settings)
    task = QuarantinedTask(settings, queue, nonce)
    refused: ConfigError | DependencyAway | None = None
    with Signals(on_stop=task.stop, on_force_stop=task.force_stop):
        try:
            await task.run()
        except* (ConfigError, DependencyAway) as group:
            refused = next(iter(_leaves(group)))
    if refused is not None:
        raise refused
    if isinstance(task.outcome, Abandoned):
        return 1 if task.outcome.crashed else _EX_TEMPFAIL
    return 0


def _leaves(group: BaseExceptionGroup[ConfigError | DependencyAway]) -> list[ConfigError | DependencyAway]:
    found: list[ConfigError | DependencyAway] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


def _slim(settings: Settings) -> Settings:
    postgres = settings.postgres.model_copy(update={"pool_min": 1, "pool_max": _CONNECTIONS})
    return settings.model_copy(update={"postgres": postgres})


def _nothing() -> None:
    """No watchdog counts the beats: the parent limits our life."""
