"""The demo's world: servers, stand-ins, relay and daemon; started side by side, ended in order, watched in between.

REDIS_URL and DATABASE_URL are used when they are given, but only where nobody else works: the stand-in for the models
must never answer a real task.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Protocol, Self

import asyncpg
from redis.asyncio import Redis

from daemon.config import RedisSettings, Settings
from daemon.config.types import SecretStr
from daemon.dev.demo.answers import answer
from daemon.dev.demo.backend import Backend
from daemon.dev.demo.parts import Part, PartFailed
from daemon.dev.demo.real import Real
from daemon.dev.embedded import Embedded
from daemon.dev.embedded_postgres import EmbeddedPostgres
from daemon.dev.embedded_redis import EmbeddedRedis
from daemon.dev.fake_llm import FakeLLM
from daemon.dev.fake_qstash import FakeQstash
from daemon.domain.clock import SystemClock
from daemon.domain.queues import DEFAULT_QUEUES
from daemon.events.log import EventLog
from daemon.redis_client import keys
from daemon.redis_client.connection import connect
from daemon.redis_client.scripts import Scripts
from daemon.store.migrate import migrate
from daemon.store.pool import postgres_url

NAMES: Final = ("redis", "postgres", "qstash", "models", "relay", "daemon")
TOKENS_PER_S: Final = 25.0  #: a pace that eyes can follow
CONNECT_S: Final = 5.0
LOOK_S: Final = 0.2  #: how often the processes are looked after
LAST_WORDS: Final = 25  #: lines of a log that are shown when its process ends


class Tell(Protocol):
    """Hears what becomes of a part; `took_s` None: it starts now."""

    def __call__(self, name: str, detail: str, took_s: float | None) -> None: ...  # noqa: D102  # see the class


class InUse(Exception):
    """A given server serves somebody else."""


class World:
    """Everything that runs, as an async context manager.

    `stays`: somebody will look around. Other programs can reach the embedded Postgres, and a gateway with a page runs.
    """

    def __init__(self, settings: Settings, tell: Tell, *, stays: bool = False, real: Real | None = None) -> None:
        self._tell = tell
        self._stays = stays
        self.real = real  #: a real provider instead of the stand-in
        self._services_file = ""
        given = settings.sources
        self._redis_given = settings.redis if given.get("REDIS_URL", "default") != "default" else None
        self._postgres_given = settings.postgres.url if given.get("DATABASE_URL", "default") != "default" else None
        self._stack = AsyncExitStack()
        self._parts: list[Embedded] = []
        self._redis_up = asyncio.Event()
        self.qstash = FakeQstash()
        self.models = FakeLLM(tokens_per_s=TOKENS_PER_S, answer=answer)
        self.backend = Backend(lambda: self.gateway_url, lambda: self.models.plan("error-mid"))
        self.redis_url = self.database_url = self.relay_url = self.daemon_url = self.gateway_url = ""
        self.redis: Redis
        self.events: EventLog

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def embedded(self) -> bool:
        """Whether nothing of it outlives us."""
        return self._redis_given is None and self._postgres_given is None

    async def watch(self) -> None:
        """Runs for ever; raises `PartFailed` as soon as a process is gone."""
        while True:
            for part in self._parts:
                if not part.running:
                    raise PartFailed(part.name, "ended by itself", part.last_words(lines=LAST_WORDS))
            await asyncio.sleep(LOOK_S)

    def last_words(self, name: str) -> str:
        """The end of a process's log."""
        return next((part.last_words(lines=LAST_WORDS) for part in self._parts if part.name == name), "")

    def logs(self) -> dict[str, str]:
        """Where relay, daemon and gateway log to."""
        return {part.name: str(part.log_path) for part in self._parts if isinstance(part, Part)}

    # --- start ----------------------------------------------------------------------------------------------------

    async def _start(self) -> None:
        stand_ins: dict[str, Any] = {"qstash": self.qstash, "models": self.models}
        if self.real is not None:
            del stand_ins["models"]
            self._tell("models", f"real  {self.real.model.name} of {self.real.model.provider}", 0.0)
            folder = self._stack.enter_context(TemporaryDirectory(prefix="qstreamd-demo-"))
            self._services_file = await asyncio.to_thread(_written, Path(folder), self.real.services_file)
        for name, stand_in in stand_ins.items():
            began = time.monotonic()
            await self._stack.enter_async_context(stand_in)
            self._tell(name, f"stand-in  {stand_in.url}", time.monotonic() - began)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._start_redis())
            group.create_task(self._start_postgres())

    async def _start_redis(self) -> None:
        began = self._begin("redis")
        settings = self._redis_given
        if settings is None:
            server = EmbeddedRedis(persist=True)
            await self._run(server)
            settings = RedisSettings(url=SecretStr(server.url))
        self.redis_url = settings.url.get_secret_value()
        self.redis = connect(settings, size=4, name="qstreamd-demo")
        self._stack.push_async_callback(self.redis.aclose)
        if self._redis_given is not None:
            await self._refuse_company()
        self.events = EventLog(Scripts(self.redis), Settings().events, SystemClock())
        info = await self.redis.info("server")
        version = f"Valkey {info['valkey_version']}" if "valkey_version" in info else f"Redis {info['redis_version']}"
        self._up("redis", began, version, given=self._redis_given is not None)
        self._redis_up.set()
        began = self._begin("relay")
        relay = Part("relay", ["relay"], self._relay_variables)
        await self._run(relay)
        self.relay_url = relay.url
        self._tell("relay", f"process {relay.pid}  {relay.url}", time.monotonic() - began)

    async def _start_postgres(self) -> None:
        began = self._begin("postgres")
        if self._postgres_given is None:
            server = EmbeddedPostgres(tcp=self._stays)
            await self._run(server)
            self.database_url = server.url
        else:
            self.database_url = self._postgres_given.get_secret_value()
        await migrate(self.database_url)
        connection = await self.connect()
        try:
            version = await connection.fetchval("SELECT split_part(current_setting('server_version'), ' ', 1)")
        finally:
            await connection.close(timeout=CONNECT_S)
        self._up("postgres", began, f"Postgres {version}", given=self._postgres_given is not None)
        await self._redis_up.wait()
        began = self._begin("daemon")
        daemon = Part(
            "daemon",
            ["--queues", ",".join(DEFAULT_QUEUES)],
            lambda port: {**self._daemon_variables(port), **_blobs(daemon.directory / "blobs")},
        )
        await self._run(daemon)
        self.daemon_url = daemon.url
        self._tell("daemon", f"process {daemon.pid}  all six queues", time.monotonic() - began)
        if self._stays:
            await self._start_gateway(daemon.directory / "blobs")

    async def _start_gateway(self, blobs: Path) -> None:
        began = self._begin("gateway")
        await self._stack.enter_async_context(self.backend)
        gateway = Part("gateway", ["gateway"], lambda port: self._gateway_variables(port, blobs))
        await self._run(gateway)
        self.gateway_url = gateway.url
        self._tell("gateway", f"process {gateway.pid}  {gateway.url}", time.monotonic() - began)

    async def connect(self) -> asyncpg.Connection[asyncpg.Record]:
        """A connection of our own to Postgres."""
        return await asyncpg.connect(postgres_url(self.database_url), timeout=CONNECT_S, command_timeout=10)

    async def _run(self, server: Embedded) -> None:
        self._stack.push_async_callback(asyncio.to_thread, server.close)
        await _in_thread(server.start)
        self._parts.append(server)

    def _begin(self, name: str) -> float:
        self._tell(name, "starting", None)
        return time.monotonic()

    def _up(self, name: str, began: float, version: str, *, given: bool) -> None:
        self._tell(name, f"{version}{'  given' if given else '  embedded'}", time.monotonic() - began)

    async def _refuse_company(self) -> None:
        owner = await self.redis.get(keys.ENVIRONMENT)
        if owner not in {None, b"development"}:
            raise InUse(f"REDIS_URL belongs to another environment: {owner!r:.60}")
        if await self.redis.zcard(keys.CONSUMERS):
            raise InUse("a daemon reads from REDIS_URL")
        for queue in DEFAULT_QUEUES:
            its = keys.queue_keys(queue)
            here = (
                await self.redis.xlen(its.tasks) + await self.redis.xlen(its.ready) + await self.redis.zcard(its.retry)
            )
            if here:
                raise InUse(f"{queue} of REDIS_URL holds tasks")

    # --- their settings -------------------------------------------------------------------------------------------

    def _shared_variables(self) -> dict[str, str]:
        shared = {"NODE_ENV": "development", "REDIS_URL": self.redis_url, "QSTREAMD_LOG_FORMAT": "pretty"}
        return {**shared, "SERVICES_FILE": self._services_file} if self._services_file else shared

    def _relay_variables(self, port: int) -> Mapping[str, str]:
        signing = {k: v for k, v in self.qstash.environment.items() if k.endswith("_SIGNING_KEY")}
        own = {"RELAY_PORT": str(port), "WORKER_BASE_URL": f"http://127.0.0.1:{port}"}
        return {**self._shared_variables(), **signing, **own}

    def _gateway_variables(self, port: int, blobs: Path) -> Mapping[str, str]:
        publishing = {k: v for k, v in self.qstash.environment.items() if k in {"QSTASH_URL", "QSTASH_TOKEN"}}
        return {
            **self._shared_variables(),
            **publishing,
            **self.backend.gateway_settings,
            **_blobs(blobs),
            "DATABASE_URL": self.database_url,
            "WORKER_BASE_URL": self.relay_url,
            "GATEWAY_PORT": str(port),
        }

    def _daemon_variables(self, port: int) -> Mapping[str, str]:
        return {
            **self._shared_variables(),
            "DATABASE_URL": self.database_url,
            "OPS_PORT": str(port),
            "QSTREAMD_DRAIN_S": "1",  # whoever presses Ctrl-C does not want to wait for an answer
            **(self._stand_in_variables() if self.real is None else self.real.variables),
        }

    def _stand_in_variables(self) -> Mapping[str, str]:
        return {
            "DEEPSEEK_BASE_URL": self.models.openai_url,
            "OPENAI_BASE_URL": self.models.openai_url,
            "GEMINI_BASE_URL": self.models.gemini_url,
            "DEEPSEEK_API_KEY": "demo-deepseek",
            "OPENAI_API_KEY": "demo-openai",
            "GEMINI_API_KEY": "demo-gemini",
        }


def _written(folder: Path, services_file: str) -> str:
    """The path of the services file; closed to others, for it may hold a proxy's password."""
    path = folder / "services.toml"
    path.touch(mode=0o600)
    path.write_text(services_file, "utf-8")
    return str(path)


def _blobs(directory: Path) -> dict[str, str]:
    return {"BLOB_DIR": str(directory), "QSTREAMD_BLOB_DISK_FREE_BYTES_MIN": "0"}


async def _in_thread(work: Callable[[], None]) -> None:
    """`work` in a thread; a cancelled caller waits for its end, so that nobody closes what is just being started."""
    running: Awaitable[None] = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        with suppress(Exception):
            await running
        raise
