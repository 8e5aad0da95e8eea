"""A model server that costs next to nothing: so many tokens a second to every open call, each saying when it was sent.

    python -m bench.programs.tokens PORT TOKENS_A_SECOND TOKENS

OpenAI's streaming shape. One timer serves all calls, in phases 10 ms apart.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import cast

import uvloop

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_PIECE = (
    '{"id":"c","object":"chat.completion.chunk","created":1700000000,"model":"m","choices":[{"index":0,"delta":'
    '{"content":"%d "},"logprobs":null,"finish_reason":null}]}'
)
_LAST = (
    b'data: {"id":"c","object":"chat.completion.chunk","created":1700000000,"model":"m","choices":[{"index":0,'
    b'"delta":{},"finish_reason":"stop"}]}\n\n'
    b'data: {"id":"c","object":"chat.completion.chunk","created":1700000000,"model":"m","choices":[],"usage":'
    b'{"prompt_tokens":9,"completion_tokens":9,"total_tokens":18}}\n\ndata: [DONE]\n\n'
)


def chunk(data: bytes) -> bytes:
    """One HTTP chunk."""
    return b"%x\r\n%s\r\n" % (len(data), data)


class Calls:
    """All open calls, by phase."""

    def __init__(self, each_s: float, tokens: int) -> None:
        self.phases: list[dict[Call, int]] = [{} for _ in range(max(1, round(each_s / 0.01)))]
        self._each_s = each_s
        self._tokens = tokens

    def add(self, call: Call) -> None:
        """From its next turn on."""
        min(self.phases, key=len)[call] = 0

    async def run(self) -> None:
        """Write, for ever."""
        loop, turn = asyncio.get_running_loop(), 0
        due = loop.time()
        while True:
            calls = self.phases[turn % len(self.phases)]
            piece = chunk(b"data: " + (_PIECE % (time.time() * 1000)).encode() + b"\n\n")
            for call, sent in list(calls.items()):
                if call.transport.is_closing():
                    del calls[call]
                elif sent < self._tokens:
                    call.transport.write(piece)
                    calls[call] = sent + 1
                else:
                    call.transport.write(chunk(_LAST) + b"0\r\n\r\n")
                    del calls[call]
            turn += 1
            due += self._each_s / len(self.phases)
            await asyncio.sleep(max(0, due - time.monotonic()))


class Call(asyncio.Protocol):
    """One connection; any complete request begins a stream."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0] or 0)
        if found and len(body) >= length:
            self._buffer = b""
            self.transport.write(_HEAD)
            self._calls.add(self)


async def serve(port: int, rate: float, tokens: int) -> None:
    calls = Calls(1 / rate, tokens)
    await asyncio.get_running_loop().create_server(lambda: Call(calls), "127.0.0.1", port, backlog=4096)
    await calls.run()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])))
