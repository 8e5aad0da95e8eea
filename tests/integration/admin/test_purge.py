"""A purge on real servers: every waiting task ends exactly once, many in a round trip, whatever breaks in between."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from daemon.admin.connections import Connections
from daemon.admin.orders import blobs_here
from daemon.admin.purge import BATCH_BYTES_MAX, batches
from daemon.admin.queue_orders import Operator, QueueOrders
from daemon.blobs.disk import DiskBlobs
from daemon.config import BlobSettings, Settings
from daemon.domain.errors import RedisAway
from daemon.domain.messages import ImageRef, TaskMessage, WorkEntry
from daemon.domain.model_io import Picture
from daemon.events.log import EventLog
from daemon.queues.admission import Accepted, Admission
from daemon.queues.backlog import Backlog, BacklogEntry
from daemon.redis_client import keys
from daemon.redis_client.connection import nodes_of
from daemon.store.tasks import PostgresLedger
from tests.integration.admin.conftest import System
from tests.integration.admin.test_orders import files
from tests.unit.blobs.pictures import PNG

QUEUE = "q_paid_stream"
NAMES = keys.queue_keys(QUEUE)
BY = Operator("cli:ann")


@pytest.fixture
def orders(at: Connections) -> QueueOrders:
    """As the command line makes them."""
    events = EventLog(at.scripts, at.settings.events, at.clock)
    return QueueOrders(at.scripts, events, at.pool, at.clock, PostgresLedger(at.pool), blobs_here(at))


async def parked(system: System, names: Sequence[str]) -> None:
    """Accepted, read, refused by a guard, parked: all but the calls as a daemon does it."""
    for name in names:
        await system.accept(name)
    calls = []
    for delivery in await system.read(count=len(names)):
        assert delivery.entry is not None
        entry = msgspec.structs.replace(delivery.entry, parked="GUARD_USER", parked_at=1)
        calls.append(system.work.snooze_call(delivery, entry.message.task_id, msgspec.json.encode(entry), 600_000))
    await system.at.scripts.run(calls)


async def told(system: System, name: str) -> list[str]:
    """What the viewer saw last: the codes of the terminal events."""
    return [event.data["code"] for event in await system.events.read(name) if event.terminal]


async def nothing_waits(at: Connections) -> bool:
    """No entry, no place, nothing parked."""
    left = [await at.redis.xlen(NAMES.tasks), await at.redis.xlen(NAMES.ready), await at.redis.zcard(NAMES.waiting)]
    left += [await at.redis.zcard(NAMES.retry), await at.redis.hlen(NAMES.held)]
    return not any(left) and await at.redis.get(NAMES.counter) == b"0"


async def states(at: Connections) -> dict[str, int]:
    """How many rows in each state."""
    rows = await at.pool.fetch("SELECT state, count(*) AS n FROM qstreamd.tasks GROUP BY state")
    return {row["state"]: row["n"] for row in rows}


async def test_many_tasks_end_in_one_round_trip(at: Connections, system: System, orders: QueueOrders) -> None:
    """Row, event, place and audit of each; a statement and two flushes a page, not a task."""
    names = [f"p{n}" for n in range(700)]
    await parked(system, names)
    for n in range(100):
        await system.accept(f"t{n}")
    flushes, statements, heard = at.scripts.flushes, at.pool.statements, list[int]()
    assert await orders.purge(QUEUE, BY, "test data", heard.append) == 800
    assert sum(heard) == 800
    pages = len(heard)
    assert pages <= 8  # HSCAN gives about as many as it is asked for
    nodes = len(await nodes_of(at.redis))  # in a cluster events lie on all of them
    assert (
        at.scripts.flushes - flushes <= (1 + nodes) * pages + 6 * nodes
    )  # and the waiters' lines, and scripts to load
    assert at.pool.statements - statements == pages + 1  # and the audit
    assert await states(at) == {"cancelled": 800}
    assert await nothing_waits(at)
    for name in ("p0", "p699", "t0", "t99"):
        assert await told(system, name) == ["CANCELLED"]
    [row] = await at.pool.fetch("SELECT action, target, actor, params FROM qstreamd.audit_log")
    assert (row["action"], row["target"], row["actor"]) == ("queue.purge", QUEUE, "cli:ann")
    assert row["params"] == {"ended": 800, "reason": "test data"}
    tiers = await at.pool.fetch("SELECT DISTINCT tier FROM qstreamd.tasks")
    assert [row["tier"] for row in tiers] == ["paid"]


async def test_what_runs_or_has_ended_is_left_alone(at: Connections, system: System, orders: QueueOrders) -> None:
    """Somebody runs one; of another the row is done and only its tail is missing."""
    await system.start("runs")
    await system.finish("done")
    await system.accept("waits")
    message = TaskMessage(task_id="done", queue_id=QUEUE, service_id="s", user_id="u")
    again = msgspec.json.encode(WorkEntry(message=message, sha256="sha", accepted_at=1))
    await at.redis.xadd(NAMES.ready, {"task": again})
    await at.redis.xadd(NAMES.ready, {"task": b"poison"})
    assert await orders.purge(QUEUE, BY, "") == 1
    assert await states(at) == {"running": 1, "done": 1, "cancelled": 1}
    assert await at.redis.xlen(NAMES.ready) == 2
    assert await told(system, "runs") == []


@pytest.mark.parametrize("step", ["tell", "remove"])
async def test_a_purge_that_broke_off_is_ended_by_the_next(
    at: Connections, system: System, orders: QueueOrders, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """After the rows, or after the events: repeated, each task still has one end and gave its place back once."""
    await parked(system, ["p1", "p2"])
    await system.accept("t1")

    async def away(*_: object, **__: object) -> int:
        raise RedisAway("cut")

    with monkeypatch.context() as broken:
        broken.setattr(Backlog, step, away)
        with pytest.raises(RedisAway):
            await orders.purge(QUEUE, BY, "")
    await system.accept("later")
    assert await orders.purge(QUEUE, BY, "") == 4
    assert await nothing_waits(at)
    assert await states(at) == {"cancelled": 4}
    for name in ("p1", "p2", "t1", "later"):
        assert await told(system, name) == ["CANCELLED"]
    rows = await at.pool.fetch("SELECT params FROM qstreamd.audit_log ORDER BY id")
    assert [row["params"]["ended"] for row in rows] == [1, 4]  # the first page was of `:tasks`


async def test_one_task_s_trouble_is_its_own(at: Connections, system: System, orders: QueueOrders) -> None:
    """A row that Postgres refuses stays where it is; a key of events that is no stream holds up nobody."""
    await at.pool.fetch(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN IF NEW.task_id = 't3' THEN RAISE 'no'; END IF; RETURN NEW; END $$"
    )
    await at.pool.fetch("CREATE TRIGGER refuse BEFORE INSERT ON qstreamd.tasks FOR EACH ROW EXECUTE FUNCTION refuse()")
    for n in range(7):
        await system.accept(f"t{n}")
    await at.redis.delete(keys.events("t5"))
    await at.redis.set(keys.events("t5"), "no stream", ex=60)
    assert await orders.purge(QUEUE, BY, "") == 6
    assert await states(at) == {"cancelled": 6}
    assert await at.redis.zrange(NAMES.waiting, 0, -1) == [b"t3"]
    assert await at.redis.xlen(NAMES.tasks) == 1


async def test_images_go_with_their_tasks(settings: Settings, tmp_path: Path) -> None:
    """Those in Redis and those on this host's disk."""
    settings = settings.model_copy(update={"blobs": BlobSettings(dir=str(tmp_path))})
    async with Connections(settings) as at:
        disk = DiskBlobs(settings.blobs, at.clock)
        disk.make()
        for name, shelf in (("in-redis", None), ("on-disk", disk)):
            task = TaskMessage(
                task_id=name, queue_id=QUEUE, service_id="s", user_id="u1",
                images=[ImageRef(data="", mime_type="image/png")],
            )  # fmt: skip
            door = Admission(at.scripts, settings.queues, at.clock, shelf)
            assert isinstance(await door.accept(task, "sha", 10, {0: Picture("image/png", PNG)}), Accepted)
        assert await at.redis.exists(keys.blob(QUEUE, "in-redis", 0))
        assert files(tmp_path)
        events = EventLog(at.scripts, settings.events, at.clock)
        orders = QueueOrders(at.scripts, events, at.pool, at.clock, PostgresLedger(at.pool), blobs_here(at))
        assert await orders.purge(QUEUE, BY, "") == 2
        assert not await at.redis.exists(keys.blob(QUEUE, "in-redis", 0))
        assert not files(tmp_path)


def test_large_messages_go_in_statements_of_their_own() -> None:
    """A statement carries a few MiB at most, whatever a page holds."""
    entry = WorkEntry(
        message=TaskMessage(task_id="t", queue_id=QUEUE, service_id="s", user_id="u"), sha256="", accepted_at=0
    )
    sizes = [1, BATCH_BYTES_MAX, 2, 3, BATCH_BYTES_MAX - 5]
    found = [[w.size for w in batch] for batch in batches([BacklogEntry(entry, "", "", size) for size in sizes])]
    assert found == [[1], [BATCH_BYTES_MAX], [2, 3, BATCH_BYTES_MAX - 5]]
    assert list(batches([])) == []
