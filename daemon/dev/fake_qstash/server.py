"""The fake QStash as a whole: a server on loopback, the engine behind it, and what tests want to ask and to break."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final, Self

from aiohttp import web

from daemon.dev.fake_qstash.api import Api
from daemon.dev.fake_qstash.clock import Clock
from daemon.dev.fake_qstash.control import Control
from daemon.dev.fake_qstash.engine import Engine
from daemon.dev.fake_qstash.message import Delivery
from daemon.dev.fake_qstash.mischief import Mischief
from daemon.dev.fake_qstash.options import Options, Refused, require_loopback
from daemon.dev.fake_qstash.records import DeadLetter, Records
from daemon.dev.fake_qstash.resources import Resources
from daemon.dev.fake_qstash.schedules import Schedule, Schedules
from daemon.dev.fake_qstash.sender import Sender
from daemon.dev.fake_qstash.signing import Keys, random_id

MESSAGE_BYTES_MAX: Final = 1024 * 1024  # the free plan's limit, and the smallest of all
RESPONSE_TIMEOUT_S: Final = 900.0  # the free plan's limit

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class FakeQstash:
    """A QStash on loopback that both official clients can use: `async with FakeQstash(speed=1000) as qstash: …`.

    `speed` is how many seconds pass on its clock in a real one (0: only through `advance`). It delivers to loopback
    addresses only, remembers at most `records_max` of everything, and forgets all when it stops.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        speed: float = 1.0,
        token: str | None = None,
        current_key: str | None = None,
        next_key: str | None = None,
        mischief: str = "",
        region: str = "US-EAST-1",
        response_timeout_s: float = RESPONSE_TIMEOUT_S,
        message_bytes_max: int = MESSAGE_BYTES_MAX,
        live_max: int = 10_000,
        records_max: int = 10_000,
        clock: Clock | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        require_loopback(f"http://{host}")
        self._host, self._port = host, port
        self._message_bytes_max = message_bytes_max
        self._runner: web.AppRunner | None = None
        self.token = token or random_id("fake_", 40)
        self.keys = Keys(**{k: v for k, v in (("current", current_key), ("next", next_key)) if v})
        self.clock = clock or Clock(speed)
        self.records = Records(records_max=records_max)
        self.sender = Sender(
            keys=self.keys,
            clock=self.clock,
            wall=wall,
            region=region,
            response_timeout_s=response_timeout_s,
            answer_bytes_max=message_bytes_max,
            history_max=records_max,
        )
        self.engine = Engine(
            clock=self.clock,
            sender=self.sender,
            records=self.records,
            wall=wall,
            mischief=Mischief.parse(mischief),
            live_max=live_max,
        )
        self.schedules = Schedules(self.clock, self._fire)
        self.control = Control(self)

    # --- start and stop ----------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Serving, `url` and `port` known. Raises OSError if the port is taken."""
        app = web.Application(client_max_size=self._message_bytes_max, middlewares=[self._answer])
        app.add_routes([*Api(self).routes(), *Resources(self).routes(), *self.control.routes()])
        await self.sender.start()
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        try:
            await self._runner.setup()
            site = web.TCPSite(self._runner, self._host, self._port)
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
        return f"http://{self._host}:{self._port}"

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
        return list(self.records.dead.values())

    async def settled(self, within_s: float = 10.0) -> None:
        """Every message is delivered, dead or cancelled, callbacks too; schedules do not count.

        TimeoutError after `within_s` real seconds says what is left.
        """
        try:
            async with asyncio.timeout(within_s):
                await self.engine.until(lambda: not self.engine.live)
        except TimeoutError:
            left = ", ".join(f"{m.id} {m.state} retried {m.retried} -> {m.url}" for m in self.engine.live.values())
            raise TimeoutError(f"not settled within {within_s:g} s: {left[:2000]}") from None

    async def at_rest(self, within_s: float = 10.0) -> None:
        """Nothing is being delivered: what is left waits for time, a turn or a pause. TimeoutError after `within_s`."""
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

    def schedule(self, schedule_id: str) -> Schedule:
        """The schedule. Raises Refused (404)."""
        if schedule_id not in self.schedules.all:
            raise Refused("schedule not found", 404)
        return self.schedules.all[schedule_id]

    def trigger(self, schedule_id: str) -> Any:
        """Fire a schedule now; the publish answer. Raises Refused (404)."""
        return self.schedules.trigger(self.schedule(schedule_id))

    # --- publishing ------------------------------------------------------------------------------------------------

    def destinations(self, destination: str) -> list[tuple[str, str | None, str | None]]:
        """(URL, URL group, endpoint name) for each place a destination means. Raises Refused."""
        if "://" in destination:
            return [(require_loopback(destination), None, None)]
        group = self.records.groups.get(destination)
        if group is None or not group.endpoints:
            raise Refused(f"neither a URL nor a URL group with endpoints: {destination[:200]!r}", 404)
        return [(endpoint["url"], group.name, endpoint.get("name")) for endpoint in group.endpoints]

    def publish(
        self,
        destination: str,
        body: bytes,
        options: Options,
        *,
        caller_ip: str = "127.0.0.1",
        queue: str | None = None,
        schedule_id: str | None = None,
    ) -> tuple[Any, bool]:
        """The API's answer to a publish, and whether everything in it was a duplicate. Raises Refused."""
        answers, duplicates = [], 0
        for url, topic, endpoint in self.destinations(destination):
            message_id, duplicate = self.engine.publish(
                url,
                body,
                options,
                caller_ip=caller_ip,
                queue=queue or options.queue,
                topic=topic,
                endpoint=endpoint,
                schedule_id=schedule_id,
            )
            duplicates += duplicate
            answer: dict[str, Any] = {"messageId": message_id}
            if duplicate:
                answer["deduplicated"] = True
            if topic is not None:
                answer["url"] = url
            answers.append(answer)
        return (answers[0] if "://" in destination else answers), duplicates == len(answers)

    def _fire(self, schedule: Schedule) -> Any:
        answer, _ = self.publish(
            schedule.destination, schedule.body, schedule.options, caller_ip=schedule.caller_ip, schedule_id=schedule.id
        )
        return answer

    # --- the server's frame -------------------------------------------------------------------------------------------

    @web.middleware
    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
            given = bearer or request.query.get("qstash_token", "")
            if not hmac.compare_digest(given.encode(), self.token.encode()):
                raise Refused("unauthorized", 401)
            return await self.control.disturbed(request, handler)
        except Refused as error:
            return web.json_response({"error": str(error)}, status=error.status)
        except web.HTTPException as error:
            return web.json_response({"error": error.reason}, status=error.status)
