"""Composition root of the gateway process."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack

import aiohttp
import uvloop
from aiohttp import web
from redis.asyncio import Redis

from daemon import config, services
from daemon.blobs.by_scheme import BlobsByScheme
from daemon.blobs.disk import DiskBlobs
from daemon.blobs.pillow import inspect_and_decode, installed
from daemon.blobs.s3 import S3Blobs
from daemon.cancellation import Cancellation
from daemon.config import Settings
from daemon.domain.clock import SystemClock
from daemon.domain.errors import ConfigError, DependencyAway, QstreamdError, RedisAway, RedisFull
from daemon.events.cancel_notices import CancelRequests
from daemon.events.fan_out import FanOut
from daemon.events.log import EventLog
from daemon.gateway.access import Access, ApiKeys
from daemon.gateway.cancel import Cancel
from daemon.gateway.follow import Follow
from daemon.gateway.lost_rows import LostRows
from daemon.gateway.lost_tasks import LostTasks
from daemon.gateway.qstash import Qstash
from daemon.gateway.results import Results
from daemon.gateway.server import Gateway, Part
from daemon.gateway.shielded_tasks import ShieldedTasks
from daemon.gateway.submit import ServicesInForce, Submit
from daemon.gateway.terminal_recovery import TerminalRecovery
from daemon.gateway.tokens import Tokens
from daemon.gateway.uploads import Uploads
from daemon.limiter.waiting import WaitReader
from daemon.observability.logging import configure, logger
from daemon.observability.metrics import Metrics
from daemon.ports import Blobs
from daemon.processes.environment import Environment
from daemon.processes.lifecycle import Notifier, Signals, end, sample_loop_lag
from daemon.queues.admission import Admission
from daemon.queues.reservations import Reservations
from daemon.redis_client.connection import connect
from daemon.redis_client.scripts import Scripts
from daemon.services.limits_in_force import queues_in_force
from daemon.store.audit import AuditLog
from daemon.store.pool import Pool
from daemon.store.records import TaskRecords
from daemon.store.tasks import PostgresLedger

FINISH_S = 15.0  #: a submit under way may try QStash three times

_log = logger("gateway")


def run_gateway(settings: Settings) -> None:
    """Serve until a signal. Raises `DependencyAway` when a server or the address can't be had."""
    configure(settings.runtime, config.secrets(settings))
    try:
        uvloop.run(GatewayProcess(settings).run())
    except ExceptionGroup as group:
        raise group.exceptions[0] from None


class GatewayProcess:
    """One gateway from start to stop. `address` is known once `ready` is set."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._clock = SystemClock()
        self.metrics = Metrics()
        self.ready = asyncio.Event()
        self.address = ""
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Say goodbye to viewers and end; a signal does the same."""
        self._stopping.set()

    async def run(self) -> None:
        """Connect, listen, serve until a signal, say goodbye to viewers. What went wrong comes in a group."""
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
            with Signals(on_stop=self.stop, on_reload=self.reload):
                await self._connect(stack)
                gateway = self._compose()
                notifier = Notifier(self._settings.systemd)
                beside = [
                    group.create_task(notifier.follow(self.ready, self._stopping), name="notify"),
                    group.create_task(sample_loop_lag(self.metrics), name="loop-lag"),
                    group.create_task(self.fan_out.run(), name="hub"),
                    group.create_task(self._audit.run(), name="audit"),
                    group.create_task(self._expire(), name="expire"),
                    group.create_task(self._terminal_recovery.run(self.fan_out), name="endings"),
                    group.create_task(self._lost_tasks.run(), name="lost-tasks"),
                ]
                try:
                    runner = await self._listen(gateway.app())
                    stack.push_async_callback(runner.cleanup)  # also when a loop of ours died
                    await self._environment.claim()
                    beside.append(group.create_task(self._environment.keep(), name="environment"))
                    self.ready.set()
                    await self._stopping.wait()
                    gateway.closed = "stopping"
                    self.fan_out.close()  # every viewer is told to come back, and its answer ends
                    await runner.cleanup()
                    await self._shielded.wait(FINISH_S)
                    await self._audit.flush()
                finally:
                    await end(beside)
        _log.info("gateway.stopped")

    async def _connect(self, stack: AsyncExitStack) -> None:
        s = self._settings
        self._client: Redis = connect(s.redis, name="qstreamd-gateway")
        stack.push_async_callback(self._client.aclose)
        self._http = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        stack.push_async_callback(self._http.close)
        self._bucket = S3Blobs(s.blobs, self._clock) if s.blobs.has_bucket else None
        if self._bucket is not None:
            stack.push_async_callback(self._bucket.aclose)
        self._pool = Pool(s.postgres)
        stack.push_async_callback(self._pool.close)
        await self._pool.start()
        self._environment = Environment(self._client, self._pool, s)
        await self._environment.check()

    def _compose(self) -> Gateway:
        s, clock = self._settings, self._clock
        if s.gateway.task_token_secret is None:
            raise ConfigError(["TASK_TOKEN_SECRET is not set"])
        records = TaskRecords(self._pool)
        self._services = self._read_services()
        scripts = Scripts(self._client)
        events = EventLog(scripts, s.events, clock)
        lost_rows = LostRows(records, events)
        self._terminal_recovery = TerminalRecovery(records, lost_rows, clock)
        self.fan_out = FanOut(self._client, s.redis, self._terminal_recovery.of)
        self._lost_tasks = LostTasks(
            self.fan_out, records, clock, compare_s=s.lease.compare_s, events_ttl_s=s.events.ttl_s
        )
        self.metrics.watched_tasks.set_function(lambda: self.fan_out.topics)
        tokens = Tokens(s.gateway.task_token_secret, clock, s.gateway.token_ttl_s)
        access = Access(ApiKeys(s.gateway.api_keys), tokens, s.gateway.allowed_origins, clock)
        self._audit = AuditLog(self._pool, clock)
        self._shielded = ShieldedTasks()
        disk = None if s.blobs.store == "s3" else DiskBlobs(s.blobs, clock, inspect_and_decode if installed() else None)
        self._reservations = Reservations(scripts, s.queues)
        admission = Admission(scripts, s.queues, clock, disk if s.blobs.store == "disk" else None)
        at_hand = {"file": disk, "disk": disk, "key": self._bucket}
        stores: dict[str, Blobs] = {scheme: store for scheme, store in at_hand.items() if store is not None}
        parts: list[Part] = [
            Submit(
                admission=admission, reservations=self._reservations, events=events, qstash=self._qstash(),
                services=lambda: self._services, access=access, tokens=tokens, audit=self._audit, settings=s.gateway,
                metrics=self.metrics, clock=clock, shielded=self._shielded,
            ),
            Follow(self.fan_out, access, s.gateway, self.metrics, clock),
            Cancel(
                cancellation=Cancellation(
                    cancels=CancelRequests(scripts, s.events, s.queues), records=records,
                    ledger=PostgresLedger(self._pool, lambda: self._services.queues),
                    events=events, blobs=BlobsByScheme(stores), clock=clock,
                ),
                records=records, fan_out=self.fan_out, access=access, audit=self._audit, shielded=self._shielded,
            ),
            Results(
                records=records, lost_rows=lost_rows, fan_out=self.fan_out, waits=WaitReader(self._client),
                queues=lambda: self._services.queues,
                access=access, clock=clock,
            ),
            Uploads(access, disk, self._bucket, s.blobs, self.metrics, clock),
        ]  # fmt: skip
        checks = {"redis": self._check_redis, "postgres": self._check_postgres}
        return Gateway(parts, checks, s.gateway.allowed_origins, self.metrics, clock)

    def _read_services(self) -> ServicesInForce:
        s = self._settings
        return ServicesInForce(services.load(s.runtime.services_file, deep=False), queues_in_force(s))

    def reload(self) -> None:
        """Read the services file again; a bad one is refused and what was known stays in force."""
        try:
            self._services = self._read_services()
        except ConfigError as error:
            _log.error("services.refused", mistakes=error.mistakes)

    def _qstash(self) -> Qstash | None:
        """None: straight to the stream, as the settings say or because this is development without a QStash."""
        s = self._settings
        if s.gateway.direct_submit or s.qstash.token is None or s.relay.base_url is None:
            return None
        return Qstash(self._http, s.qstash.url, s.qstash.token, s.relay.base_url)

    async def _expire(self) -> None:
        """Expire the reservations whose message never came."""
        every_s = self._settings.queues.promise_ttl_s / 4
        while True:
            await asyncio.sleep(every_s * random.uniform(0.8, 1.0))
            for queue in self._services.queues:
                try:
                    gone = await self._reservations.expire(queue)
                except (RedisAway, RedisFull) as error:
                    _log.warning("reservations.expiry_failed", error=type(error).__name__)
                    break
                if gone:
                    _log.info("reservations.expired", queue=queue, slots=gone)

    async def _listen(self, app: web.Application) -> web.AppRunner:
        settings = self._settings.gateway
        runner = web.AppRunner(
            app,
            access_log=None,  # a token may stand in an address
            handler_cancellation=True,  # a viewer that left is forgotten at once
            keepalive_timeout=75.0,
            shutdown_timeout=0.8,
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, settings.host, settings.port, backlog=1024).start()
        except OSError as error:
            await runner.cleanup()
            raise DependencyAway(f"GATEWAY_HOST, GATEWAY_PORT: can't listen: {error.strerror or error}") from error
        host, port = runner.addresses[0][:2]
        self.address = f"http://{host}:{port}"
        _log.info("gateway.listening", address=self.address)
        return runner

    async def _check_redis(self) -> str:
        try:
            async with asyncio.timeout(1.0):
                await self._client.ping()
        except Exception as error:  # noqa: BLE001  # whatever it is, it is not ready
            return type(error).__name__
        return ""

    async def _check_postgres(self) -> str:
        try:
            async with asyncio.timeout(1.0):
                await self._pool.fetch("SELECT 1")
        except (QstreamdError, TimeoutError) as error:
            return type(error).__name__
        return ""
