"""Signed calls through the relay's own handlers to the real scripts on fakeredis: no socket, no server.

Over real HTTP, with a real Redis that may be away or full: `tests/e2e/test_relay.py`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple
from unittest import mock

import pytest
from aiohttp import StreamReader, web
from aiohttp.test_utils import make_mocked_request

from daemon.config import EventSettings, QstashSettings, QueueSettings, RelaySettings
from daemon.dev.fake_qstash.signing import sign
from daemon.domain.clock import SystemClock
from daemon.domain.errors import RedisFull
from daemon.domain.queues import DEFAULT_QUEUES
from daemon.events.log import EventLog
from daemon.observability.metrics import Metrics
from daemon.queues.admission import Admission
from daemon.queues.reservations import Reservations, Reserved
from daemon.redis_client import keys
from daemon.redis_client.batched_scripts import BatchedScripts
from daemon.redis_client.scripts import Scripts
from daemon.relay.server import Relay

QUEUE = "q_paid_stream"
NAMES = keys.queue_keys(QUEUE)
KEY, PUBLIC = "sig_of_the_tests", "https://relay.example.com"
GOOD: dict[str, Any] = {"taskId": "t1", "queueId": QUEUE, "serviceId": "resume-review", "userId": "u1"}


class Reply(NamedTuple):
    """What a caller gets."""

    status: int
    body: dict[str, Any]
    headers: Mapping[str, str]


@pytest.fixture
def scripts(fake_redis: Any) -> Scripts:
    """As the relay's process has them: many calls in one flush."""
    return BatchedScripts(fake_redis)


@pytest.fixture
def relay(scripts: Scripts, fake_redis: Any) -> Relay:
    clock = SystemClock()
    return Relay(
        settings=RelaySettings(base_url=PUBLIC),
        qstash=QstashSettings(),
        signing_keys=(KEY.encode(),),
        queues={QUEUE: replace(DEFAULT_QUEUES[QUEUE], max_size=5)},
        admission=Admission(scripts, QueueSettings(), clock),
        reservations=Reservations(scripts, QueueSettings()),
        events=EventLog(scripts, EventSettings(), clock),
        ping=fake_redis.ping,
        metrics=Metrics(process=False),
        clock=clock,
    )


async def call(
    relay: Relay, path: str = "/worker/execute", body: Any = None, *, method: str = "POST", **headers: str
) -> Reply:
    """One call, through the route that the relay's own router finds."""
    raw = json.dumps(GOOD if body is None else body).encode()
    app = relay.app()
    content = StreamReader(mock.Mock(_reading_paused=False), 2**16)
    content.feed_data(raw)
    content.feed_eof()
    token = sign(KEY, url=PUBLIC + path.partition("?")[0], body=raw, issued_at=relay.clock.time())
    sent = {"Upstash-Signature": token} | {name.replace("_", "-"): value for name, value in headers.items()}
    request = make_mocked_request(method, path, headers=sent, app=app, payload=content)
    found = await app.router.resolve(request)
    response = await found.handler(request)
    assert isinstance(response, web.Response) and isinstance(response.body, bytes)
    return Reply(response.status, json.loads(response.body), response.headers)


async def events(relay: Relay, task_id: str = "t1") -> list[tuple[str, Any]]:
    """Types of a task's events, with the place in the queue that they tell."""
    return [(event.type, event.data.get("position")) for event in await relay.events.read(task_id)]


def counted(relay: Relay, outcome: str) -> float:
    """Calls of our queue with that outcome."""
    return float(relay.metrics.accepted.labels(QUEUE, outcome)._value.get())


async def test_a_signed_call_is_queued_and_its_viewer_knows(relay: Relay, fake_redis: Any) -> None:
    reply = await call(relay)
    [(entry_id, _)] = await fake_redis.xrange(NAMES.tasks)
    assert (reply.status, reply.body) == (200, {"taskId": "t1", "status": "queued", "entryId": entry_id.decode()})
    assert await events(relay) == [("queued", 1)]
    assert counted(relay, "queued") == 1


async def test_a_call_costs_two_flushes(relay: Relay, scripts: Scripts) -> None:
    """Accept and `queued`; a duplicate costs one. The first call of a process loads the scripts, too."""
    await call(relay)
    before = scripts.flushes
    await call(relay, body=GOOD | {"taskId": "t2"})
    assert scripts.flushes - before == 2
    await call(relay, body=GOOD | {"taskId": "t2"})
    assert scripts.flushes - before == 3


async def test_the_same_call_again_is_a_duplicate(relay: Relay, fake_redis: Any) -> None:
    """With the entry of then; tracing ids may differ, and nothing is added."""
    first = await call(relay)
    again = await call(relay, body=GOOD | {"requestId": "other"})
    assert (again.status, again.body) == (200, first.body | {"status": "duplicate"})
    assert await fake_redis.xlen(NAMES.tasks) == 1
    assert await events(relay) == [("queued", 1)]
    assert counted(relay, "duplicate") == 1


async def test_a_text_cut_inside_an_emoji_is_accepted_and_mended(relay: Relay, fake_redis: Any) -> None:
    """The signature is over the bytes as they came, the identity over the text as it was read."""
    reply = await call(relay, body=GOOD | {"variables": {"q": "cut \ud83d"}})
    assert (reply.status, reply.body["status"]) == (200, "queued")
    again = await call(relay, body=GOOD | {"variables": {"q": "cut \ufffd"}})
    assert (again.status, again.body["status"]) == (200, "duplicate")
    [(_, fields)] = await fake_redis.xrange(NAMES.tasks)
    assert json.loads(fields[b"task"])["message"]["variables"] == {"q": "cut \ufffd"}


async def test_another_body_under_the_same_id_is_never_tried_again(relay: Relay) -> None:
    await call(relay)
    reply = await call(relay, body=GOOD | {"variables": {"a": 1}})
    assert (reply.status, reply.body["code"]) == (489, "INVALID_PAYLOAD")
    assert reply.headers["Upstash-NonRetryable-Error"] == "true"
    assert counted(relay, "conflict") == 1


async def test_a_full_queue_says_when_to_come_back(relay: Relay, fake_redis: Any) -> None:
    """With the pace of the queue, longer for each try; the queue's own tasks are still known."""
    await call(relay)
    await fake_redis.hset(NAMES.control, "maxSize", 1)
    seconds, _ = await fake_redis.time()
    await fake_redis.hset(NAMES.start_interval, mapping={"last": (seconds + 60) * 1000, "mean": 8000})
    reply = await call(relay, body=GOOD | {"taskId": "t2"}, Upstash_Retried="1")
    assert (reply.status, reply.body["code"]) == (429, "QUEUE_FULL")
    assert 8 * 4 <= reply.body["retryAfter"] <= 13 * 4
    assert reply.headers["Retry-After"] == str(reply.body["retryAfter"])
    assert (await call(relay)).body["status"] == "duplicate"
    assert await events(relay, "t2") == []


async def test_a_paused_queue_is_told_to_the_viewer(relay: Relay, fake_redis: Any) -> None:
    await fake_redis.hset(NAMES.control, "paused", "1")
    assert (await call(relay)).status == 200
    found = await relay.events.read("t1")
    assert [(event.type, event.data.get("reason")) for event in found] == [
        ("queued", None),
        ("progress", "QUEUE_PAUSED"),
    ]


async def test_a_scheduled_call_is_named_by_its_message(relay: Relay) -> None:
    body = {name: value for name, value in GOOD.items() if name != "taskId"}
    named = {"Upstash_Schedule_Id": "scd_1", "Upstash_Message_Id": "msg_1"}
    first = await call(relay, body=body, **named)
    assert (first.status, first.body["taskId"], first.body["status"]) == (200, "msg_1", "queued")
    assert (await call(relay, body=body, **named)).body["status"] == "duplicate"
    assert (await call(relay, body=body)).status == 489


async def test_who_did_not_sign_leaves_nothing(relay: Relay, fake_redis: Any) -> None:
    reply = await call(relay, Upstash_Signature="a.b.c")
    assert (reply.status, reply.body) == (401, {"code": "BAD_SIGNATURE"})
    assert await fake_redis.keys("*") == []
    assert relay.metrics.accepted.labels("unknown", "unauthorized")._value.get() == 1


async def test_a_path_that_is_not_ours_is_not_found(relay: Relay) -> None:
    assert (await call(relay, "/other")).status == 404


async def test_the_old_route_says_that_it_is_old(relay: Relay) -> None:
    body = {name: value for name, value in GOOD.items() if name != "queueId"}
    assert "Deprecation" in (await call(relay, f"/api/worker/queue/{QUEUE}", body)).headers
    assert "Deprecation" not in (await call(relay)).headers


async def test_a_check_judges_and_writes_nothing(relay: Relay, fake_redis: Any) -> None:
    good = await call(relay, "/api/worker/check")
    assert (good.status, good.body["accepted"], good.body["answer"]) == (200, True, 200)
    bad = await call(relay, "/api/worker/check", GOOD | {"queueId": "q_nope"})
    assert (bad.status, bad.body["accepted"], bad.body["answer"]) == (200, False, 489)
    assert await fake_redis.keys("*") == []


def callback(body: dict[str, Any]) -> dict[str, Any]:
    """What QStash sends when it gave up."""
    source = base64.b64encode(json.dumps(body).encode()).decode()
    return {"url": f"{PUBLIC}/worker/execute", "sourceBody": source, "status": 500}


async def test_a_message_that_never_came_gives_its_place_back(relay: Relay, fake_redis: Any) -> None:
    """Its viewer learns the end, once."""
    assert await relay.reservations.reserve(QUEUE, "t1", "a" * 64, 5) == Reserved(1)
    for _ in range(2):
        reply = await call(relay, "/api/qstash/failed", callback(GOOD))
        assert (reply.status, reply.body) == (200, {"taskId": "t1", "status": "failed"})
    assert await fake_redis.get(NAMES.counter) == b"0"
    assert [kind for kind, _ in await events(relay)] == ["queued", "error"]


async def test_a_message_that_came_after_all_keeps_its_place(relay: Relay, fake_redis: Any) -> None:
    await call(relay)
    reply = await call(relay, "/api/qstash/failed", callback(GOOD))
    assert reply.body == {"taskId": "t1", "status": "accepted"}
    assert await fake_redis.get(NAMES.counter) == b"1"
    assert await events(relay) == [("queued", 1)]


async def test_an_accepted_call_is_answered_though_its_event_is_lost(
    relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`queued` is best effort: whoever appends first otherwise writes it."""
    monkeypatch.setattr(EventLog, "queued", mock.AsyncMock(side_effect=RedisFull("full")))
    reply = await call(relay)
    assert (reply.status, reply.body["status"]) == (200, "queued")
    assert await events(relay) == []
    assert relay.metrics.redis_errors.labels("full")._value.get() == 1


async def test_a_relay_that_stops_refuses_and_is_not_ready(relay: Relay, fake_redis: Any) -> None:
    assert (await call(relay, "/healthz/ready", method="GET")).status == 200
    relay.closed = "stopping"
    assert (await call(relay, "/healthz/ready", method="GET")).status == 503
    refused = await call(relay)
    assert (refused.status, refused.body["code"]) == (503, "WORKER_OVERLOADED")
    assert int(refused.headers["Retry-After"]) > 0
    assert await fake_redis.keys("*") == []
    assert relay.inflight == 0
