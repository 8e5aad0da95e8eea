"""The gateway's doors: routes of the parts, and what holds for each of them.

One wrapper around every handler: it turns what went wrong into an answer, counts, and writes one line about refusals,
without query strings, which may hold a token. Headers for browsers (CORS by `ALLOWED_ORIGINS`, security) are set on
every answer, streams included.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from aiohttp import web

from daemon.domain.messages import BODY_BYTES_MAX
from daemon.gateway.responses import as_refused, json_answer, refusal
from daemon.observability.logging import logger
from daemon.observability.metrics import CONTENT_TYPE, Metrics
from daemon.ports import Clock

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Check = Callable[[], Awaitable[str]]  #: "" or why it does not hold

_log = logger("gateway")

_BEGUN: Final = web.RequestKey("begun", bool)  #: set once the head of the answer is written
_SECURITY: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",  # a token may stand in the address
    "Cross-Origin-Resource-Policy": "cross-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Server": "qstreamd",
}
_PREFLIGHT: Final = {
    "Access-Control-Allow-Methods": "GET, POST, PUT",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, Last-Event-ID, X-API-Key",
    "Access-Control-Max-Age": "600",
}


class Part(Protocol):
    """A part of the gateway: its routes."""

    def routes(self) -> list[web.RouteDef]:
        """What to add to the application."""


class Gateway:
    """The application over its parts. `checks` names what must hold to be ready; `closed`: why no call is taken now."""

    def __init__(
        self,
        parts: Sequence[Part],
        checks: Mapping[str, Check],
        origins: Collection[str],
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self._parts = parts
        self._checks = checks
        self._origins = frozenset(origins)
        self._metrics = metrics
        self._clock = clock
        self.closed = ""

    def app(self) -> web.Application:
        """All routes, ready for a runner."""
        app = web.Application(client_max_size=BODY_BYTES_MAX, middlewares=[self._wrap])
        app.on_response_prepare.append(self._dress)
        for part in self._parts:
            app.add_routes(part.routes())
        app.router.add_get("/healthz/live", self._live)
        app.router.add_get("/healthz/ready", self._ready)
        app.router.add_get("/metrics", self._render)
        return app

    @web.middleware
    async def _wrap(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        route, began, status = _route(request), self._clock.monotonic(), 499  # 499: the client left first
        try:
            response = self._preflight(request) if request.method == "OPTIONS" else await handler(request)
            status = response.status
        except Exception as problem:
            if request.get(_BEGUN):  # a stream is half-way: all that is left is to cut it
                raise
            refused = as_refused(problem)
            status = refused.status
            log = _log.error if status == 500 else _log.warning
            log("call.refused", route=route, status=status, why=refused, exc_info=problem if status == 500 else None)
            response = refusal(refused)
            if isinstance(problem, web.HTTPMethodNotAllowed):
                response.headers["Allow"] = ", ".join(sorted(problem.allowed_methods))
        finally:
            self._metrics.gateway_requests.labels(route, str(status)).inc()
            if not route.endswith(("/events", "/ws")):
                self._metrics.gateway_request_seconds.labels(route).observe(self._clock.monotonic() - began)
        return response

    async def _dress(self, request: web.Request, response: web.StreamResponse) -> None:
        request[_BEGUN] = True
        response.headers.update(_SECURITY)
        if "Cache-Control" not in response.headers:
            response.headers["Cache-Control"] = "no-store"
        origin = request.headers.get("Origin")
        if self._origins:
            response.headers.add("Vary", "Origin")
        if origin is None:
            return
        if origin in self._origins:
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Allow-Credentials"] = "true"
        elif "*" in self._origins:
            response.headers["Access-Control-Allow-Origin"] = "*"
        else:
            return
        response.headers["Access-Control-Expose-Headers"] = "Retry-After"

    def _preflight(self, request: web.Request) -> web.StreamResponse:
        origin = request.headers.get("Origin", "")
        allowed = origin in self._origins or "*" in self._origins or urlsplit(origin).netloc == request.host
        return web.Response(status=204, headers=_PREFLIGHT if allowed else {})

    async def _live(self, _: web.Request) -> web.StreamResponse:
        return json_answer(200, {"status": "live"})

    async def _ready(self, _: web.Request) -> web.StreamResponse:
        if self.closed:
            return json_answer(503, {"status": self.closed})
        found = {name: await check() for name, check in self._checks.items()}
        ready = not any(found.values())
        body: dict[str, Any] = {"status": "ready" if ready else "not ready"}
        body["checks"] = {name: why or "ok" for name, why in found.items()}
        return json_answer(200 if ready else 503, body)

    async def _render(self, _: web.Request) -> web.StreamResponse:
        return web.Response(body=self._metrics.render(), headers={"Content-Type": CONTENT_TYPE})


def _route(request: web.Request) -> str:
    """The pattern of the path, a closed set; never the path itself, which may hold anything."""
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "unknown"
