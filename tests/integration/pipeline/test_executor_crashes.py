"""Trouble at every port call of every course a task can take, and the promise that survives it.

The calls are not listed here: a first run counts them, then each is let fail in turn, before it was applied and after
(its reply was lost). Then another process takes over what was left. However it went: one result, one terminal event,
nothing left in Redis, and no model call after the result was committed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from daemon.domain.errors import Code, ModelUnavailable, ProviderError, RedisAway, RedisFull, Stopping, StoreAway
from daemon.domain.events import Channel, Event, EventDraft, EventType
from daemon.domain.messages import TaskIdentity
from daemon.pipeline.in_flight import InFlight
from daemon.pipeline.outcome import Abandoned
from daemon.ports import Appended, Permit
from tests.fakes import ANSWER, Crash, Step, Trouble, When, text
from tests.integration.pipeline.conftest import Bench, Process, message
from tests.leaks import Leaks
from tests.waiting import wait_until

FAILS: tuple[Step, ...] = (text("half"), ProviderError(detail="status 500"))


@dataclass(frozen=True)
class Course:
    """One way a task can go. `scripts` for the calls of the provider; `last` is the terminal event."""

    last: str
    scripts: tuple[tuple[Step, ...], ...] = (ANSWER,)
    fields: dict[str, Any] = field(default_factory=dict)
    #: done to the process and the delivery just before it runs for the first time
    prepare: Callable[[Bench, Process, InFlight], Any] = lambda *_: None


def stop_while_it_runs(_bench: Bench, _process: Process, in_flight: InFlight) -> None:
    """The daemon stops in the middle of the answer."""
    asyncio.get_running_loop().call_later(0.02, in_flight.scope.interrupt, Stopping("stop"))


async def ask_to_cancel(bench: Bench, _process: Process, in_flight: InFlight) -> None:
    """The user has cancelled before it began."""
    await bench.client.hset(f"{{task:{in_flight.task_id}:events}}:state", "cancel", 1)
    await bench.client.expire(f"{{task:{in_flight.task_id}:events}}:state", 60)


async def fill_the_guard(bench: Bench, process: Process, in_flight: InFlight) -> None:
    """Somebody holds the user's places for a little while."""
    assert in_flight.delivery.entry is not None
    for number in range(3):
        key = f"{{guard}}:user:{in_flight.delivery.entry.message.user_id}"
        await process.limiter.retake(f"other{number}", [Permit(key, 3)], 30)


COURSES = {
    "done": Course("done"),
    "json": Course("done", scripts=((text('{"a": 1}'), *ANSWER[-1:]),), fields={"service_id": "json"}),
    "fails, then done": Course("done", scripts=(FAILS, ANSWER)),
    "fails for good": Course("error LLM_ERROR", scripts=(FAILS,)),
    "refused": Course("error LLM_REFUSED", scripts=((ProviderError(code=Code.LLM_REFUSED),),)),
    "rate limited, then done": Course("done", scripts=((ModelUnavailable("RATE_LIMITED"),), ANSWER)),
    "falls back": Course("done", scripts=((ModelUnavailable("OVERLOADED"),), ANSWER), fields={"service_id": "two"}),
    "a bug, then done": Course("done", scripts=((ZeroDivisionError(),), ANSWER)),
    "unknown service": Course("error UNKNOWN_SERVICE", fields={"service_id": "nobody"}),
    "expired": Course("error EXPIRED", fields={"expires_at": 1.0}),
    "no input": Course("error CONTEXT_NOT_FOUND", fields={"variables": None}),
    "guard full": Course("done", prepare=fill_the_guard),
    "cancelled": Course("error CANCELLED", prepare=ask_to_cancel),
    "stopped, then done": Course("done", scripts=((text("half"), 0.3, *ANSWER), ANSWER), prepare=stop_while_it_runs),
}

#: how a call fails; whose error it is decides which ports it may befall
TROUBLES: dict[str, Callable[[], BaseException]] = {
    "crash": lambda: Crash("kill -9"),
    "cancel": asyncio.CancelledError,
    "away": lambda: RedisAway("connection lost"),
    "bug": lambda: ZeroDivisionError("a bug of ours"),
}


def error_of(kind: str, call: str, when: When) -> Callable[[], BaseException]:
    """The error that this port would raise; a full Redis applies nothing, so it is one of the errors before."""
    if kind != "away":
        return TROUBLES[kind]
    if call.startswith("ledger"):
        return lambda: StoreAway("no answer")
    return lambda: RedisFull("oom") if when == "before" else RedisAway("no answer")


async def first_run(bench: Bench, course: Course, task_id: str, trouble: Trouble | None) -> Process:
    """The task runs in a process of its own until it is over or the trouble comes."""
    process, in_flight = await arrive(bench, course, task_id)
    await live(bench, process, course, in_flight, trouble)
    return process


async def arrive(bench: Bench, course: Course, task_id: str) -> tuple[Process, InFlight]:
    """Accepted, and read by a process that has the task's name."""
    bench.plan(task_id, *course.scripts)
    process = bench.process(task_id)
    await bench.accept(message(task_id, **course.fields))
    return process, await process.fetch()


async def live(bench: Bench, process: Process, course: Course, in_flight: InFlight, trouble: Trouble | None) -> None:
    prepared = course.prepare(bench, process, in_flight)
    if asyncio.iscoroutine(prepared):
        await prepared
    process.recorder.trouble = trouble
    work = asyncio.ensure_future(process.run(in_flight))  # noqa: TID251  # awaited here
    try:
        await work
    except (Crash, asyncio.CancelledError):
        assert trouble is not None
    assert bench.provider.of[in_flight.task_id].open == 0, "a socket was left open"


def check_stream(events: list[Event], last: str) -> None:
    """`queued` once and first, one terminal event and last, attempts that rise, numbers without a hole."""
    types = [e.type for e in events]
    assert types.count(EventType.QUEUED) == 1
    assert types[0] == "queued"
    assert [e.terminal for e in events] == [False] * (len(events) - 1) + [True]
    end = events[-1]
    assert (f"error {end.data['code']}" if end.type == "error" else "done") == last
    attempts = [e.data["attempt"] for e in events]
    assert attempts == sorted(attempts)
    for attempt in set(attempts):
        numbers = [e.data["seq"] for e in events if e.data["attempt"] == attempt and e.type != "queued"]
        assert numbers == list(range(1, len(numbers) + 1))


async def check_end(bench: Bench, course: Course, task_id: str) -> None:
    """What users rely on, however it went."""
    events = await bench.events(task_id)
    check_stream(events, course.last)
    results, row = await bench.results(task_id), await bench.row(task_id)
    assert len(results) == (course.last == "done")
    assert row["state"] in {"done", "failed", "expired", "cancelled"}
    assert (row["state"] == "done") == (course.last == "done")
    if results:
        assert events[-1].data["resultRef"] == f"db:result:{task_id}"
        assert events[-1].data["contentSha256"] == results[0]["content_sha256"]
    assert await bench.left() == {}
    open_attempts = [a for a in await bench.attempts(task_id) if a[1] is None]
    assert open_attempts == []


@pytest.mark.parametrize("name", COURSES)
async def test_trouble_at_any_call_changes_nothing_that_users_rely_on(
    bench: Bench, name: str, no_key_left: Leaks
) -> None:
    """Exactly one result row, one terminal event, no place held, the entry gone, no call after the commit."""
    course = COURSES[name]
    plain = await first_run(bench, course, "plain", None)
    await bench.finish_all(bench.process("b"))
    calls = plain.recorder.calls
    points: dict[str, Trouble] = {
        f"{kind}-{when}-{at}-{call.replace('.', '-')}": Trouble(at, when, error_of(kind, call, when))
        for kind in TROUBLES
        for at, call in enumerate(calls)
        for when in ("before", "after")
    }
    arrived = [await arrive(bench, course, task_id) for task_id in points]
    await asyncio.gather(
        *(live(bench, process, course, in_flight, points[in_flight.task_id]) for process, in_flight in arrived)
    )
    committed = {task_id: bench.calls(task_id) for task_id in points if await bench.results(task_id)}
    await bench.finish_all(bench.process("b"))
    for task_id in ("plain", *points):
        try:
            await check_end(bench, course, task_id)
            assert bench.calls(task_id) == committed.get(task_id, bench.calls(task_id)), "called after the commit"
        except AssertionError as error:
            error.add_note(f"{task_id} of {calls}")
            raise
    tasks = [letter["taskId"] for letter in await bench.letters()]
    assert len(tasks) == len(set(tasks)), "two dead letters of one task"
    await wait_until(lambda: free(bench), description="every guard place given back or lapsed", within_s=2)


async def free(bench: Bench) -> bool:
    return not await bench.permits()


@pytest.mark.parametrize("script", [(text("half"), Crash()), (Crash(),)])
async def test_a_process_that_dies_in_the_model_call_costs_one_more_call(
    bench: Bench, script: tuple[Step, ...]
) -> None:
    """The answer was not committed, so it is asked for again; the viewer sees the text of one attempt."""
    course = Course("done", scripts=(script, ANSWER))
    process, in_flight = await arrive(bench, course, "t1")
    with pytest.raises(Crash):
        await process.run(in_flight)
    await bench.finish_all(bench.process("b"))
    await check_end(bench, course, "t1")
    assert bench.calls() == 2
    last = [e for e in await bench.events() if e.data["attempt"] == 2]
    assert "".join(e.data["delta"] for e in last if e.data.get("channel") == "text") == "the answer"


class FirstWordOnly:
    """A delta writer and its sink: Redis takes the first word, and then nothing more until the process is gone."""

    def __init__(self, process: Process) -> None:
        self._deltas, self._said = process.deltas, False

    def open(self, task: TaskIdentity, attempt: int, on_answer: Callable[[Appended], None]) -> FirstWordOnly:
        self._writer = self._deltas.open(task, attempt, on_answer)
        return self

    def push(self, channel: Channel, text: str) -> None:
        if channel is Channel.TEXT and not self._said:
            self._said = True
            self._writer.push(channel, text)

    async def flush(self) -> None:
        await self._writer.flush()

    async def close(self) -> list[EventDraft]:
        raise RedisAway("gone")

    def abandon(self) -> None:
        self._writer.abandon()


async def test_whoever_repeats_the_end_says_what_viewers_lack_of_the_text(bench: Bench) -> None:
    """The result was committed while Redis was away, and its process never came to send the rest."""
    process, in_flight = await arrive(bench, COURSES["done"], "t1")
    process.with_(deltas=FirstWordOnly(process))
    assert isinstance(await process.run(in_flight), Abandoned)
    assert [e.type for e in await bench.events()] == ["queued", "started", "token_batch"]
    await bench.finish_all(bench.process("b"))
    await check_end(bench, COURSES["done"], "t1")
    assert [e.data["delta"] for e in await bench.events() if e.type == "token_batch"] == ["the ", "answer"]
    assert bench.calls() == 1
