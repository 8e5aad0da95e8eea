"""A proxy in front of Postgres that lets a statement commit and loses the answer, or swallows everything."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import parse_qs, quote, urlsplit

#: protocol 3: Execute of the unnamed portal without a row limit, as every statement of ours ends with
EXECUTE: Final = b"E\x00\x00\x00\x09\x00\x00\x00\x00\x00"
READY: Final = b"Z\x00\x00\x00\x05"


class CuttingProxy:
    """Stands between a client and the server of `url`; `lose_replies(n)` cuts n connections after their commit."""

    def __init__(self, url: str, directory: Path) -> None:
        parts = urlsplit(url)
        query = parse_qs(parts.query)
        self._behind = Path(query["host"][0]) / f".s.PGSQL.{query['port'][0]}"
        self._here = directory / ".s.PGSQL.5432"
        self.url = f"postgresql://{parts.netloc}{parts.path}?host={quote(str(directory))}&port=5432"
        self.silent = False  #: take what the client sends, answer nothing
        self.cuts = 0
        self._to_cut = 0
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._serve, self._here)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()

    def lose_replies(self, count: int) -> None:
        """The next `count` statements commit, and their clients never hear of it."""
        self._to_cut = count

    def cut(self) -> None:
        """Cut every connection now."""
        for writer in list(self._open):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind_reader, behind_writer = await asyncio.open_unix_connection(str(self._behind))
        self._open |= {writer, behind_writer}
        doomed = asyncio.Event()
        both = (self._up(reader, behind_writer, doomed), self._down(behind_reader, writer, doomed))
        with suppress(OSError):
            await asyncio.gather(*both)
        for end in (writer, behind_writer):
            end.transport.abort()
            self._open.discard(end)

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, doomed: asyncio.Event) -> None:
        while data := await reader.read(65536):
            if self._to_cut and EXECUTE in data:
                self._to_cut -= 1
                doomed.set()
            if not self.silent:
                writer.write(data)
        raise ConnectionResetError

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, doomed: asyncio.Event) -> None:
        while data := await reader.read(65536):
            if doomed.is_set() and READY in data:
                self.cuts += 1
                raise ConnectionResetError
            if not doomed.is_set() and not self.silent:
                writer.write(data)
        raise ConnectionResetError
