"""The daemon as a whole, in our own process: started, working, refused, reloaded, drained, cut."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from redis.asyncio import Redis

from daemon.config import (
    LeaseSettings,
    OpsSettings,
    PostgresSettings,
    ProviderSettings,
    QueueSettings,
    RedisSettings,
    RetrySettings,
    RuntimeSettings,
    Settings,
    ShutdownSettings,
)
from daemon.config.types import SecretStr
from daemon.dev.fake_llm import FakeLLM
from daemon.domain.clock import SystemClock
from daemon.domain.errors import ConfigError, RedisAway, StoreAway
from daemon.domain.events import Event
from daemon.domain.messages import TaskMessage
from daemon.events.log import EventLog
from daemon.processes import consumer as module
from daemon.processes.consumer import Daemon, run_daemon
from daemon.processes.lifecycle import is_shared
from daemon.queues.admission import Admission
from daemon.redis_client import keys
from daemon.redis_client.connection import connect
from daemon.redis_client.scripts import Scripts
from daemon.store.pool import Pool
from daemon.store.records import TaskRecords
from daemon.worker.rescuer import Rescuer
from tests.conftest import in_thread
from tests.leaks import Leaks
from tests.waiting import WaitUntil, wait_until

QUEUE = "q_paid_stream"
QUEUES = [f"q_{tier}_{kind}" for tier in ("paid", "free") for kind in ("stream", "batch", "vision")]
SERVICES = """
[models.m]
provider = "deepseek"
name = "deepseek-chat"
input = ["text"]

[models.other]
provider = "gemini"
name = "gemini-flash"
input = ["text"]

[services.echo]
title = "Echo"
prompt = "{{ text }}"
models = { paid = ["m"], free = ["m"] }
attempts = 1

[services.foreign]
title = "Of a vendor whose key we don't have"
prompt = "{{ text }}"
models = { paid = ["other"] }
attempts = 1
"""


@pytest.fixture
async def llm() -> AsyncIterator[FakeLLM]:
    """A model that writes fast."""
    async with FakeLLM(tokens_per_s=2000, first_token_s=0.01, words=20) as server:
        yield server


@pytest.fixture
def settings(
    redis_settings: RedisSettings, postgres_settings: PostgresSettings, llm: FakeLLM, tmp_path: Path
) -> Settings:
    """Everything there is, with short times."""
    services = tmp_path / "services.toml"
    services.write_text(SERVICES)
    return Settings(
        runtime=RuntimeSettings(environment="test", services_file=str(services)),
        redis=redis_settings,
        postgres=postgres_settings,
        ops=OpsSettings(port=0),
        lease=LeaseSettings(lease_s=1, beat_s=0.2, self_fence_s=0.7, liveness_s=0.1, liveness_ttl_s=0.4),
        retry=RetrySettings(base_s=0.01, cap_s=0.1),
        shutdown=ShutdownSettings(drain_s=10),
        queues=QueueSettings(parallelism_paid_stream=3),
        providers=ProviderSettings(deepseek_api_key=SecretStr("sk-test"), deepseek_base_url=llm.openai_url),
    )


@asynccontextmanager
async def running(settings: Settings, *queues: str) -> AsyncIterator[Daemon]:
    """A daemon between `ready` and a clean stop."""
    daemon = Daemon(settings, queues or (QUEUE,))
    life = asyncio.ensure_future(daemon.run())  # noqa: TID251  # awaited below
    ready = asyncio.ensure_future(daemon.ready.wait())  # noqa: TID251  # awaited below
    await asyncio.wait([life, ready], return_when=asyncio.FIRST_COMPLETED)
    if life.done():
        ready.cancel()
        await life
    try:
        yield daemon
    finally:
        daemon.stop()
        async with asyncio.timeout(20):
            await life


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[Redis]:
    """Our own eyes on Redis."""
    async with connect(settings.redis) as made:
        yield made


async def submit(client: Redis, task_id: str = "t1", text: str = "hello", service_id: str = "echo") -> None:
    """As the relay does."""
    message = TaskMessage(
        task_id=task_id, queue_id=QUEUE, service_id=service_id, user_id=f"u_{task_id}", variables={"text": text}
    )
    await Admission(Scripts(client), QueueSettings(), SystemClock()).accept(message, "sha", 100, {})


async def end_of(client: Redis, task_id: str = "t1", within_s: float = 10) -> Event:
    """The terminal event."""
    events = EventLog(Scripts(client), Settings().events, SystemClock())

    async def terminal() -> Event | None:
        return next((e for e in await events.read(task_id) if e.terminal), None)

    return await wait_until(terminal, description=f"the end of {task_id}", within_s=within_s)


async def get(address: str, path: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(address + path) as response:
        return response.status, await response.text()


async def test_a_task_goes_all_the_way_and_a_stop_leaves_nothing(
    settings: Settings, client: Redis, no_key_left: Leaks
) -> None:
    """From the stream to the row, with metrics to show for it; no record, no group member, no key stays."""
    async with running(settings) as daemon:
        assert (await get(daemon.address, "/healthz/live"))[0] == 200
        await submit(client)
        end = await end_of(client)
        assert end.type == "done"
        async with opened(settings) as pool:
            found = await TaskRecords(pool).row("t1")
            assert found is not None
            assert found[1] is not None
            assert found[1].content_sha256 == end.data["contentSha256"]
        assert (await get(daemon.address, "/healthz/ready"))[0] == 200
        metrics = (await get(daemon.address, "/metrics"))[1]
        assert 'qstreamd_attempts_total{code="",outcome="done",queue="q_paid_stream"} 1.0' in metrics
        assert daemon.status() == "running 0 of 3; reads q_paid_stream"
    assert await client.zcard(keys.CONSUMERS) == 0
    consumers: Any = await client.xinfo_consumers(keys.queue_keys(QUEUE).tasks, keys.GROUP)
    assert consumers == []


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Pool]:
    pool = await Pool(settings.postgres).start()
    yield pool
    await pool.close()


async def test_a_missing_vendor_key_fails_only_its_own_tasks(settings: Settings, client: Redis) -> None:
    """One key is enough to run."""
    async with running(settings):
        await submit(client, "t1", service_id="foreign")
        await submit(client, "t2")
        assert (await end_of(client, "t1")).data["code"] == "LLM_ERROR"
        assert (await end_of(client, "t2")).type == "done"


async def test_a_reload_changes_what_comes_next_and_a_bad_file_changes_nothing(
    settings: Settings, client: Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    """Services come and go without a restart; a mistake is named, and the old file stays in force."""
    file = Path(settings.runtime.services_file or "")
    async with running(settings) as daemon:
        await submit(client, "t1", service_id="new")
        assert (await end_of(client, "t1")).data["code"] == "UNKNOWN_SERVICE"
        file.write_text(SERVICES.replace("services.echo", "services.new"))  # noqa: ASYNC240  # a small file
        daemon.reload()
        await submit(client, "t2", service_id="new")
        assert (await end_of(client, "t2")).type == "done"
        file.write_text("[services.broken")  # noqa: ASYNC240  # a small file
        daemon.reload()
        assert "services.refused" in "".join(capsys.readouterr())
        await submit(client, "t3", service_id="new")
        assert (await end_of(client, "t3")).type == "done"


# --- a start that is refused ---------------------------------------------------------------------------------------


async def test_a_foreign_environment_is_refused(settings: Settings, client: Redis, redis_url: str) -> None:
    """Staging never eats production's tasks, in Redis or in Postgres."""
    async with running(settings):
        pass
    staging = settings.model_copy(update={"runtime": settings.runtime.model_copy(update={"environment": "staging"})})
    with pytest.raises(ConfigError, match="Redis of REDIS_URL belongs to"):
        await Daemon(staging, [QUEUE]).run()
    await client.delete(keys.ENVIRONMENT)
    with pytest.raises(ConfigError, match="DATABASE_URL"):
        await Daemon(staging, [QUEUE]).run()


def test_an_unknown_queue_is_refused_with_the_nearest_name(settings: Settings) -> None:
    """Before anything is opened."""
    with pytest.raises(ConfigError, match=r"--queues: 'q_paid_steam' is not known; did you mean \"q_paid_stream\""):
        in_thread(start(settings, "q_paid_steam"))


async def start(settings: Settings, queue: str) -> None:
    await Daemon(settings, [queue]).run()


async def test_servers_that_are_away_are_named(settings: Settings) -> None:
    """Exit 75: they may come back."""
    with pytest.raises(RedisAway):
        await Daemon(
            settings.model_copy(update={"redis": RedisSettings(url=SecretStr("redis://127.0.0.1:1/0"))}), [QUEUE]
        ).run()
    nowhere = PostgresSettings(url=SecretStr("postgresql://u:p@127.0.0.1:1/x"))
    with pytest.raises(StoreAway):
        await Daemon(settings.model_copy(update={"postgres": nowhere}), [QUEUE]).run()


async def test_a_start_that_is_refused_is_refused_bare(settings: Settings) -> None:
    """Not inside a group of exceptions: the command line turns it into its exit code."""
    with pytest.raises(RedisAway):
        await run_daemon(
            settings.model_copy(update={"redis": RedisSettings(url=SecretStr("redis://127.0.0.1:1/0"))}), [QUEUE]
        )


async def test_a_port_that_is_taken_ends_the_start_and_closes_everything(settings: Settings) -> None:
    """Nothing of a half start stays open."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        occupied = settings.model_copy(update={"ops": OpsSettings(port=taken.getsockname()[1])})
        with pytest.raises(OSError, match="in use"):
            await Daemon(occupied, [QUEUE]).run()


# --- stop ------------------------------------------------------------------------------------------------------------


@pytest.fixture
async def slow(settings: Settings) -> AsyncIterator[Settings]:
    """A model that takes some seconds for an answer."""
    async with FakeLLM(tokens_per_s=20, first_token_s=0.01, words=20) as server:
        yield settings.model_copy(
            update={"providers": settings.providers.model_copy(update={"deepseek_base_url": server.openai_url})}
        )


async def test_a_drain_lets_answers_end_and_reads_nothing(slow: Settings, client: Redis, wait_until: WaitUntil) -> None:
    """Quiet, then done; what came meanwhile is left to others; readiness says so at once."""
    async with running(slow) as daemon:
        await submit(client, "t1")
        await wait_until(lambda: started(client, "t1"), description="it runs")
        daemon.stop()
        await wait_until(lambda: not_ready(daemon), description="no longer ready")
        assert daemon.status() == "draining: 1 still run"
        await submit(client, "t2")
    assert (await end_of(client, "t1")).type == "done"
    assert not await started(client, "t2")


async def test_a_stop_unblocks_the_reads_of_all_queues_within_a_second(settings: Settings, client: Redis) -> None:
    """Six blocked reads (BLOCK 30 s); what comes afterwards is left to others."""
    async with running(settings, *QUEUES) as daemon:
        await wait_until(lambda: blocked(client, len(QUEUES)), description="all queues are read")
        began = asyncio.get_running_loop().time()
        daemon.stop()
        await wait_until(lambda: blocked(client, 0), description="nothing is read")
        assert asyncio.get_running_loop().time() - began < 1
        await submit(client, "t1")
    assert await client.xlen(keys.queue_keys(QUEUE).tasks) == 1 and not await started(client, "t1")


async def blocked(client: Redis, count: int) -> bool:
    """Whether so many connections of daemons wait in a blocking read."""
    named = [c for c in await client.client_list() if c["name"].startswith("qstreamd-read-")]
    return sum("b" in c["flags"] for c in named) == count


async def test_two_daemons_share_the_ops_port_until_one_drains(
    slow: Settings, client: Redis, wait_until: WaitUntil
) -> None:
    """A rollover: from its signal on the one that stops takes no connection, and the other one answers all."""
    async with running(slow) as old:
        await submit(client, "t1")
        await wait_until(lambda: started(client, "t1"), description="it runs")
        shared = slow.model_copy(update={"ops": OpsSettings(port=int(old.address.rpartition(":")[2]))})
        async with running(shared) as new:
            assert new.address == old.address
            old.stop()
            await wait_until(lambda: not is_shared(old.address), description="one listens")
            assert old.status() == "draining: 1 still run"
            for _ in range(8):
                status, body = await get(new.address, "/healthz/ready")
                assert status == 200, body
            assert (await end_of(client, "t1")).type == "done"


async def started(client: Redis, task_id: str) -> bool:
    return await client.xlen(keys.events(task_id)) >= 3


async def not_ready(daemon: Daemon) -> bool:
    status, body = await get(daemon.address, "/healthz/ready")
    return status == 503 and "stopping" in body


async def test_a_cut_hands_back_at_once_and_another_daemon_goes_on(
    slow: Settings, settings: Settings, client: Redis, wait_until: WaitUntil
) -> None:
    """A second signal does not wait for the drain; no failure is counted."""
    loop = asyncio.get_running_loop()
    async with running(slow) as daemon:
        await submit(client, "t1")
        await wait_until(lambda: started(client, "t1"), description="it runs")
        began = loop.time()
        daemon.stop()
        daemon.force_stop()
    assert loop.time() - began < 10  # the drain would have taken 180
    assert await client.xlen(keys.queue_keys(QUEUE).ready) == 1
    async with running(settings):
        assert (await end_of(client, "t1")).data["attempt"] == 2


async def test_what_outlasts_the_drain_is_handed_back(slow: Settings, client: Redis, wait_until: WaitUntil) -> None:
    """Long answers are another daemon's."""
    async with running(slow.model_copy(update={"shutdown": ShutdownSettings(drain_s=0.2)})):
        await submit(client, "t1")
        await wait_until(lambda: started(client, "t1"), description="it runs")
    assert await client.xlen(keys.queue_keys(QUEUE).ready) == 1


async def test_an_attempt_that_does_not_let_go_is_left_to_its_lease(
    slow: Settings, client: Redis, wait_until: WaitUntil, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends all the same; the record of who reads stays, and leads to what is pending."""
    monkeypatch.setattr(module, "_REQUEUE_S", 0.2)

    async def stubborn(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(module, "execute", stubborn)
    async with running(slow) as daemon:
        await submit(client, "t1")
        await wait_until(lambda: daemon.status().startswith("running 1"), description="it runs")
        daemon.force_stop()
    assert await client.zcard(keys.CONSUMERS) == 1
    pending: Any = await client.xpending(keys.queue_keys(QUEUE).tasks, keys.GROUP)
    assert pending["pending"] == 1


async def test_a_loop_that_breaks_ends_the_daemon_loudly(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """None of them dies alone."""

    async def breaks(_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Rescuer, "run", breaks)
    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.timeout(10):
            await Daemon(settings, [QUEUE]).run()
    assert caught.group_contains(ZeroDivisionError)


async def test_signals_drain_and_reload(settings: Settings, client: Redis, capsys: pytest.CaptureFixture[str]) -> None:
    """SIGHUP reads the file again, SIGTERM ends the process's work cleanly."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    life = asyncio.ensure_future(run_daemon(settings.model_copy(update={"ops": OpsSettings(port=port)}), [QUEUE]))  # noqa: TID251

    async def ready() -> bool:
        try:
            return (await get(f"http://127.0.0.1:{port}", "/healthz/ready"))[0] == 200
        except aiohttp.ClientError:
            return False

    await wait_until(ready, description="ready")
    os.kill(os.getpid(), signal.SIGHUP)
    await submit(client)
    assert (await end_of(client)).type == "done"
    os.kill(os.getpid(), signal.SIGTERM)
    async with asyncio.timeout(10):
        await life
    assert "services.reloaded" in "".join(capsys.readouterr())
