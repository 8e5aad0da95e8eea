"""Answers that are wrong below their bodies: broken HTTP, encodings, statuses, bodies of refusals."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import pytest

from daemon.domain.errors import Code
from tests.conformance.test_vendor_answers import outcome
from tests.conformance.vendor_server import Case, RawServer, Script, adapter, raw_server, request

OK: Final = b"HTTP/1.1 200 OK\r\n"
CHUNKED: Final = OK + b"Transfer-Encoding: chunked\r\n\r\n"


def refusal(status: int, body: bytes, more: bytes = b"") -> bytes:
    """A whole answer; `more` headers."""
    head = b"HTTP/1.1 %d No\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n"
    return head % (status, more, len(body)) + body


ANSWERS: Final = {
    "no bytes": (b"", Code.LLM_ERROR),
    "no HTTP": (b"hello\r\n\r\n", Code.LLM_ERROR),
    "a bad status": (b"HTTP/1.1 abc OK\r\n\r\n", Code.LLM_ERROR),
    "a bad header": (OK + b"X: \x00\r\nContent-Length: 0\r\n\r\n", Code.LLM_ERROR),
    "a large header": (OK + b"X: " + b"a" * 20_000 + b"\r\n\r\n", Code.LLM_ERROR),
    "a bad chunk": (CHUNKED + b"zz\r\nhello\r\n", Code.LLM_ERROR),
    "a bad chunk later": (CHUNKED + b"5\r\nhello\r\nXYZ\r\n", Code.LLM_ERROR),
    "a short body": (OK + b"Content-Length: 200\r\n\r\n{}", Code.LLM_ERROR),
    "bad gzip": (OK + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\n0123", Code.LLM_ERROR),
    "an unknown encoding": (OK + b"Content-Encoding: klingon\r\nContent-Length: 2\r\n\r\n{}", Code.LLM_ERROR),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", Code.LLM_ERROR),
    "created": (refusal(201, b"{}"), Code.LLM_ERROR),
    "not modified": (b"HTTP/1.1 304 Not Modified\r\n\r\n", Code.LLM_ERROR),
    "a status of nobody": (refusal(999, b""), Code.LLM_ERROR),
    "500, no UTF-8": (refusal(500, b"\xff\xfe{"), Code.LLM_ERROR),
    "500, bad gzip": (refusal(500, b"0123", b"Content-Encoding: gzip\r\n"), Code.LLM_ERROR),
    "500, deep": (refusal(500, b'{"a":' * 9000), Code.LLM_ERROR),
    "400, cut": (refusal(400, b'{"error": '), Code.LLM_REFUSED),
    "400, a list": (refusal(400, b"[1, 2]"), Code.LLM_REFUSED),
    "400, a number": (refusal(400, b"7"), Code.LLM_REFUSED),
    "400, a text": (refusal(400, b'{"error": "nope"}'), Code.LLM_REFUSED),
    "400, other types": (refusal(400, b'{"error": {"code": {}, "message": [], "details": 7}}'), Code.LLM_REFUSED),
    "402, a text": (refusal(402, b'{"error": "Insufficient Balance"}'), Code.LLM_QUOTA),
    "429, cut": (b"HTTP/1.1 429 No\r\nContent-Length: 1000\r\n\r\n{", Code.RATE_LIMITED),
    "429, a time that is none": (refusal(429, b"", b"Retry-After: nan\r\n"), Code.RATE_LIMITED),
    "429, a date that is none": (refusal(429, b"", b"Retry-After: Mon, 99 Foo 2026\r\n"), Code.RATE_LIMITED),
}


@pytest.fixture
async def server() -> AsyncIterator[RawServer]:
    async with raw_server() as found:
        yield found


@pytest.mark.parametrize("shape", ["g", "o"])
@pytest.mark.parametrize("name", ANSWERS)
async def test_what_is_no_answer_is_an_error_of_ours(server: RawServer, name: str, shape: str) -> None:
    """A refusal is told by its status, whatever its body is; nothing of a body is passed on."""
    server.raw, code = ANSWERS[name]
    for stream in (True, False):
        provider = adapter(server.url, gemini=shape == "g")  # a new connection: the old one was hung up on
        try:
            seen = await outcome(provider, request(Case(shape, Script([])), stream=stream), within_s=10)
        finally:
            await provider.aclose()
        assert seen.error is not None and seen.error.code is code, seen
