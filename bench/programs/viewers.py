"""So many browsers at once: follows tasks by server-sent events and prints, as JSON, how late each event came.

    python -m bench.programs.viewers PORT TASKS VIEWERS_A_TASK SECRET EVENTS_A_TASK

Says `connected` once every viewer has its first bytes. Late: from the millisecond in an event's id, Redis' clock.
Bytes in, numbers out: it must cost less than the server that it measures.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from array import array
from typing import Any, Final, cast

import uvloop

from daemon.config.types import SecretStr
from daemon.domain.clock import SystemClock
from daemon.gateway.tokens import Tokens

CONNECTING: Final = 100  #: at once
PATIENCE_S: Final = 90.0  #: for everything; what has not come then is missing
_ID: Final = re.compile(rb"id: (\d+)-(\d+)\n")


class Viewer(asyncio.Protocol):
    """One viewer of one task."""

    def __init__(self, request: bytes, late: array[float], seen: dict[str, float]) -> None:
        self._request = request
        self._late = late
        self._seen = seen
        self._rest = b""
        self._last = (0, 0)
        self.events = 0
        self.open: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by class
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.time() * 1000
        whole, found, self._rest = (self._rest + data).rpartition(b"\n\n")
        if not found:
            return
        if not self.open.done() and b": ok" in whole:
            self.open.set_result(None)
        for match in _ID.finditer(whole + b"\n\n"):
            at = (int(match[1]), int(match[2]))
            if at <= self._last:
                self._seen["disordered"] += 1
            self._last = at
            self.events += 1
            self._late.append(now - at[0])

    def connection_lost(self, exc: Exception | None) -> None:
        for future in (self.open, self.over):
            if not future.done():
                future.set_result(None)


async def follow(port: int, tasks: int, each: int, secret: str, events: int) -> dict[str, Any]:
    """What all of them saw."""
    tokens, loop = Tokens(SecretStr(secret), SystemClock(), 3600), asyncio.get_running_loop()
    late, seen, turn = array("d"), {"disordered": 0.0}, asyncio.Semaphore(CONNECTING)
    viewers = []
    for task in range(tasks):
        request = (
            f"GET /api/tasks/t{task}/events HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n"
            f"Accept: text/event-stream\r\nAuthorization: Bearer {tokens.task_token(f't{task}')}\r\n\r\n"
        ).encode()
        viewers += [Viewer(request, late, seen) for _ in range(each)]

    async def connect(viewer: Viewer) -> None:
        async with turn:
            await loop.create_connection(lambda: viewer, "127.0.0.1", port)
            await viewer.open

    async with asyncio.TaskGroup() as group:
        for viewer in viewers:
            group.create_task(connect(viewer))
    print("connected", flush=True)
    await asyncio.wait([viewer.over for viewer in viewers], timeout=PATIENCE_S)
    ordered = sorted(late)
    return {
        "n": len(viewers), "frames": len(late), "missing": len(viewers) * events - len(late),
        "disordered": seen["disordered"],
        **{f"late_p{q}_ms": ordered[min(len(ordered) - 1, len(ordered) * q // 100)] for q in (50, 99)},
        "late_max_ms": ordered[-1],
    }  # fmt: skip


if __name__ == "__main__":
    port, tasks, each, secret, events = sys.argv[1:]
    print(json.dumps(uvloop.run(follow(int(port), int(tasks), int(each), secret, int(events)))))
