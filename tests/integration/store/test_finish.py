"""Finishing, leaving, ending without a claim, putting back, beating; on each Postgres of this machine."""

from __future__ import annotations

import asyncio

import pytest

from daemon.domain.errors import Code, LeaseLost
from daemon.domain.events import Usage
from daemon.domain.messages import content_sha256
from daemon.domain.states import State
from daemon.ports import AlreadyEnded, AlreadyRunning, Claimed, Transition
from daemon.store.pool import Pool
from daemon.store.tasks import PostgresLedger
from tests.integration.store.samples import (
    LEASE_S,
    claimed,
    delivery,
    draft,
    let_heartbeat_lapse,
    outcomes,
    rows_of,
    task,
)

pytestmark = pytest.mark.postgres_versions
RETRY = Transition(State.RETRYING, Code.LLM_ERROR, "failed", count_failure=True, usage=Usage(1, 0, 2, 0), model_id="m2")


async def test_finish_commits_state_result_and_attempt(ledger: PostgresLedger, pool: Pool) -> None:
    """All three or nothing, in one statement."""
    await ledger.claim(delivery("t1"), "me", "m1", LEASE_S)
    before = pool.statements
    stored = await ledger.finish("t1", 1, "me", draft("yes", [1]))
    assert pool.statements == before + 1
    row = await task(pool, "t1")
    assert (row["state"], row["error_code"]) == ("done", None) and row["finished_at"] is not None
    assert await outcomes(pool, "t1") == [(1, "done", None)]
    result = (await pool.fetch("SELECT * FROM qstreamd.results"))[0]
    assert (result["id"], result["content"], result["data"], result["attempt"]) == (stored.id, "yes", [1], 1)
    assert result["usage"] == {
        "inputTokens": 7, "cachedInputTokens": 1, "outputTokens": 3, "reasoningTokens": 2, "costUsd": 0.0125,
    }  # fmt: skip
    attempt = (await pool.fetch("SELECT * FROM qstreamd.attempts"))[0]
    assert attempt["usage"] == result["usage"] and attempt["first_token_at"] is not None


async def test_finish_again_finds_our_own_commit(ledger: PostgresLedger) -> None:
    """A repeat after a lost reply is a success with the same result."""
    await ledger.claim(delivery("t1"), "me", "m1", LEASE_S)
    first = await ledger.finish("t1", 1, "me", draft("yes", {"a": None}))
    assert await ledger.finish("t1", 1, "me", draft("yes", {"a": None})) == first


async def test_a_zombie_may_not_finish(ledger: PostgresLedger, pool: Pool) -> None:
    """A lower attempt is refused while the higher one runs, and after it is done."""
    await ledger.claim(delivery("t1"), "me", "m1", LEASE_S)
    await ledger.claim(delivery("t1"), "you", "m1", LEASE_S, dead_owners=["me"])
    with pytest.raises(LeaseLost, match="running, attempt 2 of you"):
        await ledger.finish("t1", 1, "me", draft("late"))
    await ledger.finish("t1", 2, "you", draft("right"))
    with pytest.raises(LeaseLost, match="done, attempt 2 of you"):
        await ledger.finish("t1", 1, "me", draft("late"))
    assert [r["content"] for r in await pool.fetch("SELECT content FROM qstreamd.results")] == ["right"]


async def test_nothing_finishes_what_left_running(ledger: PostgresLedger) -> None:
    """Retrying, handed back, cancelled, or never there."""
    for state in (State.RETRYING, State.QUEUED, State.CANCELLED):
        await ledger.claim(delivery(f"t{state}"), "me", "m1", LEASE_S)
        await ledger.transition(f"t{state}", 1, "me", Transition(state, None, "x"))
        with pytest.raises(LeaseLost, match=state):
            await ledger.finish(f"t{state}", 1, "me", draft())
    with pytest.raises(LeaseLost, match="no row"):
        await ledger.finish("unknown", 1, "me", draft())


async def test_an_answer_that_postgres_can_not_hold_is_kept_without_its_bad_characters(
    ledger: PostgresLedger, pool: Pool
) -> None:
    """The hash is that of what a reader will find."""
    await ledger.claim(delivery("t1"), "me", "m1", LEASE_S)
    stored = await ledger.finish("t1", 1, "me", draft("a\x00b\udc00", {"k\x00": "\x00v\ud83d\ude00"}))
    assert (stored.content, stored.data) == ("ab\ufffd", {"k": "v😀"})
    assert stored.content_sha256 == content_sha256("ab\ufffd")
    row = (await pool.fetch("SELECT * FROM qstreamd.results"))[0]
    assert (row["content"], row["data"], row["content_sha256"]) == (stored.content, stored.data, stored.content_sha256)


async def test_many_finishes_cost_one_statement(ledger: PostgresLedger, pool: Pool) -> None:
    """A zombie, a new attempt of the same task and a repeat in one batch get each their own answer."""
    for name in ("a", "b"):
        await ledger.claim(delivery(name), "me", "m1", LEASE_S)
    await ledger.claim(delivery("b"), "me", "m1", LEASE_S)
    before = pool.statements
    good = draft()
    answers = await ledger.finish_many(
        [("b", 1, "me", good), ("a", 1, "me", good), ("b", 2, "me", good), ("a", 1, "me", good)]
    )
    assert pool.statements == before + 2  # one, and one to read back what the zombie ran into
    zombie, a, b, again = answers
    assert isinstance(zombie, LeaseLost)
    assert not isinstance(a, LeaseLost) and a == again
    assert not isinstance(b, LeaseLost) and b.id != a.id


async def test_a_big_answer_comes_back_whole(ledger: PostgresLedger) -> None:
    """Megabytes pass through jsonb unharmed, odd characters included."""
    text = '\\u0000 "quoted" \n\t ☃ 😀 ' * 60_000
    await ledger.claim(delivery("t1"), "me", "m1", LEASE_S)
    await ledger.finish("t1", 1, "me", draft(text))
    answer = await ledger.claim(delivery("t1"), "me", "m1", LEASE_S)
    assert isinstance(answer, AlreadyEnded) and answer.result is not None and answer.result.content == text


async def test_leave_counts_what_the_ending_says(ledger: PostgresLedger, pool: Pool) -> None:
    """A failure is counted once, however often the call is repeated."""
    await ledger.claim(delivery("t1"), "me", "m1", LEASE_S)
    assert await ledger.transition("t1", 1, "me", RETRY)
    assert await ledger.transition("t1", 1, "me", RETRY)
    row = await task(pool, "t1")
    assert (row["state"], row["failures"], row["error_code"], row["owner"]) == ("retrying", 1, "LLM_ERROR", "me")
    assert (row["finished_at"], row["model_id"]) == (None, "m2")
    assert await outcomes(pool, "t1") == [(1, "failed", "LLM_ERROR")]
    usage = (await pool.fetch("SELECT usage FROM qstreamd.attempts"))[0]["usage"]
    assert usage["outputTokens"] == 2


async def test_leave_is_refused_once_somebody_else_owns_the_task(ledger: PostgresLedger, pool: Pool) -> None:
    """Another attempt, another end, or no row at all."""
    await ledger.claim(delivery("t1"), "me", "m1", LEASE_S)
    await ledger.claim(delivery("t1"), "you", "m1", LEASE_S, dead_owners=["me"])
    assert not await ledger.transition("t1", 1, "me", RETRY)
    await ledger.finish("t1", 2, "you", draft())
    assert not await ledger.transition("t1", 2, "you", RETRY)
    assert not await ledger.transition("unknown", 1, "me", RETRY)
    assert (await task(pool, "t1"))["failures"] == 0


async def test_a_task_ends_without_a_claim(ledger: PostgresLedger, pool: Pool) -> None:
    """A row is made for it, or the waiting one ends; repeats are successes, another end is not."""
    sent = delivery("t1")
    assert sent.entry is not None
    assert await ledger.end_unclaimed(sent.entry, State.EXPIRED, Code.EXPIRED, "tasks/1-0")
    assert await ledger.end_unclaimed(sent.entry, State.EXPIRED, Code.EXPIRED, "tasks/1-0")
    assert not await ledger.end_unclaimed(sent.entry, State.FAILED, Code.EXPIRED, "tasks/1-0")
    assert not await ledger.end_unclaimed(sent.entry, State.EXPIRED, Code.EXPIRED, "ready/1-0")
    row = await task(pool, "t1")
    assert (row["state"], row["attempt"], row["error_code"], row["started_at"]) == ("expired", 0, "EXPIRED", None)
    assert row["finished_at"] is not None
    answer = await ledger.claim(sent, "me", "m1", LEASE_S)
    assert answer == AlreadyEnded(State.EXPIRED, 0, Code.EXPIRED, None)


async def test_a_waiting_task_ends_without_a_claim_but_a_running_one_does_not(
    ledger: PostgresLedger, pool: Pool
) -> None:
    """Nor does a task with another body."""
    sent, other = delivery("t1"), delivery("t1", sha256="other")
    assert sent.entry is not None and other.entry is not None
    await ledger.claim(sent, "me", "m1", LEASE_S)
    assert not await ledger.end_unclaimed(sent.entry, State.EXPIRED, Code.EXPIRED, "tasks/1-0")
    await ledger.transition("t1", 1, "me", RETRY)
    assert not await ledger.end_unclaimed(other.entry, State.EXPIRED, Code.EXPIRED, "tasks/1-0")
    assert await ledger.end_unclaimed(sent.entry, State.EXPIRED, Code.EXPIRED, "ready/4-0")
    row = await task(pool, "t1")
    assert (row["state"], row["attempt"], row["failures"]) == ("expired", 1, 1)


@pytest.mark.parametrize("lapsed", [True, False])
async def test_letting_go_puts_our_row_back(ledger: PostgresLedger, pool: Pool, *, lapsed: bool) -> None:
    """Its owner is fenced out; a crash is counted once, and only if the heartbeat had lapsed."""
    await ledger.claim(delivery("t1"), "me", "m1", LEASE_S)
    if lapsed:
        await let_heartbeat_lapse(pool, "t1")
    assert await ledger.release_claim("t1", "tasks/1-0", "me", LEASE_S)
    assert await ledger.release_claim("t1", "tasks/1-0", "me", LEASE_S)
    row = await task(pool, "t1")
    assert (row["state"], row["crashes"], row["attempt"]) == ("queued", int(lapsed), 1)
    assert await outcomes(pool, "t1") == [(1, "lost", None)]
    with pytest.raises(LeaseLost):
        await ledger.finish("t1", 1, "me", draft())
    again = claimed(await ledger.claim(delivery("t1", "2-0"), "me", "m1", LEASE_S))
    assert (again.attempt, again.crashes) == (2, int(lapsed))


async def test_letting_go_leaves_other_rows_alone(ledger: PostgresLedger, pool: Pool) -> None:
    """Those that run by another entry, and those that do not run."""
    await ledger.claim(delivery("t1", "7-0"), "me", "m1", LEASE_S)
    await ledger.release_claim("t1", "tasks/1-0", "me", LEASE_S)
    await ledger.release_claim("unknown", "tasks/1-0", "me", LEASE_S)
    assert (await task(pool, "t1"))["state"] == "running"
    await ledger.finish("t1", 1, "me", draft())
    await ledger.release_claim("t1", "tasks/7-0", "me", LEASE_S)
    assert (await task(pool, "t1"))["state"] == "done"


async def test_a_beat_renews_all_in_one_statement_and_names_the_lost(ledger: PostgresLedger, pool: Pool) -> None:
    """Taken over, ended, unknown: these attempts must stop; the others may go on."""
    for name in ("mine", "taken", "ended"):
        await ledger.claim(delivery(name), "me", "m1", LEASE_S)
        await let_heartbeat_lapse(pool, name)
    await ledger.claim(delivery("taken", "2-0"), "you", "m1", LEASE_S)
    await ledger.finish("ended", 1, "me", draft())
    before = pool.statements
    assert await ledger.heartbeat([("taken", 1), ("mine", 1), ("ended", 1), ("unknown", 3)], "me") == {
        "taken",
        "ended",
        "unknown",
    }
    assert pool.statements == before + 1
    assert await ledger.claim(delivery("mine", "2-0"), "you", "m1", LEASE_S) == AlreadyRunning()
    assert await ledger.heartbeat([], "me") == set()
    assert pool.statements == before + 2


async def test_a_beat_of_a_zombie_does_not_pass_for_the_new_owner(ledger: PostgresLedger) -> None:
    """Both in one process: the task is lost, whichever attempt still lives."""
    await ledger.claim(delivery("t1"), "me", "m1", LEASE_S)
    await ledger.claim(delivery("t1"), "me", "m1", LEASE_S)
    assert await ledger.heartbeat([("t1", 1), ("t1", 2)], "me") == {"t1"}
    assert await ledger.heartbeat([("t1", 2)], "me") == set()


async def test_a_beat_touches_no_index(ledger: PostgresLedger, pool: Pool) -> None:
    """Heap-only updates: beating all day does not bloat the table's indexes."""
    await ledger.claim(delivery("t1"), "me", "m1", LEASE_S)
    for _ in range(20):
        assert await ledger.heartbeat([("t1", 1)], "me") == set()
    query = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'tasks' AND n_tup_upd >= 20"
    await pool.fetch("SELECT pg_stat_force_next_flush()")
    row = (await rows_of(pool, query))[0]
    assert row["n_tup_hot_upd"] == row["n_tup_upd"]


async def test_a_number_that_was_handed_out_twice_is_its_owners_alone(ledger: PostgresLedger, pool: Pool) -> None:
    """Postgres lost the commits of the first claim: whoever it fenced out finishes, leaves, keeps and reads nothing."""
    await ledger.claim(delivery("t1"), "zombie", "m1", LEASE_S)
    await pool.fetch("DELETE FROM qstreamd.tasks")
    assert claimed(await ledger.claim(delivery("t1"), "new", "m1", LEASE_S)).attempt == 1
    assert await ledger.heartbeat([("t1", 1)], "zombie") == {"t1"}
    with pytest.raises(LeaseLost, match="running, attempt 1 of new"):
        await ledger.finish("t1", 1, "zombie", draft("of the zombie"))
    assert not await ledger.transition("t1", 1, "zombie", RETRY)
    assert not await ledger.raise_attempt("t1", 1, "zombie", 9)
    stored = await ledger.finish("t1", 1, "new", draft("right"))
    with pytest.raises(LeaseLost, match="done, attempt 1 of new"):  # read back, it is not taken for its own commit
        await ledger.finish("t1", 1, "zombie", draft("of the zombie"))
    assert await ledger.finish("t1", 1, "new", draft("right")) == stored
    assert [r["content"] for r in await pool.fetch("SELECT content FROM qstreamd.results")] == ["right"]


async def test_a_zombie_does_not_read_back_the_retry_of_another_owner(ledger: PostgresLedger, pool: Pool) -> None:
    """Both left the same number in the same way: only one of them did."""
    await ledger.claim(delivery("t1"), "zombie", "m1", LEASE_S)
    await pool.fetch("DELETE FROM qstreamd.tasks")
    await ledger.claim(delivery("t1"), "new", "m1", LEASE_S)
    assert await ledger.transition("t1", 1, "new", RETRY) and await ledger.transition("t1", 1, "new", RETRY)
    assert not await ledger.transition("t1", 1, "zombie", RETRY)


async def test_an_attempt_is_raised_above_what_its_events_know(ledger: PostgresLedger, pool: Pool) -> None:
    """Its record goes with it; the old number is nobody's any more; a repeat after a lost reply is a success."""
    await ledger.claim(delivery("t1"), "me", "m1", LEASE_S)
    assert await ledger.raise_attempt("t1", 1, "me", 4) and await ledger.raise_attempt("t1", 1, "me", 4)
    assert await outcomes(pool, "t1") == [(4, None, None)]
    assert await ledger.heartbeat([("t1", 1)], "me") == {"t1"} and await ledger.heartbeat([("t1", 4)], "me") == set()
    await ledger.finish("t1", 4, "me", draft())
    assert not await ledger.raise_attempt("t1", 4, "me", 5)
    assert await outcomes(pool, "t1") == [(4, "done", None)]


async def test_a_claim_that_runs_is_not_let_go_by_somebody_else(ledger: PostgresLedger, pool: Pool) -> None:
    """It was taken over, and its heartbeat is fresh: the entry may not move. Dead owners are, and count a crash."""
    await ledger.claim(delivery("t1"), "you", "m1", LEASE_S)
    before = await task(pool, "t1")
    assert not await ledger.release_claim("t1", "tasks/1-0", "me", LEASE_S)
    assert await task(pool, "t1") == before
    assert await ledger.release_claim("t1", "tasks/1-0", "me", LEASE_S, dead_owners=["you", "she"])
    row = await task(pool, "t1")
    assert (row["state"], row["crashes"]) == ("queued", 1)


async def test_finish_claim_and_a_zombie_race_150_times(ledger: PostgresLedger, pool: Pool) -> None:
    """Two finishes of attempt 1, a take-over, a late zombie: always one winner, one result, no attempt left open."""
    wins = {1: 0, 2: 0}
    for round_ in range(150):
        name = f"t{round_}"
        await ledger.claim(delivery(name), "first", "m1", LEASE_S)
        await let_heartbeat_lapse(pool, name)
        work = [ledger.finish(name, 1, "first", draft("one")), ledger.finish(name, 1, "first", draft("one"))]
        claim = ledger.claim(delivery(name, "2-0"), "second", "m1", LEASE_S)
        order = [claim, *work] if round_ % 2 else [*work, claim]
        answers = await asyncio.gather(*order, return_exceptions=True)
        taken = answers.pop(0 if round_ % 2 else 2)
        late = await asyncio.gather(ledger.finish(name, 1, "first", draft("one")), return_exceptions=True)
        finished = [a for a in (*answers, *late) if not isinstance(a, LeaseLost)]
        if isinstance(taken, Claimed):
            assert (taken.attempt, taken.crashes, finished) == (2, 1, [])
            await ledger.finish(name, 2, "second", draft("two"))
        else:
            assert isinstance(taken, AlreadyEnded) and taken.result is not None
            assert len(finished) == 3 and len({id_of(f) for f in finished} | {taken.result.id}) == 1
        winner = 2 if isinstance(taken, Claimed) else 1
        wins[winner] += 1
        rows = await pool.fetch("SELECT attempt, content FROM qstreamd.results WHERE task_id = $1", name)
        assert [(r["attempt"], r["content"]) for r in rows] == [(winner, {1: "one", 2: "two"}[winner])]
        expected = [(1, "done", None)] if winner == 1 else [(1, "lost", None), (2, "done", None)]
        assert await outcomes(pool, name) == expected
    assert wins[1] > 0 and wins[2] > 0, f"the race was decided before it began: {wins}"


def id_of(answer: object) -> object:
    """The id of a stored result; anything else as it is, to be seen in a failure."""
    return getattr(answer, "id", answer)
