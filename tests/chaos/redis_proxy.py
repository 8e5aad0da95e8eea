"""A proxy in front of Redis that loses replies, swallows everything one way, or cuts all connections."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit


class RedisProxy:
    """Stands between clients and the server of `url`. An async context manager."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._behind = parts.hostname or "127.0.0.1", parts.port or 6379
        self._password = parts.password
        self.deaf = False  #: take what clients send, hand no reply back
        self.lost = 0  #: replies that were lost so far
        self._needle = b""
        self._count = 0
        self._open: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"redis://:{self._password}@127.0.0.1:{port}/0"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._server.close()
        self.cut()

    def lose_reply(self, word: str, count: int = 1) -> None:
        """The next `count` requests that hold `word` are carried out; their connections are cut before the reply."""
        self._needle, self._count = word.encode(), count

    def cut(self) -> None:
        """Cut every connection now."""
        for writer in list(self._open):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind_reader, behind_writer = await asyncio.open_connection(*self._behind)
        ends = {writer, behind_writer}
        self._open |= ends
        doomed = asyncio.Event()
        with suppress(OSError):
            await asyncio.gather(
                self._up(reader, behind_writer, doomed), self._down(behind_reader, writer, doomed)
            )  # fmt: skip
        for end in ends:
            end.transport.abort()
        self._open -= ends

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, doomed: asyncio.Event) -> None:
        while data := await reader.read(1 << 16):
            if self._count and self._needle in data:
                self._count -= 1
                doomed.set()
            writer.write(data)
        raise ConnectionResetError

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, doomed: asyncio.Event) -> None:
        while data := await reader.read(1 << 16):
            if doomed.is_set():
                self.lost += 1
                raise ConnectionResetError
            if not self.deaf:
                writer.write(data)
        raise ConnectionResetError
