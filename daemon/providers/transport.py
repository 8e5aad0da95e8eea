"""The one HTTP engine under both vendors' SDKs: aiohttp, dressed as an httpx2 transport. Imported with an SDK only.

Why not the engines the SDKs bring: httpx2's own costs twice as much a chunk and its pool can lose slots when calls are
cancelled while it is full; a vendor's aiohttp dress reports a server that hung up as a failed connect. Here the cap on
connections is a number of ours, connecting (name, TCP, TLS and waiting for a place in the pool) has the only clock, and
closing an answer that was not read to its end closes its socket at once, without awaiting anything.
"""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

import aiohttp
import httpx2
import yarl

from daemon.domain.errors import ProviderError
from daemon.providers.body_end import BODY
from daemon.providers.lenient_json import Unreadable, documents

EVENT_END: Final = b"\n\n"
ERROR_BODY_BYTES_MAX: Final = 64 * 1024  #: of a refusal's body; a vendor's error is a few hundred bytes
KEEPALIVE_S: Final = 15.0  #: an idle connection older than this is not used again: the far end may just have dropped it


class AiohttpTransport(httpx2.AsyncBaseTransport):
    """Sends httpx2 requests through one aiohttp session, opened with the first request in the running loop.

    Raises only `httpx2.TransportError`s. The proxy is the one that it is given, never one of the environment's.
    """

    def __init__(self, *, connections_max: int, connect_timeout_s: float, proxy: str = "") -> None:
        self._connections_max = connections_max
        self._timeout = aiohttp.ClientTimeout(total=None, connect=connect_timeout_s)
        self._proxy = proxy or None
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """The open answer: status and headers are here, the body is read as it comes."""
        body = await request.aread()
        with _translated():
            answer = await self._opened().request(
                request.method,
                yarl.URL(str(request.url), encoded=True),
                headers=[(k.decode("latin-1"), v.decode("latin-1")) for k, v in request.headers.raw],
                data=io.BytesIO(body) if body else None,  # plain bytes over 1 MiB make aiohttp warn
                allow_redirects=False,
                proxy=self._proxy,
                timeout=self._timeout,
            )
        read = _Body(answer)
        return httpx2.Response(
            answer.status, headers=answer.raw_headers, stream=read, request=request, extensions={BODY: read}
        )

    async def aclose(self) -> None:
        """Close every connection, used or idle."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._connections_max, keepalive_timeout=KEEPALIVE_S),
                auto_decompress=False,  # httpx2 does it
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session


class _Body(httpx2.AsyncByteStream):
    """The bytes of one answer as they arrive; of a refusal, only the first 64 KiB."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self._answer = answer
        self._content = answer.content
        self._left = ERROR_BODY_BYTES_MAX if answer.status >= 400 else None
        self._closed = _close_of(answer)
        self._nudge = _Nudged()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:  # no context manager: this runs once for each token
            data = await self._content.readany()
        except (_Stopped, aiohttp.ClientError, OSError, ValueError) as error:
            data = self._buffered()
            if not data and error is self._nudge:
                self._content._exception = None  # noqa: SLF001  # the body goes on
                return EVENT_END
            if not data and isinstance(error, _Stopped):
                raise StopAsyncIteration from None
            if not data:
                raise _translate(error) from error
        if self._left is not None:
            data = data[: self._left]
            self._left -= len(data)
        if not data:
            if self._closed is not None and self._closed.done() and (lost := self._closed.exception()) is not None:
                raise httpx2.ReadError(type(lost).__name__)
            raise StopAsyncIteration
        return data

    def stop(self) -> None:
        """End the iteration after the bytes that are here, though the body is still open. Close it then."""
        self._content.set_exception(_Stopped())

    def nudge(self) -> None:
        """Let the iteration give an event's end, though none came: the event is whole, and its sender is silent."""
        if self._content.exception() is None and not self._content.is_eof():
            self._content.set_exception(self._nudge)

    def _buffered(self) -> bytes:
        """Bytes that came before the connection broke: once it has, aiohttp's public methods give only the error."""
        content = self._content
        return content._read_nowait(-1) if content._buffer else b""  # noqa: SLF001

    async def aclose(self) -> None:
        self._answer.close()


def _close_of(answer: aiohttp.ClientResponse) -> asyncio.Future[None] | None:
    """Of a body that only the end of its connection ends: that end. To aiohttp a reset is as good as any."""
    connection = answer.connection
    if connection is None or "Content-Length" in answer.headers or "Transfer-Encoding" in answer.headers:
        return None
    closed = connection.protocol.closed if connection.protocol is not None else None
    if closed is not None:
        closed.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    return closed


class _Stopped(Exception):
    """Nobody waits for the rest of a body."""


class _Nudged(_Stopped):
    """The event that was read is taken for whole; the body goes on."""


@contextmanager
def _translated() -> Iterator[None]:
    """Turn aiohttp's errors into httpx2's."""
    try:
        yield
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise _translate(error) from error


def _translate(error: Exception) -> httpx2.TransportError:
    if isinstance(error, aiohttp.ServerTimeoutError | TimeoutError):
        return httpx2.ConnectTimeout(str(error) or "connecting took too long")
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return httpx2.ProxyError(f"the proxy answered {error.status} to CONNECT")
    if isinstance(error, aiohttp.ClientConnectorError):
        return httpx2.ConnectError(str(error))
    if isinstance(error, aiohttp.ClientPayloadError | aiohttp.ServerDisconnectedError | OSError):
        return httpx2.ReadError(str(error) or type(error).__name__)
    return httpx2.RemoteProtocolError(type(error).__name__)


_OF_THE_BODY: Final = frozenset({b"content-encoding", b"content-length", b"transfer-encoding"})
#: set while an SDK makes a call whose open answer is wanted: `RawBodyClient` puts it here
_captured: ContextVar[list[httpx2.Response] | None] = ContextVar("qstreamd_captured", default=None)


@contextmanager
def capture_response() -> Iterator[list[httpx2.Response]]:
    """Inside, successful answers to a `RawBodyClient` go, still open, into the list; the SDK sees an empty answer."""
    captured: list[httpx2.Response] = []
    token = _captured.set(captured)
    try:
        yield captured
    finally:
        _captured.reset(token)


class RawBodyClient(httpx2.AsyncClient):
    """Lets an SDK build, sign and send a request and judge its status, and hands us the body to read.

    For an SDK without a public way to the raw lines. Of a refusal's body an SDK sees one JSON object or nothing: they
    raise their own errors over bodies that are cut, of another encoding or of another form.
    """

    async def send(self, request: httpx2.Request, *, stream: bool = False, **options: Any) -> httpx2.Response:
        """As httpx2 does it, but see `capture_response`."""
        captured = _captured.get()
        answer = await super().send(request, stream=True, **options)
        if not answer.is_success:
            return await _readable(answer)
        if captured is None:
            return answer
        captured.append(answer)
        return httpx2.Response(200, request=request, content=b"")


async def _readable(refusal: httpx2.Response) -> httpx2.Response:
    """The same with a body that every SDK can read; closed."""
    try:
        found = documents(await refusal.aread())
    except (httpx2.HTTPError, Unreadable, ProviderError):
        found = []
    finally:
        await refusal.aclose()
    headers = [(name, value) for name, value in refusal.headers.raw if name.lower() not in _OF_THE_BODY]
    content = json.dumps(found[0]).encode() if found else b""
    return httpx2.Response(refusal.status_code, headers=headers, content=content, request=refusal.request)
