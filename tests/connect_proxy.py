"""A forward proxy as companies and clouds run them: CONNECT for https, whole URLs for http, perhaps a password.

async with ConnectProxy(password="secret") as proxy:
    proxy.url          # with the password in it
    proxy.asked        # ["CONNECT api.example.com:443", "POST http://127.0.0.1:4000/v1/chat/completions"]
    proxy.to["api.example.com:443"] = ("127.0.0.1", 8443)   # where that name leads
    proxy.answer = 502 # to everything from now on
"""

from __future__ import annotations

import asyncio
import base64
from contextlib import suppress
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit


class ConnectProxy:
    """One proxy on a free port of this host."""

    def __init__(self, password: str = "") -> None:
        self._password = password
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.asked: list[str] = []  #: method and target of each request, in order
        self.to: dict[str, tuple[str, int]] = {}
        self.answer = 0  #: a status instead of a connection
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        account = f"user:{self._password}@" if self._password else ""
        self.url = f"http://{account}127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                await self._tunnel(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _tunnel(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        method, target, version = head.split("\r\n")[0].split(" ")
        self.asked.append(f"{method} {target}")
        status = self.answer or (0 if self._knows(head) else 407)
        if status:
            writer.write(f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
            await writer.drain()
            return
        parts = urlsplit(f"//{target}" if method == "CONNECT" else target)
        name = parts.netloc if parts.port else f"{parts.netloc}:80"
        far_reader, far_writer = await asyncio.open_connection(*self.to.get(name, (parts.hostname, parts.port)))
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            path = target.partition(parts.netloc)[2]
            far_writer.write(head.replace(f"{method} {target} {version}", f"{method} {path} {version}").encode())
        await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))

    def _knows(self, head: str) -> bool:
        wanted = base64.b64encode(f"user:{self._password}".encode()).decode()
        return not self._password or f"Basic {wanted}" in head


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until one side ends; then the other one ends too."""
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
