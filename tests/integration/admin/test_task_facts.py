"""A task is found wherever it lies, and the right cause is named."""

from __future__ import annotations

from daemon.admin.connections import Connections
from daemon.admin.explain import Explanation, explain, life
from daemon.admin.task_facts import TaskFacts, gather
from daemon.domain.errors import Code
from daemon.domain.events import Reason, Stage, progress
from daemon.domain.states import State
from daemon.ports import Transition
from daemon.redis_client import keys
from tests.integration.admin.conftest import System

QUEUE = "q_paid_stream"


async def explained(at: Connections, task_id: str) -> tuple[TaskFacts, Explanation]:
    """Facts and verdict."""
    facts = await gather(at, task_id)
    assert facts is not None
    return facts, explain(facts, 20.0)


async def test_a_task_is_followed_through_its_life(at: Connections, system: System) -> None:
    """Unread, read, running, delayed, woken, done: at each place its own cause."""
    await system.accept("t1")
    facts, found = await explained(at, "t1")
    assert (found.code, facts.position, facts.in_stream, facts.user_id) == ("NO_CONSUMER", 1, "tasks", "")
    [delivery] = await system.read()
    assert (await explained(at, "t1"))[1].code == "STARTING"
    await system.park(delivery, "GUARD_USER", 30_000)
    await system.hold(keys.user_permits("u1"), "a:1", "b:2", "c:3")
    await at.redis.zadd(keys.waiters_of(keys.user_permits("u1")), {f"{QUEUE}/t0": 1, f"{QUEUE}/t1": 2})
    facts, found = await explained(at, "t1")
    assert found.code == "GUARD_USER"
    assert "(3 of 3 in use; 1 wait before it)" in found.en
    await at.redis.zadd(keys.queue_keys(QUEUE).retry, {"t1": 0})
    await system.work.promote(QUEUE, 10)
    facts, found = await explained(at, "t1")
    assert (found.code, facts.in_stream) == ("NEXT", "ready")


async def test_a_running_task_names_its_owner_and_its_waits(at: Connections, system: System) -> None:
    """The life has the wait and the attempt."""
    _, claimed = await system.start("t1")
    task = system.identity("t1", QUEUE)
    await system.events.append(task, claimed.attempt, [progress(Stage.GUARDS, "x", reason=Reason.GUARD_MODEL)])
    facts, found = await explained(at, "t1")
    assert found.code == "RUNNING"
    assert "host-1-abcd" in found.en
    assert facts.pending is not None
    assert [phase.kind for phase in life(facts)][-1] in {"ran", "waited"}
    assert "canary" not in repr([facts.events, facts.attempts, facts.limiters])


async def test_a_closed_model_is_told_with_its_time(at: Connections, system: System) -> None:
    """As the provider's Retry-After closed it for all."""
    delivery, claimed = await system.start("t1")
    ending = Transition(State.QUEUED, Code.RATE_LIMITED, "deferred", model_id="deepseek-pro")
    assert await system.ledger.transition("t1", claimed.attempt, system.consumer, ending)
    await system.park(delivery, "RATE_LIMITED", 9_000)
    await at.redis.set(keys.model_keys("deepseek-pro").cooldown, "RATE_LIMITED", px=8000)
    _, found = await explained(at, "t1")
    assert found.code == "RATE_LIMITED"
    assert "unavailable for" in found.en


async def test_a_promise_is_told_from_a_task(at: Connections, system: System) -> None:
    """The producer took a place; QStash has not delivered yet."""
    now_ms = round(at.clock.time() * 1000)
    await at.redis.zadd(keys.queue_keys(QUEUE).waiting, {"t1": now_ms})
    assert (await explained(at, "t1"))[1].code == "PROMISED"


async def test_a_task_that_redis_forgot_is_called_lost(at: Connections, system: System) -> None:
    """Postgres still has its row, and any daemon puts it back."""
    await system.start("t1")
    await at.redis.flushdb()
    await system.read()
    assert (await explained(at, "t1"))[1].code == "LOST"


async def test_ends_are_told(at: Connections, system: System) -> None:
    await system.finish("t1")
    await system.fail("t2")
    assert (await explained(at, "t1"))[1].code == "DONE"
    _, found = await explained(at, "t2")
    assert (found.code, found.cure) == ("FAILED", "start it anew: tasks retry t2")


async def test_nobody_knows_a_stranger(at: Connections) -> None:
    assert await gather(at, "nope") is None


async def test_entries_and_events_of_strangers_do_not_confuse(at: Connections, system: System) -> None:
    """Poison in :ready, an event in another form, a held entry that can't be read."""
    await system.accept("t1")
    names = keys.queue_keys(QUEUE)
    await at.redis.xadd(names.ready, {"task": b'{"taskId":"t1"'})
    await at.redis.xadd(names.ready, {"other": b"x"})
    await at.redis.xadd(keys.events("t1"), {"type": "token", "data": "not json"})
    await at.redis.hset(names.held, "t1", b"\xff")
    facts, _ = await explained(at, "t1")
    assert [event.type for event in facts.events] == ["queued"]
    assert facts.in_stream == "tasks"
