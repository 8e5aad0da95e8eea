"""Calls that nobody would send on purpose: bytes, JSON, messages with one thing wrong, at every door."""

from __future__ import annotations

import base64
import json
import random
import zlib
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from hypothesis import strategies as st

from daemon.domain.queues import DEFAULT_QUEUES

SERVICE: Final = "resume-review"
GOOD: Final[dict[str, Any]] = {
    "taskId": "t1", "queueId": "q_paid_stream", "serviceId": SERVICE, "userId": "u1",
    "variables": {"resume": "ten years of Python", "role": "engineer"},
}  # fmt: skip


class Call(NamedTuple):
    """One request. `path` as the description spells it, `url` as it is sent."""

    door: str  #: relay, gateway, ops
    method: str
    path: str
    url: str
    headers: dict[str, bytes]
    body: bytes


text = st.text(max_size=40) | st.sampled_from(["", "t1", "\x00", "x" * 300, "\u2028", "💥", "../..", "NaN"])
scalars = (
    st.none() | st.booleans() | text | st.floats() | st.integers() | st.sampled_from([2**63, 2**64, -(2**70), 1e308])
)
#: of any form; NaN and Infinity among it, which Python writes and JSON does not know
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4))
deep = st.sampled_from([b"[" * 40_000, b'{"a":' * 40_000, b'{"variables":' + b"[" * 900 + b"]" * 900 + b"}"])


def _nested(depth: int) -> dict[str, Any]:
    found: Any = []
    for _ in range(depth):
        found = [found]
    return {"resume": found, "role": "engineer"}


task_ids = st.uuids().map(str) | st.uuids().map(str) | st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
images = st.fixed_dictionaries(
    {},
    optional={
        "data": text | st.sampled_from(["aGk=", "data:image/png;base64,aGk=", "iVBORw0KGgo="]),
        "mimeType": text | st.just("image/png"),
        "fileId": text | st.just("f_0123456789abcdef"),
        "fileKey": text | st.just("images/a.jpg"),
        "blob": text,
    },
)
#: what each field may be that is not plainly wrong, or only just
nearly: Final[dict[str, st.SearchStrategy[Any]]] = {
    "v": st.integers(-1, 3),
    "taskId": task_ids | text,
    "queueId": st.sampled_from([*DEFAULT_QUEUES]) | text,
    "serviceId": st.sampled_from([SERVICE, "nobody"]) | text,
    "userId": st.text(min_size=1, max_size=130),
    "jobId": st.text(max_size=130) | st.none(),
    "refs": st.dictionaries(st.text(max_size=130), st.text(max_size=130), max_size=18),
    "modelId": text,
    "tier": st.sampled_from(["paid", "free", "auto", None]),
    "templateId": text,
    "variables": st.dictionaries(text, values, max_size=4) | st.sampled_from([50, 150, 400, 800, 940]).map(_nested),
    "images": st.lists(images, max_size=10),
    "requestId": st.text(max_size=130),
    "traceId": st.text(max_size=130),
    "expiresAt": st.floats() | st.integers(0, 10**12),
    "counted": st.booleans(),
    "maxAttempts": st.integers(-1, 12),
    # of a submission only
    "mode": st.sampled_from(["stream", "batch", "vision", "x"]),
    "delay": st.integers(-1, 10),
    "notBefore": st.integers(-1, 10**12),
    "retries": st.integers(-1, 101),
    "flowControl": st.fixed_dictionaries({"key": text}, optional={"rate": st.integers(), "period": st.integers()}),
}
CHANGED_MAX: Final = 3


@st.composite
def messages(draw: st.DrawFn) -> dict[str, Any]:
    """A good message with an id of its own and up to three fields changed, dropped or made up."""
    message = {**GOOD, "taskId": draw(task_ids), "queueId": draw(st.sampled_from([*DEFAULT_QUEUES]))}
    for name in draw(st.just([]) | st.lists(st.sampled_from([*nearly, "unknown"]), max_size=CHANGED_MAX)):
        kind = draw(st.sampled_from(["nearly", "nearly", "any", "gone"]))
        if kind == "gone":
            message.pop(name, None)
        else:
            message[name] = draw(nearly[name] if kind == "nearly" and name in nearly else values)
    return message


@st.composite
def bitten(draw: st.DrawFn) -> bytes:
    """A message that something on the way has damaged."""
    raw = bytearray(_json(draw(messages())))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(raw)))
        raw[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(raw)


def _json(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


bodies = st.binary(max_size=200) | values.map(_json) | messages().map(_json) | bitten() | deep
likely = messages().map(_json)


@st.composite
def callbacks(draw: st.DrawFn) -> bytes:
    """A failure callback around some body."""
    body = base64.b64encode(draw(bodies | likely)).decode()
    more = st.dictionaries(st.sampled_from(["scheduleId", "sourceMessageId", "url", "sourceBody"]), text | values)
    url = draw(st.sampled_from(["https://x/worker/execute", "https://x/p/api/worker/queue/q_free_batch?a=b"]))
    return _json({"sourceBody": body, "url": url, **draw(more)})


#: bytes that may stand in a header's value
header = st.binary(max_size=30).map(lambda raw: bytes(b for b in raw if b >= 32 and b != 127).strip())
of_qstash = st.fixed_dictionaries(
    {},
    optional={
        "Upstash-Schedule-Id": header,
        "Upstash-Message-Id": header,
        "Upstash-Retried": header | st.sampled_from([b"1", b"4", b"99"]),
        "Content-Type": header | st.just(b"application/json"),
        "Content-Encoding": st.sampled_from([b"gzip", b"identity", b"br"]),
    },
)
TASK_PATHS: Final = (
    "/api/worker/stream/{service}", "/api/worker/batch/{service}", "/api/execute/stream", "/api/execute/batch",
    "/worker/execute", "/api/worker/queue/{queueId}",
)  # fmt: skip
segment = st.sampled_from([SERVICE, *DEFAULT_QUEUES]) | text.filter(bool)


def _filled(path: str, given: str) -> str:
    head, brace, rest = path.partition("{")
    return head + quote(given, safe="") + rest.partition("}")[2] if brace else path


@st.composite
def relay_calls(draw: st.DrawFn) -> Call:
    """Signed, so that they pass the signature."""
    if draw(st.booleans()):  # on the way to be accepted
        return Call("relay", "post", "/worker/execute", "/worker/execute", {}, draw(likely))
    path = draw(st.sampled_from([*TASK_PATHS, *TASK_PATHS, "/api/worker/check", "/api/qstash/failed"]))
    body = draw(callbacks() if path.endswith("failed") else bodies | likely)
    headers = draw(st.just({}) | of_qstash)
    return Call("relay", "post", path, _filled(path, draw(segment)), headers, body)


#: headers that a gateway looks at
_ODD: Final = ("Last-Event-ID", "Content-Type", "Content-Encoding", "Origin", "Accept")
queries = st.just("") | st.dictionaries(st.sampled_from(["after", "wait", "token"]), text, max_size=2).map(
    lambda given: "?" + "&".join(f"{name}={quote(value)}" for name, value in given.items())
)


@st.composite
def gateway_calls(draw: st.DrawFn) -> Call:
    """With a key; the caller gives tokens to what needs one (`X-Token` names for what)."""
    path = draw(st.sampled_from(["/api/tasks", "/api/tasks", "/api/tasks/{taskId}", "/api/tasks/{taskId}/events",
                                 "/api/tasks/{taskId}/cancel", "/api/uploads", "/api/uploads/presign",
                                 "/api/queues"]))  # fmt: skip
    method = "get" if path in {"/api/queues", "/api/tasks/{taskId}", "/api/tasks/{taskId}/events"} else "post"
    task_id = draw(task_ids | text.filter(bool))
    query = draw(queries)
    if path.endswith("/events") and "wait=" not in query:
        query += ("&" if query else "?") + "wait=0"  # there is nothing to wait for
    headers = draw(st.dictionaries(st.sampled_from(_ODD), header | st.just(b"gzip"), max_size=2))
    wish = st.fixed_dictionaries({}, optional={"mimeType": text | st.just("image/png"), "bytes": st.integers()})
    body = draw(wish.map(_json) | bodies if path.endswith("presign") else likely if draw(st.booleans()) else bodies)
    return Call("gateway", method, path, _filled(path, task_id) + query, headers, b"" if method == "get" else body)


@st.composite
def ops_calls(draw: st.DrawFn) -> Call:
    """Orders to queues: those that change nothing for the others."""
    if draw(st.integers(0, 9)) == 0:
        return Call("ops", "get", "/api/admin/queues", "/api/admin/queues", {}, b"")
    path, order = "/api/admin/queues/{queue}/{order}", draw(st.sampled_from(["resume", "set", "purge", "x"]))
    url = f"/api/admin/queues/{quote(draw(text.filter(bool) | st.just('q_free_vision')), safe='')}/{order}"
    body = draw(
        st.fixed_dictionaries({}, optional={"reason": values, "who": values, "maxSize": values}).map(_json) | bodies
    )
    return Call("ops", "post", path, url, draw(st.dictionaries(st.just("Content-Type"), header, max_size=1)), body)


SPOILED: Final = 5


def family(call: Call) -> list[Call]:
    """The call; its body at two more doors if it is a task's; and copies in which bytes were changed at random.

    Thinking up a call costs ten times as much as sending it. The same call has the same family: it can be shrunk.
    """
    found = [call]
    if call.path in TASK_PATHS:
        found.append(call._replace(path="/api/worker/check", url="/api/worker/check"))
        found.append(Call("gateway", "post", "/api/tasks", "/api/tasks", {}, call.body))
    dice = random.Random(zlib.crc32(call.body))
    return found + [call._replace(body=_spoiled(call.body, dice)) for _ in range(SPOILED) if call.body]


def _spoiled(body: bytes, dice: random.Random) -> bytes:
    raw = bytearray(body)
    for _ in range(dice.randint(1, 3)):
        at = dice.randrange(len(raw))
        raw[at] = dice.choice((dice.randrange(256), *b'"{}[],:0-e\\'))
    return bytes(raw)


calls = st.one_of(relay_calls(), relay_calls(), relay_calls(), gateway_calls(), ops_calls())
