"""A task in two crashes: given to a child process, kept waiting, or judged; and what sets its count back."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from daemon.domain.errors import Code, ProviderError, RedisAway, TaskError
from daemon.domain.events import Reason
from daemon.pipeline.in_flight import InFlight
from daemon.pipeline.outcome import Abandoned, Done, Failed, Fenced, Isolated, Retrying, Snoozed
from daemon.pipeline.quarantine import QUARANTINE_WAIT
from daemon.ports import Delivery
from tests.fakes import ANSWER
from tests.integration.pipeline.conftest import QUEUE, Bench, Process, message
from tests.waiting import wait_until

CHILD = "child"


@dataclass
class Children:
    """A quarantine whose children take entries and do nothing with them."""

    process: Process
    has_slot: bool = True
    starts: bool = True
    refuses: Exception | None = None
    discarded: int = 0
    waiting: list[str] = field(default_factory=list)

    async def start(self, queue: str, life_s: float) -> Children | None:
        """Itself as the child."""
        assert queue == QUEUE and life_s > 60
        return self if self.starts else None

    def waits(self, d: Delivery) -> None:
        """Noted."""
        self.waiting.append(d.id)

    async def take(self, d: Delivery) -> bool:
        """With the script of the real one."""
        if self.refuses is not None:
            raise self.refuses
        return await self.process.work.transfer(d, self.process.name, CHILD)

    def discard(self) -> None:
        """Counted."""
        self.discarded += 1


async def crashed(bench: Bench, process: Process, crashes: int = 2) -> InFlight:
    """`t1`, delivered again after so many crashes."""
    await bench.accept(message())
    in_flight = await process.fetch()
    await process.ledger.claim(in_flight.delivery, "dead", "m", process.world.lease.lease_s)
    await bench.pool.fetch(
        "UPDATE qstreamd.tasks SET crashes = $1, heartbeat_at = now() - interval '1 hour'", crashes - 1
    )
    return in_flight


def quarantined(bench: Bench, name: str = "a") -> tuple[Process, Children]:
    """A daemon with quarantine."""
    process = bench.process(name)
    children = Children(process)
    process.with_(quarantine=children)
    return process, children


async def test_a_task_in_two_crashes_is_given_to_a_child(bench: Bench) -> None:
    """No model is called here; the row waits, the entry is the child's, which runs it without a further crash."""
    a, children = quarantined(bench)
    assert await a.run(await crashed(bench, a)) == Isolated()
    row = await bench.row()
    assert (row["state"], row["crashes"]) == ("queued", 2)
    assert bench.calls() == 0 and children.discarded == 0
    child = bench.process(CHILD)
    child.with_(in_quarantine=True)
    [d] = await child.work.own_pending(QUEUE)
    assert isinstance(await child.run(InFlight(d)), Done)
    assert bench.calls() == 1 and await bench.left() == {}


async def test_one_crash_changes_nothing(bench: Bench) -> None:
    a, children = quarantined(bench)
    assert isinstance(await a.run(await crashed(bench, a, 1)), Done)
    assert children.waiting == []


async def test_what_waits_for_a_place_is_not_claimed_again(bench: Bench) -> None:
    """Delayed once with a claim, then without; told once; it runs in quarantine when there is a place."""
    a, children = quarantined(bench)
    children.has_slot = False
    in_flight = await crashed(bench, a)
    assert await a.run(in_flight) == Snoozed(Reason.RETRY_AT, 0.0015)
    attempt = (await bench.row())["attempt"]
    for _ in range(3):
        [again] = await wait_until(a.take_over, description="it is due")
        entry = again.delivery.entry
        assert entry is not None and entry.parked == QUARANTINE_WAIT
        assert isinstance(await a.run(again), Snoozed)
    row = await bench.row()
    assert (row["attempt"], row["crashes"], row["state"]) == (attempt, 2, "queued")
    assert len(children.waiting) == 4 and (await bench.story()).count("progress RETRY_AT") <= 1
    children.has_slot = True
    [again] = await wait_until(a.take_over, description="it is due")
    assert await a.run(again) == Isolated()
    child = bench.process(CHILD)
    child.with_(in_quarantine=True)
    await bench.finish_all(child)


@pytest.mark.parametrize("crashes", [2, 3])
async def test_where_no_child_can_be_started_the_last_crash_is_the_limit(bench: Bench, crashes: int) -> None:
    a, children = quarantined(bench)
    children.starts = False
    outcome = await a.run(await crashed(bench, a, crashes))
    assert isinstance(outcome, Done) if crashes == 2 else outcome == Failed(Code.WORKER_LOST)


async def test_a_child_is_ended_when_its_entry_cannot_be_given(bench: Bench) -> None:
    """Redis went away: the entry is pending, and found again."""
    a, children = quarantined(bench)
    a.with_(hold_result_s=0.01)
    children.refuses = RedisAway("away")
    assert isinstance(await a.run(await crashed(bench, a)), Abandoned)
    assert children.discarded == 1


async def test_a_child_gets_nothing_that_another_has_taken(bench: Bench) -> None:
    a, children = quarantined(bench)
    in_flight = await crashed(bench, a)
    assert await a.work.transfer(in_flight.delivery, "a", "b")
    assert await a.run(in_flight) == Fenced()
    assert children.discarded == 1
    await bench.finish_all(bench.process("b"))


async def test_a_death_that_was_seen_is_a_dead_letter_without_permits(bench: Bench) -> None:
    """The row still says that the child runs it; no model is called, and no limiter is asked."""
    a = bench.process()
    in_flight = await crashed(bench, a, 3)
    a.with_(dead_owners={"dead"})
    assert await a.run(InFlight(in_flight.delivery, crash_seen=True)) == Failed(Code.WORKER_LOST)
    assert bench.calls() == 0 and (await bench.row())["error_code"] == "WORKER_LOST"
    assert await bench.left() == {}


async def test_a_failure_sets_the_count_back(bench: Bench) -> None:
    """Its process has survived it."""
    child = bench.process(CHILD)
    child.with_(in_quarantine=True)
    bench.plan("t1", (ProviderError(detail="status 500"),), ANSWER)
    assert isinstance(await child.run(await crashed(bench, child)), Retrying)
    assert (await bench.row())["crashes"] == 0
    await bench.finish_all(child)


async def test_a_cancelled_task_does_not_wait_for_a_place(bench: Bench) -> None:
    a, children = quarantined(bench)
    children.has_slot = False
    await a.run(await crashed(bench, a))
    [again] = await wait_until(a.take_over, description="it is due")
    again.scope.interrupt(TaskError(code=Code.CANCELLED))
    assert await a.run(again) == Failed(Code.CANCELLED)
    assert await bench.left() == {}
