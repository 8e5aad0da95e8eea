"""Following a task: server-sent events, long poll, WebSocket. Three forms of one `Subscription` of the hub.

A viewer's connection never outlives its use: it ends with the task, with its client (the handler is cancelled), when it
is too slow, too old, or when the process stops, and then says when to come back.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import msgspec
from aiohttp import ClientError, HttpVersion11, WSCloseCode, WSMsgType, web

from daemon.config import GatewaySettings
from daemon.domain.errors import RedisAway
from daemon.domain.messages import TASK_ID
from daemon.events.fan_out import FanOut
from daemon.events.stored_event import START, EventBatch, StoredEvent, is_cursor
from daemon.events.subscription import Subscription
from daemon.gateway.access import Access, address_of
from daemon.gateway.responses import Refused, not_found
from daemon.observability.metrics import Metrics
from daemon.ports import Clock

WAIT_S_DEFAULT: Final = 25.0
WAIT_S_MAX: Final = 50.0  #: mini-programs give up after 60 s, and so do many proxies
FIRST_MESSAGE_S: Final = 1.0  #: for the cursor that a WebSocket client may send first
WRITE_S: Final = 10.0  #: a client that takes nothing for so long is gone
MESSAGE_BYTES_MAX: Final = 1024
BUFFER_BYTES_MAX: Final = 256 * 1024  #: unsent bytes of one viewer; then it is too slow
_HEADERS: Final = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}
_decode: Final = msgspec.json.Decoder(dict[str, Any]).decode
_encode: Final = msgspec.json.Encoder().encode


def frame(entry: StoredEvent) -> bytes:
    """One event of an SSE stream; `id:` only for what is stored, so that nothing else moves the client's cursor."""
    head = f"id: {entry.id}\nevent: {entry.type}\ndata: " if entry.id else f"event: {entry.type}\ndata: "
    return head.encode() + entry.data + b"\n\n"


def message(entry: StoredEvent) -> bytes:
    """One event as a JSON object: its data, with `id` before it."""
    return b'{"id":"%s",%s' % (entry.id.encode(), entry.data[1:]) if entry.id else entry.data


def retry_ms() -> int:
    """When a client that we send away may come back; jittered, so that not all come at once."""
    return random.randint(500, 2500)


class Follow:
    """The routes under `/api/tasks/{taskId}` that tell what happens."""

    def __init__(
        self, fan_out: FanOut, access: Access, settings: GatewaySettings, metrics: Metrics, clock: Clock
    ) -> None:
        self._fan_out = fan_out
        self._access = access
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._addresses: Counter[str] = Counter()
        self._viewers = 0

    def routes(self) -> list[web.RouteDef]:
        """What to add to the application."""
        return [
            web.get("/api/tasks/{taskId}/events", self.events, allow_head=False),
            web.get("/api/tasks/{taskId}/ws", self.ws, allow_head=False),
        ]

    async def events(self, request: web.Request) -> web.StreamResponse:
        """SSE for `Accept: text/event-stream`, else long poll."""
        task_id = self._authorized_task_id(request)
        if "text/event-stream" in request.headers.get("Accept", ""):
            after = request.headers.get("Last-Event-ID") or request.query.get("after") or START
            return await self._sse(request, task_id, after)
        return await self._poll(request, task_id, request.query.get("after") or START)

    # --- SSE -------------------------------------------------------------------------------------------------

    async def _sse(self, request: web.Request, task_id: str, after: str) -> web.StreamResponse:
        with self._connection(request, "sse"), self._subscribe(task_id, after) as subscription:
            response = web.StreamResponse(headers=_HEADERS)
            try:
                await subscription.open()
            except RedisAway:
                # Any status but 200 ends an EventSource for good; so it is told when to come back instead.
                await response.prepare(request)
                await response.write(b": away\nretry: 3000\n\n")
                return response
            if subscription.over:
                return web.Response(status=204)  # tells EventSource not to come back
            await response.prepare(request)
            await response.write(b": ok\n\n")
            subscription.writer = _socket_writer(request)
            try:
                await self._pump_sse(subscription, response)
            except (RedisAway, TimeoutError, ConnectionError, ClientError):
                self._metrics.viewers_dropped.labels("error").inc()
            return response

    async def _pump_sse(self, subscription: Subscription, response: web.StreamResponse) -> None:
        until = self._clock.monotonic() + self._settings.viewer_age_s * random.uniform(0.8, 1.0)
        while not subscription.ended and self._clock.monotonic() < until:
            entries = await subscription.next(self._settings.comment_s)
            said = b"".join(map(frame, entries)) if entries or subscription.ended else b": still here\n\n"
            if said:
                async with asyncio.timeout(WRITE_S):
                    await response.write(said)
        if subscription.ended != "terminal":
            self._metrics.viewers_dropped.labels(subscription.ended or "age").inc()
            async with asyncio.timeout(1):
                await response.write(b"retry: %d\n\n" % retry_ms())

    # --- long poll -------------------------------------------------------------------------------------------

    async def _poll(self, request: web.Request, task_id: str, after: str) -> web.StreamResponse:
        wait_s = _wait_s(request.query.get("wait"))
        after = after if is_cursor(after) else START
        with self._connection(request, "poll"), self._subscribe(task_id, after) as subscription:
            await subscription.open()
            entries = [] if subscription.over else await subscription.next(wait_s)
            events = [message(entry) for entry in entries]
            last = next((entry.id for entry in reversed(entries) if entry.id), after)
            body = b'{"events":[' + b",".join(events) + b'],"after":"%s"}' % last.encode()
            return web.Response(body=body, content_type="application/json", headers={"Cache-Control": "no-store"})

    # --- WebSocket -------------------------------------------------------------------------------------------

    async def ws(self, request: web.Request) -> web.StreamResponse:
        """The same events as text messages, each with its `id`."""
        task_id = self._authorized_task_id(request)
        with self._connection(request, "ws"):
            socket = web.WebSocketResponse(
                heartbeat=self._settings.comment_s, max_msg_size=MESSAGE_BYTES_MAX, compress=False, timeout=1.0
            )
            await socket.prepare(request)
            after = request.query.get("after") or await self._first_message(socket)
            with self._subscribe(task_id, after) as subscription:
                try:
                    await self._pump_ws(subscription, socket)
                except* (RedisAway, TimeoutError, ConnectionError, ClientError):
                    self._metrics.viewers_dropped.labels("error").inc()
                    await socket.close(code=WSCloseCode.TRY_AGAIN_LATER)
            return socket

    async def _first_message(self, socket: web.WebSocketResponse) -> str:
        """The cursor in the first message; the beginning when none comes soon."""
        try:
            first = await socket.receive(FIRST_MESSAGE_S)
            return _after_in(first.data) if first.type is WSMsgType.TEXT else START
        except TimeoutError:
            return START

    async def _pump_ws(self, subscription: Subscription, socket: web.WebSocketResponse) -> None:
        await subscription.open()
        until = self._clock.monotonic() + self._settings.viewer_age_s * random.uniform(0.8, 1.0)
        async with asyncio.TaskGroup() as group:
            # Reading answers pings and notices a client that left; what it says is not asked for.
            listening = group.create_task(_listen(socket, subscription), name="ws-listen")
            while not (subscription.ended or subscription.over or socket.closed) and self._clock.monotonic() < until:
                for entry in await subscription.next(self._settings.comment_s):
                    async with asyncio.timeout(WRITE_S):
                        await socket.send_frame(message(entry), WSMsgType.TEXT)
            listening.cancel()
        over = subscription.over or subscription.ended in {"terminal", "left"}
        if not over:
            self._metrics.viewers_dropped.labels(subscription.ended or "age").inc()
        await socket.close(code=WSCloseCode.OK if over else WSCloseCode.GOING_AWAY)

    # --- places ----------------------------------------------------------------------------------------------

    def _authorized_task_id(self, request: web.Request) -> str:
        task_id = request.match_info["taskId"]
        self._access.viewer(request, task_id)
        if not TASK_ID.fullmatch(task_id):
            raise not_found()
        return task_id

    def _subscribe(self, task_id: str, after: str) -> Subscription:
        return self._fan_out.follow(task_id, after, self._settings.viewer_queue)

    @contextmanager
    def _connection(self, request: web.Request, kind: str) -> Iterator[None]:
        """One of the places for viewers, of this process and of the client's address."""
        address, settings = address_of(request), self._settings
        if self._viewers >= settings.viewers_max:
            raise Refused(503, "TOO_MANY_VIEWERS", "too many viewers at once", retry_after_s=10)
        if self._addresses[address] >= settings.viewers_per_address:
            raise Refused(429, "TOO_MANY_VIEWERS", "too many viewers from this address", retry_after_s=10)
        self._addresses[address] += 1
        self._viewers += 1
        self._metrics.viewers.labels(kind).inc()
        try:
            yield
        finally:
            self._metrics.viewers.labels(kind).dec()
            self._viewers -= 1
            self._addresses[address] -= 1
            if not self._addresses[address]:
                del self._addresses[address]


def _socket_writer(request: web.Request) -> Callable[[EventBatch], bool]:
    """Writes live events straight to the socket, encoded once for all viewers of a task.

    Waking a task for each viewer and batch took 64 % of a core at 10,000 frames a second, this takes 25 %. What aiohttp
    writes itself (history, comments) never mixes with it: each is handed to the socket whole.
    """
    chunked = request.version >= HttpVersion11

    def write(batch: EventBatch) -> bool:
        transport = request.transport
        if transport is None or transport.is_closing():
            return True  # the handler is about to learn it
        if transport.get_write_buffer_size() > BUFFER_BYTES_MAX:
            return False
        if batch.wire is None:
            batch.wire = b"".join(map(frame, batch.entries))
        transport.write(b"%x\r\n%b\r\n" % (len(batch.wire), batch.wire) if chunked else batch.wire)
        return True

    return write


async def _listen(socket: web.WebSocketResponse, subscription: Subscription) -> None:
    async for _ in socket:
        pass
    subscription.close("left")


def _after_in(text: str) -> str:
    try:
        after = _decode(text).get("after")
    except (msgspec.DecodeError, UnicodeError):
        return START
    return after if isinstance(after, str) and is_cursor(after) else START


def _wait_s(text: str | None) -> float:
    if text is None:
        return WAIT_S_DEFAULT
    try:
        wait_s = float(text)
    except ValueError:
        wait_s = -1.0
    if not 0 <= wait_s <= WAIT_S_MAX:
        raise Refused(400, "INVALID_PAYLOAD", f"wait: allowed: 0 to {WAIT_S_MAX:g} seconds")
    return wait_s
