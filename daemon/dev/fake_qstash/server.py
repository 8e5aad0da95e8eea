"""The fake QStash as a whole: a server on loopback, the engine behind it, and what tests want to ask and to break."""

from __future__ import annotations

import asyncio
import hmac
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, Self
from urllib.parse import unquote

from aiohttp import web

from daemon.dev.fake_qstash.clock import Clock
from daemon.dev.fake_qstash.engine import Engine
from daemon.dev.fake_qstash.message import DeadLetter, Delivery
from daemon.dev.fake_qstash.mischief import Mischief
from daemon.dev.fake_qstash.options import Options, Refused
from daemon.dev.fake_qstash.sender import MESSAGE_BYTES_MAX, RESPONSE_TIMEOUT_S, Sender
from daemon.dev.fake_qstash.signing import Keys, random_id

_HOST: Final = "127.0.0.1"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class FakeQstash:
    """A QStash on loopback that both official clients can use: `async with FakeQstash(speed=1000) as qstash: …`.

    `speed` is how many seconds pass on its clock in a real one (0: only through `advance`). It delivers to loopback
    addresses only, remembers at most `records_max` of everything, and forgets all when it stops.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        speed: float = 1.0,
        token: str | None = None,
        current_key: str | None = None,
        next_key: str | None = None,
        mischief: str = "",
        live_max: int = 10_000,
        records_max: int = 10_000,
    ) -> None:
        self._port = port
        self._runner: web.AppRunner | None = None
        self.token = token or random_id("fake_", 40)
        self.keys = Keys(**{k: v for k, v in (("current", current_key), ("next", next_key)) if v})
        self.clock = Clock(speed)
        self.sender = Sender(keys=self.keys, clock=self.clock, history_max=records_max)
        self.engine = Engine(
            clock=self.clock,
            sender=self.sender,
            mischief=Mischief.parse(mischief),
            live_max=live_max,
            records_max=records_max,
        )

    # --- start and stop ----------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Serving, `url` and `port` known. Raises OSError if the port is taken."""
        app = web.Application(client_max_size=MESSAGE_BYTES_MAX, middlewares=[self._answer])
        app.router.add_post("/v2/publish/{destination:.+}", self._publish)
        app.router.add_get("/v2/logs", self._logs)
        app.router.add_post("/v2/enqueue/{queue}/{destination:.+}", self._enqueue)
        await self.sender.start()
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        try:
            await self._runner.setup()
            site = web.TCPSite(self._runner, _HOST, self._port)
            await site.start()
        except BaseException:
            await self.stop()
            raise
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Everything dropped, nothing sent any more. May be called twice, or early."""
        await self.engine.stop()
        await self.sender.stop()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    # --- what a user of it needs -------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """The base URL for a client."""
        return f"http://{_HOST}:{self._port}"

    @property
    def current_key(self) -> str:
        """What signs now."""
        return self.keys.current

    @property
    def next_key(self) -> str:
        """What will sign after a roll."""
        return self.keys.next

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which clients and receivers find this fake."""
        return {
            "QSTASH_URL": self.url,
            "QSTASH_TOKEN": self.token,
            "QSTASH_CURRENT_SIGNING_KEY": self.keys.current,
            "QSTASH_NEXT_SIGNING_KEY": self.keys.next,
        }

    @property
    def delivered(self) -> deque[Delivery]:
        """Every attempt that was sent, oldest first, with what came back."""
        return self.sender.delivered

    @property
    def dead(self) -> list[DeadLetter]:
        """The dead letter queue, oldest first."""
        return list(self.engine.dead)

    async def settled(self, within_s: float = 10.0) -> None:
        """Every message is delivered or dead, callbacks too.

        TimeoutError after `within_s` real seconds says what is left.
        """
        try:
            async with asyncio.timeout(within_s):
                await self.engine.until(lambda: not self.engine.live)
        except TimeoutError:
            left = ", ".join(f"{m.id} retried {m.retried} -> {m.url}" for m in self.engine.live.values())
            raise TimeoutError(f"not settled within {within_s:g} s: {left[:2000]}") from None

    async def at_rest(self, within_s: float = 10.0) -> None:
        """Nothing is being delivered: what is left waits for time or a turn. TimeoutError after `within_s`."""
        async with asyncio.timeout(within_s):
            await asyncio.sleep(0)  # what a timer that fired has scheduled comes first
            await self.engine.until(lambda: self.engine.at_rest)

    async def advance(self, seconds: float) -> None:
        """Let that much of the fake's time pass, event by event: each delivery is over before the next is due."""
        target = self.clock.now() + seconds
        await self.at_rest(RESPONSE_TIMEOUT_S)
        while (due := self.clock.next_due()) is not None and due <= target:
            self.clock.advance_to(due)
            await self.at_rest(RESPONSE_TIMEOUT_S)
        self.clock.advance_to(target)
        await self.at_rest(RESPONSE_TIMEOUT_S)

    def misbehave(self, mischief: str, *, messages: int | None = None) -> None:
        """The next `messages` messages (None: all) get these faults; `""` ends it. Raises ValueError."""
        self.engine.misbehave(Mischief.parse(mischief), messages)

    # --- the routes ---------------------------------------------------------------------------------------------------

    async def _publish(self, request: web.Request) -> web.Response:
        return await self._published(request, "/v2/publish/")

    async def _enqueue(self, request: web.Request) -> web.Response:
        queue = request.raw_path.removeprefix("/v2/enqueue/").partition("/")[0]
        return await self._published(request, f"/v2/enqueue/{queue}/", unquote(queue))

    async def _logs(self, request: web.Request) -> web.Response:
        """What became of one message: each attempt, newest first, as far as it is remembered."""
        message_id = request.query.get("messageId", "")
        tried = [d for d in self.delivered if d.message_id == message_id]
        events = [
            {"time": round(d.at * 1000), "messageId": d.message_id, "state": "DELIVERED" if d.answer.ok else "ERROR",
             "url": d.url, **({} if d.answer.ok else {"responseStatus": d.answer.status, "error": d.answer.error})}
            for d in reversed(tried)
        ]  # fmt: skip
        return web.json_response({"events": events})

    async def _published(self, request: web.Request, prefix: str, queue: str | None = None) -> web.Response:
        """Publish to the URL after `prefix`, taken from the raw request line: it is signed as it was written."""
        options = Options.parse(request.headers.items())
        message_id, duplicate = self.engine.publish(
            request.raw_path.removeprefix(prefix),
            await request.read(),
            options,
            caller_ip=request.remote or "",
            queue=queue,
        )
        answer = {"messageId": message_id, **({"deduplicated": True} if duplicate else {})}
        return web.json_response(answer, status=202 if duplicate else 200)

    # --- the server's frame -------------------------------------------------------------------------------------------

    @web.middleware
    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            given = request.headers.get("Authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode(), self.token.encode()):
                raise Refused("unauthorized", 401)
            return await handler(request)
        except Refused as error:
            return web.json_response({"error": str(error)}, status=error.status)
        except web.HTTPException as error:
            return web.json_response({"error": error.reason}, status=error.status)
