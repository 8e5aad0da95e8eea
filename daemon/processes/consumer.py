"""Composition root of the daemon: picks the adapters, orders start and stop. End-to-end tests start this very thing.

Start: services file, Redis (policy, whose it is), Postgres (schema, whose it is), liveness, groups, loops, readers,
ready. Stop: quiet (readers end), drain with beats on, hand back what is left, take our liveness away, end loops,
close connections.
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from functools import partial

from aiohttp import web
from redis.asyncio import Redis

from daemon import services
from daemon.blobs.magic import picture
from daemon.blobs.redis import RedisBlobs
from daemon.config import Settings
from daemon.domain.clock import SystemClock
from daemon.domain.errors import ConfigError, DependencyAway, ProviderError, Stopping
from daemon.events.cancel_notices import CancelNotices
from daemon.events.deltas import Deltas
from daemon.events.log import EventLog
from daemon.limiter.permits import RedisLimiter
from daemon.observability.logging import bind_attempt, logger
from daemon.observability.metrics import Metrics
from daemon.pipeline.dependencies import Dependencies
from daemon.pipeline.executor import execute
from daemon.pipeline.in_flight import InFlight
from daemon.pipeline.outcome import Abandoned, Fenced, Outcome, Refused
from daemon.pipeline.retry_budget import RetryBudget
from daemon.ports import Provider
from daemon.processes.blob_stores import open_blobs
from daemon.processes.environment import Environment
from daemon.processes.lifecycle import Notifier, Progress, Signals, collect_rarely, end, is_shared, sample_loop_lag
from daemon.processes.quarantine import QuarantineChildren, owner_name
from daemon.processes.rooms import arm_failpoints, optional
from daemon.providers.registry import Registry
from daemon.queues.control import ControlFeed, Controls
from daemon.queues.depths import DepthReader
from daemon.queues.drift import Drift
from daemon.queues.settlement import RedisSettlement
from daemon.queues.streams import WorkStreams
from daemon.redis_client.batched_scripts import BatchedScripts
from daemon.redis_client.connection import connect, pool_sizes
from daemon.redis_client.scripts import Scripts
from daemon.redis_client.server_check import check_server
from daemon.services.limits_in_force import limit_of, max_size_of, spec_in_force
from daemon.store.batching import BatchingLedger
from daemon.store.pool import Pool
from daemon.store.records import TaskRecords
from daemon.store.templates import PostgresTemplates
from daemon.worker.blob_sweeper import BlobSweeper
from daemon.worker.cancel_listener import CancelListener
from daemon.worker.command_budget import commands_a_month
from daemon.worker.consumer import QueueConsumer
from daemon.worker.dead_permits import DeadPermits
from daemon.worker.gauges import DepthGauges, GaugeLimits, show_pool
from daemon.worker.health import Check, HealthServer, responds
from daemon.worker.lease import Leases
from daemon.worker.permit_sweeper import PermitSweeper
from daemon.worker.proof_of_death import ProofsOfDeath, own_facts
from daemon.worker.queue_control import QueueControl
from daemon.worker.reclaim import Reclaimer
from daemon.worker.reconcile import Reconciler
from daemon.worker.report import report
from daemon.worker.rescuer import Rescuer
from daemon.worker.retry_scheduler import RetryScheduler
from daemon.worker.stall_detector import StallDetector
from daemon.worker.tracing import open_spans

_log = logger(__name__)

#: seconds between the end of the drain and the last resort: enough to hand back, less than systemd's patience
_REQUEUE_S = 10.0


class Daemon:
    """One process that consumes `queues`. `run` is its life; `stop` and `force_stop` may be called at any time."""

    def __init__(self, settings: Settings, queues: Sequence[str], progress: Progress | None = None) -> None:
        self._settings = settings
        self._progress = progress or Progress()
        self._catalog = services.load(settings.runtime.services_file)
        self._specs = [spec_in_force(self._catalog, name, settings.queues) for name in dict.fromkeys(queues)]
        self._clock = SystemClock()
        self.metrics = Metrics()
        self.consumer = owner_name(os.getpid(), secrets.token_hex(4))
        self.isolates = False  #: tasks in quarantine get child processes, which read the settings as we did
        self.ready = asyncio.Event()
        self.draining = asyncio.Event()
        self._force_stop = asyncio.Event()

    def stop(self) -> None:
        """Read nothing more and drain."""
        self.draining.set()

    def force_stop(self) -> None:
        """Hand running tasks back at once."""
        self.draining.set()
        self._force_stop.set()

    def reload(self) -> None:
        """Read the services file again; a bad one is refused and the old one stays in force.

        Attempts keep the one they began with.
        """
        try:
            self._catalog = services.load(self._settings.runtime.services_file)
        except ConfigError as error:
            _log.error("services.refused", mistakes=error.mistakes)
        else:
            _log.info("services.reloaded", services=len(self._catalog.services), models=len(self._catalog.models))

    def status(self) -> str:
        """One line for `systemctl status`."""
        running, slots = len(self._leases), sum(consumer.slots.total for consumer in self._consumers.values())
        if self.draining.is_set():
            return f"draining: {running} still run"
        return f"running {running} of {slots}; reads {', '.join(self._consumers)}"

    async def run(self) -> None:
        """From start to a clean stop. Raises `ConfigError` or `DependencyAway` when it can't start."""
        async with AsyncExitStack() as stack:
            await self._connect(stack)
            await self._start(stack)
            await self._environment.claim()
            async with asyncio.TaskGroup() as loops:
                # None of these dies alone: an error in one ends the daemon, loudly.
                lease_s = self._settings.lease.lease_s
                heartbeat, sweep = self._progress.watch("beat", lease_s), self._progress.watch("sweep", 3 * lease_s)
                background = [
                    loops.create_task(self._leases.run(heartbeat), name="beat"),
                    loops.create_task(self._deltas.run(), name="deltas"),
                    loops.create_task(self._cancels.run(), name="cancels"),
                    loops.create_task(self._controls.run(), name="controls"),
                    loops.create_task(self._retry_scheduler.run(), name="mover"),
                    loops.create_task(self._permit_sweeper.run(), name="waiters"),
                    loops.create_task(self._reconciler.run(), name="reconciler"),
                    loops.create_task(self._reclaimer.run(sweep), name="reclaimer"),
                    loops.create_task(self._rescuer.run(), name="upkeep"),
                    loops.create_task(self._blob_sweeper.run(), name="blobs-sweep"),
                    loops.create_task(self._environment.keep(self._leases.redis_forgot), name="environment"),
                    loops.create_task(sample_loop_lag(self.metrics), name="loop-lag"),
                ]
                readers = [
                    loops.create_task(consumer.run(), name=f"read:{queue}")
                    for queue, consumer in self._consumers.items()
                ]
                readers.append(loops.create_task(self._quarantine.run(), name="quarantine"))
                try:
                    self.ready.set()
                    _log.info(
                        "daemon.started", queues=list(self._consumers), consumer=self.consumer,
                        idle_commands_a_month=commands_a_month(
                            self._settings, len(self._consumers), blocks=self._blocks),
                    )  # fmt: skip
                    await self.draining.wait()
                    await self._drain(readers)
                finally:
                    await end([*background, *readers])
            await self._deregister()
        _log.info("daemon.stopped")

    # --- start -----------------------------------------------------------------------------------------------

    async def _connect(self, stack: AsyncExitStack) -> None:
        s = self._settings
        self._spans = open_spans(s.runtime.traces_endpoint, self.consumer)
        stack.push_async_callback(self._spans.aclose)
        self._client: Redis = connect(s.redis, name="qstreamd")
        stack.push_async_callback(self._client.aclose)
        heartbeat_client = connect(s.redis, size=1, name="qstreamd-beat")
        stack.push_async_callback(heartbeat_client.aclose)
        self._reads_client = connect(s.redis, size=len(self._specs) + 1, name="qstreamd-fetch", retries=0)
        stack.push_async_callback(self._reads_client.aclose)
        self._blocks = await check_server(self._client, s.redis)
        self._pool = Pool(s.postgres)
        stack.push_async_callback(self._pool.close)
        await self._pool.start()
        self._environment = Environment(self._client, self._pool, s)
        await self._environment.check()
        self._registry = Registry(s.providers)
        stack.push_async_callback(self._registry.aclose)
        self._scripts, self._heartbeat_scripts = BatchedScripts(self._client), Scripts(heartbeat_client)

    async def _start(self, stack: AsyncExitStack) -> None:
        s, metrics = self._settings, self.metrics
        self._work = WorkStreams(self._scripts, s.queues, self.consumer, reads=Scripts(self._reads_client))
        events = EventLog(self._scripts, s.events, self._clock, self.consumer)
        limiter = RedisLimiter(self._scripts, s.guards)
        self._permit_sweeper = PermitSweeper(limiter, s.guards.sweep_s, metrics)
        limiter.on_waiter = self._permit_sweeper.wake
        ledger = BatchingLedger(self._pool, lambda: self._catalog.queues)
        self._deltas = Deltas(self._scripts, events, s.events, metrics)
        names = [spec.name for spec in self._specs]
        self._retry_scheduler = RetryScheduler(self._work, names, s.retry, metrics, self._report_lost)
        self._leases = Leases(self._heartbeat_scripts, self._work, ledger, s.lease, metrics, self._clock)
        self._cancels = CancelListener(CancelNotices(s.redis), self._leases, metrics)
        self._consumers = {
            spec.name: QueueConsumer(
                spec, self._work, self._client, self._leases, s.redis, s.lease, metrics, self._attempt
            )
            for spec in self._specs
        }
        self._controls = QueueControl(
            Controls(self._scripts, self._clock), ControlFeed(s.redis), self._consumers, limiter, s.lease.sweep_s,
            metrics, self._retry_scheduler.check,
        )  # fmt: skip
        snoozed = self._retry_scheduler.snoozed
        proofs = ProofsOfDeath(self.consumer, own_facts())
        self._deps = Dependencies(
            ledger=ledger,
            limiter=limiter,
            settlement=RedisSettlement(self._scripts, self._work, events, limiter, metrics, snoozed, self._clock),
            deltas=self._deltas,
            templates=PostgresTemplates(self._pool, self._clock),
            blobs=open_blobs(s.blobs, self._client, self._clock, stack),
            provider=self._provider,
            catalog=lambda: self._catalog,
            clock=self._clock,
            random=random.random,
            owner=self.consumer,
            dead_owners=proofs.dead,
            limiter_settings=s.guards,
            retry=s.retry,
            lease=s.lease,
            budget=RetryBudget(),
            hold_result_s=s.postgres.hold_result_s,
            queue_limit=self._controls.queue_limit,
        )
        drift = Drift(self._scripts, s.queues, self._clock)
        self._reconciler = Reconciler(drift, self._consumers, s.queues.reconcile_s, metrics)
        records = TaskRecords(self._pool)
        self._look_after_the_dead(proofs, DeadPermits(limiter, self._deps), records)
        self._rescuer = Rescuer(self._work, records, names, s.lease, metrics)
        blobs = RedisBlobs(self._client, picture)
        self._blob_sweeper = BlobSweeper(blobs, records, s.blobs, s.queues.blob_ttl_s, metrics, self._clock)
        await self._work.make_groups(names)
        await self._controls.refresh()
        await self._reclaimer.register()
        await self._serve(stack, self._admin_routes(events))

    def _look_after_the_dead(self, proofs: ProofsOfDeath, permits: DeadPermits, records: TaskRecords) -> None:
        s, metrics, changed = self._settings, self.metrics, self._others_changed
        self._reclaimer = Reclaimer(
            self._heartbeat_scripts, self._work, self._consumers, s.lease, s.redis.block_s, metrics,
            changed=changed, deleted=self._report_lost, proofs=proofs, free_permits=permits.free,
        )  # fmt: skip
        self._quarantine = QuarantineChildren(
            self._deps, self._scripts, self._work, records, s, metrics, self._leases, proofs=proofs,
            free_permits=permits.free, attempt=self._attempt, changed=changed, suspect=self._reclaimer.suspect,
        )  # fmt: skip
        isolates = self.isolates and s.lease.quarantine_slots > 0
        self._deps = replace(self._deps, quarantine=self._quarantine if isolates else None)

    async def _serve(self, stack: AsyncExitStack, more: Sequence[web.RouteDef]) -> None:
        """Health, metrics and what else the ops port serves, once there is something to tell of."""
        s, metrics = self._settings, self.metrics
        self._gauges = self._depth_gauges()
        stall_detector = StallDetector(self._consumers, self._gauges.look, s.ops, s.redis)
        self._progress.ask(stall_detector.hung_reads)
        checks: dict[str, Check] = {
            "loop": self._check_loop, "reading": self._check_reading, "consuming": stall_detector.ready,
            "redis": partial(responds, self._client.ping), "postgres": partial(responds, self._pool.fetch, "SELECT 1"),
        }  # fmt: skip
        self._health = HealthServer(
            s.ops, metrics, checks, stall_detector.alive, partial(self._gauges.look, s.ops.depths_s), more
        )
        await self._health.start()
        stack.push_async_callback(self._health.stop)
        self.address = self._health.address
        if is_shared(self.address):
            _log.info("ops.port_shared", address=self.address)  # a rollover, or two instances with the same OPS_PORT

    def _admin_routes(self, events: EventLog) -> list[web.RouteDef]:
        """The admin API for queues, in a build that has it."""
        api = optional("admin.queue_api")
        if api is None:
            return []
        orders = api.QueueOrders(self._scripts, events, self._pool, self._clock, self._deps.ledger, self._deps.blobs)
        routes: list[web.RouteDef] = api.QueueApi(
            orders, self._settings.gateway.admin_token, lambda: list(self._catalog.queues)
        ).routes()
        return routes

    def _depth_gauges(self) -> DepthGauges:
        s, metrics = self._settings, self.metrics
        limits = GaugeLimits(
            queue=lambda spec, control: max_size_of(spec, s.queues, control.max_size),
            permits=lambda model, tier: limit_of(model, tier, s.guards),
        )
        show_pool(metrics, "redis", lambda: pool_sizes(self._client), s.redis.pool_size)
        show_pool(metrics, "postgres", self._pool.sizes, s.postgres.pool_max)
        metrics.draining.set_function(self.draining.is_set)
        metrics.begin_daemon(self._consumers)
        return DepthGauges(DepthReader(self._scripts), lambda: self._catalog, limits, metrics, self._clock)

    # --- one attempt -----------------------------------------------------------------------------------------

    async def _attempt(self, in_flight: InFlight) -> Outcome:
        began = self._clock.monotonic()
        with bind_attempt(**in_flight.ids):
            outcome = await execute(self._deps, in_flight)
        # Fenced: the entry is somebody else's, or still ours and its tail to be repeated; nobody but us would look.
        if isinstance(outcome, Abandoned | Fenced):
            self._reclaimer.suspect(in_flight.delivery.queue)
        elif isinstance(outcome, Refused):
            self._consumers[in_flight.delivery.queue].check_pending()
        report(self.metrics, in_flight, outcome, self._clock.monotonic() - began, self._clock.time(), self._spans)
        return outcome

    def _provider(self, name: str, proxy: str) -> Provider:
        try:
            return self._registry.get(name, proxy)
        except ConfigError as error:  # one key is enough to run; a task of another provider fails, and says why to us
            raise ProviderError(detail=error.mistakes[0]) from error

    def _others_changed(self, queues: Iterable[str]) -> None:
        """A process came or went: what it slept for and watched over is anybody's now."""
        self._retry_scheduler.check(queues)
        self._permit_sweeper.wake()

    async def _report_lost(self, queue: str, ids: list[str]) -> None:
        """Entries whose content is gone: what was claimed before is in Postgres, and is put back from there."""
        _log.error("entries.lost_content", queue=queue, ids=ids[:20], count=len(ids))
        self._rescuer.run_soon()

    # --- stop ------------------------------------------------------------------------------------------------

    async def _drain(self, readers: Sequence[asyncio.Task[None]]) -> None:
        _log.info("daemon.draining", running=len(self._leases), drain_s=self._settings.shutdown.drain_s)
        async with asyncio.TaskGroup() as group:
            for consumer in self._consumers.values():  # side by side: none may read on while another one is told
                group.create_task(consumer.stop())
            self._quarantine.stop()
            if is_shared(self.address):  # health checks and scrapes are for the process that goes on
                group.create_task(self._health.stop())
            force_stop = group.create_task(self._force_stop_after_drain(readers), name="cut-off")
            await asyncio.wait(readers)
            force_stop.cancel()

    async def _force_stop_after_drain(self, readers: Sequence[asyncio.Task[None]]) -> None:
        """After the drain, or at once when told so: hand back what runs, and leave the rest to its lease."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.shutdown.drain_s):
                await self._force_stop.wait()
        _log.warning("daemon.requeueing", running=len(self._leases))
        for in_flight in self._leases.deliveries():
            in_flight.scope.interrupt(Stopping("the daemon stops"))
        self._quarantine.pass_signal()
        await asyncio.sleep(_REQUEUE_S)
        for reader in readers:
            reader.cancel()

    async def _deregister(self) -> None:
        try:
            async with asyncio.timeout(self._settings.redis.command_timeout_s):
                await self._reclaimer.deregister()
        except Exception as error:  # noqa: BLE001  # leaving is a courtesy: our record lapses by itself
            _log.warning("consumer.deregister_failed", error=type(error).__name__)

    # --- readiness -------------------------------------------------------------------------------------------

    async def _check_loop(self) -> str:
        return ", ".join(self._progress.stalled())

    async def _check_reading(self) -> str:
        if self.draining.is_set():
            return "stopping"
        stalled = [queue for queue, consumer in self._consumers.items() if not consumer.reading]
        return f"not reading {', '.join(stalled)}" if stalled else ""


async def run_daemon(settings: Settings, queues: Sequence[str]) -> None:
    """Run until a signal ends it: the first drains, a second hands back at once. SIGHUP reads the services file."""
    arm_failpoints(settings)
    collect_rarely()
    notifier = Notifier(settings.systemd)
    daemon = Daemon(settings, queues, notifier.progress)
    daemon.isolates = True
    with Signals(on_stop=daemon.stop, on_force_stop=daemon.force_stop, on_reload=daemon.reload):
        refused: ConfigError | DependencyAway | None = None
        async with asyncio.TaskGroup() as group:
            watch = group.create_task(notifier.follow(daemon.ready, daemon.draining, daemon.status), name="notify")
            try:
                await daemon.run()
            except (ConfigError, DependencyAway) as error:
                refused = error  # raised bare: inside a group nobody would turn it into its exit code
            watch.cancel()
        if refused is not None:
            raise refused
