"""The two ends of a QStash in tests: a receiver on loopback that answers as told, and publishers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import ClientSession, web
from multidict import CIMultiDict
from qstash import AsyncQStash
from yarl import URL

from daemon.dev.fake_qstash import FakeQstash


@dataclass(slots=True)
class Call:
    """One request as it arrived."""

    method: str
    path: str
    headers: CIMultiDict[str]
    body: bytes


@dataclass(slots=True)
class Receiver:
    """Answers 200, 500 below `failing`, or the next of `answers`; while `open` is clear, answers wait for it."""

    port: int = 0
    failing: str = "/always/fails/"
    calls: list[Call] = field(default_factory=list)
    answers: deque[tuple[int, dict[str, str], bytes]] = field(default_factory=deque)
    open: asyncio.Event = field(default_factory=asyncio.Event)
    inside: int = 0
    inside_max: int = 0

    def url(self, path: str = "/hook") -> str:
        """Where to send."""
        return f"http://127.0.0.1:{self.port}{path}"

    def fail(self, times: int, status: int = 500, headers: dict[str, str] | None = None) -> None:
        """The next `times` answers."""
        self.answers.extend([(status, headers or {}, b"no")] * times)

    def bodies(self, path: str = "/hook") -> list[bytes]:
        """Bodies that arrived at one path, in order."""
        return [call.body for call in self.calls if call.path == path]

    async def handle(self, request: web.Request) -> web.Response:
        """Remember, wait if told to, answer."""
        body = await request.read()
        self.calls.append(Call(request.method, request.raw_path, CIMultiDict(request.headers), body))
        usual: tuple[int, dict[str, str], bytes] = (
            (500, {}, b"no") if request.path.startswith(self.failing) else (200, {}, b"thanks")
        )
        answer = self.answers.popleft() if self.answers else usual
        self.inside += 1
        self.inside_max = max(self.inside_max, self.inside)
        try:
            await self.open.wait()
        finally:
            self.inside -= 1
        return web.Response(status=answer[0], headers=answer[1], body=answer[2])


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    """A receiver that runs until the block ends."""
    receiver = Receiver()
    receiver.open.set()
    app = web.Application(client_max_size=4 * 1024 * 1024)
    app.router.add_route("*", "/{rest:.*}", receiver.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    receiver.port = runner.addresses[0][1]
    try:
        yield receiver
    finally:
        receiver.open.set()
        await runner.cleanup()


@asynccontextmanager
async def official_client(fake: FakeQstash, token: str | None = None) -> AsyncIterator[AsyncQStash]:
    """The official Python client, pointed at the fake; it has no way of its own to close its connections."""
    client = AsyncQStash(token or fake.token, retry=False, base_url=fake.url)
    try:
        yield client
    finally:
        await client.http._client.aclose()


async def call(
    fake: FakeQstash,
    path: str,
    body: bytes = b"",
    *,
    method: str = "POST",
    headers: dict[str, str] | None = None,
    token: str | None = None,
) -> tuple[int, Any]:
    """Status and JSON of a bare call; the path goes over the wire exactly as it is."""
    bearer = {"Authorization": f"Bearer {fake.token if token is None else token}"} if token != "" else {}
    async with (
        ClientSession() as session,
        session.request(
            method, URL(fake.url + path, encoded=True), data=body, headers=bearer | (headers or {})
        ) as answer,
    ):
        return answer.status, await answer.json()
