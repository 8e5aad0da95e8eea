"""When to stop reading a body that stays open although its answer seems to be whole.

Some servers send the whole response and leave the connection open, or its last byte gets lost. Then the answer ends
without it: two seconds after its last payload where nothing more was expected, else after three times the longest
pause that this stream has made between two texts. Only one text came: just before the caller's own limit for a pause.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Final, Self

from daemon.providers.answer import Answer
from daemon.providers.lenient_json import is_whole
from daemon.providers.payloads import Payloads

BODY: Final = "qstreamd_body"  #: extension of a response of `transport`: its body, an iterator of bytes with `stop`
NOTHING_FOLLOWS_S: Final = 2.0
LINE_S: Final = 0.5  #: of silence after an event that lacks only its line end
PAUSES: Final = 3.0
#: the caller's clock ends a pause as a failure at `idle_s`; an answer that may be whole ends so much earlier
EARLIER_S: Final = 0.5
EARLIER_PART: Final = 0.1


class BodyEnd:
    """Watches one body; `with` it around the reading. One timer an answer, set when its end has come."""

    def __init__(self, answer: Answer, body: Any, idle_s: float, payloads: Payloads | None = None) -> None:
        self._payloads = payloads
        self._line_timer: asyncio.TimerHandle | None = None
        self.stopped: Exception | None = None  #: set when the body was still open
        self._answer = answer
        self._body = body
        self._idle_s = idle_s - min(EARLIER_S, idle_s * EARLIER_PART)
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._byte = self._payload = self._text = self._loop.time()
        self._texts = 0
        self._longest = 0.0

    def came(self, *, payload: bool, texts: int) -> None:
        """Bytes came, perhaps with a whole payload, perhaps with texts."""
        now = self._byte = self._loop.time()
        if payload:
            self._payload = now
        if texts:
            if self._texts and now - self._text > self._longest:
                self._longest = now - self._text
            self._text = now
            self._texts += texts
        if self._payloads is not None and self._payloads.waits and self._line_timer is None:
            self._line_timer = self._loop.call_at(now + LINE_S, self._line)
        if self._timer is None:
            if self._answer.may_end and self._body is not None:
                self._arm()
        elif payload and not texts and self._answer.may_end and self._due() < self._timer.when():
            self._timer.cancel()  # what came says that nothing follows: the end is nearer than it was
            self._arm()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for timer in (self._timer, self._line_timer):
            if timer is not None:
                timer.cancel()

    def _line(self) -> None:
        """An event is whole but for its line end, and nothing came for a while: it is read now."""
        self._line_timer = None
        if self._payloads is None or not self._payloads.waits:
            return
        if self._byte + LINE_S > self._loop.time():
            self._line_timer = self._loop.call_at(self._byte + LINE_S, self._line)
        elif is_whole(self._payloads.unfinished):
            self._body.nudge()

    def _due(self) -> float:
        latest = self._text + self._idle_s
        if self._answer.nothing_follows:
            return min(self._payload + NOTHING_FOLLOWS_S, latest)  # keep-alives after the end put nothing off
        pause_s = max(NOTHING_FOLLOWS_S, PAUSES * self._longest) if self._texts > 1 else self._idle_s
        return min(self._byte + pause_s, latest)

    def _arm(self) -> None:
        self._timer = self._loop.call_at(self._due(), self._fire)

    def _fire(self) -> None:
        self._timer = None
        if not self._answer.may_end:
            return
        if self._due() > self._loop.time():
            self._arm()
            return
        self.stopped = TimeoutError("the body stayed open")
        self._body.stop()
