"""Child processes of a daemon, each of which runs one task that has been in too many crashes.

The parent sees a child die, which nobody else can: only it convicts. A child goes on when its parent dies, and what is
pending to it is taken over like the entries of any owner when it dies too.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from daemon.config import Settings
from daemon.domain.errors import DependencyAway, RedisFull
from daemon.domain.states import State
from daemon.observability.logging import bind_attempt, logger
from daemon.observability.metrics import Metrics
from daemon.pipeline.dependencies import Dependencies
from daemon.pipeline.in_flight import InFlight
from daemon.pipeline.quarantine import QUARANTINE_WAIT
from daemon.ports import Delivery
from daemon.queues.streams import WorkStreams
from daemon.redis_client.scripts import Scripts
from daemon.store.records import TaskRecords
from daemon.worker.lease import Leases
from daemon.worker.proof_of_death import ProofsOfDeath

_log = logger(__name__)

#: exit codes of a child that say nothing against its task: a server was away, or a setting is wrong
_BLAMELESS: Final = (75, 78)
#: between two looks at a child
_LOOK_BEATS: Final = 1.1


def owner_name(pid: int, nonce: str) -> str:
    """The owner that the process `pid` is: its name in Redis, Postgres and the log."""
    return f"{socket.gethostname()[:40]}-{pid}-{nonce}"


@dataclass(eq=False)
class Child:
    """One child process; `Quarantined` for the pipeline."""

    process: Process
    owner: str
    work: WorkStreams
    register: Callable[[str, str], Awaitable[object]]
    #: the entry that it was given; None: it gets none
    taken: asyncio.Future[Delivery | None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    async def take(self, d: Delivery) -> bool:
        """See `Quarantined`. The record of its life comes first: no entry of a consumer is without one."""
        await self.register(d.queue, self.owner)
        moved = await self.work.transfer(d, self.work.consumer, self.owner)
        if moved and not self.taken.done():
            self.taken.set_result(d)
        return moved

    def discard(self) -> None:
        """See `Quarantined`."""
        if not self.taken.done():
            self.taken.set_result(None)
        self.signal(signal.SIGKILL)

    def signal(self, number: signal.Signals) -> None:
        """Any signal; nothing happens when it is gone."""
        with suppress(ProcessLookupError):
            self.process.send_signal(number)


class QuarantineChildren:
    """The children of one daemon. `run` beside its readers; `stop` and `pass_signal` as the daemon is told."""

    def __init__(
        self,
        deps: Dependencies,
        scripts: Scripts,
        work: WorkStreams,
        records: TaskRecords,
        settings: Settings,
        metrics: Metrics,
        leases: Leases,
        *,
        proofs: ProofsOfDeath,
        free_permits: Callable[[Iterable[str], Sequence[Delivery]], Awaitable[None]],
        attempt: Callable[[InFlight], Awaitable[object]],
        changed: Callable[[Iterable[str]], None],
        suspect: Callable[[str], None],
    ) -> None:
        self._deps = deps
        self._scripts = scripts
        self._work = work
        self._records = records
        self._settings = settings
        self._metrics = metrics
        self._leases = leases
        self._proofs = proofs
        self._free_permits = free_permits
        self._attempt = attempt  # runs a delivery to its end
        self._changed = changed  # told of queues whose tasks a child may have snoozed, unknown to anybody
        self._suspect = suspect  # told of queues with entries that are pending to the dead, or to us unseen
        self._children: set[Child] = set()
        self._starting = 0
        self._waiting: dict[tuple[str, str], None] = {}  # queue, task id; the longest waiting first
        self._stopping = asyncio.Event()
        self._group: asyncio.TaskGroup | None = None

    @property
    def has_slot(self) -> bool:
        """See `Quarantine`."""
        used = self._starting + len(self._children)
        return not self._stopping.is_set() and used < self._deps.lease.quarantine_slots

    def waits(self, d: Delivery) -> None:
        """See `Quarantine`."""
        if d.entry is not None:
            self._waiting.setdefault((d.queue, d.entry.message.task_id))

    async def run(self) -> None:
        """Until `stop`, and until the last child has ended. Cancelling kills them; that says nothing of their tasks."""
        async with asyncio.TaskGroup() as self._group:
            await self._stopping.wait()

    def stop(self) -> None:
        """Start no more; those that run go on to their end."""
        self._stopping.set()
        self.pass_signal()

    def pass_signal(self) -> None:
        """SIGTERM to all: the second one lets a child hand its task back at once."""
        for child in self._children:
            child.signal(signal.SIGTERM)

    async def start(self, queue: str, life_s: float) -> Child | None:
        """See `Quarantine`."""
        nonce = secrets.token_hex(4)
        command = [sys.executable, "-m", "daemon", "run", "--queues", queue, "--quarantine", nonce]
        self._starting += 1
        try:
            # In a session of its own: Ctrl-C in a terminal is for the daemon, which tells its children what to do.
            process = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, start_new_session=True)
        except OSError as error:
            _log.error("quarantine.start_failed", queue=queue, error=os.strerror(error.errno or 0))
            return None
        finally:
            self._starting -= 1
        child = Child(process, owner_name(process.pid, nonce), self._work, self._register)
        assert self._group is not None, "attempts run beside `run`"
        self._children.add(child)
        self._group.create_task(self._watch(child, queue, life_s), name=f"quarantine:{child.owner}")
        return child

    async def _register(self, queue: str, owner: str) -> object:
        ttl_ms = int(self._deps.lease.liveness_ttl_s * 1000)
        return await WorkStreams(self._scripts, self._settings.queues, owner).register(self._scripts, [queue], ttl_ms)

    async def _watch(self, child: Child, queue: str, life_s: float) -> None:
        """One child from its start to the consequences of its end."""
        outcome = ""
        try:
            code = await self._exit_code(child, life_s)
            d = await child.taken
            if d is not None:
                with bind_attempt(**InFlight(d).ids):
                    outcome = await self._inspect(child, d, code)
                    _log.info("quarantine.ended", queue=queue, child=child.owner, exit_code=code, outcome=outcome)
                self._metrics.quarantine_runs.labels(queue, outcome).inc()
        finally:
            child.discard()
            self._children.discard(child)
        self._changed([queue])
        if outcome == "unsettled":
            self._suspect(queue)
        await self._call_next()

    async def _exit_code(self, child: Child, life_s: float) -> int:
        """Once it is reaped, which proves it dead. One that lives too long, or hangs, is killed."""
        lease, loop = self._deps.lease, asyncio.get_running_loop()
        ended = loop.create_task(child.process.wait(), name="child-exit")
        deadline, silent = loop.time() + life_s, False
        try:
            # More than a beat apart: after a standstill of the whole host a child has renewed before the second look.
            while not (await asyncio.wait([ended], timeout=_LOOK_BEATS * lease.beat_s))[0]:
                was_silent, silent = silent, await self._is_silent(child)
                if loop.time() > deadline or (silent and was_silent):
                    _log.error("quarantine.hung", child=child.owner)
                    child.signal(signal.SIGKILL)
            return await ended
        finally:
            ended.cancel()

    async def _is_silent(self, child: Child) -> bool:
        """Whether it runs its task and has not renewed the lease for half of it; a server that is away says nothing.

        One that has not begun yet is renewed by us: a start on a busy host may take longer than a lease.
        """
        d = child.taken.result() if child.taken.done() else None
        try:
            if d is None or await self._work.idle_s(d, child.owner) < self._deps.lease.lease_s / 2:
                return False
            if await self._runs(child, d):
                return True
            await self._work.transfer(d, child.owner, child.owner)
        except (DependencyAway, RedisFull) as error:
            _log.warning("quarantine.look_failed", child=child.owner, error=type(error).__name__)
        return False

    async def _runs(self, child: Child, d: Delivery) -> bool:
        found = await self._records.row(InFlight(d).task_id)
        return found is not None and (found[0].state, found[0].owner) == (State.RUNNING, child.owner)

    async def _inspect(self, child: Child, d: Delivery, code: int) -> str:
        """What became of its task, which is convicted where it has killed its process."""
        in_flight = InFlight(d)
        try:
            taken = (await self._work.take_over(d.queue, [child.owner], 1)).deliveries
            self._proofs.dead.add(child.owner)
            if not taken:
                return "settled" if code == 0 else "unsettled"
            await self._free_permits([child.owner], taken)
            if code not in _BLAMELESS and await self._runs(child, d):
                await self._convict(InFlight(taken[0], crash_seen=True))
                return "convicted"
            await self._put_off(taken[0], in_flight.task_id, child.owner)
        except (DependencyAway, RedisFull) as error:
            _log.warning("quarantine.unsettled", child=child.owner, error=type(error).__name__)
        return "unsettled"

    async def _convict(self, in_flight: InFlight) -> None:
        self._leases.add(in_flight)
        try:
            await self._attempt(in_flight)
        finally:
            self._leases.remove(in_flight)

    async def _put_off(self, d: Delivery, task_id: str, dead: str) -> None:
        """Its child has not run it to an end, and not died of it: the task comes again later."""
        deps = self._deps
        await deps.ledger.release_claim(task_id, d.entry_id, deps.owner, deps.lease.lease_s, (dead,))
        await deps.settlement.snooze(d, int(deps.retry.guard_s * 1000), reason=QUARANTINE_WAIT)

    async def _call_next(self) -> None:
        """The task that has waited longest for a place here asks again now, before it would by itself."""
        while self.has_slot and self._waiting:
            queue, task_id = next(iter(self._waiting))
            del self._waiting[queue, task_id]
            try:
                if await self._work.hasten(queue, task_id):
                    return
            except (DependencyAway, RedisFull) as error:
                _log.warning("quarantine.call_failed", error=type(error).__name__)
