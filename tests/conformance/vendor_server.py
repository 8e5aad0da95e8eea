"""Answers of model providers as bytes on a socket: cases as they were reported, played by a server without manners.

A case is a file: status and content type, a blank line, the body. `<sleep 0.5 s>` pauses, `<rst>` resets the
connection, `<hang>` leaves the body open; none of them is part of the body. `o-` is an OpenAI-compatible stream, `ob-`
a plain call, `g-` a stream of Gemini, `gb-` a plain call.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import struct
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from daemon.domain.model_io import ModelRequest
from daemon.ports import Provider
from daemon.providers.gemini import Gemini
from daemon.providers.openai_compatible import DIALECTS, OpenAICompatible

CASES: Final = Path(__file__).parent / "vendor_cases"
Ending = Literal["clean", "reset", "open"]
_MARK: Final = re.compile(rb"<(?:sleep ([\d.]+) s|(rst)|(hang))>")
_RESET: Final = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Script:
    """What the server writes: pieces of the body with the pause before each, then an end."""

    pieces: Sequence[tuple[float, bytes]]
    ending: Ending = "clean"
    status: int = 200
    headers: Sequence[tuple[str, str]] = (("Content-Type", "text/event-stream"),)
    end_pause_s: float = 0.0
    chunked: bool = True

    @property
    def body(self) -> bytes:
        """All of it."""
        return b"".join(data for _, data in self.pieces)

    def cut(self, at: int) -> Script:
        """The same body in two reads, without other pauses."""
        parts = [(0.0, self.body[:at]), (0.002, self.body[at:])]
        return Script([p for p in parts if p[1]], self.ending, self.status, self.headers, 0.0, self.chunked)


@dataclass(frozen=True)
class Case:
    """One answer and what it must give."""

    name: str
    script: Script
    expected: dict[str, Any] = field(default_factory=dict)

    @property
    def gemini(self) -> bool:
        """Whose shape it has."""
        return self.name.startswith("g")

    @property
    def stream(self) -> bool:
        """Whether a stream is asked for."""
        return not self.name.startswith(("ob-", "gb-"))


def read_case(path: Path, expected: dict[str, Any]) -> Case:
    """The case of one file."""
    head, _, body = path.read_bytes().partition(b"\n\n")
    first, *more = head.decode().splitlines()
    status, _, kind = first.removeprefix("HTTP ").partition(" ")
    headers = [("Content-Type", kind.removeprefix("Content-Type: "))]
    headers += [(name, value) for name, _, value in (line.partition(": ") for line in more)]
    pieces: list[tuple[float, bytes]] = []
    pause, at = 0.0, 0
    for mark in _MARK.finditer(body):
        if data := body[at : mark.start()]:
            pieces.append((pause, data))
            pause = 0.0
        pause, at = pause + float(mark[1] or 0), mark.end()
        if not mark[1]:
            return Case(
                path.stem, Script(pieces, "reset" if mark[2] else "open", int(status), headers, pause), expected
            )
    if data := body[at:]:
        pieces.append((pause, data))
    return Case(path.stem, Script(pieces, "clean", int(status), headers), expected)


def read_cases(folder: str) -> Iterator[Case]:
    """All cases of a folder, each with what it must give."""
    expected = json.loads((CASES / folder / "expected.json").read_text("utf-8"))
    files = {path.stem: path for path in sorted((CASES / folder).glob("*.http"))}
    assert set(files) == set(expected), set(files) ^ set(expected)
    for name, path in files.items():
        yield read_case(path, expected[name])


class VendorServer:
    """Answers each call with the script that is set."""

    def __init__(self) -> None:
        self.script = Script([])
        self.url = ""
        self.calls = 0
        self.answering: dict[asyncio.Task[Any], asyncio.StreamWriter] = {}

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, one call."""
        task = asyncio.current_task()
        assert task is not None
        self.answering[task] = writer
        task.add_done_callback(self.answering.pop)
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
            await reader.readexactly(int(length[1]) if length else 0)
            self.calls += 1
            await self._play(self.script, reader, writer)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    async def _play(self, script: Script, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        headers = [*script.headers, ("Connection", "close")]
        if script.chunked:
            headers.append(("Transfer-Encoding", "chunked"))
        lines = [f"HTTP/1.1 {script.status} Said", *(f"{name}: {value}" for name, value in headers), "", ""]
        writer.write("\r\n".join(lines).encode())
        for pause, data in script.pieces:
            if pause:
                await writer.drain()
                await asyncio.sleep(pause)
            writer.write(b"%x\r\n%b\r\n" % (len(data), data) if script.chunked else data)
        await writer.drain()
        await asyncio.sleep(script.end_pause_s)
        if script.ending == "open":
            await reader.read()  # until the client hangs up
        elif script.ending == "reset":
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()
        elif script.chunked:
            writer.write(b"0\r\n\r\n")
            await writer.drain()


@asynccontextmanager
async def vendor_server() -> AsyncIterator[VendorServer]:
    """A server on a free port."""
    server = VendorServer()
    async with await asyncio.start_server(server.answer, "127.0.0.1", 0) as listening:
        server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        yield server
        for writer in server.answering.values():
            writer.transport.abort()
        await asyncio.gather(*server.answering, return_exceptions=True)


class RawServer:
    """Answers each call with the same bytes, HTTP or not, and hangs up."""

    def __init__(self) -> None:
        self.raw = b""
        self.url = ""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, one call."""
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
            await reader.readexactly(int(length[1]) if length else 0)
            writer.write(self.raw)
            await writer.drain()
        writer.close()


@asynccontextmanager
async def raw_server() -> AsyncIterator[RawServer]:
    """A server on a free port."""
    server = RawServer()
    async with await asyncio.start_server(server.answer, "127.0.0.1", 0) as listening:
        server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        yield server


def adapter(url: str, *, gemini: bool) -> Provider:
    """The real adapter, asking that server."""
    told: dict[str, Any] = {"api_key": "k", "base_url": url, "connections_max": 20, "connect_timeout_s": 5.0}
    return Gemini(**told) if gemini else OpenAICompatible(DIALECTS["deepseek"], **told)


def request(case: Case, **more: Any) -> ModelRequest:
    """What is asked."""
    told: dict[str, Any] = {"provider": "gemini" if case.gemini else "deepseek", "model_name": "m", "system": "",
                            "prompt": "hello", "stream": case.stream}  # fmt: skip
    return ModelRequest(**(told | more))
