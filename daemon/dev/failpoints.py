"""Crash points: let this process die, fail, hang or lose a reply right before or after one named effect.

An effect is one flush to Redis or one statement to Postgres; nothing else of a daemon or relay outlives it, so these
are all the places where a crash can make a difference. Called by `processes` when `QSTREAMD_FAILPOINTS`
is set, which needs `NODE_ENV=development`; production code holds no hook and pays nothing.

    QSTREAMD_FAILPOINTS=finish:after=kill                    right after the commit
    QSTREAMD_FAILPOINTS=begin:before=raise,ack:after=lose@2   the second ack; each point acts once
    QSTREAMD_FAILPOINTS=finish:before=kill#t7                 only where the effect is of task t7: a poison

Names: scripts that share a flush joined by `+` (`begin+append`, `ack`), statements by their name in `queries.sql`
(`claim`, `finish`, `leave`), and `read` for the blocked read of the work streams. A relay has `accept` and `append`
(its `queued`).
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

import asyncpg

from daemon.domain.errors import ConfigError, RedisAway
from daemon.queues.streams import WorkStreams
from daemon.redis_client.batched_scripts import BatchedScripts
from daemon.redis_client.scripts import Call, Scripts
from daemon.store.pool import Pool
from daemon.store.sql import load_queries

When = Literal["before", "after"]
ACTIONS: Final = ("kill", "raise", "lose", "stall", "print")
STALL_S: Final = 6.0  #: three leases of the crash points: the process stands still, as under SIGSTOP


class Failpoint(Exception):
    """The error that `raise` raises: one that nobody foresaw."""


@dataclass(slots=True)
class _Point:
    effect: str
    when: When
    action: str
    at: int  #: which pass triggers it, from 1
    task: str  #: only effects that carry this task id; "" any
    passes: int = 0

    @classmethod
    def parse(cls, text: str) -> _Point:
        place, _, what = text.strip().partition("=")
        effect, _, when = place.partition(":")
        what, _, task = what.partition("#")
        action, _, at = what.partition("@")
        if when not in ("before", "after") or action not in ACTIONS or not (at or "1").isdigit():
            allowed = f"effect:before|after={'|'.join(ACTIONS)}[@nth][#task]"
            raise ConfigError([f"QSTREAMD_FAILPOINTS={text!r} is not allowed; allowed: {allowed}"])
        return cls(effect, cast("When", when), action, int(at or 1), task)

    def matches(self, effect: str, what: object) -> bool:
        """Whether a flush carries all the scripts that were named; those of other tasks may share it."""
        named = self.effect == "*" or set(self.effect.split("+")) <= set(effect.split("+"))
        return named and (not self.task or self.task in repr(what))


class _Points:
    """What was asked for, and how often each place was passed."""

    def __init__(self, text: str) -> None:
        self._points = [_Point.parse(part) for part in text.split(",")]

    async def around(self, effect: str, lost: Exception, do: Callable[[], Awaitable[Any]], what: object = None) -> Any:
        """The effect, which carries `what`, with its points; `lost` is how a lost reply looks at this place."""
        self._pass(effect, "before", lost, what)
        answer = await do()
        self._pass(effect, "after", lost, what)
        return answer

    def _pass(self, effect: str, when: When, lost: Exception, what: object) -> None:
        for point in self._points:
            if point.when == when and point.matches(effect, what):
                point.passes += 1
                if point.action == "print" or point.passes == point.at:
                    self._act(point, effect, lost)

    @staticmethod
    def _act(point: _Point, effect: str, lost: Exception) -> None:
        print(f'{{"event": "failpoint", "effect": "{effect}", "when": "{point.when}"}}', file=sys.stderr, flush=True)
        match point.action:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(60)  # the signal arrives within microseconds; nothing may run until then
            case "raise":
                raise Failpoint(effect)
            case "lose":
                raise lost
            case "stall":
                time.sleep(STALL_S)
                print('{"event": "failpoint.over"}', file=sys.stderr, flush=True)


def install(text: str) -> None:
    """Arm the points that `text` names, for the life of this process. Raises `ConfigError` for what it can't read."""
    points = _Points(text)
    names = {sql: name for name, sql in load_queries().items()}
    each, gathered, once, wait = Scripts.run_each, BatchedScripts.run_each, Pool._once, WorkStreams.wait  # noqa: SLF001  # there is no hook, on purpose

    async def flush(self: Scripts, calls: Sequence[Call]) -> list[Any]:
        """What one caller asks for, even where its flush carries the calls of others too."""
        if isinstance(self, BatchedScripts):  # the flush of many: each of them had its points
            return await each(self, calls)
        done = await points.around(named(calls), RedisAway("lost"), lambda: each(self, calls), calls)
        return cast("list[Any]", done)

    async def ask(self: BatchedScripts, calls: Sequence[Call]) -> list[Any]:
        done = await points.around(named(calls), RedisAway("lost"), lambda: gathered(self, calls), calls)
        return cast("list[Any]", done)

    def named(calls: Sequence[Call]) -> str:
        return "+".join(dict.fromkeys(call.script.name for call in calls))

    async def statement(self: Pool, sql: str, args: tuple[object, ...]) -> Any:
        lost = asyncpg.ConnectionDoesNotExistError("lost")
        return await points.around(names.get(sql, "other"), lost, lambda: once(self, sql, args), args)

    async def read(self: WorkStreams, *args: Any) -> Any:
        # An empty read is no effect.
        found = await wait(self, *args)
        if found:
            await points.around("read", RedisAway("lost"), _nothing, found)
        return found

    Scripts.run_each = flush  # type: ignore[method-assign]
    BatchedScripts.run_each = ask  # type: ignore[method-assign]
    Pool._once = statement  # type: ignore[method-assign]  # noqa: SLF001
    WorkStreams.wait = read  # type: ignore[method-assign, assignment]


async def _nothing() -> None:
    """The read has happened."""
