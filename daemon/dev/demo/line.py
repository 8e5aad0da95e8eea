"""A line to a server that somebody may cut: TCP, byte for byte, for the page's "cut the line" and its test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Self
from urllib.parse import urlsplit

CHUNK_BYTES: Final = 64 * 1024
CONNECT_S: Final = 5.0


class Line:
    """An async context manager. `target` names the server's address whenever somebody connects."""

    def __init__(self, target: Callable[[], str]) -> None:
        self._target = target
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()

    def cut(self) -> int:
        """Reset every connection now, in the middle of whatever it carries; how many there were."""
        ends = len(self._open)
        for writer in tuple(self._open):
            writer.transport.abort()
        return ends // 2

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = urlsplit(self._target())
        try:
            async with asyncio.timeout(CONNECT_S):
                back_reader, back_writer = await asyncio.open_connection(there.hostname, there.port)
        except (OSError, TimeoutError):
            writer.transport.abort()
            return
        ends = {writer, back_writer}
        self._open |= ends
        try:
            async with asyncio.TaskGroup() as group:
                up = group.create_task(_carry(reader, back_writer))
                await _carry(back_reader, writer)
                up.cancel()
        finally:
            self._open -= ends
            for end in ends:
                end.close()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while chunk := await reader.read(CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
