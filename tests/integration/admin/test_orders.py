"""Orders for single tasks, on real servers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from daemon.admin import orders
from daemon.admin.connections import Connections
from daemon.admin.orders import cancel, retry
from daemon.blobs.disk import DiskBlobs
from daemon.config import Settings
from daemon.domain.errors import Code
from daemon.domain.events import CURRENT_ATTEMPT, Event
from daemon.domain.messages import ImageRef, TaskMessage, identity_of
from daemon.domain.model_io import Picture
from daemon.domain.states import State
from daemon.ports import Transition
from daemon.queues.admission import Accepted, Admission
from daemon.redis_client import keys
from tests.integration.admin.conftest import System
from tests.unit.blobs.pictures import PNG
from tests.waiting import WaitUntil

QUEUE = "q_paid_stream"


async def ends(system: System, task_id: str) -> list[str | None]:
    """Codes of the terminal events of a task."""
    events: list[Event] = await system.events.read(task_id)
    return [event.data.get("code", "done") for event in events if event.terminal]


async def audited(at: Connections, task_id: str) -> list[tuple[str, str]]:
    """Action and result of each row of the audit log about the task."""
    rows = await at.pool.fetch("SELECT action, result FROM qstreamd.audit_log WHERE target = $1 ORDER BY id", task_id)
    return [(row["action"], row["result"]) for row in rows]


async def state(at: Connections, task_id: str) -> State:
    """As Postgres has it."""
    found = await at.records.row(task_id)
    assert found is not None
    return found[0].state


async def test_a_waiting_task_is_cancelled_where_it_lies(settings: Settings, at: Connections, system: System) -> None:
    """One terminal event, its place given back, an audit row; a second cancel changes nothing."""
    await system.accept("t1")
    answer = await cancel(settings, "t1", "because")
    assert (answer.good, answer.state) == (True, "cancelled")
    assert await state(at, "t1") is State.CANCELLED
    assert await ends(system, "t1") == ["CANCELLED"]
    assert await at.redis.get(keys.queue_keys(QUEUE).counter) == b"0"
    assert await at.redis.xlen(keys.queue_keys(QUEUE).tasks) == 0
    assert (await cancel(settings, "t1", "")).text == "was cancelled before"
    assert await audited(at, "t1") == [("task.cancel", "cancelled")] * 2
    assert await ends(system, "t1") == ["CANCELLED"]


async def test_a_delayed_task_is_cancelled_too(settings: Settings, at: Connections, system: System) -> None:
    """Its row says `retrying`; it leaves :retry."""
    delivery, claimed = await system.start("t1")
    assert await system.ledger.transition(
        "t1", claimed.attempt, system.consumer, Transition(State.RETRYING, Code.LLM_ERROR, "failed")
    )
    await system.park(delivery, "", 60_000)
    assert (await cancel(settings, "t1", "")).text == "cancelled while it waited"
    assert await at.redis.zcard(keys.queue_keys(QUEUE).retry) == 0
    assert await ends(system, "t1") == ["CANCELLED"]


async def test_a_running_task_is_stopped_by_its_daemon(
    settings: Settings, at: Connections, system: System, wait_until: WaitUntil
) -> None:
    """The daemon hears the notice; the order waits for the end and says so."""
    _, claimed = await system.start("t1")

    async def daemon() -> None:
        await wait_until(lambda: at.redis.exists(keys.CANCELS), description="a notice")
        ending = Transition(State.CANCELLED, Code.CANCELLED, "cancelled")
        assert await system.ledger.transition("t1", claimed.attempt, system.consumer, ending)

    async with asyncio.TaskGroup() as group:
        group.create_task(daemon())
        answer = await cancel(settings, "t1", "")
    assert (answer.good, answer.text) == (True, "cancelled")


async def test_a_task_whose_daemon_is_deaf_is_marked(
    settings: Settings, at: Connections, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its next event tells it."""
    monkeypatch.setattr(orders, "CANCEL_WAIT_S", 0.1)
    await system.start("t1")
    answer = await cancel(settings, "t1", "")
    assert (answer.good, answer.state) == (True, "running")
    appended = await system.events.append(system.identity("t1", QUEUE), CURRENT_ATTEMPT, [])
    assert appended.cancel


async def test_an_ended_or_unknown_task_can_t_be_cancelled(settings: Settings, system: System) -> None:
    await system.finish("t1")
    assert (await cancel(settings, "t1", "")).text == "has ended as done; nothing to cancel"
    assert (await cancel(settings, "nope", "")).good is False


async def test_a_delayed_task_starts_now(settings: Settings, at: Connections, system: System) -> None:
    """Straight to :ready, where a reader is waiting."""
    await system.accept("t1")
    [delivery] = await system.read()
    await system.park(delivery, "GUARD_MODEL", 600_000)
    answer = await retry(settings, "t1", "")
    assert (answer.good, answer.state) == (True, "ready")
    names = keys.queue_keys(QUEUE)
    assert await at.redis.zcard(names.retry) == 0
    assert await at.redis.hlen(names.held) == 0
    [again] = await system.read()
    assert (again.stream, again.entry and again.entry.message.task_id) == ("ready", "t1")
    assert await audited(at, "t1") == [("task.retry", "ready")]


async def test_a_failed_task_starts_anew(settings: Settings, at: Connections, system: System) -> None:
    """The fence goes on, the events begin again with `queued`."""
    await system.fail("t1")
    answer = await retry(settings, "t1", "the provider is back")
    assert answer.good
    assert await state(at, "t1") is State.QUEUED
    assert [event.type.value for event in await system.events.read("t1")] == ["queued"]
    [delivery] = await system.read()
    claimed = await system.ledger.claim(delivery, "c", "m", 20.0)
    assert getattr(claimed, "attempt", None) == 2
    assert await audited(at, "t1") == [("dlq.replay", "queued")]


async def test_what_is_in_no_such_state_is_not_retried(settings: Settings, system: System) -> None:
    """Done, only waiting, unknown: each with its reason."""
    await system.finish("t1")
    await system.accept("t2")
    assert [(await retry(settings, task, "")).text for task in ("t1", "t2", "nope")] == [
        "is done; only failed and expired start anew",
        "it has not been started yet; `tasks explain` says what it waits for",
        orders.UNKNOWN,
    ]


def test_who_sits_here_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's user may have none."""
    assert orders.actor().startswith("cli:")
    monkeypatch.setattr("os.getuid", lambda: 4_000_000)
    assert orders.actor() == "cli:4000000"


async def test_a_promise_is_taken_back(settings: Settings, at: Connections, system: System) -> None:
    """The producer took a place, QStash has not delivered: place and task are gone, the viewer is told."""
    names = keys.queue_keys(QUEUE)
    await at.redis.zadd(names.waiting, {"t1": round(at.clock.time() * 1000)})
    await at.redis.set(names.counter, 1)
    await at.redis.set(keys.reservation(QUEUE, "t1"), "sha", px=60_000)
    assert (await cancel(settings, "t1", "")).text == "cancelled before it started"
    assert await at.redis.get(names.counter) == b"0"
    assert await ends(system, "t1") == ["CANCELLED"]


def files(folder: Path) -> list[Path]:
    """Whatever lies in it."""
    return [path for path in folder.rglob("*") if path.is_file()]


async def test_a_cancelled_tasks_images_go_with_it(
    settings: Settings, at: Connections, system: System, tmp_path: Path
) -> None:
    """Those on this host's disk; the sweep takes what lies on another's."""
    settings = settings.model_copy(update={"blobs": settings.blobs.model_copy(update={"dir": str(tmp_path)})})
    disk = DiskBlobs(settings.blobs, at.clock)
    disk.make()
    task = TaskMessage(
        task_id="t1", queue_id=QUEUE, service_id="s", user_id="u1", images=[ImageRef(data="", mime_type="image/png")]
    )
    admission = Admission(at.scripts, settings.queues, at.clock, disk)
    assert isinstance(await admission.accept(task, "sha", 10, {0: Picture("image/png", PNG)}), Accepted)
    assert files(tmp_path)
    await system.events.queued(identity_of(task))
    assert (await cancel(settings, "t1", "")).good
    assert not files(tmp_path)
