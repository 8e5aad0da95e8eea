"""Reads one queue at the pace of its free slots and starts an attempt for each entry.

`stop` sets a flag and unblocks the read that waits (`worker.blocking_read`). After any read error the reply may have
been lost while we live, so our own pending entries are read back.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from redis.asyncio import Redis

from daemon.config import LeaseSettings, RedisSettings
from daemon.domain.errors import RedisAway, RedisFull
from daemon.domain.queues import QueueSpec
from daemon.observability.logging import logger
from daemon.observability.metrics import Metrics
from daemon.pipeline.in_flight import InFlight
from daemon.ports import Delivery
from daemon.queues.streams import QueuePaused, WorkStreams
from daemon.redis_client.connection import NoGroup, Polling
from daemon.worker.blocking_read import BlockingRead
from daemon.worker.lease import Leases
from daemon.worker.slots import Slots

_log = logger(__name__)

#: pause after a failed read; short, since accepted work waits
_PAUSE_S = (0.1, 2.0)
#: between two looks at a queue that is paused although nobody told us
_PAUSED_READ_S = 1.0
#: between two reads of an idle queue on a server that does not block
POLL_S_MAX = 15.0


async def _nothing_due(_queue: str) -> int:
    return 0


class QueueConsumer:
    """One queue in this process. `attempt` runs one delivery to its end and never raises."""

    def __init__(
        self,
        spec: QueueSpec,
        work: WorkStreams,
        client: Redis,
        leases: Leases,
        settings: RedisSettings,
        lease: LeaseSettings,
        metrics: Metrics,
        attempt: Callable[[InFlight], Awaitable[object]],
    ) -> None:
        self.queue = spec.name
        self._slots_max = settings.pending_max // 2  # a read may bring twice what is free
        self.slots = Slots(min(spec.parallelism, self._slots_max))
        self.reading = False  #: true while the loop reads or waits for entries; part of readiness
        self.reading_since: float | None = None  #: loop time at which the read that is under way was sent
        self.idle_since = asyncio.get_running_loop().time()  #: loop time since which nothing came or ended
        self._work = work
        self._leases = leases
        self._settings = settings
        self._lease_s = lease.lease_s
        self._metrics = metrics
        self._attempt = attempt
        self._blocking = BlockingRead(spec.name, work, client, settings)
        self._stopping = False
        self._check_pending_until = 0.0  # loop time until which own pending entries may lie unseen
        self._recovered_at = 0.0
        self._attempts: asyncio.TaskGroup | None = None
        self._polling = Polling(POLL_S_MAX)
        self._again = False  # the read that waits is to look at what it may take once more
        self._kept = 0  # slots that new work may not have
        #: asked before anything new is read: recovers what is due, answers how many slots stay free for the rest
        self.before_fetch: Callable[[str], Awaitable[int]] = _nothing_due
        metrics.slots.labels(self.queue).set(self.slots.total)

    async def run(self) -> None:
        """Read until `stop`, then wait for the attempts under way. Cancelling cuts them off."""
        try:
            async with asyncio.TaskGroup() as self._attempts:
                failures = 0
                while not self._stopping:
                    try:
                        await self._read()
                        failures = 0
                    except QueuePaused:
                        await self._wait_while_paused()
                    except NoGroup:
                        _log.warning("consumer_group.missing", queue=self.queue)
                        self._leases.redis_forgot.set()
                        self.check_pending()
                        await self._remake_group()
                    except (RedisAway, RedisFull) as error:
                        failures += 1
                        await self._read_failed(error, failures)
                self.reading = False
        finally:
            await self._blocking.close()

    async def stop(self) -> None:
        """Read nothing more; wakes a blocked read. Repeatable."""
        self._stopping = True
        self.slots.wake()
        await self._blocking.unblock()

    async def pause(self) -> None:
        """Read nothing until `resume`; what runs goes on, what was read just now goes back. Repeatable."""
        self.slots.close()
        await self._blocking.unblock()

    def resume(self) -> None:
        """Read again. Repeatable."""
        self.slots.open()

    def resize(self, slots: int) -> None:
        """Run so many at once from now on; what runs above that goes on."""
        if slots > self._slots_max:
            _log.warning("slots.capped", queue=self.queue, asked=slots, slots=self._slots_max)
        self.slots.resize(min(slots, self._slots_max))
        self._metrics.slots.labels(self.queue).set(self.slots.total)

    async def look_again(self) -> None:
        """New work may have fewer slots now than the read that waits has asked for."""
        self._again = True
        self.slots.wake()
        await self._blocking.unblock()

    @property
    def room(self) -> int:
        """Slots that may be taken over into."""
        return 0 if self._stopping else self.slots.free

    def check_pending(self) -> None:
        """Look through our own pending entries for the next three leases: a reply may have been lost."""
        self._check_pending_until = asyncio.get_running_loop().time() + 3 * self._lease_s

    async def accept(self, deliveries: Sequence[Delivery]) -> None:
        """Start what fits into free slots and hand the rest back; skips what runs already."""
        for d in deliveries:
            if self._leases.runs(d.queue, d.stream, d.id):
                continue
            if self.slots.free and not self._stopping and self._attempts is not None:
                self._start(d, self._attempts)
            else:
                await self._requeue(d)

    def _start(self, d: Delivery, attempts: asyncio.TaskGroup) -> None:
        self.slots.take()
        self.idle_since = asyncio.get_running_loop().time()
        in_flight = InFlight(d)
        self._leases.add(in_flight)
        self._metrics.attempts_in_flight.labels(self.queue).inc()
        attempts.create_task(self._run_one(in_flight), name=f"attempt:{self.queue}:{d.id}")

    async def _run_one(self, in_flight: InFlight) -> None:
        try:
            await self._attempt(in_flight)
        except Exception as error:  # noqa: BLE001  # a bug of ours: it may not end the attempts beside it
            _log.exception("executor.crashed", error=type(error).__name__, task_id=in_flight.task_id)
            self.check_pending()  # its entry may still be pending to us: it is read again
        finally:
            self._leases.remove(in_flight)
            self.slots.give()
            self.idle_since = asyncio.get_running_loop().time()
            self._metrics.attempts_in_flight.labels(self.queue).dec()

    async def _requeue(self, d: Delivery) -> None:
        if await self._work.requeue(d):
            self._metrics.requeued.labels(self.queue).inc()

    async def _read(self) -> None:
        if not self.slots.free:
            await self.slots.changed()
            return
        self.reading = True
        await self._recover_pending()
        self._again, self._kept = False, await self.before_fetch(self.queue)
        if self._room_for_new <= 0:
            await self._pause(self._lease_s / 10)
            return
        entries = await self._timed(self._work.fetch(self.queue, self._room_for_new))
        while not entries and not self._stopping and self._room_for_new > 0:
            # Both streams are empty: wait on both. No second look before the next wait, which keeps an idle queue at
            # two commands a minute.
            entries = await self._timed(self._wait())
            if not entries and (self._again or self._checks_pending()):
                break
        await self.accept(entries)

    @property
    def _room_for_new(self) -> int:
        return self.slots.free - self._kept

    async def _timed(self, read: Awaitable[list[Delivery]]) -> list[Delivery]:
        self.reading_since = asyncio.get_running_loop().time()
        try:
            return await read
        finally:
            self.reading_since = None

    async def _wait(self) -> list[Delivery]:
        await self._blocking.open()
        if self._must_stop() or self._again:
            return []
        block_s = min(self._settings.block_s, self._lease_s / 2) if self._checks_pending() else self._settings.block_s
        began = asyncio.get_running_loop().time()
        found = await self._blocking.wait(max(1, self._room_for_new), block_s)
        if not self._must_stop():  # else we were unblocked
            took_s = asyncio.get_running_loop().time() - began
            await self._pause(self._polling.pause_s(found=bool(found), asked_s=block_s, took_s=took_s))
        return found

    def _must_stop(self) -> bool:
        return self._stopping or self.slots.closed

    def _checks_pending(self) -> bool:
        return asyncio.get_running_loop().time() < self._check_pending_until

    async def _recover_pending(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._checks_pending() and now - self._recovered_at >= self._lease_s / 4:
            self._recovered_at = now
            found = [
                d for d in await self._work.own_pending(self.queue) if not self._leases.runs(d.queue, d.stream, d.id)
            ]
            if found:
                _log.warning("entries.pending_recovered", queue=self.queue, entries=len(found))
                self._metrics.reclaimed.labels(self.queue).inc(len(found))
            await self.accept(found)

    async def _wait_while_paused(self) -> None:
        """The queue is paused and the word has not reached us, or just now: look again soon."""
        await self._pause(_PAUSED_READ_S)

    async def _pause(self, seconds: float) -> None:
        """Or until the slots change, or the process stops."""
        if seconds > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self.slots.changed()

    async def _remake_group(self) -> None:
        try:
            await self._work.make_groups([self.queue])
        except (RedisAway, RedisFull) as error:
            await self._read_failed(error, 1)

    async def _read_failed(self, error: Exception, failures: int) -> None:
        self.reading = False
        self.check_pending()
        self._metrics.redis_errors.labels("full" if isinstance(error, RedisFull) else "away").inc()
        _log.warning("read.failed", queue=self.queue, error=type(error).__name__, failures=failures)
        await self._blocking.close()
        await asyncio.sleep(random.uniform(0.5, 1) * min(_PAUSE_S[1], _PAUSE_S[0] * 2.0 ** min(failures, 10)))
