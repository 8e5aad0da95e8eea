"""One attempt over HTTP, with QStash's headers and a real signature, and with the faults a message was given."""

from __future__ import annotations

import time
from collections import deque
from typing import Final

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from daemon.dev.fake_qstash.clock import Clock
from daemon.dev.fake_qstash.message import Answer, Delivery, Message
from daemon.dev.fake_qstash.mischief import TokenFault
from daemon.dev.fake_qstash.signing import TOKEN_LIFE_S, Keys, random_id, sign

MESSAGE_BYTES_MAX: Final = 1024 * 1024  # the free plan's limit, and the smallest of all; of an answer, too
RESPONSE_TIMEOUT_S: Final = 900.0  # the free plan's limit
_CONNECT_S: Final = 10.0
_OWN_AUTO_HEADERS: Final = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")


class Sender:
    """Sends and remembers. Timeouts are real seconds on whatever clock the fake runs: receivers live in real time."""

    def __init__(self, *, keys: Keys, clock: Clock, history_max: int) -> None:
        self.delivered: deque[Delivery] = deque(maxlen=history_max)
        self._keys = keys
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Ready to send."""
        # A connection for each attempt: a reused one can be dead, and aiohttp may then send a request twice.
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        self._session = aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False, trust_env=False
        )

    async def stop(self) -> None:
        """Connections closed. May be called twice, or early."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def send(self, message: Message) -> Answer:
        """What came of one attempt. Never raises for what receiver or network do; cancelling cuts the request."""
        headers = self._headers(message)
        at, retried = self._clock.now(), message.retried
        answer = await self._exchange(message, headers)
        self.delivered.append(
            Delivery(message.id, message.url, message.options.method, headers, message.body, retried, at, answer)
        )
        if retried < message.mischief.lost_reply:
            return Answer(error="the answer was lost on its way (mischief)")
        return answer

    async def _exchange(self, message: Message, headers: CIMultiDict[str]) -> Answer:
        if self._session is None:
            raise RuntimeError("the sender is not started")
        total_s = min(message.options.timeout_s or RESPONSE_TIMEOUT_S, RESPONSE_TIMEOUT_S)
        if message.retried == 0 and message.mischief.hang_up_s is not None:
            total_s = min(total_s, message.mischief.hang_up_s)
        try:
            async with self._session.request(
                message.options.method,
                URL(message.url, encoded=True),
                data=message.body,
                headers=headers,
                skip_auto_headers=_OWN_AUTO_HEADERS,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=total_s, sock_connect=_CONNECT_S),
            ) as response:
                body = await self._read(response.content)
                return Answer(response.status, tuple(response.headers.items()), body)
        except TimeoutError:
            return Answer(error=f"no answer within {total_s:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Answer(error=f"{type(error).__name__}: {error}")

    async def _read(self, content: aiohttp.StreamReader) -> bytes:
        """The answer's body, cut at the plan's message size as QStash does it."""
        body = bytearray()
        async for chunk in content.iter_any():
            body += chunk
            if len(body) >= MESSAGE_BYTES_MAX:
                break
        return bytes(body[:MESSAGE_BYTES_MAX])

    def _headers(self, message: Message) -> CIMultiDict[str]:
        headers: CIMultiDict[str] = CIMultiDict(message.options.forward)
        if message.options.content_type is not None:
            headers.setdefault("Content-Type", message.options.content_type)
        own = {
            "User-Agent": "Upstash-QStash",
            "Upstash-Message-Id": message.id,
            "Upstash-Retried": str(message.retried),
            "Upstash-Caller-Ip": message.caller_ip,
            "upstash-region": "US-EAST-1",
            "Upstash-Signature": self._signature(message),
        }
        headers.update({name: value for name, value in own.items() if value})
        return headers

    def _signature(self, message: Message) -> str | None:
        fault = message.mischief.token if message.retried < message.mischief.token_attempts else None
        key, url, body, issued_at = self._keys.current, message.url, message.body, time.time()
        match fault:
            case TokenFault.UNSIGNED:
                return None
            case TokenFault.NEXT_KEY:
                key = self._keys.next
            case TokenFault.FOREIGN_KEY:
                key = random_id("sig_", 32)
            case TokenFault.EXPIRED:
                issued_at -= 2 * TOKEN_LIFE_S
            case TokenFault.WRONG_BODY:
                body += b" "
            case TokenFault.WRONG_URL:
                url += "/elsewhere"
            case None:
                pass
        return sign(key, url=url, body=body, issued_at=issued_at)
