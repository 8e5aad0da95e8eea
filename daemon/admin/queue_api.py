"""The admin API for queues, on the daemon's ops port: the same orders as on the command line.

Served only when ADMIN_TOKEN is set; without it, or with a wrong one, it looks as if it were not there or 401. A browser
of another site is refused, whatever it carries.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from typing import Any, Final

from aiohttp import web

from daemon.admin.queue_orders import Operator, QueueOrders, QueueView
from daemon.config.types import SecretStr
from daemon.domain.errors import DependencyAway, RedisFull
from daemon.domain.messages import read_body

BODY_BYTES_MAX: Final = 4096
REASON_CHARS_MAX: Final = 500
MOST: Final = 1_000_000_000
_LEAST: Final = {"parallelism": 1, "globalParallelism": 1, "maxSize": 0}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class QueueApi:
    """The routes. `queues` are the names that may be ordered about."""

    def __init__(self, orders: QueueOrders, token: SecretStr | None, queues: Callable[[], Sequence[str]]) -> None:
        self._orders = orders
        self._token = token
        self._queues = queues

    def routes(self) -> list[web.RouteDef]:
        """To be added to the ops server."""
        return [
            web.get("/api/admin/queues", self._guarded(self._list)),
            web.post("/api/admin/queues/{queue}/{order}", self._guarded(self._order)),
        ]

    def _guarded(self, handler: Handler) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            if self._token is None:
                raise web.HTTPNotFound
            given = request.headers.get("Authorization", "").removeprefix("Bearer ").encode("utf-8", "surrogateescape")
            if not hmac.compare_digest(given, self._token.get_secret_value().encode()):
                return _refusal(401, "UNAUTHORIZED", "a bearer token is needed")
            if request.headers.get("Sec-Fetch-Site", "none") not in {"none", "same-origin"}:
                return _refusal(403, "FORBIDDEN", "a page of another site may not order")
            try:
                return await handler(request)
            except (DependencyAway, RedisFull) as away:
                return _refusal(503, "UNAVAILABLE", str(away))

        return guarded

    async def _list(self, _: web.Request) -> web.Response:
        views = await self._orders.view(self._queues())
        return web.json_response({"queues": [_told(view) for view in views]})

    async def _order(self, request: web.Request) -> web.Response:
        queue, order = request.match_info["queue"], request.match_info["order"]
        if queue not in self._queues():
            return _refusal(404, "UNKNOWN_QUEUE", f"{queue[:80]!r} is not known")
        try:
            body = await _body(request)
            why = str(body.pop("reason", ""))[:REASON_CHARS_MAX]
            by = Operator(f"api:{str(body.pop('who', 'admin'))[:80]}", "admin", request.remote or "")
            told = await self._carry_out(queue, order, body, by, why)
        except ValueError as wrong:
            return _refusal(422, "INVALID", str(wrong))
        if told is None:
            return _refusal(404, "UNKNOWN_ORDER", "allowed: pause, resume, set, purge")
        return web.json_response({"queue": queue, "order": order, **told})

    async def _carry_out(
        self, queue: str, order: str, body: dict[str, Any], by: Operator, why: str
    ) -> dict[str, Any] | None:
        match order:
            case "pause":
                return {"told": await self._orders.pause([queue], by, why)}
            case "resume":
                await self._orders.resume([queue], by, why)
                return {}
            case "set":
                fields = _limits(body)
                await self._orders.set([queue], fields, by, why)
                return dict(fields)
            case "purge":
                if body.get("confirm") != queue:
                    raise ValueError('purge ends every waiting task: send {"confirm": the queue\'s name}')
                return {"ended": await self._orders.purge(queue, by, why)}
        return None


async def _body(request: web.Request) -> dict[str, Any]:
    if (request.content_length or 0) > BODY_BYTES_MAX:
        raise ValueError(f"at most {BODY_BYTES_MAX} bytes")
    if not request.can_read_body:
        return {}
    try:
        body = read_body(await request.read())
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(body, dict):
        raise ValueError("a JSON object is wanted")  # noqa: TRY004  # the caller's mistake, not ours
    return body


def _limits(body: dict[str, Any]) -> dict[str, int | None]:
    for name, value in body.items():
        if name not in _LEAST:
            raise ValueError(f"{name[:40]!r} is not known; allowed: {', '.join(_LEAST)}")
        if value is not None and (type(value) is not int or not _LEAST[name] <= value <= MOST):
            raise ValueError(f"{name}: a whole number from {_LEAST[name]} to {MOST}, or null to take it back")
    if not body:
        raise ValueError(f"name at least one of {', '.join(_LEAST)}")
    return body


def _told(view: QueueView) -> dict[str, Any]:
    depth = view.depth
    sizes = {name: getattr(depth, name) for name in ("waiting", "running", "delayed", "dead", "consumers")}
    return {"queue": view.queue, **sizes, "places": depth.occupancy, "control": asdict(view.control)}


def _refusal(status: int, code: str, message: str) -> web.Response:
    return web.json_response({"code": code, "message": message}, status=status)
