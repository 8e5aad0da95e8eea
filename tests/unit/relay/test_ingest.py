"""From raw bytes to a message, or to the reason why not."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from daemon.domain.errors import Code, Rejected, TaskError
from daemon.domain.messages import TASK_ID, canonical_sha256
from daemon.domain.queues import DEFAULT_QUEUES, Mode, QueueSpec, Tier
from daemon.relay.failure_callback import failed_task
from daemon.relay.ingest import Ingested, Route, ingest, route_of

QUEUES = {**DEFAULT_QUEUES, "q_long": QueueSpec("q_long", Tier.PAID, Mode.BATCH, 2)}
GOOD: dict[str, Any] = {"taskId": "t1", "queueId": "q_paid_stream", "serviceId": "resume-review", "userId": "u1"}
PNG = base64.b64encode(
    base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")
).decode()


def read(body: dict[str, Any] | bytes, route: Route | None = None, headers: dict[str, str] | None = None) -> Ingested:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return ingest(raw, route or Route(), QUEUES, headers or {})


def without(*names: str, **more: Any) -> dict[str, Any]:
    return {name: value for name, value in (GOOD | more).items() if name not in names}


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/api/worker/stream/resume-review", Route("stream", None, "resume-review")),
        ("/api/worker/batch/a.b_c", Route("batch", None, "a.b_c")),
        ("/api/execute/stream", Route("stream")),
        ("/api/execute/batch", Route("batch")),
        ("/worker/execute", Route()),
        ("/api/worker/queue/q_long", Route(None, "q_long")),
        ("/api/worker/stream/", None),
        ("/api/worker/stream/a/b", None),
        ("/api/worker/other/a", None),
        ("/api/execute/stream/", None),
        ("/api/execute", None),
        ("/x/worker/execute", None),
        ("/", None),
        ("", None),
    ],
)
def test_a_path_says_mode_queue_and_service(path: str, route: Route | None) -> None:
    assert route_of(path) == route


def test_a_whole_body_needs_no_help_of_the_route() -> None:
    found = read(GOOD)
    assert (found.message.task_id, found.message.service_id, found.queue.name) == (
        "t1",
        "resume-review",
        "q_paid_stream",
    )
    assert found.sha256 == canonical_sha256(GOOD | {"v": 1})
    assert found.pictures == {}


def test_the_route_fills_in_what_the_body_leaves_out() -> None:
    """The identity of a message is the same whichever way it says a thing."""
    by_path = read(without("serviceId"), Route("stream", None, "resume-review"))
    assert by_path == read(GOOD)
    assert read(without("queueId"), Route(None, "q_paid_stream")) == read(GOOD)
    assert read(GOOD | {"v": 1}).sha256 == read(GOOD).sha256


def test_tracing_ids_do_not_change_the_identity() -> None:
    assert read(GOOD | {"requestId": "r", "traceId": "t"}).sha256 == read(GOOD).sha256


@pytest.mark.parametrize(
    ("body", "route", "said"),
    [
        (GOOD, Route("batch"), "q_paid_stream is paid stream, not  batch"),
        (GOOD | {"tier": "free"}, Route(), "q_paid_stream is paid stream, not free"),
        (GOOD, Route(None, "q_long"), "'q_paid_stream' in the body, 'q_long' in the path"),
        (GOOD, Route("stream", None, "other"), "'resume-review' in the body, 'other' in the path"),
        (GOOD | {"queueId": "q_nope"}, Route(), "'q_nope' is unknown; known: q_free_batch"),
        (GOOD | {"queueId": None}, Route(None, "q_long"), "'None' in the body"),
        (GOOD | {"typo": 1}, Route(), "typo"),
        (GOOD | {"images": [{"blob": "redis:x"}]}, Route(), "blob is not allowed"),
        (GOOD | {"images": [{}]}, Route(), r"images\[0\]"),
        (GOOD | {"v": "1"}, Route(), "v"),
        (GOOD | {"v": True}, Route(), "v"),
        (GOOD | {"v": 0}, Route(), "v"),
        (without("taskId"), Route(), "taskId"),
        (without("userId"), Route(), "userId"),
        (without("queueId"), Route(), "queueId"),
        (without("serviceId"), Route("stream", None, "Upper"), "serviceId"),
        (GOOD | {"taskId": "a b"}, Route(), "taskId"),
        (GOOD | {"taskId": 7}, Route(), "taskId"),
        (GOOD | {"maxAttempts": 11}, Route(), "maxAttempts"),
    ],
)
def test_what_can_never_succeed_is_rejected_by_name(body: dict[str, Any], route: Route, said: str) -> None:
    with pytest.raises(Rejected, match=said) as refused:
        read(body, route)
    assert refused.value.code is Code.INVALID_PAYLOAD


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"{", b"null", b"[]", b'"text"', b"7", b"\xff\xfe", b'{"a":NaN}', b'{"a":Infinity}', b"{} {}", b"{'a':1}",
        b"\xef\xbb\xbf{}", b'{"a":1e999}', b'{"a":' + b"[" * 100_000,
        b'{"a":"\xed\xa0\x80"}', b'{"a":1,}',
    ],
)  # fmt: skip
def test_what_is_not_strict_json_is_rejected(raw: bytes) -> None:
    """Never an error of ours, however it is broken."""
    with pytest.raises(Rejected, match=r"not JSON|not a JSON object"):
        read(raw)


def test_of_a_doubled_key_the_last_counts() -> None:
    """As in JavaScript; the daemon reads our encoding, so it can't see another one."""
    assert read(json.dumps(GOOD).encode()[:-1] + b',"taskId":"t2"}').message.task_id == "t2"


@pytest.mark.parametrize("version", [2, 10**30])
def test_a_newer_version_may_succeed_later(version: int) -> None:
    """Even when it has fields that we don't know: the front end was deployed first."""
    with pytest.raises(TaskError, match=f"v: {version} is newer") as refused:
        read(GOOD | {"v": version, "brandNew": 1})
    assert refused.value.code is Code.WORKER_OVERLOADED
    assert not isinstance(refused.value, Rejected)


@pytest.mark.parametrize(
    "message_id", ["msg_26hZCxZCuWyyTWPmSVBrNC1RADwpg", "msg_" + "x" * 80, "msg_a/b", "msg_1\n", "msg_\udcee"]
)
def test_a_scheduled_task_is_named_by_its_message(message_id: str) -> None:
    """Each run of a schedule is a task of its own; a retry of one run is the same task."""
    headers = {"Upstash-Schedule-Id": "scd_1", "Upstash-Message-Id": message_id}
    found = read(without("taskId"), headers=headers).message.task_id
    assert found == read(without("taskId"), headers=headers).message.task_id
    assert (found == message_id) == bool(TASK_ID.fullmatch(message_id))
    assert found.startswith("msg_")
    other = read(without("taskId"), headers=headers | {"Upstash-Message-Id": message_id + "2"})
    assert other.message.task_id != found


@pytest.mark.parametrize(
    "headers", [{}, {"Upstash-Message-Id": "msg_1"}, {"Upstash-Schedule-Id": "scd_1"}, {"Upstash-Schedule-Id": ""}]
)
def test_only_a_schedule_may_leave_the_task_id_out(headers: dict[str, str]) -> None:
    with pytest.raises(Rejected, match="taskId"):
        read(without("taskId"), headers=headers)


def test_a_task_id_in_the_body_of_a_schedule_is_kept() -> None:
    headers = {"Upstash-Schedule-Id": "scd_1", "Upstash-Message-Id": "msg_1"}
    assert read(GOOD, headers=headers).message.task_id == "t1"


def test_inline_images_are_decoded_by_index() -> None:
    """Judged by their bytes; other forms are left to the daemon; the identity covers them as they came."""
    body = GOOD | {"images": [{"fileKey": "images/a.jpg"}, {"data": PNG, "mimeType": "image/jpeg"}]}
    found = read(body)
    assert list(found.pictures) == [1]
    assert found.pictures[1].mime_type == "image/png"
    other = read(GOOD | {"images": [{"fileKey": "images/a.jpg"}, {"data": "data:image/png;base64," + PNG}]})
    assert other.pictures == found.pictures
    assert other.sha256 != found.sha256


def test_an_unusable_image_has_a_code_of_its_own() -> None:
    with pytest.raises(Rejected) as refused:
        read(GOOD | {"images": [{"data": "bm90IGFuIGltYWdl"}]})
    assert refused.value.code is Code.IMAGE_REJECTED


def test_an_expired_message_is_accepted() -> None:
    """The daemon ends it as EXPIRED: refused here, its viewer would never learn."""
    assert read(GOOD | {"expiresAt": 1}).message.expires_at == 1


def callback(source: object, **more: Any) -> bytes:
    raw = source if isinstance(source, bytes) else json.dumps(source).encode()
    good = {"url": "https://x.example/worker/execute", "sourceBody": base64.b64encode(raw).decode(), "status": 500}
    return json.dumps(good | more).encode()


def test_a_failure_callback_names_its_task() -> None:
    """With the ids that the daemon would have used."""
    found = failed_task(callback(GOOD | {"requestId": "r1"}))
    assert found is not None
    assert (found.task_id, found.queue_id, found.request_id) == ("t1", "q_paid_stream", "r1")
    assert found.trace_id


def test_a_message_that_was_refused_still_names_its_task() -> None:
    """That it could not be accepted is why its viewer has to be told."""
    found = failed_task(callback(GOOD | {"typo": 1, "userId": None, "images": 7}))
    assert found is not None
    assert found.task_id == "t1"


@pytest.mark.parametrize(
    "url",
    ["https://x.example/api/worker/queue/q_long", "https://x.example/prefix/api/worker/queue/q_long?a=1"],
)
def test_the_queue_of_a_failed_message_may_be_in_its_path(url: str) -> None:
    found = failed_task(callback(without("queueId"), url=url))
    assert found is not None
    assert found.queue_id == "q_long"


def test_a_failed_run_of_a_schedule_is_named_by_its_message() -> None:
    found = failed_task(callback(without("taskId"), scheduleId="scd_1", sourceMessageId="msg_1"))
    assert found is not None
    assert found.task_id == "msg_1"


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"[]", b"{}", callback(b"{"), callback([]), callback({}), callback(without("taskId")),
        callback(without("queueId")), callback(GOOD | {"taskId": "t1\n"}), callback(GOOD | {"queueId": "q\n"}),
        callback(GOOD | {"taskId": 1}), callback(GOOD | {"taskId": "a b"}), callback(GOOD | {"queueId": "Q:{x}"}),
        callback(GOOD, sourceBody="!"), callback(GOOD, sourceBody=None), callback(GOOD, sourceBody=7),
        callback(without("queueId"), url=None), callback(GOOD | {"queueId": 7}),
        callback(without("taskId"), scheduleId="scd_1", sourceMessageId=7),
    ],
)  # fmt: skip
def test_a_callback_that_names_no_task_is_passed_over(raw: bytes) -> None:
    """Never an error: QStash would only call again with the same."""
    assert failed_task(raw) is None


PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_the_producers_trace_goes_on() -> None:
    """As QStash passes `Upstash-Forward-traceparent` on; it is no part of the message's identity."""
    found = read(GOOD, headers={"traceparent": PARENT})
    assert (found.message.trace_id, found.traceparent) == ("4bf92f3577b34da6a3ce929d0e0e4736", PARENT)
    assert found.sha256 == read(GOOD).sha256
    assert read(GOOD | {"traceId": None}, headers={"traceparent": PARENT}).message.trace_id == found.message.trace_id


def test_a_trace_id_in_the_message_counts_more() -> None:
    found = read(GOOD | {"traceId": "mine"}, headers={"traceparent": PARENT})
    assert (found.message.trace_id, found.traceparent) == ("mine", PARENT)


def test_a_broken_traceparent_refuses_nothing() -> None:
    found = read(GOOD, headers={"traceparent": "00-zz"})
    assert (found.message.trace_id, found.traceparent) == (None, "")
