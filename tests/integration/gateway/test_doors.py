"""What holds for every door: origins, headers, limits, slow and vanished viewers, health."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
from typing import Any

import pytest

from daemon.config import Settings
from daemon.config.types import SecretStr
from daemon.domain import events
from daemon.domain.clock import SystemClock
from daemon.domain.events import Channel
from daemon.gateway.terminal_recovery import TerminalRecovery
from daemon.gateway.tokens import Tokens
from daemon.processes.gateway import GatewayProcess
from tests.integration.gateway.conftest import KEY, SECRET, Open, Rig
from tests.integration.gateway.frames import all_events
from tests.integration.gateway.test_follow import DONE, text
from tests.waiting import WaitUntil

APP = "https://app.example.com"


async def test_pages_of_our_origins_may_read(open_rig: Open) -> None:
    """By name, with credentials; others get no leave, and streams carry it too."""
    async with open_rig(allowed_origins=(APP,)) as rig:
        for path in ("/api/tasks/t1", "/api/tasks/t1/events?wait=0", "/nowhere"):
            async with rig.http.get(f"{rig.url}{path}", headers={"Origin": APP, **rig.auth("t1")}) as answer:
                assert answer.headers["Access-Control-Allow-Origin"] == APP
                assert answer.headers["Access-Control-Allow-Credentials"] == "true"
                assert answer.headers["Vary"] == "Origin"
            async with rig.http.get(f"{rig.url}{path}", headers={"Origin": "https://evil.example.com"}) as answer:
                assert "Access-Control-Allow-Origin" not in answer.headers
        asks = {"Origin": APP, "Access-Control-Request-Method": "POST"}
        async with rig.http.options(f"{rig.url}/api/tasks/t1/cancel", headers=asks) as answer:
            assert answer.status == 204
            assert "POST" in answer.headers["Access-Control-Allow-Methods"]
            assert "Authorization" in answer.headers["Access-Control-Allow-Headers"]


async def test_any_origin_gets_no_cookies(open_rig: Open) -> None:
    async with open_rig(allowed_origins=("*",)) as rig:
        headers = {"Origin": APP, **rig.auth("t1")}
        async with rig.http.get(f"{rig.url}/api/tasks/t1", headers=headers) as answer:
            assert answer.headers["Access-Control-Allow-Origin"] == "*"
            assert "Access-Control-Allow-Credentials" not in answer.headers


@pytest.mark.parametrize("path", ["/api/tasks/t1", "/api/tasks/t1/events?wait=0", "/nowhere", "/healthz/live"])
async def test_every_answer_is_dressed(rig: Rig, path: str) -> None:
    """Not sniffed, not framed, not kept, no address handed on; the server names no version."""
    async with rig.http.get(f"{rig.url}{path}", headers=rig.auth("t1")) as answer:
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["Cache-Control"] == "no-store"
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["Server"] == "qstreamd"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404), ("GET", "/api/tasks", 405), ("DELETE", "/api/tasks/t1", 405), ("POST", "/api/nope", 404),
        ("GET", "/api/tasks/t1/events", 401), ("GET", "/api/tasks/t1/ws", 401), ("POST", "/api/tasks/t1/cancel", 401),
        ("GET", "/api/queues", 401), ("GET", "/api/tasks/a%20b/events", 401),
    ],
)  # fmt: skip
async def test_what_nobody_may(rig: Rig, method: str, path: str, status: int) -> None:
    """JSON with a code, whatever it is."""
    async with rig.http.request(method, f"{rig.url}{path}") as answer:
        assert answer.status == status
        assert set(json.loads(await answer.read())) >= {"code", "message"}


async def test_health_and_metrics(rig: Rig) -> None:
    async with rig.http.get(f"{rig.url}/healthz/live") as answer:
        assert await answer.json() == {"status": "live"}
    async with rig.http.get(f"{rig.url}/healthz/ready") as answer:
        assert await answer.json() == {"status": "ready", "checks": {"redis": "ok", "postgres": "ok"}}
    async with rig.follow("t1") as answer:
        await answer.content.readuntil(b"\n\n")
        async with rig.http.get(f"{rig.url}/metrics") as scrape:
            said = (await scrape.read()).decode()
    assert 'qstreamd_viewers{transport="sse"} 1.0' in said
    assert 'qstreamd_gateway_requests_total{route="/healthz/ready",status="200"} 1.0' in said
    assert "t1" not in said


@pytest.mark.parametrize("wait", ["-1", "51", "x", "nan", "inf"])
async def test_a_wait_that_is_none_is_named(rig: Rig, wait: str) -> None:
    async with rig.http.get(f"{rig.url}/api/tasks/t1/events", params={"wait": wait}, headers=rig.auth("t1")) as answer:
        assert (answer.status, "wait" in (await answer.json())["message"]) == (400, True)


async def test_a_poll_ends_with_the_first_events_or_in_time(rig: Rig, wait_until: WaitUntil) -> None:
    """Events as objects with their ids; `after` is where to go on."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert await rig.poll("t1", wait="0.2") == {"events": [], "after": "0-0"}
    assert 0.2 <= loop.time() - began < 5  # not the 25 s of its default
    async with asyncio.TaskGroup() as group:
        polling = group.create_task(rig.poll("t1", wait=20))
        await wait_until(lambda: rig.fan_out.topics, description="it waits")
        await rig.append("t1", [text("a")])
    first = polling.result()
    assert [e["type"] for e in first["events"]] == ["queued", "token_batch"]
    assert first["after"] == first["events"][-1]["id"]
    await rig.append("t1", [DONE])
    assert [e["type"] for e in (await rig.poll("t1", after=first["after"]))["events"]] == ["done"]
    assert [e["type"] for e in (await rig.poll("t1", after='"x'))["events"]] == ["queued", "token_batch", "done"]


async def test_a_socket_gets_the_same_events(rig: Rig) -> None:
    """From the cursor in its first message, in its address, or the beginning; closed with 1000 at the end."""
    await rig.append("t1", [events.started("m1"), text("a")])
    ids = [entry_id.decode() for entry_id, _ in await rig.redis.xrange("task:t1:events")]

    async def told(first: str | None, query: str = "") -> list[str]:
        url = f"{rig.url}/api/tasks/t1/ws?token={rig.tokens.task_token('t1')}{query}"
        async with rig.http.ws_connect(url) as ws:
            if first is not None:
                await ws.send_str(first)
            found = [json.loads(m.data)["id"] async for m in ws]
            assert ws.close_code == 1000
            return found

    async with asyncio.TaskGroup() as group:
        from_start = [group.create_task(told(first)) for first in (None, "{}", "nonsense", '{"after": 7}')]
        from_first = group.create_task(told(json.dumps({"after": ids[0]})))
        from_query = group.create_task(told(None, f"&after={ids[1]}"))
        await asyncio.sleep(0.1)
        await rig.append("t1", [text("b"), DONE])
    ids = [entry_id.decode() for entry_id, _ in await rig.redis.xrange("task:t1:events")]
    assert [task.result() for task in from_start] == [ids] * 4
    assert (from_first.result(), from_query.result()) == (ids[1:], ids[2:])
    assert await told(None, f"&after={ids[-1]}") == []


async def test_a_socket_says_nothing_long(rig: Rig, wait_until: WaitUntil) -> None:
    """A client that talks is heard no further than its first message; one that floods is closed."""
    ws = await rig.http.ws_connect(f"{rig.url}/api/tasks/t1/ws?after=0-0", headers=rig.auth("t1"))
    await ws.send_str("hello")
    await rig.append("t1", [text("a")])
    assert json.loads((await ws.receive()).data)["type"] == "queued"
    await ws.send_str("x" * 5000)
    await wait_until(lambda: not rig.fan_out.viewers, description="it is closed")
    await ws.close()


async def test_places_for_viewers_are_bounded(open_rig: Open) -> None:
    """Of an address and of the process; given back when a viewer leaves."""
    async with open_rig(viewers_per_address=2, viewers_max=3) as rig:
        first, second = [await rig.follow("t1").__aenter__() for _ in range(2)]
        async with rig.follow("t1") as third:
            assert (third.status, (await third.json())["code"]) == (429, "TOO_MANY_VIEWERS")
        others = {"X-Forwarded-For": "198.51.100.7", **rig.auth("t1"), "Accept": "text/event-stream"}
        url = f"{rig.url}/api/tasks/t1/events"
        third = await rig.http.get(url, headers=others).__aenter__()
        assert third.status == 200
        async with rig.http.get(url, headers={**others, "X-Forwarded-For": "198.51.100.8"}) as fourth:
            assert (fourth.status, "Retry-After" in fourth.headers) == (503, True)
        for answer in (first, second, third):
            answer.close()
        await rig.append("t1", [DONE])
        async with rig.follow("t1") as again:
            assert again.status == 200


async def slow_viewer(rig: Rig) -> socket.socket:
    """A viewer that reads nothing."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)  # noqa: FBT003
    host, port = rig.url.removeprefix("http://").split(":")
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, (host, int(port)))
    token = rig.tokens.task_token("t1")
    head = f"GET /api/tasks/t1/events?token={token} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n"
    await loop.sock_sendall(sock, head.encode())
    return sock


async def test_a_slow_viewer_is_cut_off_and_nobody_else(rig: Rig, wait_until: WaitUntil) -> None:
    """Its memory is bounded; a quick one beside it gets everything."""
    sock = await slow_viewer(rig)
    async with rig.follow("t1") as quick, asyncio.TaskGroup() as group:
        reading = group.create_task(all_events(quick))
        await wait_until(lambda: len(rig.fan_out.viewers) == 2, description="both follow")
        for _ in range(40):
            await rig.append("t1", [text("x" * 50_000)] * 10)
        await wait_until(lambda: len(rig.fan_out.viewers) == 1, description="the slow one is gone", within_s=15)
        await rig.append("t1", [DONE])
    assert len(reading.result()) == 402
    sock.close()


async def test_a_thousand_viewers_leave_nothing_behind(rig: Rig, wait_until: WaitUntil) -> None:
    """Opened and closed without a word: no task, no topic, no place, no connection is left."""

    async def come_and_go(n: int) -> None:
        async with rig.follow(f"t{n % 50}") as answer:
            await answer.content.readuntil(b"event: token_batch")
            await asyncio.sleep(0.02 * (n % 3))  # some leave while they join, some when they have

    async def rest() -> tuple[int, int, int]:
        gc.collect()
        return len(asyncio.all_tasks()), len(rig.fan_out.viewers), rig.fan_out.topics

    for n in range(50):
        await rig.append(f"t{n}", [text("a")])
    await asyncio.gather(*(come_and_go(n) for n in range(50)))
    await wait_until(lambda: not rig.fan_out.viewers, description="the first fifty are gone")
    before = await rest()
    for _ in range(10):
        await asyncio.gather(*(come_and_go(n) for n in range(100)))

    async def as_before() -> Any:
        return await rest() == before

    await wait_until(as_before, description=f"all is as before: {before}")
    clients = [client for client in await rig.redis.client_list() if client["name"] == "qstreamd-hub"]
    assert len(clients) == 1


async def test_live_text_to_an_old_proxy_is_not_chunked(rig: Rig, wait_until: WaitUntil) -> None:
    """nginx speaks HTTP/1.0 to us unless told otherwise: plain bytes until the connection ends."""
    host, port = rig.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    token = rig.tokens.task_token("t1")
    writer.write(f"GET /api/tasks/t1/events?token={token} HTTP/1.0\r\nAccept: text/event-stream\r\n\r\n".encode())
    await wait_until(lambda: rig.fan_out.topics, description="it follows")
    await rig.append("t1", [text("a")])
    await rig.append("t1", [events.token_batch("b", Channel.TEXT), DONE])
    said = (await asyncio.wait_for(reader.read(), 5)).decode()
    writer.close()
    head, _, body = said.partition("\r\n\r\n")
    assert "chunked" not in head.lower()
    blocks = body.split("\n\n")
    assert (blocks[0], blocks[-1]) == (": ok", "")
    assert [b.split("\n")[1] for b in blocks[1:-1]] == [
        f"event: {e}" for e in ("queued", "token_batch", "token_batch", "done")
    ]


async def test_queues_are_told_to_servers(rig: Rig) -> None:
    await rig.redis.set("bp:queue:q_paid_stream", 7)
    await rig.redis.hset("{bp:queue:q_free_stream}:control", mapping={"maxSize": 3, "paused": 1})
    await rig.redis.hset("{bp:queue:q_free_batch}:control", mapping={"maxSize": 0})
    async with rig.http.get(f"{rig.url}/api/queues", headers={"X-API-Key": KEY}) as answer:
        found = {q["queueId"]: q for q in (await answer.json())["queues"]}
    assert len(found) == 6
    assert found["q_paid_stream"] == {"queueId": "q_paid_stream", "waiting": 7, "limit": 200, "paused": False}
    assert found["q_free_stream"] == {"queueId": "q_free_stream", "waiting": 0, "limit": 3, "paused": True}
    assert found["q_free_batch"]["limit"] == 0  # nothing is accepted


async def test_a_gateway_whose_loop_died_ends_and_lets_its_viewers_go(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loudly, within seconds: whoever watches sees the connection close and comes back to another one."""
    died = asyncio.Event()

    async def run(*_: object) -> None:
        await died.wait()
        raise RuntimeError("a bug")

    monkeypatch.setattr(TerminalRecovery, "run", run)
    process = GatewayProcess(settings)
    lines: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def watch() -> None:
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            group.create_task(process.run())
            await process.ready.wait()
            host, port = process.address.removeprefix("http://").split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            token = Tokens(SecretStr(SECRET), SystemClock(), 60).task_token("t1")
            asked = f"GET /api/tasks/t1/events?token={token} HTTP/1.0\r\nAccept: text/event-stream\r\n\r\n"
            writer.write(asked.encode())
            assert (await reader.readuntil(b": ok\n\n")).startswith(b"HTTP/1.0 200")
            lines.append((reader, writer))
            died.set()

    with pytest.raises(ExceptionGroup, match="unhandled errors"):
        await watch()
    [(reader, writer)] = lines
    assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.close()
    await writer.wait_closed()
