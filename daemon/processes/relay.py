"""Composition root of the relay process. Apart from `processes.consumer`, which imports what a relay must not."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress

import uvloop
from aiohttp import web
from redis.asyncio import Redis

from daemon.blobs.disk import DiskBlobs
from daemon.config import Settings
from daemon.domain.clock import SystemClock
from daemon.domain.errors import ConfigError, DependencyAway, RedisFull
from daemon.events.log import EventLog
from daemon.observability.logging import begin, logger
from daemon.observability.metrics import Metrics
from daemon.processes.lifecycle import Notifier, Signals, collect_rarely, inherited_socket, sample_loop_lag
from daemon.processes.redis_stamp import keep_environment
from daemon.processes.rooms import arm_failpoints
from daemon.queues.admission import Admission
from daemon.queues.reservations import Reservations
from daemon.redis_client.batched_scripts import BatchedScripts
from daemon.redis_client.connection import connect
from daemon.redis_client.ownership import claim_environment
from daemon.relay.server import Relay
from daemon.services.limits_in_force import queues_in_force

DRAIN_S = 15.0  #: a body may take 10 s and Redis 3; systemd waits 30
STAMP_RETRY_S = 0.25  #: accepting works again within 1 s of Redis' return
UNSTAMPED = "Redis has not answered yet"

_log = logger("relay")


def run_relay(settings: Settings) -> None:
    """Take calls until a signal. Raises `DependencyAway` when the address is taken, `ConfigError` for a wrong Redis."""
    begin(settings)
    collect_rarely()
    arm_failpoints(settings)
    try:
        uvloop.run(RelayProcess(settings).run())
    except ExceptionGroup as group:
        raise group.exceptions[0] from None


class RelayProcess:
    """One relay from start to stop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        client = connect(settings.redis, name="qstreamd-relay")
        self._client: Redis = client
        scripts, clock = BatchedScripts(client), SystemClock()
        keys = (*settings.qstash.current_keys, *settings.qstash.next_keys)
        self.relay = Relay(
            settings=settings.relay,
            qstash=settings.qstash,
            signing_keys=tuple(key.get_secret_value().encode() for key in keys),
            queues=queues_in_force(settings),
            admission=Admission(scripts, settings.queues, clock, self._staging()),
            reservations=Reservations(scripts, settings.queues),
            events=EventLog(scripts, settings.events, clock),
            ping=client.ping,
            metrics=Metrics(),
            clock=clock,
            closed=UNSTAMPED,
        )
        self.relay.metrics.begin_relay(self.relay.queues)

    def _staging(self) -> DiskBlobs | None:
        """With BLOB_STORE=disk inline images lie on the disk that the daemon reads; None: in Redis."""
        if self._settings.blobs.store != "disk":
            return None
        disk = DiskBlobs(self._settings.blobs, SystemClock())
        disk.make()
        return disk

    def stop(self) -> None:
        """Refuse new calls with 503; those in flight finish."""
        self.relay.closed = "stopping"

    def reload(self) -> None:
        """Read the queues of the services file again; a bad file is refused and what was known stays in force."""
        try:
            self.relay.queues = queues_in_force(self._settings)
        except ConfigError as error:
            _log.error("services.refused", mistakes=error.mistakes)

    async def run(self) -> None:
        """Listen, find out whose Redis it is, take calls until `stop`, drain. What went wrong comes in a group."""
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
            stack.push_async_callback(self._client.aclose)
            with Signals(on_stop=self.stop, on_reload=self.reload) as signals:
                ready = asyncio.Event()
                beside = [
                    group.create_task(Notifier(self._settings.systemd).follow(ready, signals.draining), name="notify"),
                    group.create_task(sample_loop_lag(self.relay.metrics), name="loop-lag"),
                ]
                runner = await self._listen()
                beside.append(group.create_task(self._stamp(), name="stamp"))
                ready.set()
                await signals.draining.wait()
                await self._drain(signals.force_stop)
                await runner.cleanup()
                for task in beside:
                    task.cancel()
        _log.info("relay.stopped")

    async def _listen(self) -> web.AppRunner:
        settings = self._settings.relay
        runner = web.AppRunner(
            self.relay.app(),
            access_log=None,
            auto_decompress=False,  # the signature covers the bytes as they came
            handler_cancellation=False,
            keepalive_timeout=settings.keepalive_s,  # also the limit for a slow head
            lingering_time=2.0,  # how long the rest of a refused body is read off before the connection goes
            shutdown_timeout=1.0,
        )
        await runner.setup()
        try:
            given = inherited_socket(self._settings.systemd)
            site: web.BaseSite = web.TCPSite(runner, settings.host, settings.port, backlog=1024)
            await (web.SockSite(runner, given, backlog=1024) if given else site).start()
        except OSError as error:
            await runner.cleanup()
            raise DependencyAway(f"RELAY_HOST, RELAY_PORT: can't listen: {error.strerror or error}") from error
        _log.info("relay.listening", address=runner.addresses[0])
        return runner

    async def _stamp(self) -> None:
        """Open as soon as Redis says that it is ours, and keep it so.

        A relay that died while Redis is away would help nobody.
        """
        environment = self._settings.runtime.environment
        said = False
        while True:
            try:
                async with asyncio.timeout(self._settings.relay.redis_deadline_s):
                    await claim_environment(self._client, environment)
            except (DependencyAway, RedisFull, TimeoutError) as error:
                if not said:
                    _log.warning("redis.away", error=error)
                said = True
                await asyncio.sleep(STAMP_RETRY_S)
            else:
                break
        if self.relay.closed == UNSTAMPED:
            self.relay.closed = ""
        _log.info("relay.ready", queues=sorted(self.relay.queues))
        await keep_environment(self._client, environment, asyncio.Event(), self._settings.lease.sweep_s)

    async def _drain(self, cut: asyncio.Event) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                while self.relay.inflight and not cut.is_set():  # noqa: ASYNC110 - a plain number, and once in a life
                    await asyncio.sleep(0.02)
