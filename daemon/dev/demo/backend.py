"""The customer's backend of the demo, and the page that it serves: what stands between a browser and the gateway.

It holds the API key, which the browser never sees, says who the user is, submits tasks and mints upload tickets. The
page follows, uploads and cancels at the gateway itself, over a line that it may cut to see what happens.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from importlib.resources import files
from typing import Any, Final, Self

import aiohttp
import msgspec
from aiohttp import web

from daemon.config.types import SecretStr
from daemon.contract_docs import reducer
from daemon.dev.demo.line import Line
from daemon.domain.clock import SystemClock
from daemon.gateway.tokens import Tokens

SUBMIT_S: Final = 10.0
TEXT_CHARS_MAX: Final = 20_000
USER: Final = "visitor"  #: a real backend knows who is signed in
REDUCER: Final = "qstreamd.js"  #: as docs/contract/ has it for every front end
#: address -> file and type; the browser gets nothing from anywhere else
_FILES: Final = {
    "/": ("web/index.html", "text/html"),
    "/page.css": ("web/page.css", "text/css"),
    "/page.js": ("web/page.js", "text/javascript"),
    "/words.js": ("web/words.js", "text/javascript"),
    f"/{REDUCER}": (REDUCER, "text/javascript"),
    "/sample.jpg": ("input/job.jpg", "image/jpeg"),
}
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self' {line}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class _Ask(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    mode: str
    tier: str
    text: str = ""
    language: str = "en"
    file_id: str | None = None


_asked: Final = msgspec.json.Decoder(_Ask).decode


class Backend:
    """An async context manager; serves from entry on. `gateway` names the gateway's address once it is asked for.

    `trouble` makes the next answer of the models break off; None: there is no such button.
    """

    def __init__(self, gateway: Callable[[], str], trouble: Callable[[], object] | None = None) -> None:
        self.api_key, self._secret = secrets.token_urlsafe(24), secrets.token_urlsafe(32)
        self.line = Line(gateway)
        self._gateway = gateway
        self._trouble = trouble
        self._tokens = Tokens(SecretStr(self._secret), SystemClock(), ttl_s=300)
        self._stack = AsyncExitStack()
        self._http: aiohttp.ClientSession
        self.url = ""

    @property
    def gateway_settings(self) -> dict[str, str]:
        """What the gateway has to know of us: our key, the secret of tokens, and whose page may read its answers."""
        return {
            "API_KEYS": f"demo:{self.api_key}",
            "TASK_TOKEN_SECRET": self._secret,
            "ALLOWED_ORIGINS": f"{self.url},{self.url.replace('127.0.0.1', 'localhost')}",
        }

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.line)
            timeout = aiohttp.ClientTimeout(SUBMIT_S)
            self._http = await stack.enter_async_context(aiohttp.ClientSession(timeout=timeout))
            runner = web.AppRunner(self._app(), access_log=None, shutdown_timeout=0.5)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def _app(self) -> web.Application:
        app = web.Application(client_max_size=256 * 1024)
        for path in _FILES:
            app.router.add_get(path, self._file)
        app.router.add_get("/api/demo", self._demo)
        app.router.add_post("/api/ask", self._ask)
        app.router.add_post("/api/ticket", self._ticket)
        app.router.add_post("/api/cut", self._cut)
        app.router.add_post("/api/trouble", self._make_trouble)
        return app

    async def _file(self, request: web.Request) -> web.Response:
        name, kind = _FILES[request.path]
        body = reducer.module().encode() if name == REDUCER else (files("daemon.dev.demo") / name).read_bytes()
        headers = {key: value.replace("{line}", self.line.url) for key, value in _HEADERS.items()}
        charset = None if kind.startswith("image/") else "utf-8"
        return web.Response(body=body, content_type=kind, charset=charset, headers=headers)

    async def _demo(self, _: web.Request) -> web.Response:
        """What the page has to know: where the gateway is, and something to send."""
        return _json(200, {
            "gateway": self.line.url,
            "trouble": self._trouble is not None,
            "samples": {"en": _text("resume.txt"), "zh": _text("resume.zh.txt")},
        })  # fmt: skip

    async def _ask(self, request: web.Request) -> web.Response:
        """Submit with our key; the gateway's answer, refusals included, is the browser's."""
        try:
            task = _task(_asked(await request.read()))
        except msgspec.ValidationError as error:
            return _json(400, {"code": "INVALID_PAYLOAD", "message": str(error)})
        headers = {"Authorization": f"Bearer {self.api_key}"}
        try:
            async with self._http.post(f"{self._gateway()}/api/tasks", json=task, headers=headers) as answer:
                return web.Response(
                    status=answer.status, body=await answer.read(), content_type="application/json",
                    headers={"Cache-Control": "no-store"},
                )  # fmt: skip
        except (aiohttp.ClientError, TimeoutError):
            return _json(503, {"code": "WORKER_OVERLOADED", "message": "the gateway does not answer", "retryAfter": 5})

    async def _ticket(self, _: web.Request) -> web.Response:
        return _json(200, {"ticket": self._tokens.upload_ticket(USER)})

    async def _cut(self, _: web.Request) -> web.Response:
        return _json(200, {"cut": self.line.cut()})

    async def _make_trouble(self, _: web.Request) -> web.Response:
        if self._trouble is not None:
            self._trouble()
        return _json(200, {})


def _task(ask: _Ask) -> dict[str, Any]:
    """The message for what was asked."""
    text, chinese = ask.text[:TEXT_CHARS_MAX], ask.language == "zh"
    task: dict[str, Any] = {"userId": USER, "mode": ask.mode, "tier": ask.tier}
    match ask.mode:
        case "vision":
            images = [{"fileId": ask.file_id}] if ask.file_id else []
            role = {"role": text.strip() or "web designer", "work": "this page"}
            return task | {"serviceId": "portfolio-feedback", "images": images, "variables": role}
        case "batch":
            job = {"resume": text, "job": _text("job.txt")}
            return task | {"serviceId": "cover-letter", "variables": job}
        case _:
            role = {"role": "前端工程师" if chinese else "Senior Backend Engineer"}
            return task | {"serviceId": "resume-review", "variables": {**role, "resume": text}}


def _text(name: str) -> str:
    return (files("daemon.dev.demo") / "input" / name).read_text("utf-8").strip()


def _json(status: int, body: Mapping[str, Any]) -> web.Response:
    return web.Response(
        status=status, body=msgspec.json.encode(body), content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )  # fmt: skip
