"""The daemon's own small HTTP server: is the loop alive, can it work, what are its numbers.

Loopback by default; `routes` are what else the process lets it serve.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from aiohttp import web

from daemon.config import OpsSettings
from daemon.observability.metrics import CONTENT_TYPE, Metrics

Check = Callable[[], Awaitable[str]]


async def responds(ask: Callable[..., Awaitable[object]], *args: object, limit_s: float = 1.0) -> str:
    """Whether a server answers `ask` in time: "" or what went wrong."""
    try:
        async with asyncio.timeout(limit_s):
            await ask(*args)
    except Exception as error:  # noqa: BLE001  # whatever it is, it is not ready
        return type(error).__name__
    return ""


class HealthServer:
    """`/healthz/live`, `/healthz/ready`, `/metrics`.

    `checks` names what must hold to be ready, `alive` is what only a restart cures; each returns "" or why not.
    `gather` brings the gauges up to date before a scrape: what it asks of servers is asked only when somebody scrapes.
    """

    def __init__(
        self,
        settings: OpsSettings,
        metrics: Metrics,
        checks: Mapping[str, Check],
        alive: Check | None = None,
        gather: Callable[[], Awaitable[object]] | None = None,
        routes: Sequence[web.RouteDef] = (),
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._checks = checks
        self._alive = alive
        self._gather = gather
        self._routes = routes
        self._runner: web.AppRunner | None = None
        self.address = ""

    async def start(self) -> None:
        """Listen, also beside another daemon of the same user (a rollover); OSError when others have the port."""
        app = web.Application()
        app.add_routes(
            [
                web.get("/healthz/live", self._live),
                web.get("/healthz/ready", self._ready),
                web.get("/metrics", self._render),
                *self._routes,
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0, keepalive_timeout=30.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._settings.host, self._settings.port, reuse_port=True)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.address = f"http://{host}:{port}"

    async def stop(self) -> None:
        """Stop listening; may be called twice or early."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def _live(self, _: web.Request) -> web.Response:
        why = await self._alive() if self._alive else ""
        return web.json_response({"status": why or "live"}, status=503 if why else 200)

    async def _ready(self, _: web.Request) -> web.Response:
        found = await self._found()
        ready = not any(found.values())
        body = {"status": "ready" if ready else "not ready", "checks": {n: why or "ok" for n, why in found.items()}}
        return web.json_response(body, status=200 if ready else 503)

    async def _render(self, _: web.Request) -> web.Response:
        if self._gather is not None:
            await self._gather()
        for name, why in (await self._found()).items():
            self._metrics.check_ok.labels(name).set(not why)
        return web.Response(body=self._metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    async def _found(self) -> dict[str, str]:
        """All checks side by side: each has its own limit, and a probe has little time."""
        return dict(zip(self._checks, await asyncio.gather(*(check() for check in self._checks.values())), strict=True))
