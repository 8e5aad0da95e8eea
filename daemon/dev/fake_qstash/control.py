"""`/_fake/…`: what no real QStash offers. Mischief, disturbed publish calls, time, triggers and the history.

For tests in other processes and languages; a test in this one has methods of FakeQstash for the same.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from daemon.dev.fake_qstash.message import Delivery, milliseconds
from daemon.dev.fake_qstash.options import Refused

if TYPE_CHECKING:
    from daemon.dev.fake_qstash.server import FakeQstash

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_PUBLISHES: Final = ("/v2/publish/", "/v2/enqueue/", "/v2/batch", "/v2/schedules/")
_LIMIT_HEADERS: Final = {"Burst-RateLimit-Limit": "100", "Burst-RateLimit-Remaining": "0", "Burst-RateLimit-Reset": "1"}


class Control:
    """The control routes of one fake, and the disturbance of publish calls that they can order."""

    def __init__(self, fake: FakeQstash) -> None:
        self._fake = fake
        self._status = 0
        self._lose_reply = False
        self._times = 0

    def routes(self) -> list[web.RouteDef]:
        """Every control route; they want the token, too."""
        return [
            web.post("/_fake/mischief", self.mischief),
            web.post("/_fake/publishing", self.publishing),
            web.post("/_fake/advance", self.advance),
            web.post("/_fake/schedules/{id}/trigger", self.trigger),
            web.get("/_fake/settled", self.settled),
            web.get("/_fake/delivered", self.delivered),
        ]

    def disturb(self, *, status: int = 0, lose_reply: bool = False, times: int = 1) -> None:
        """The next `times` publish calls fail: refused with `status`, or accepted and the reply lost."""
        if not lose_reply and not 400 <= status <= 599:
            raise ValueError("a status from 400 to 599, or lose_reply")
        self._status, self._lose_reply, self._times = status, lose_reply, times

    async def disturbed(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """The handler's answer, unless a disturbance is due."""
        if self._times <= 0 or request.method != "POST" or not request.path.startswith(_PUBLISHES):
            return await handler(request)
        self._times -= 1
        if self._lose_reply:
            await handler(request)
            if request.transport is not None:
                request.transport.abort()
            raise Refused("the reply is lost", 500)
        headers = _LIMIT_HEADERS if self._status == 429 else {}
        return web.json_response({"error": "disturbed"}, status=self._status, headers=headers)

    async def mischief(self, request: web.Request) -> web.Response:
        """`{"mischief": "twice, late=5s", "messages": 3}`; without `messages`: from now on."""
        wanted = await _object(request)
        try:
            self._fake.misbehave(str(wanted.get("mischief", "")), messages=wanted.get("messages"))
        except ValueError as error:
            raise Refused(str(error)) from error
        return web.json_response({})

    async def publishing(self, request: web.Request) -> web.Response:
        """`{"status": 429, "times": 2}` or `{"loseReply": true}`."""
        wanted = await _object(request)
        try:
            self.disturb(
                status=int(wanted.get("status", 0)),
                lose_reply=bool(wanted.get("loseReply", False)),
                times=int(wanted.get("times", 1)),
            )
        except ValueError as error:
            raise Refused(str(error)) from error
        return web.json_response({})

    async def advance(self, request: web.Request) -> web.Response:
        """`{"seconds": 60}`: answered when all that falls due by then is over."""
        seconds = (await _object(request)).get("seconds")
        if not isinstance(seconds, int | float) or seconds < 0:
            raise Refused("seconds must be a number, not negative")
        await self._fake.advance(seconds)
        return web.json_response({"now": milliseconds(self._fake.clock.now())})

    async def trigger(self, request: web.Request) -> web.Response:
        """Fire a schedule now."""
        return web.json_response(self._fake.trigger(request.match_info["id"]))

    async def settled(self, request: web.Request) -> web.Response:
        """`?within=10`: 200 once nothing is on its way, 409 with what is left."""
        try:
            await self._fake.settled(min(float(request.query.get("within", "10")), 600.0))
        except TimeoutError as error:
            raise Refused(str(error), 409) from error
        except ValueError as error:
            raise Refused("within must be seconds") from error
        return web.json_response({})

    async def delivered(self, request: web.Request) -> web.Response:
        """Every attempt, oldest first, bodies in base64."""
        return web.json_response([_shown(delivery) for delivery in self._fake.delivered])


def _shown(delivery: Delivery) -> dict[str, Any]:
    return {
        "messageId": delivery.message_id,
        "url": delivery.url,
        "method": delivery.method,
        "headers": list(delivery.headers.items()),
        "body": base64.b64encode(delivery.body).decode("ascii"),
        "retried": delivery.retried,
        "at": milliseconds(delivery.at),
        "status": delivery.answer.status,
        "error": delivery.answer.error,
    }


async def _object(request: web.Request) -> dict[str, Any]:
    try:
        wanted = await request.json()
    except ValueError as error:
        raise Refused("the body is not JSON") from error
    if not isinstance(wanted, dict):
        raise Refused("the body must be a JSON object")
    return wanted
