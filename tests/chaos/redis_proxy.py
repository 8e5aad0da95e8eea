"""A proxy in front of Redis that loses replies, delays or crumbles them, swallows everything one way, or cuts."""

from __future__ import annotations

import asyncio
import random
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
        self.latency_s = (0.0, 0.0)  #: least and most, each way, drawn for each packet
        self.crumbs = False  #: every byte travels alone, both ways
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

    def lead_to(self, url: str) -> None:
        """New connections reach another server from now on; those that are open are cut."""
        parts = urlsplit(url)
        self._behind = parts.hostname or "127.0.0.1", parts.port or 6379
        self.cut()

    def cut(self) -> None:
        """Cut every connection now."""
        for writer in list(self._open):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            behind_reader, behind_writer = await asyncio.open_connection(*self._behind)
        except OSError:  # the server is down
            writer.transport.abort()
            return
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
            await self._pass(data, writer)
        raise ConnectionResetError

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, doomed: asyncio.Event) -> None:
        while data := await reader.read(1 << 16):
            if doomed.is_set():
                self.lost += 1
                raise ConnectionResetError
            if not self.deaf:
                await self._pass(data, writer)
        raise ConnectionResetError

    async def _pass(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        if self.latency_s[1]:
            await asyncio.sleep(random.uniform(*self.latency_s))
        if not self.crumbs:
            writer.write(data)
            return
        for at in range(len(data)):
            writer.write(data[at : at + 1])
            await asyncio.sleep(0)  # sent before the next one is there
