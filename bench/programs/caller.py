"""Sends prepared HTTP requests over keep-alive connections as fast as they are answered; prints what it saw as JSON.

    python -m bench.programs.caller FILE PORT CONNECTIONS

The file holds the requests as a JSON list of base64 texts. Bytes in, bytes out: the caller must cost less than the
server that it measures.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import uvloop


class Caller(asyncio.Protocol):
    """One connection: the next request when the answer is complete."""

    def __init__(self, requests: Iterator[bytes], latencies: list[float], statuses: Counter[str]) -> None:
        self._requests = requests
        self._latencies = latencies
        self._statuses = statuses
        self._buffer = b""
        self._sent = 0.0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by class
        self._next()

    def _next(self) -> None:
        request = next(self._requests, None)
        if request is None:
            self._transport.close()
            if not self.done.done():
                self.done.set_result(None)
            return
        self._sent = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0]
        if len(rest) < int(length or 0):
            return
        self._latencies.append(time.perf_counter() - self._sent)
        self._statuses[head[9:12].decode()] += 1
        self._buffer = b""
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("the server closed the connection"))


async def call(requests: Iterator[bytes], port: int, connections: int) -> None:
    latencies: list[float] = []
    statuses: Counter[str] = Counter()
    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    callers = [
        (await loop.create_connection(lambda: Caller(requests, latencies, statuses), "127.0.0.1", port))[1]
        for _ in range(connections)
    ]
    await asyncio.gather(*(caller.done for caller in callers))
    wall = time.perf_counter() - began
    ordered = sorted(latencies)
    print(json.dumps({
        "n": len(ordered), "per_s": len(ordered) / wall, "statuses": statuses,
        "p50_ms": ordered[len(ordered) // 2] * 1000, "p99_ms": ordered[int(len(ordered) * 0.99)] * 1000,
    }))  # fmt: skip


if __name__ == "__main__":
    prepared = [base64.b64decode(text) for text in json.loads(Path(sys.argv[1]).read_text("utf-8"))]
    uvloop.run(call(iter(prepared), int(sys.argv[2]), int(sys.argv[3])))
