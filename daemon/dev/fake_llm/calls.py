"""Every call that the fake served, in order of arrival, append-only: the history that chaos runs are judged by."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec


@dataclass(slots=True)
class Call:
    """One request. Times are unix seconds; `ended` None: still open. No prompt is kept, only its hash."""

    id: int
    shape: str  #: openai | gemini
    model: str
    stream: bool
    user: str
    conversation: str  #: hash of user, system text and prompt
    images: int
    fault: str  #: "" when none
    began: float
    at_once: int  #: open calls of this model when this one began, itself included
    ended: float | None = None
    #: finished (all that was to be said went out), closed (the client went away), stopped (the fake went away)
    ending: str = ""
    tokens: int = 0  #: sent so far


class CallLog:
    """Appends, counts and, with a path, writes one JSON line for each beginning and each end."""

    def __init__(self, path: Path | None = None) -> None:
        self.calls: list[Call] = []
        self.max_at_once: Counter[str] = Counter()
        self._open: Counter[str] = Counter()
        self._ids = itertools.count(1)
        self._path = path
        self.stopping = False

    @contextmanager
    def call(self, fault: str, **told: Any) -> Iterator[Call]:
        """Open for as long as the block runs; leaving it by an exception means that somebody went away."""
        model = told["model"]
        self._open[model] += 1
        self.max_at_once[model] = max(self.max_at_once[model], self._open[model])
        call = Call(id=next(self._ids), fault=fault, began=_now(), at_once=self._open[model], **told)
        self.calls.append(call)
        self._write("began", call)
        try:
            yield call
            call.ending = "finished"
        except BaseException:
            call.ending = "stopped" if self.stopping else "closed"
            raise
        finally:
            call.ended = _now()
            self._open[model] -= 1
            self._write("ended", call)

    def clear(self) -> None:
        """Forget the past; calls that are open stay counted as open."""
        self.calls.clear()
        self.max_at_once = Counter(self._open)

    def told(self) -> dict[str, Any]:
        """For `GET /_fake/calls`."""
        return {"calls": [asdict(c) for c in self.calls], "maxAtOnce": dict(self.max_at_once), "now": _now()}

    def _write(self, event: str, call: Call) -> None:
        if self._path is not None:
            with self._path.open("ab") as out:
                out.write(msgspec.json.encode({"event": event, **asdict(call)}) + b"\n")


def _now() -> float:
    return datetime.now(UTC).timestamp()
