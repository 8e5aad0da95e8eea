"""Entries that have no say about their task, on real servers: duplicates, strangers, newer releases, what had ended."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from daemon.domain.errors import Code, ProviderError
from daemon.domain.messages import WorkEntry
from daemon.pipeline.in_flight import InFlight
from daemon.pipeline.outcome import (
    CompletedAgain,
    Done,
    Dropped,
    Snoozed,
)
from daemon.redis_client.keys import dedup
from tests.fakes import ANSWER, USAGE, text
from tests.integration.pipeline.conftest import NAMES, QUEUE, Bench, Process, message
from tests.waiting import wait_until

pytestmark = pytest.mark.usefixtures("no_key_left")


async def arrive(bench: Bench, process: Process, **fields: Any) -> InFlight:
    """One accepted and read task."""
    await bench.accept(message(**fields))
    return await process.fetch()


async def again(bench: Bench, in_flight: InFlight) -> None:
    """A second entry with the same content."""
    assert in_flight.delivery.entry is not None
    await bench.add_raw(in_flight.delivery.entry)


async def fetched(a: Process) -> list[InFlight]:
    await a.work.promote(QUEUE, 10)
    return [InFlight(d) for d in await a.work.fetch(QUEUE, 1)]


async def test_an_entry_of_a_newer_release_is_left_to_a_newer_daemon(bench: Bench) -> None:
    """It is laid aside unread, byte for byte but for when; after the longest wait it is poison like any other."""
    newer = {"message": {"v": 2, "taskId": "t9", "new": [1]}, "sha256": "x", "acceptedAt": 1}
    await bench.client.xadd(NAMES.tasks, {"task": msgspec.json.encode(newer)})
    a = bench.process()
    outcome = await a.run(await a.fetch())
    assert isinstance(outcome, Snoozed)
    raw = await bench.client.hget(NAMES.held, "t9")
    kept = msgspec.json.decode(raw or b"")
    assert kept.pop("parkedAt") > 1_600_000_000_000
    assert kept == newer
    await bench.client.hset(NAMES.held, "t9", msgspec.json.encode({**newer, "parkedAt": 1}))
    (in_flight,) = await wait_until(lambda: fetched(a), description="read again")
    assert await a.run(in_flight) == Dropped("poison")
    assert await bench.left() == {}


async def test_a_second_entry_of_a_running_task_is_dropped(bench: Bench) -> None:
    """It says nothing and takes nothing: place, events and result are the running attempt's."""
    bench.plan("t1", (text("half"), 0.3, *ANSWER))
    a, b = bench.process("a"), bench.process("b")
    in_flight = await arrive(bench, a)

    async def twin() -> object:
        await wait_until(bench.calls, description="the first one runs")
        await again(bench, in_flight)
        return await b.run(await b.fetch())

    first, second = await asyncio.gather(a.run(in_flight), twin())
    assert (first, second) == (Done("m", USAGE), Dropped("duplicate"))
    assert bench.calls() == 1
    assert await bench.story() == ["queued", "started", "done"]


async def test_another_body_under_the_same_id_is_set_aside(bench: Bench) -> None:
    """The first body owns the id; its viewer sees nothing of the second."""
    a = bench.process()
    await a.run(await arrive(bench, a))
    await bench.add_raw(WorkEntry(message=message(variables={"text": "other"}), sha256="other", accepted_at=1))
    assert await a.run(await a.fetch()) == Dropped("task_id_conflict")
    assert bench.calls() == 1
    assert await bench.story() == ["queued", "started", "done"]
    assert [letter["code"] for letter in await bench.letters()] == ["INVALID_PAYLOAD"]


@pytest.mark.parametrize("fields", [{}, {"service_id": "nobody"}, {"expires_at": 1.0}], ids=["good", "bad", "late"])
async def test_what_is_set_aside_gives_its_place_back(bench: Bench, fields: dict[str, Any]) -> None:
    """It was accepted, because nothing in its queue knew the id any more, and will never start."""
    a = bench.process()
    await a.run(await arrive(bench, a))
    await bench.client.delete(dedup(QUEUE, "t1"))
    await bench.accept(message(variables={"text": "other"}, **fields), "another")
    assert await bench.client.get(NAMES.counter) == b"1"
    assert await a.run(await a.fetch()) == Dropped("task_id_conflict")
    assert await bench.client.get(NAMES.counter) == b"0"
    assert not await bench.client.zcard(NAMES.waiting)
    assert await bench.story() == ["queued", "started", "done"]
    assert [letter["code"] for letter in await bench.letters()] == ["INVALID_PAYLOAD"]


async def test_an_ended_task_is_only_told_again(bench: Bench) -> None:
    """A second entry after the end costs no model call and adds no event; done or failed."""
    bench.plan("t2", (ProviderError(code=Code.LLM_REFUSED),))
    a = bench.process()
    for task_id in ("t1", "t2"):
        in_flight = await arrive(bench, a, task_id=task_id)
        await a.run(in_flight)
        before = await bench.events(task_id)
        await again(bench, in_flight)
        assert await a.run(await a.fetch()) == CompletedAgain()
        assert await bench.events(task_id) == before
        assert bench.calls(task_id) == 1
    assert await bench.left() == {}


# --- interrupted --------------------------------------------------------------------------------------------------
