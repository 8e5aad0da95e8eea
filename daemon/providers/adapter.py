"""What the vendors' adapters share: a client that is built once, a call from request to end, a place for faults.

A vendor's module says how its client is built, how a call is posted, what its SDK's errors mean and how an answer is
read. Nothing here retries, and no clock runs but the connect limit; the caller's clocks cancel.
"""

from __future__ import annotations

import asyncio
import importlib
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Generic, NotRequired, TypedDict, TypeVar, Unpack

from daemon.domain.errors import ProviderError
from daemon.domain.model_io import ModelRequest, Piece
from daemon.observability.logging import logger
from daemon.providers.answer import Answer
from daemon.providers.body_end import BODY, BodyEnd
from daemon.providers.error_mapping import Refusal, to_error
from daemon.providers.payloads import Payloads

if TYPE_CHECKING:
    import httpx2

_log = logger("providers")


class Connection(TypedDict):
    """Where a vendor is, how we sign, and at most how many connections."""

    api_key: str
    base_url: str
    connections_max: int
    connect_timeout_s: float
    proxy: NotRequired[str]  #: http://[user:password@]host:port; "": none


ClientT = TypeVar("ClientT")
AnswerT = TypeVar("AnswerT", bound=Answer)


class Adapter(ABC, Generic[ClientT, AnswerT]):
    """One vendor; see `ports.Provider`. The SDK is imported, in a thread, by the first call."""

    def __init__(self, name: str, answer: Callable[[], AnswerT], **connection: Unpack[Connection]) -> None:
        self._name = name
        self._answer = answer
        self._api_key = connection["api_key"]
        self._base_url = connection["base_url"]
        self._connections_max = connection["connections_max"]
        self._connect_timeout_s = connection["connect_timeout_s"]
        self._proxy = connection.get("proxy", "")
        self._client: ClientT | None = None
        self._http: httpx2.AsyncClient | None = None
        self._opening = asyncio.Lock()

    @abstractmethod
    def _build(self, http: httpx2.AsyncClient) -> ClientT:
        """The SDK's client over `http`; in a thread."""

    @abstractmethod
    def _posted(
        self, client: ClientT, request: ModelRequest, answer: AnswerT
    ) -> AbstractAsyncContextManager[httpx2.Response]:
        """The open answer to one call; closed, cancelled or failed, nothing stays open."""

    @abstractmethod
    def _sdk_errors(self) -> tuple[type[Exception], ...]:
        """What the SDK raises."""

    @abstractmethod
    def _error_of(self, error: Any, request: ModelRequest, answer: AnswerT) -> ProviderError | None:
        """Our error for one of those; None: the answer was complete all the same."""

    async def prepare(self) -> None:
        """See `ports.Provider.prepare`: the import of an SDK is no part of a model's time to its first token."""
        await self._opened()

    async def generate(self, request: ModelRequest) -> AsyncGenerator[Piece, None]:
        """See `ports.Provider.generate`."""
        client = self._client or await self._opened()
        http = importlib.import_module("httpx2")
        answer, payloads = self._answer(), Payloads()
        refused: ProviderError | None = None
        broken: BaseException | None = None
        try:
            async with self._posted(client, request, answer) as response:
                body = _arriving(response)
                waiting = payloads if body is response.extensions.get(BODY) else None
                with BodyEnd(answer, response.extensions.get(BODY), request.idle_s, waiting) as end:
                    async for chunk in body:
                        found = payloads.feed(chunk)
                        texts = 0
                        for data in found:
                            for delta in answer.take(data):
                                texts += 1
                                yield delta
                        if answer.over:
                            break
                        end.came(payload=bool(found), texts=texts)
                    broken = end.stopped
        except self._sdk_errors() as error:
            refused = self._error_of(error, request, answer)
        except http.HTTPError as error:
            broken = error
        finally:
            request.spent[:] = [answer.usage]
        if refused is None:
            try:
                rest = [d for data in payloads.end() for d in answer.take(data)] + answer.rest()
            finally:
                request.spent[:] = [answer.usage]
            for delta in rest:
                yield delta
            refused = answer.cut(broken) if broken is not None else None
        if refused is not None:
            raise refused  # out here, without a cause: the SDK's errors quote bodies, which may quote the prompt
        yield answer.finished()

    async def aclose(self) -> None:
        """See `ports.Provider.aclose`."""
        http, self._http, self._client = self._http, None, None
        if http is not None:
            await http.aclose()

    async def _opened(self) -> ClientT:
        async with self._opening:
            if self._client is None:
                # half a second of importing would stop every heartbeat of the process
                self._client = await asyncio.to_thread(self._open)
            return self._client

    def _open(self) -> ClientT:
        from daemon.providers.transport import AiohttpTransport, RawBodyClient

        transport = AiohttpTransport(
            connections_max=self._connections_max, connect_timeout_s=self._connect_timeout_s, proxy=self._proxy
        )
        self._http = RawBodyClient(transport=transport, timeout=None, trust_env=False)
        return self._build(self._http)

    def _error(self, refusal: Refusal) -> ProviderError:
        """The error of a refused call; a key that does not serve is shouted about."""
        if refusal.key_problem:
            _log.error("provider.key_refused", provider=self._name, detail=refusal.detail)
        return to_error(refusal)


def _arriving(response: httpx2.Response) -> AsyncIterator[bytes]:
    """The body as our transport reads it; the response's own layers, a third of a chunk's cost, only to decompress."""
    body: AsyncIterator[bytes] | None = response.extensions.get(BODY)
    plain = response.headers.get("Content-Encoding", "identity") == "identity"
    return response.aiter_bytes() if body is None or not plain else body
