"""A TCP proxy that misbehaves when told to: the network between us and a server.

async with Proxy("127.0.0.1", 6379) as proxy:
    proxy.lose_reply(lambda data: b"task" in data)   # applied, but nobody hears of it
    proxy.silent = True                              # a black hole: takes everything, answers nothing
    proxy.latency_s = 0.1                            # each way
    proxy.cut()                                      # resets every connection now
    proxy.refuse = True                              # and lets no new one in
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit, urlunsplit


class Proxy:
    """Stands between clients and `host:port`."""

    def __init__(self, host: str, port: int) -> None:
        self._behind = host, port
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._lose: list[Callable[[bytes], bool]] = []
        self.port = 0
        self.silent = False  #: nothing is passed on in either direction, connections stay open
        self.refuse = False  #: new connections are reset
        self.latency_s = 0.0
        self.lost = 0  #: replies that were swallowed
        self.sent = 0  #: bytes that clients sent

    @classmethod
    def before(cls, url: str) -> Proxy:
        """A proxy for the server of a URL; `url_of` gives the URL that goes through it."""
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        return cls(parts.hostname, parts.port)

    def url_of(self, url: str) -> str:
        """`url` through this proxy."""
        parts = urlsplit(url)
        account = parts.netloc.rpartition("@")[0]
        return urlunsplit(
            parts._replace(netloc=f"{account}@127.0.0.1:{self.port}" if account else f"127.0.0.1:{self.port}")
        )

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()

    def lose_reply(self, such: Callable[[bytes], bool] = bool) -> None:
        """The next reply such as this is swallowed and its connection reset: the command was applied."""
        self._lose.append(such)

    def cut(self) -> None:
        """Reset every connection now."""
        for writer in list(self._open):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            behind_reader, behind_writer = await asyncio.open_connection(*self._behind)
        except OSError:
            writer.transport.abort()
            return
        if self.refuse or writer.transport.is_closing():
            writer.transport.abort()
            behind_writer.transport.abort()
            return
        self._open.add(behind_writer)
        with suppress(OSError):
            await asyncio.gather(self._up(reader, behind_writer), self._down(behind_reader, writer))
        for end in (writer, behind_writer):
            end.transport.abort()
            self._open.discard(end)

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            self.sent += len(data)
            await self._pass(data, writer)
        raise ConnectionResetError

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if self._lose and self._lose[0](data):
                self._lose.pop(0)
                self.lost += 1
                break
            await self._pass(data, writer)
        raise ConnectionResetError

    async def _pass(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        if self.latency_s:
            await asyncio.sleep(self.latency_s)
        if not self.silent:
            writer.write(data)
