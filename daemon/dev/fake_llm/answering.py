"""One answer on its way: pacing, keep-alives and everything that can go wrong in the middle."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from random import Random
from types import MappingProxyType
from typing import Final

import msgspec
from aiohttp import web

from daemon.dev.fake_llm import writing
from daemon.dev.fake_llm.calls import Call
from daemon.dev.fake_llm.faults import Fault
from daemon.dev.fake_llm.shapes import Asked, Counted, Shape

#: how an answer ends after its first half
_ENDS_HALFWAY: Final = MappingProxyType({"blocked-mid": "blocked", "length": "length"})
_BREAKS_HALFWAY: Final = frozenset({"stall-mid", "cut", "no-finish", "bad-json", "error-mid"})
#: endings without a word before them
_WORDLESS: Final = MappingProxyType({"blocked": "blocked-prompt", "empty": "stop", "overloaded": "overloaded"})


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds: for a token, before the first one, between keep-alives, for a token of `slow-drip`."""

    token_s: float
    first_token_s: float
    keepalive_s: float
    drip_s: float


class Answering:
    """Writes one answer. `cached`: the conversation was seen before, so most of its input counts as cached."""

    def __init__(
        self, request: web.Request, shape: Shape, asked: Asked, fault: Fault | None, text: str, call: Call, pace: Pace,
        *, cached: bool,
    ) -> None:  # fmt: skip
        self._request, self._shape, self._asked, self._call, self._pace = request, shape, asked, call, pace
        self._kind = fault.kind if fault else ""
        self._cached = cached
        self._gone = False
        self._out = web.StreamResponse(headers={
            "Content-Type": "text/event-stream" if asked.stream else "application/json",
            "x-request-id": f"fake-{call.id}",
        })  # fmt: skip
        thoughts = writing.thoughts(asked.prompt, Random(asked.conversation)) if asked.thinks else ""
        self._thoughts, self._text = writing.tokens(thoughts), writing.tokens(text)
        self._reason = "stop"
        if asked.max_tokens is not None and len(self._text) > asked.max_tokens:
            self._text, self._reason = self._text[: asked.max_tokens], "length"
        if self._kind in _BREAKS_HALFWAY or self._kind in _ENDS_HALFWAY:
            self._text = self._text[: max(len(self._text) // 2, 1)]
        if self._kind in _WORDLESS:
            self._thoughts, self._text = [], []
        self._reason = _WORDLESS.get(self._kind) or _ENDS_HALFWAY.get(self._kind) or self._reason
        self._token_s = pace.drip_s if self._kind == "slow-drip" else pace.token_s

    async def run(self) -> web.StreamResponse:
        """Until the last byte is out. Leaves by CancelledError or ConnectionError when the client goes away."""
        if self._kind == "reset":
            self._hang_up()
            return self._out
        await self._out.prepare(self._request)
        if self._kind == "garbage":
            await self._out.write(b"<html><body>Bad gateway</body></html>")
        elif self._kind == "stall-first":
            await _forever()
        elif self._kind == "keepalive-forever":
            await self._wait(float("inf"))
        else:
            await self._wait(self._pace.first_token_s)
            await (self._stream() if self._asked.stream else self._send_whole())
        if not self._gone:
            await self._out.write_eof()
        return self._out

    async def _stream(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        for thought, tokens in ((True, self._thoughts), (False, self._text)):
            for token in tokens:
                await self._out.write(self._shape.delta(token, thought=thought))
                self._call.tokens += 1
                due += self._token_s
                await asyncio.sleep(due - loop.time())
        if not await self._broken():
            await self._out.write(self._shape.ended(self._reason, self._used()))

    async def _send_whole(self) -> None:
        await self._wait(self._token_s * len(self._thoughts + self._text))
        self._call.tokens = len(self._thoughts + self._text)
        body = self._shape.whole("".join(self._text), "".join(self._thoughts), self._reason, self._used())
        if self._kind in _BREAKS_HALFWAY:
            await self._out.write(body[: len(body) // 2])
            await self._broken()
        else:
            await self._out.write(body)

    async def _broken(self) -> bool:
        """What goes wrong after the first half; True when nothing may follow."""
        if self._kind == "stall-mid":
            await _forever()
        if self._kind == "cut":
            await asyncio.sleep(0.02)  # what was written goes out first
            self._hang_up()
        if self._asked.stream and self._kind == "bad-json":
            await self._out.write(b'data: {"id": "chatcmpl-fake", "choices": [{"del\n\n')
        if self._asked.stream and self._kind == "error-mid":
            await self._out.write(b"data: " + msgspec.json.encode(self._shape.refusal(500)) + b"\n\n")
        return self._kind in ("cut", "no-finish", "error-mid")

    async def _wait(self, seconds: float) -> None:
        """Wait as DeepSeek does: comments in a stream, blank lines before a whole answer. Gemini waits in silence."""
        talks = self._shape.name == "openai" or self._kind == "keepalive-forever"
        beat = (b": keep-alive\n\n" if self._asked.stream else b"\n") if talks else b""
        left = seconds
        while left > 0:
            if beat:
                await self._out.write(beat)
            await asyncio.sleep(min(self._pace.keepalive_s, left))
            left -= self._pace.keepalive_s

    def _hang_up(self) -> None:
        self._gone = True
        if self._request.transport is not None:
            self._request.transport.abort()

    def _used(self) -> Counted:
        size = writing.count(self._asked.system + self._asked.prompt) + 258 * len(self._asked.images)
        return Counted(size, size // 64 * 64 if self._cached else 0, len(self._text), len(self._thoughts))


def refusal_of(shape: Shape, fault: Fault, asked: Asked, key: str) -> web.Response | None:
    """The answer to a fault that is a refusal before any model spoke; None for the others."""
    headers = {"Retry-After": f"{fault.after_s:g}"} if fault.after_s is not None else {}
    if fault.kind == "echo-secret":
        said = f"{key} said {asked.system} {asked.prompt}"
        error = {"message": said, "type": said, "code": said, "status": said, "details": [{"reason": said}]}
        return web.json_response({"error": error}, status=400)
    if fault.kind == "quota":
        return web.json_response(shape.refusal(429, quota=True), status=429, headers=headers)
    if fault.status is None:
        return None
    return web.json_response(shape.refusal(fault.status, after_s=fault.after_s), status=fault.status, headers=headers)


async def _forever() -> None:
    await asyncio.Event().wait()
