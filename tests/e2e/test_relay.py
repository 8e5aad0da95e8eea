"""Every answer of the relay (protocol 6), over real HTTP from a real process on a real Redis."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import redis

from daemon.dev.embedded_redis import EmbeddedRedis
from daemon.dev.fake_qstash.signing import sign
from daemon.domain.messages import BODY_BYTES_MAX, ImageRef, WorkEntry
from daemon.redis_client import keys
from tests.e2e.relay_process import CURRENT, GOOD, NEXT, PUBLIC, Relay, running_relay

QUEUE = keys.queue_keys("q_paid_stream")
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
Server = Any  #: redis-py types every reply as a union of what any server may say


@pytest.fixture(scope="module")
def place() -> Iterator[tuple[Relay, Server]]:
    with (
        EmbeddedRedis(persist=False) as embedded,
        redis.Redis.from_url(embedded.url) as client,
        running_relay(embedded.url, QUEUE_MAX_FREE_BATCH="1") as relay,
    ):
        yield relay, client


@pytest.fixture
def server(place: tuple[Relay, Server]) -> Server:
    place[1].flushall()
    return place[1]


@pytest.fixture
def relay(place: tuple[Relay, Server], server: Server) -> Relay:
    return place[0]


def events(server: Server, task_id: str = "t1") -> list[dict[str, Any]]:
    return [json.loads(fields[b"data"]) for _, fields in server.xrange(keys.events(task_id))]


# --- 200 ----------------------------------------------------------------------------------------------------------


async def test_a_signed_call_is_queued(relay: Relay, server: Server) -> None:
    """The task is in the stream and its viewer knows it, before the answer."""
    reply = await relay.call(body=GOOD | {"requestId": "r1", "traceId": "x1"})
    assert reply.status == 200
    [(entry_id, fields)] = server.xrange(QUEUE.tasks)
    assert reply.body == {"taskId": "t1", "status": "queued", "entryId": entry_id.decode()}
    message = msgspec.json.decode(fields[b"task"], type=WorkEntry).message
    assert (message.service_id, message.variables) == ("resume-review", GOOD["variables"])
    [queued] = events(server)
    assert queued | {"timestamp": 0} == {
        "v": 1, "type": "queued", "taskId": "t1", "attempt": 0, "seq": 0, "requestId": "r1", "traceId": "x1",
        "timestamp": 0, "queueId": "q_paid_stream", "position": 1,
    }  # fmt: skip


async def test_the_same_call_again_is_a_duplicate(relay: Relay, server: Server) -> None:
    """With the entry of then; its tracing ids may differ; nothing is added anywhere."""
    first = await relay.call()
    again = await relay.call(body=GOOD | {"requestId": "other"})
    assert again.status == 200
    assert again.body == first.body | {"status": "duplicate"}
    assert (server.xlen(QUEUE.tasks), server.get(QUEUE.counter), len(events(server))) == (1, b"1", 1)


async def test_a_duplicate_does_not_wake_a_stream_that_ended(relay: Relay, server: Server) -> None:
    """The events of a finished task expire after an hour, its id is known for a week."""
    await relay.call()
    server.delete(keys.events("t1"), keys.events_state("t1"))
    await relay.call()
    assert events(server) == []


async def test_fifty_duplicates_at_once_make_one_entry(relay: Relay, server: Server) -> None:
    replies = await asyncio.gather(*(relay.call() for _ in range(50)))
    assert {reply.status for reply in replies} == {200}
    assert sorted(reply.body["status"] for reply in replies) == ["duplicate"] * 49 + ["queued"]
    assert len({reply.body["entryId"] for reply in replies}) == 1
    assert (server.xlen(QUEUE.tasks), server.get(QUEUE.counter), len(events(server))) == (1, b"1", 1)


async def test_a_full_queue_still_knows_its_duplicates(relay: Relay) -> None:
    body = GOOD | {"queueId": "q_free_batch"}
    await relay.call("/api/execute/batch", body | {"serviceId": "s"})
    assert (await relay.call("/api/execute/batch", body | {"serviceId": "s"})).body["status"] == "duplicate"
    assert (await relay.call("/api/execute/batch", body | {"serviceId": "s", "taskId": "t2"})).status == 429


@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("/api/worker/stream/resume-review", {"queueId": "q_paid_stream"}),
        ("/api/execute/stream", {"queueId": "q_paid_stream", "serviceId": "resume-review"}),
        ("/worker/execute", {"queueId": "q_paid_stream", "serviceId": "resume-review"}),
        ("/api/worker/queue/q_paid_stream", {"serviceId": "resume-review"}),
    ],
)
async def test_each_route_takes_the_message(relay: Relay, server: Server, path: str, more: dict[str, str]) -> None:
    """Whichever way a thing is said it is the same message, so a producer may change its route."""
    reply = await relay.call(path, {"taskId": "t1", "userId": "u1"} | more)
    assert (reply.status, reply.body["status"]) == (200, "queued")
    again = await relay.call(
        "/worker/execute", {"taskId": "t1", "userId": "u1", "queueId": "q_paid_stream", "serviceId": "resume-review"}
    )
    assert again.body["status"] == "duplicate"
    assert ("Deprecation" in reply.headers) == path.startswith("/api/worker/queue/")


async def test_every_default_queue_has_a_route(relay: Relay, server: Server) -> None:
    for at, queue in enumerate(
        ["q_paid_stream", "q_free_stream", "q_paid_batch", "q_free_batch", "q_paid_vision", "q_free_vision"]
    ):
        reply = await relay.call(f"/api/worker/queue/{queue}", {"taskId": f"t{at}", "userId": "u", "serviceId": "s"})
        assert reply.status == 200
        assert server.xlen(keys.queue_keys(queue).tasks) == 1


async def test_a_scheduled_call_is_named_by_its_message(relay: Relay, server: Server) -> None:
    body = {"queueId": "q_paid_stream", "userId": "u1"}
    headers = {"Upstash_Schedule_Id": "scd_1", "Upstash_Message_Id": "msg_1"}
    assert (await relay.call(body=body, **headers)).body["taskId"] == "msg_1"
    assert (await relay.call(body=body, **headers)).body["status"] == "duplicate"
    assert (await relay.call(body=body)).status == 489


async def test_inline_images_lie_beside_the_stream(relay: Relay, server: Server) -> None:
    body = GOOD | {"queueId": "q_paid_vision", "images": [{"data": PNG}]}
    assert (await relay.call("/api/worker/batch/photo", body)).status == 200
    [(_, fields)] = server.xrange(keys.queue_keys("q_paid_vision").tasks)
    [image] = msgspec.json.decode(fields[b"task"], type=WorkEntry).message.images or []
    assert image == ImageRef(mime_type="image/png", blob="redis:" + keys.blob("q_paid_vision", "t1", 0))
    assert server.get(keys.blob("q_paid_vision", "t1", 0)) == base64.b64decode(PNG)


async def test_a_query_is_no_part_of_what_is_signed(relay: Relay) -> None:
    assert (await relay.call("/api/worker/stream/resume-review?x=1")).status == 200


async def test_the_next_key_is_believed_too(relay: Relay) -> None:
    assert (await relay.call(key=NEXT)).status == 200
    assert (await relay.call(key="sig_other_region")).status == 200


# --- check --------------------------------------------------------------------------------------------------------


async def test_a_check_says_what_a_call_would_get_and_queues_nothing(relay: Relay, server: Server) -> None:
    """Also for what it would refuse: the question itself always gets a 200."""
    body = GOOD | {"serviceId": "s", "queueId": "q_free_batch"}
    told = (await relay.call("/api/worker/check", body)).body
    assert (told["accepted"], told["answer"], told["status"]) == (True, 200, "queued")
    typo = await relay.call("/api/worker/check", body | {"typo": 1})
    assert typo.status == 200
    assert (typo.body["accepted"], typo.body["answer"], typo.body["code"]) == (False, 489, "INVALID_PAYLOAD")
    assert (await relay.call("/api/worker/check", body | {"v": 2})).body["answer"] == 503
    assert server.keys("*") == []
    await relay.call("/worker/execute", body)
    assert (await relay.call("/api/worker/check", body)).body["status"] == "duplicate"
    full = await relay.call("/api/worker/check", body | {"taskId": "t2"})
    assert (full.body["accepted"], full.body["answer"], full.body["code"]) == (False, 429, "QUEUE_FULL")
    assert (await relay.call("/api/worker/check", body, key="x")).status == 401


# --- 401 ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [{"Upstash_Signature": ""}, {"Upstash_Signature": "a.b.c"}, {"key": "sig_foreign"}])
@pytest.mark.parametrize("path", ["/worker/execute", "/api/worker/check", "/api/qstash/failed"])
async def test_a_call_that_is_not_believed_learns_nothing(
    relay: Relay, server: Server, path: str, headers: dict[str, str]
) -> None:
    """One answer for every flaw; why is for our log only; QStash comes back, wanted while keys roll."""
    before = len(relay.log("call.refused"))
    reply = await relay.call(path, b"not even JSON", **headers)
    assert (reply.status, reply.body) == (401, {"code": "BAD_SIGNATURE"})
    assert "Upstash-NonRetryable-Error" not in reply.headers
    assert server.keys("*") == []
    [line] = relay.log("call.refused")[before:]
    assert line["why"].startswith("Unauthorized: ")


async def test_a_signature_for_another_route_is_not_believed(relay: Relay) -> None:
    """The Host header and what a proxy says about it count for nothing; the path does."""
    raw = json.dumps(GOOD).encode()
    host = f"http://127.0.0.1:{relay.port}/worker/execute"
    for url in (host, PUBLIC + "/worker/execute?x=1", PUBLIC + "/worker/execute/", PUBLIC + "/api/execute/stream"):
        token = sign(CURRENT, url=url, body=raw, issued_at=time.time())
        reply = await relay.call(
            "/worker/execute", raw, Upstash_Signature=token, X_Forwarded_Host=f"127.0.0.1:{relay.port}"
        )
        assert reply.status == 401


# --- 489 ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("/worker/execute", b"{", "INVALID_PAYLOAD"),
        ("/worker/execute", b"", "INVALID_PAYLOAD"),
        ("/worker/execute", b"\xff\xfe\x00", "INVALID_PAYLOAD"),
        ("/worker/execute", [GOOD], "INVALID_PAYLOAD"),
        ("/worker/execute", GOOD, "INVALID_PAYLOAD"),  # no service anywhere
        ("/api/worker/stream/s", GOOD | {"unknown": 1}, "INVALID_PAYLOAD"),
        ("/api/worker/stream/s", GOOD | {"queueId": "q_nope"}, "INVALID_PAYLOAD"),
        ("/api/worker/batch/s", GOOD, "INVALID_PAYLOAD"),
        ("/api/worker/stream/s", GOOD | {"tier": "free"}, "INVALID_PAYLOAD"),
        ("/api/worker/queue/q_free_stream", GOOD | {"serviceId": "s"}, "INVALID_PAYLOAD"),
        ("/api/worker/queue/q_nope", {"taskId": "t", "userId": "u", "serviceId": "s"}, "INVALID_PAYLOAD"),
        ("/api/worker/stream/s", GOOD | {"images": [{"data": "bm90IGFuIGltYWdl"}]}, "IMAGE_REJECTED"),
        ("/api/worker/stream/s", GOOD | {"variables": {"a": "x" * BODY_BYTES_MAX}}, "INVALID_PAYLOAD"),
    ],
)
async def test_what_can_never_succeed_is_told_so(relay: Relay, server: Server, path: str, body: Any, code: str) -> None:
    """QStash must not try it again; nothing of it is kept, and nothing of it is in the log."""
    before = len(relay.log("call.refused"))
    reply = await relay.call(path, body)
    assert (reply.status, reply.body["code"]) == (489, code)
    assert reply.headers["Upstash-NonRetryable-Error"] == "true"
    assert "Retry-After" not in reply.headers
    assert server.keys("*") == []
    assert len(relay.log("call.refused")) == before + 1


async def test_another_body_under_the_same_id_is_refused(relay: Relay, server: Server) -> None:
    await relay.call()
    reply = await relay.call(body=GOOD | {"userId": "u2"})
    assert (reply.status, reply.body["code"]) == (489, "INVALID_PAYLOAD")
    assert "t1" in reply.body["message"]
    assert server.xlen(QUEUE.tasks) == 1


async def test_an_encoded_body_is_refused(relay: Relay) -> None:
    """The signature covers the bytes as they came, so they are never inflated; that it is signed is seen first."""
    packed = gzip.compress(json.dumps(GOOD).encode())
    reply = await relay.call(body=packed, Content_Encoding="gzip")
    assert (reply.status, reply.body["code"]) == (489, "INVALID_PAYLOAD")
    assert (await relay.call(body=packed, Content_Encoding="gzip", key="x")).status == 401
    assert (await relay.call(body=b"no gzip at all", Content_Encoding="gzip")).status == 489
    assert (await relay.call(Content_Encoding="identity")).status == 200


async def test_a_body_of_just_the_limit_is_taken(relay: Relay) -> None:
    empty = len(json.dumps(GOOD | {"variables": {"a": ""}}))
    body = json.dumps(GOOD | {"variables": {"a": "x" * (BODY_BYTES_MAX - empty)}}).encode()
    assert len(body) == BODY_BYTES_MAX
    assert (await relay.call(body=body)).status == 200
    assert (await relay.call(body=body + b" ")).status == 489


# --- 429, 503, 500, 404 -------------------------------------------------------------------------------------------


async def test_a_full_queue_sends_the_call_back(relay: Relay, server: Server) -> None:
    """Nothing is kept, and each try is asked to wait longer: QStash gives up after a few."""
    body = GOOD | {"serviceId": "s", "queueId": "q_free_batch"}
    await relay.call("/worker/execute", body)
    first = await relay.call("/worker/execute", body | {"taskId": "t2"})
    assert (first.status, first.body["code"]) == (429, "QUEUE_FULL")
    assert 20 <= int(first.headers["Retry-After"]) == first.body["retryAfter"] <= 30
    third = await relay.call("/worker/execute", body | {"taskId": "t2"}, Upstash_Retried="2")
    assert 320 <= int(third.headers["Retry-After"]) <= 480
    strange = await relay.call("/worker/execute", body | {"taskId": "t2"}, Upstash_Retried="٣")
    assert int(strange.headers["Retry-After"]) <= 30
    assert server.keys("*t2*") == []
    assert events(server, "t2") == []
    server.hset(keys.queue_keys("q_free_batch").control, "maxSize", "2")
    assert (await relay.call("/worker/execute", body | {"taskId": "t2"})).status == 200


async def test_a_newer_message_waits_for_a_newer_relay(relay: Relay, server: Server) -> None:
    reply = await relay.call(body=GOOD | {"v": 2, "brandNew": True})
    assert (reply.status, reply.body["code"]) == (503, "WORKER_OVERLOADED")
    assert 5 <= int(reply.headers["Retry-After"]) <= 8
    assert server.keys("*") == []


async def test_a_broken_key_is_our_fault(relay: Relay, server: Server) -> None:
    """Told without a word of the server's, logged with where it happened; QStash comes back."""
    server.set(QUEUE.counter, "many")
    reply = await relay.call()
    assert (reply.status, reply.body["code"]) == (500, "INTERNAL")
    assert "many" not in reply.raw.decode()
    assert reply.headers["Retry-After"]
    assert relay.log("call.refused")[-1]["exception"]["frames"]
    assert server.keys("*") == [QUEUE.counter.encode()]


async def test_an_accepted_call_is_accepted_whatever_becomes_of_its_event(relay: Relay, server: Server) -> None:
    """`queued` is appended as well as it can be: here its key is of another type."""
    server.set(keys.events("t1"), "x")
    assert (await relay.call()).body["status"] == "queued"
    assert b"qstreamd_redis_errors_total" in (await relay.get("/metrics")).raw


@pytest.mark.parametrize(
    "path", ["/", "/api/worker/stream/", "/api/worker/stream/a/b", "/api/worker/other/x", "/admin"]
)
async def test_there_are_no_other_routes(relay: Relay, path: str) -> None:
    assert (await relay.call(path)).status == 404
    assert (await relay.get(path)).status in {404, 405}


# --- the failure callback -----------------------------------------------------------------------------------------


def callback(body: Any = GOOD, path: str = "/api/worker/stream/resume-review") -> dict[str, Any]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return {
        "status": 503, "header": {}, "body": "", "retried": 3, "maxRetries": 3, "dlqId": "1-0", "sourceMessageId": "m1",
        "url": PUBLIC + path, "method": "POST", "sourceBody": base64.b64encode(raw).decode(), "scheduleId": None,
    }  # fmt: skip


async def test_a_failed_delivery_ends_the_task(relay: Relay, server: Server) -> None:
    """Its viewer learns, and the place that its producer took is free again, once."""
    server.zadd(QUEUE.waiting, {"t1": 1})
    server.set(QUEUE.counter, 1)
    for _ in range(2):
        reply = await relay.call("/api/qstash/failed", callback())
        assert (reply.status, reply.body) == (200, {"taskId": "t1", "status": "failed"})
    queued, error = events(server)
    assert queued["type"] == "queued"
    assert (error["type"], error["code"], error["stage"], error["retryable"]) == (
        "error",
        "DELIVERY_FAILED",
        "deliver",
        False,
    )
    assert (server.get(QUEUE.counter), server.zcard(QUEUE.waiting), server.xlen(QUEUE.tasks)) == (b"0", 0, 0)
    assert 3500 < server.ttl(keys.events("t1")) <= 3600


async def test_a_failed_delivery_of_an_accepted_task_changes_nothing(relay: Relay, server: Server) -> None:
    """Its answer was lost, or another message took its id: the task runs."""
    await relay.call()
    reply = await relay.call("/api/qstash/failed", callback(GOOD | {"userId": "u2"}))
    assert (reply.status, reply.body) == (200, {"taskId": "t1", "status": "accepted"})
    assert [event["type"] for event in events(server)] == ["queued"]
    assert server.get(QUEUE.counter) == b"1"


@pytest.mark.parametrize("body", [b"{", {}, callback(b"garbage"), callback({"taskId": "a b"})])
async def test_a_failed_delivery_of_nobody_is_passed_over(relay: Relay, server: Server, body: Any) -> None:
    reply = await relay.call("/api/qstash/failed", body)
    assert (reply.status, reply.body) == (200, {"status": "ignored"})
    assert server.keys("*") == []


async def test_a_message_that_was_too_large_ends_its_task(relay: Relay, server: Server) -> None:
    """Its callback is larger still; it must get through, for that is how the viewer learns."""
    too_large = GOOD | {"variables": {"a": "x" * BODY_BYTES_MAX}}
    assert (await relay.call("/api/qstash/failed", callback(too_large))).body["status"] == "failed"
    assert events(server)[-1]["code"] == "DELIVERY_FAILED"


# --- health, metrics, log, budget ---------------------------------------------------------------------------------


async def test_health_and_metrics_are_open(relay: Relay) -> None:
    await relay.call()
    assert (await relay.get("/healthz/live")).body == {"status": "live"}
    assert (await relay.get("/healthz/ready")).body == {"status": "ready"}
    metrics = await relay.get("/metrics")
    assert metrics.headers["Content-Type"].startswith("text/plain; version=")
    assert b'qstreamd_accepted_total{outcome="queued",queue="q_paid_stream"}' in metrics.raw
    assert b'qstreamd_relay_requests_total{route="task",status="200"}' in metrics.raw


async def test_an_accepted_call_costs_two_flushes(relay: Relay, server: Server) -> None:
    """Budget of architecture 4: accept and `queued`; a duplicate costs one, one that is refused before none."""
    await relay.call(body=GOOD | {"taskId": "t0"})  # the server knows both scripts now

    async def calls(body: Any) -> dict[str, int]:
        server.config_resetstat()
        await relay.call(body=body)
        stats = {name.removeprefix("cmdstat_"): int(s["calls"]) for name, s in server.info("commandstats").items()}
        return {name: stats.get(name, 0) for name in ("evalsha", "script|load", "client|setinfo")}

    assert await calls(GOOD) == {"evalsha": 2, "script|load": 0, "client|setinfo": 0}
    assert await calls(GOOD) == {"evalsha": 1, "script|load": 0, "client|setinfo": 0}
    assert await calls(GOOD | {"unknown": 1}) == {"evalsha": 0, "script|load": 0, "client|setinfo": 0}


async def test_the_log_holds_no_content_and_no_secret(relay: Relay) -> None:
    """After everything above: a line for each refusal, none for what went well, no body, no key, no signature."""
    await relay.call(body=GOOD | {"unknown": 1})
    words = relay.words()
    assert "canary-4711" not in words
    assert CURRENT not in words
    assert "eyJ" not in words
    assert {line["event"] for line in relay.log()} <= {"relay.listening", "relay.ready", "call.refused"}
