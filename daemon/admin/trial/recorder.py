"""A server on loopback between our adapters and a provider: passes a call on and keeps what came back, byte by byte.

The adapters are the daemon's own and notice nothing; the way out (name, TLS, proxy) is taken here, where its exceptions
can be told apart. Keeps no header of ours, so no key.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

import aiohttp
import yarl
from aiohttp import web

CONNECT_S: Final = 10.0
SILENCE_S: Final = 60.0
STILL_OPEN_S: Final = 0.5  #: a body that ends sooner after its last byte was about to end by itself
BODY_BYTES_MAX: Final = 4 * 1024 * 1024
_OURS: Final = frozenset({"host", "content-length", "accept-encoding", "connection", "transfer-encoding"})
_THEIRS: Final = ("Content-Type", "Retry-After", "x-request-id")


@dataclass(slots=True)
class Exchange:
    """One call as it went. `failure`: why there is no (whole) answer. `left_open`: we left while the body was open."""

    status: int = 0
    content_type: str = ""
    chunks: list[tuple[float, bytes]] = field(default_factory=list)  #: seconds since the call, and the bytes
    failure: Exception | None = None
    left_open: bool = False

    @property
    def body(self) -> bytes:
        """All that came."""
        return b"".join(data for _, data in self.chunks)


class Recorder:
    """`async with Recorder(base_url, proxy) as recorder:` calls of `recorder.url` go to `base_url`."""

    def __init__(self, base_url: str, proxy: str = "") -> None:
        self._base = base_url
        self._proxy = proxy or None
        self._runner: web.AppRunner | None = None
        self._http: aiohttp.ClientSession | None = None
        self.exchanges: list[Exchange] = []
        self.url = ""

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_S, sock_connect=CONNECT_S, sock_read=SILENCE_S),
            cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False,
        )  # fmt: skip
        app = web.Application(client_max_size=BODY_BYTES_MAX)
        app.router.add_post("/{path:.*}", self._pass_on)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
        if self._http is not None:
            await self._http.close()

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        assert self._http is not None
        exchange = Exchange()
        self.exchanges.append(exchange)
        loop = asyncio.get_running_loop()
        began = loop.time()
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _OURS}
        out = web.StreamResponse()
        try:
            async with self._http.post(
                yarl.URL(self._base + request.raw_path, encoded=True), data=await request.read(), proxy=self._proxy,
                headers=headers | {"Accept-Encoding": "identity"}, allow_redirects=False,
            ) as answer:  # fmt: skip
                exchange.status = answer.status
                exchange.content_type = answer.headers.get("Content-Type", "")
                out.set_status(answer.status)
                out.headers.update({name: answer.headers[name] for name in _THEIRS if name in answer.headers})
                await out.prepare(request)
                while data := await answer.content.readany():
                    exchange.chunks.append((loop.time() - began, data))
                    await out.write(data)
        except asyncio.CancelledError:  # our adapter has read enough
            last_s = exchange.chunks[-1][0] if exchange.chunks else 0.0
            exchange.left_open = loop.time() - began - last_s >= STILL_OPEN_S
            raise
        except (aiohttp.ClientError, OSError, ValueError) as failure:
            exchange.failure = failure
            if request.transport is not None:
                request.transport.abort()
            return out
        await out.write_eof()
        return out
