"""Rows as the gateway, the sweeper and operators see them."""

from __future__ import annotations

import pytest

from daemon.domain.errors import Code
from daemon.domain.states import State
from daemon.ports import Transition
from daemon.store.pool import Pool
from daemon.store.records import TaskRecords
from daemon.store.tasks import PostgresLedger
from tests.integration.store.samples import (
    LEASE_S,
    QUEUE,
    claimed,
    delivery,
    draft,
    let_heartbeat_lapse,
    outcomes,
    task,
)

FAILED = Transition(State.FAILED, Code.LLM_REFUSED, "failed", count_failure=True)


@pytest.fixture
def records(pool: Pool) -> TaskRecords:
    """The reader under test."""
    return TaskRecords(pool)


async def test_a_row_tells_where_a_task_stands(ledger: PostgresLedger, records: TaskRecords) -> None:
    """From the first claim to the stored result; None before."""
    assert await records.row("t1") is None
    sent = delivery("t1", job_id="j1", request_id="r1")
    await ledger.claim(sent, "me", "m1", LEASE_S)
    found = await records.row("t1")
    assert found is not None
    row, result = found
    assert (row.state, row.attempt, row.owner, row.request_id, row.error_code, result) == (
        State.RUNNING, 1, "me", "r1", None, None,
    )  # fmt: skip
    assert row.started_at is not None and row.created_at < row.started_at and row.finished_at is None
    stored = await ledger.finish("t1", 1, "me", draft("x", {"a": 1}))
    found = await records.row("t1")
    assert found is not None and found[1] == stored and found[0].state is State.DONE


async def test_the_entry_of_a_row_is_the_one_that_was_accepted(ledger: PostgresLedger, records: TaskRecords) -> None:
    """The same body, hash and age: appended again it is no stranger."""
    sent = delivery("t1", job_id="j1", refs={"a": "b"}, max_attempts=2)
    await ledger.claim(sent, "me", "m1", LEASE_S)
    found = await records.row("t1")
    assert found is not None and found[0].entry() == sent.entry


async def test_forgotten_rows_are_the_live_ones_without_a_sign_of_life(
    ledger: PostgresLedger, records: TaskRecords, pool: Pool
) -> None:
    """Of that queue, oldest first, at most so many."""
    for name in ("lapsed", "fresh", "done", "retrying", "failed"):
        await ledger.claim(delivery(name), "me", "m1", LEASE_S)
    await ledger.claim(delivery("elsewhere", queue="q_free_batch"), "me", "m1", LEASE_S)
    await ledger.finish("done", 1, "me", draft())
    await ledger.transition("retrying", 1, "me", Transition(State.RETRYING, Code.LLM_ERROR, "failed"))
    await ledger.transition("failed", 1, "me", FAILED)
    for name in ("lapsed", "done", "retrying", "failed", "elsewhere"):
        await let_heartbeat_lapse(pool, name)
    assert [r.task_id for r in await records.stale(QUEUE, 60)] == ["lapsed", "retrying"]
    assert [r.task_id for r in await records.stale(QUEUE, 60, limit=1)] == ["lapsed"]
    assert await records.stale(QUEUE, 7200) == []
    (first,) = await records.stale(QUEUE, 60, limit=1)
    assert [r.task_id for r in await records.stale(QUEUE, 60, limit=1, after=first)] == ["retrying"]


@pytest.mark.parametrize("state", [State.FAILED, State.EXPIRED])
async def test_a_replay_starts_anew_behind_the_same_fence(
    ledger: PostgresLedger, records: TaskRecords, pool: Pool, state: State
) -> None:
    """Counts begin at 0, the attempt number goes on, and the audit log says who did it."""
    await ledger.claim(delivery("t1"), "me", "m1", LEASE_S)
    await let_heartbeat_lapse(pool, "t1")
    await ledger.claim(delivery("t1"), "me", "m1", LEASE_S)
    await ledger.transition("t1", 2, "me", Transition(state, Code.EXPIRED, "expired", count_failure=True))
    row = await records.replay("t1", "alice", "the model was down")
    assert row is not None
    assert (row.state, row.attempt, row.failures, row.crashes, row.error_code) == (State.QUEUED, 2, 0, 0, None)
    assert (row.started_at, row.finished_at) == (None, None)
    assert await records.replay("t1", "alice", "again") is None
    answer = claimed(await ledger.claim(delivery("t1", "9-0"), "me", "m1", LEASE_S))
    assert (answer.attempt, answer.failures, answer.crashes) == (3, 0, 0)
    assert await outcomes(pool, "t1") == [(1, "lost", None), (2, "expired", "EXPIRED"), (3, None, None)]
    log = await pool.fetch("SELECT actor, action, target, reason FROM qstreamd.audit_log")
    assert [tuple(r.values()) for r in log] == [("alice", "dlq.replay", "t1", "the model was down")]


async def test_only_failed_and_expired_tasks_are_replayed(
    ledger: PostgresLedger, records: TaskRecords, pool: Pool
) -> None:
    """Done and cancelled stay what they are; a running task is left alone."""
    for name in ("running", "done", "cancelled"):
        await ledger.claim(delivery(name), "me", "m1", LEASE_S)
    await ledger.finish("done", 1, "me", draft())
    await ledger.transition("cancelled", 1, "me", Transition(State.CANCELLED, Code.CANCELLED, "cancelled"))
    for name in ("running", "done", "cancelled"):
        assert await records.replay(name, "alice", "") is None
        assert (await task(pool, name))["state"] == name
    assert await records.replay("unknown", "alice", "") is None
    assert await pool.fetch("SELECT 1 FROM qstreamd.audit_log") == []
