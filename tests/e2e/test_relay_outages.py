"""What the relay does when Redis, its caller or its operator lets it down. Each test has a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from daemon.dev.embedded import free_port
from daemon.dev.embedded_redis import EmbeddedRedis
from daemon.dev.fake_qstash.signing import sign
from daemon.domain.messages import BODY_BYTES_MAX
from daemon.redis_client import keys
from tests.e2e.relay_process import (
    CURRENT,
    GOOD,
    PRODUCTION,
    PUBLIC,
    ROOT,
    UNMEASURED,
    Relay,
    Reply,
    environment,
    running_relay,
)
from tests.waiting import WaitUntil

PATH = "/api/worker/stream/resume-review"


def assert_away(reply: Reply) -> None:
    assert (reply.status, reply.body["code"]) == (503, "WORKER_OVERLOADED")
    assert int(reply.headers["Retry-After"]) >= 5
    assert reply.seconds < 3


async def accepted_again(relay: Relay, wait_until: WaitUntil, task_id: str, within_s: float = 1) -> None:
    async def ask() -> Any:
        return (await relay.call(body=GOOD | {"taskId": task_id})).status == 200

    await wait_until(ask, description="calls are accepted again", within_s=within_s)


async def test_a_redis_that_hangs_is_told_within_three_seconds(
    redis_server: EmbeddedRedis, wait_until: WaitUntil
) -> None:
    """A black hole, many calls at once; when it is back, so are we within a second, and what got through is found."""
    with running_relay(redis_server.url) as relay:
        await relay.call(body=GOOD | {"taskId": "warm"})
        redis_server.pause()
        for reply in await asyncio.gather(*(relay.call(body=GOOD | {"taskId": f"t{n}"}) for n in range(100))):
            assert_away(reply)
        assert (await relay.get("/healthz/ready")).status == 503
        assert (await relay.get("/healthz/live")).status == 200
        redis_server.resume()
        await accepted_again(relay, wait_until, "after")
        again = await asyncio.gather(*(relay.call(body=GOOD | {"taskId": f"t{n}"}) for n in range(100)))
        assert {reply.status for reply in again} == {200}
        with redis.Redis.from_url(redis_server.url) as client:
            assert client.xlen(keys.queue_keys("q_paid_stream").tasks) == 102
            assert client.get(keys.queue_keys("q_paid_stream").counter) == b"102"


async def test_a_redis_that_died_is_told_at_once(redis_server: EmbeddedRedis, wait_until: WaitUntil) -> None:
    """Nothing accepted is lost, nothing is doubled, and the scripts are loaded again behind the caller's back."""
    with running_relay(redis_server.url) as relay:
        first = await relay.call()
        redis_server.kill()
        assert_away(await relay.call(body=GOOD | {"taskId": "t2"}))
        redis_server.start()
        await accepted_again(relay, wait_until, "t3")
        assert (await relay.call()).body == first.body | {"status": "duplicate"}
        assert (await relay.call(body=GOOD | {"taskId": "t2"})).body["status"] == "queued"


async def test_a_full_redis_refuses_what_is_new(redis_server: EmbeddedRedis) -> None:
    with running_relay(redis_server.url) as relay, redis.Redis.from_url(redis_server.url) as client:
        first = await relay.call()
        client.config_set("maxmemory", "1")
        assert_away(await relay.call(body=GOOD | {"taskId": "t2"}))
        assert (await relay.call()).body == first.body | {"status": "duplicate"}
        client.config_set("maxmemory", "0")
        assert (await relay.call(body=GOOD | {"taskId": "t2"})).body["status"] == "queued"


async def test_a_replica_is_as_good_as_no_redis(redis_server: EmbeddedRedis) -> None:
    """After a failover the old address refuses writes: QStash comes back."""
    with running_relay(redis_server.url) as relay, redis.Redis.from_url(redis_server.url) as client:
        await relay.call()
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        assert_away(await relay.call(body=GOOD | {"taskId": "t2"}))
        client.execute_command("REPLICAOF", "NO", "ONE")
        assert (await relay.call(body=GOOD | {"taskId": "t2"})).body["status"] == "queued"


async def test_a_relay_starts_without_redis_and_opens_when_it_comes(
    redis_server: EmbeddedRedis, wait_until: WaitUntil
) -> None:
    """Dying would help nobody: systemd would start it again to die again, and the proxy would answer for it."""
    redis_server.stop()
    with running_relay(redis_server.url, wait="/healthz/live") as relay:
        assert_away(await relay.call())
        assert (await relay.get("/healthz/ready")).status == 503
        redis_server.start()
        await accepted_again(relay, wait_until, "t1")
        assert (await relay.get("/healthz/ready")).status == 200
        assert relay.stop() == 0


async def test_a_redis_of_another_environment_ends_the_relay(redis_server: EmbeddedRedis) -> None:
    """Even when it turns up late: production's tasks must not be run by a test machine."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.set(keys.ENVIRONMENT, "staging")
    done = await run(redis_server.url)
    assert done == (
        78,
        "configuration: NODE_ENV: this is 'production', but the Redis of REDIS_URL belongs to b'staging'",
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"WORKER_BASE_URL": ""}, "WORKER_BASE_URL"),
        ({"QSTASH_CURRENT_SIGNING_KEY": ""}, "QSTASH_CURRENT_SIGNING_KEY"),
        ({"QSTASH_SKIP_VERIFY": "true"}, "QSTASH_SKIP_VERIFY"),
        ({"QSTASH_CURRENT_SIGNING_KEY": "sig_7kYjw48mhY7kAjqNGcy6cr29RJ6r"}, "QSTASH_CURRENT_SIGNING_KEY"),
        ({"SERVICES_FILE": "/nowhere.toml"}, "SERVICES_FILE"),
    ],
)
async def test_a_bad_setting_refuses_the_start(settings: dict[str, str], said: str) -> None:
    code, words = await run("redis://127.0.0.1:1/0", **settings)
    assert code == 78
    assert words.startswith("configuration: ")
    assert said in words


async def test_an_address_that_is_taken_is_tried_again_later() -> None:
    """75: whoever holds it may go away; systemd tries again."""
    with socket.create_server(("127.0.0.1", 0)) as holder:
        code, words = await run("redis://127.0.0.1:1/0", RELAY_PORT=str(holder.getsockname()[1]))
    assert code == 75
    assert "RELAY_PORT" in words


async def run(redis_url: str, **settings: str) -> tuple[int | None, str]:
    """Exit code and last line (but for the hint) of a relay that should not stay."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "daemon", "relay"),
        cwd=ROOT,
        env=environment(redis_url, free_port(), **settings),
        stderr=subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(15):
            _, words = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode, [line for line in words.decode().splitlines() if not line.startswith("hint: ")][-1]


async def test_development_may_skip_the_signature(redis_url: str) -> None:
    with running_relay(
        redis_url,
        NODE_ENV="development",
        QSTASH_SKIP_VERIFY="true",
        QSTASH_CURRENT_SIGNING_KEY="",
        QSTASH_NEXT_SIGNING_KEY="",
    ) as relay:
        assert (await relay.call(Upstash_Signature="")).status == 200


async def test_further_queues_come_from_the_services_file(
    redis_url: str, tmp_path: Path, wait_until: WaitUntil
) -> None:
    """And SIGHUP reads it again; a bad file changes nothing."""
    shipped = (ROOT / "daemon/services_default/services.toml").read_text("utf-8")
    file = tmp_path / "services.toml"
    file.write_text(shipped + '\n[queues.q_long]\ntier = "paid"\nmode = "batch"\nmax_size = 1\n', "utf-8")
    body = {"taskId": "t1", "userId": "u1", "serviceId": "s"}
    with running_relay(redis_url, SERVICES_FILE=str(file)) as relay:
        assert (await relay.call("/api/worker/queue/q_long", body)).status == 200
        assert (await relay.call("/api/worker/queue/q_long", body | {"taskId": "t2"})).status == 429
        file.write_text("[queues", "utf-8")
        relay.process.send_signal(signal.SIGHUP)
        await wait_until(lambda: relay.log("services.refused"), description="the bad file is refused")
        assert (await relay.call("/api/worker/queue/q_long", body)).status == 200
        file.write_text(shipped + '\n[queues.q_other]\ntier = "free"\nmode = "batch"\n', "utf-8")
        relay.process.send_signal(signal.SIGHUP)

        async def known() -> Any:
            return (await relay.call("/api/worker/queue/q_other", body)).status == 200

        await wait_until(known, description="the new queue is known")
        assert (await relay.call("/api/worker/queue/q_long", body)).status == 489


# --- callers --------------------------------------------------------------------------------------------------------


def head(raw: bytes, *, length: int | None = None, more: str = "") -> bytes:
    token = sign(CURRENT, url=PUBLIC + PATH, body=raw, issued_at=time.time())
    size = len(raw) if length is None else length
    return (
        f"POST {PATH} HTTP/1.1\r\nHost: x\r\nUpstash-Signature: {token}\r\n"
        + (more or f"Content-Length: {size}\r\n")
        + "\r\n"
    ).encode()


@asynccontextmanager
async def connection(relay: Relay) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and body of one answer."""
    async with asyncio.timeout(15):
        said = await reader.readuntil(b"\r\n\r\n")
        size = next(
            int(line.split(b":")[1]) for line in said.split(b"\r\n") if line.lower().startswith(b"content-length")
        )
        return int(said.split(b" ")[1]), await reader.readexactly(size)


async def test_a_slow_body_does_not_hold_the_relay(redis_url: str) -> None:
    """Its time is up; QStash comes back. The others are served meanwhile, and the connection is closed."""
    raw = json.dumps(GOOD).encode()
    with running_relay(redis_url, QSTREAMD_RELAY_BODY_TIMEOUT_S="0.5") as relay:
        async with connection(relay) as (reader, writer):
            began = time.monotonic()
            writer.write(head(raw) + raw[:10])
            assert (await relay.call()).status == 200
            status, body = await answer(reader)
            assert 0.4 < time.monotonic() - began < 5
            assert (status, json.loads(body)["code"]) == (503, "WORKER_OVERLOADED")
            async with asyncio.timeout(5):
                assert await reader.read() == b""


async def test_a_large_body_is_read_off_and_the_connection_lives(redis_url: str) -> None:
    """Not kept: ten times the limit costs no memory, and the next call on the same connection is served."""
    large = b"x" * (10 * BODY_BYTES_MAX)
    raw = json.dumps(GOOD).encode()
    with running_relay(redis_url) as relay:
        before = resident_mb(relay)
        async with connection(relay) as (reader, writer):
            for body, status in ((large, 489), (raw, 200), (large, 489), (raw, 200)):
                writer.write(head(body) + body)
                assert (await answer(reader))[0] == status
        assert resident_mb(relay) < before + 12


async def test_a_stranger_is_refused_before_his_body_is_read(redis_url: str) -> None:
    """Who is not believed by his token sends megabytes to nobody: the answer comes first."""
    with running_relay(redis_url) as relay:
        async with connection(relay) as (reader, writer):
            announced = head(b"", length=10 * BODY_BYTES_MAX).replace(
                b"Upstash-Signature: ey", b"Upstash-Signature: xx"
            )
            writer.write(announced + b"x" * 1000)
            began = time.monotonic()
            assert (await answer(reader))[0] == 401
            assert time.monotonic() - began < 5  # not the 10 s that a body may take


async def test_a_chunked_body_is_a_body(redis_url: str) -> None:
    raw = json.dumps(GOOD).encode()
    chunks = b"%x\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n" % (7, raw[:7], len(raw) - 7, raw[7:])
    with running_relay(redis_url) as relay:
        async with connection(relay) as (reader, writer):
            writer.write(head(raw, more="Transfer-Encoding: chunked\r\n") + chunks)
            assert (await answer(reader))[0] == 200
        async with connection(relay) as (reader, writer):
            writer.write(head(raw, more="Transfer-Encoding: chunked\r\n") + b"zz\r\n" + raw)
            assert (await answer(reader))[0] in {400, 503}
        assert (await relay.call()).status == 200


GARBAGE = (
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
    b"GET\r\n\r\n",
    b"\x00" * 5000,
    b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    b"POST / HTTP/1.1\r\n" + b"A: b\r\n" * 5000,
    b"POST /worker/execute HTTP/1.1\r\nHost: x\r\nUpstash-Signature: \xff\xff\r\nContent-Length: 0\r\n\r\n",
)


async def test_garbage_harms_nobody(redis_url: str) -> None:
    """It gets a 4xx or nothing, at most one line, and the next call is served."""
    with running_relay(redis_url) as relay:
        for garbage in GARBAGE:
            lines = len(relay.log())
            async with connection(relay) as (reader, writer):
                writer.write(garbage)
                writer.write_eof()
                async with asyncio.timeout(10):
                    said = await reader.read(20)
            assert said[:10] in {b"", b"HTTP/1.1 4", b"HTTP/1.0 4"}, garbage[:40]
            assert len(relay.log()) <= lines + 1, garbage[:40]
            assert (await relay.call()).status == 200


async def test_a_caller_that_leaves_finds_a_duplicate(redis_url: str, wait_until: WaitUntil) -> None:
    """What was begun is finished: a call is never cancelled half-way."""
    raw = json.dumps(GOOD).encode()
    with running_relay(redis_url) as relay, redis.Redis.from_url(redis_url) as client:
        async with connection(relay) as (_, writer):
            writer.write(head(raw) + raw)
            await writer.drain()
        stream = keys.queue_keys("q_paid_stream").tasks
        await wait_until(lambda: client.xlen(stream), description="the call of one who left is accepted")
        assert (await relay.call()).body["status"] == "duplicate"


async def test_a_body_that_is_cut_off_is_nobodys_message(redis_url: str) -> None:
    raw = json.dumps(GOOD).encode()
    with running_relay(redis_url) as relay, redis.Redis.from_url(redis_url) as client:
        async with connection(relay) as (_, writer):
            writer.write(head(raw) + raw[:10])
            await writer.drain()
        assert (await relay.call(body=GOOD | {"taskId": "t2"})).status == 200
        assert client.keys("*:seen:t1") == []


# --- stopping, size, speed --------------------------------------------------------------------------------------------


async def test_a_stop_lets_calls_finish_and_refuses_new_ones(redis_url: str, wait_until: WaitUntil) -> None:
    """SIGTERM: what was begun gets its 200, what comes gets 503 + Retry-After, then the process is gone with 0."""
    raw = json.dumps(GOOD).encode()
    with running_relay(redis_url) as relay:
        async with connection(relay) as (reader, writer):
            writer.write(head(raw) + raw[:10])
            assert (await relay.get("/healthz/ready")).status == 200  # it came later, so the call has begun
            relay.process.send_signal(signal.SIGTERM)
            await wait_until(lambda: relay.log("signal.received"), description="the signal was seen")
            refused = await relay.call(body=GOOD | {"taskId": "t2"})
            assert_away(refused)
            assert refused.body["message"] == "stopping"
            assert (await relay.get("/healthz/ready")).status == 503
            writer.write(raw[10:])
            status, body = await answer(reader)
            assert (status, json.loads(body)["status"]) == (200, "queued")
        assert await asyncio.to_thread(relay.process.wait, 5) == 0
        assert relay.log()[-1]["event"] == "relay.stopped"


async def test_a_second_signal_ends_it_at_once(redis_url: str, wait_until: WaitUntil) -> None:
    raw = json.dumps(GOOD).encode()
    with running_relay(redis_url) as relay:
        async with connection(relay) as (_, writer):
            writer.write(head(raw) + raw[:10])
            await writer.drain()
            for count in (1, 2):
                relay.process.send_signal(signal.SIGTERM)
                await wait_until(
                    lambda count=count: len(relay.log("signal.received")) == count or relay.process.poll() is not None,
                    description="the signal was seen",
                )
            assert await asyncio.to_thread(relay.process.wait, 4) == 0


def resident_mb(relay: Relay) -> float:
    pages = Path(f"/proc/{relay.process.pid}/statm").read_text("ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs /proc")
async def test_it_is_ready_within_a_second_and_stays_small(redis_url: str) -> None:
    """Budgets of architecture 4: start to ready at most 1 s (more is allowed to a busy machine), idle at most 70 MB."""
    began = time.monotonic()
    with running_relay(redis_url, command=PRODUCTION, **UNMEASURED) as relay:
        assert time.monotonic() - began < 8
        assert resident_mb(relay) <= 70
        await asyncio.gather(*(relay.call(body=GOOD | {"taskId": f"t{n}"}) for n in range(200)))
        assert resident_mb(relay) <= 80


def idle_sockets(port: int, count: int) -> list[socket.socket]:
    """Connections that say nothing."""
    return [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(count)]


def descriptors(relay: Relay) -> int:
    """How many the process has open."""
    return len(list(Path(f"/proc/{relay.process.pid}/fd").iterdir()))


@pytest.mark.long
@pytest.mark.timeout(180)
@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs /proc")
async def test_ten_thousand_idle_connections_keep_nobody_out(redis_url: str, wait_until: WaitUntil) -> None:
    """F69: calls are answered beside them; who says nothing is hung up on, and nothing of him is left."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # the relay inherits it
    with running_relay(redis_url, QSTREAMD_RELAY_KEEPALIVE_S="20") as relay:
        assert (await relay.call()).status == 200
        before = descriptors(relay)
        count = min(10_000, hard - 500)
        idle = await asyncio.to_thread(idle_sockets, relay.port, count)
        try:
            await wait_until(lambda: descriptors(relay) >= count, description="all are connected", within_s=10)
            replies = await asyncio.gather(*(relay.call(body=GOOD | {"taskId": f"t{n}"}) for n in range(20)))
            assert {reply.status for reply in replies} == {200}
            await wait_until(lambda: descriptors(relay) <= before + 30, description="they were hung up on", within_s=30)
        finally:
            for one in idle:
                one.close()
        assert (await relay.call()).status == 200
