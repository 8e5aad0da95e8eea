"""Every answer of a claim, and what it leaves in the tables; on each Postgres of this machine."""

from __future__ import annotations

import asyncio

import pytest

from daemon.domain.errors import Code, StoreAway
from daemon.domain.messages import ImageRef, content_sha256
from daemon.domain.states import State
from daemon.ports import AlreadyEnded, AlreadyRunning, Claimed, StillRunning, TaskIdConflict, Transition
from daemon.store.pool import Pool
from daemon.store.task_rows import ClaimRequest
from daemon.store.tasks import PostgresLedger
from tests.integration.store.samples import (
    CLOCK,
    LEASE_S,
    claimed,
    delivery,
    draft,
    let_heartbeat_lapse,
    outcomes,
    task,
)

pytestmark = pytest.mark.postgres_versions


async def test_the_first_claim_makes_the_row(ledger: PostgresLedger, pool: Pool) -> None:
    """Attempt 1, and everything the message says about the task is on the row."""
    sent = delivery("t1", "5-1", stream="ready", job_id="j1", refs={"cv": "c1"}, request_id="r1", trace_id="x1")
    answer = claimed(await ledger.claim(sent, "me", "m1", LEASE_S))
    assert (answer.attempt, answer.failures, answer.crashes, answer.context, answer.context_error) == (
        1,
        0,
        0,
        None,
        None,
    )
    assert answer.created_at == pytest.approx(CLOCK.time() - 1.5, abs=2)
    row = await task(pool, "t1")
    names = (
        "queue_id",
        "entry_id",
        "service_id",
        "user_id",
        "tier",
        "model_id",
        "job_id",
        "refs",
        "request_id",
        "trace_id",
    )
    assert [row[n] for n in names] == [
        "q_paid_stream", "ready/5-1", "echo", "u1", "paid", "m1", "j1", {"cv": "c1"}, "r1", "x1",
    ]  # fmt: skip
    assert (row["state"], row["owner"], row["body_sha256"], row["finished_at"]) == ("running", "me", "sha", None)
    assert row["created_at"] < row["started_at"] == row["heartbeat_at"]
    assert row["message"]["variables"] == {"text": "hello"}
    assert await outcomes(pool, "t1") == [(1, None, None)]


async def test_ids_the_producer_left_out_are_made_up_on_the_row_too(ledger: PostgresLedger, pool: Pool) -> None:
    """Events and rows name the same request."""
    await ledger.claim(delivery("t1"), "me", "m1", LEASE_S)
    row = await task(pool, "t1")
    assert row["request_id"].startswith("r_") and row["trace_id"]


async def test_image_bytes_stay_out_of_the_row(ledger: PostgresLedger, pool: Pool) -> None:
    """Only references are kept."""
    images = [ImageRef(data="QUJD" * 1000, mime_type="image/png"), ImageRef(blob="k:0", mime_type="image/jpeg")]
    await ledger.claim(delivery("t1", images=images), "me", "m1", LEASE_S)
    kept = (await task(pool, "t1"))["message"]["images"]
    assert kept == [{"mimeType": "image/png"}, {"mimeType": "image/jpeg", "blob": "k:0"}]


async def test_a_nul_in_the_input_does_not_stop_the_claim(ledger: PostgresLedger, pool: Pool) -> None:
    """Postgres can't hold it; the task runs all the same."""
    await ledger.claim(delivery("t1", variables={"text": "a\x00b\ud800", "k\x00": ["\x00"]}), "me", "m1", LEASE_S)
    assert (await task(pool, "t1"))["message"]["variables"] == {"text": "ab\ufffd", "k": [""]}


async def test_its_owner_claims_it_again(ledger: PostgresLedger, pool: Pool) -> None:
    """A reply was lost: the same entry, the same owner, the next number; with a fresh heartbeat no crash is counted."""
    await ledger.claim(delivery("t1"), "me", "m1", LEASE_S)
    answer = claimed(await ledger.claim(delivery("t1"), "me", "m2", LEASE_S))
    assert (answer.attempt, answer.crashes) == (2, 0)
    assert await outcomes(pool, "t1") == [(1, "lost", None), (2, None, None)]
    row = await task(pool, "t1")
    assert (row["owner"], row["model_id"]) == ("me", "m2")


async def test_a_run_that_lives_is_not_cut(ledger: PostgresLedger, pool: Pool) -> None:
    """Somebody read the entry, stood still, and asks after it was taken over: nothing changes, nothing is settled."""
    await ledger.claim(delivery("t1"), "you", "m1", LEASE_S)
    before = await task(pool, "t1")
    assert await ledger.claim(delivery("t1"), "me", "m1", LEASE_S) == StillRunning()
    assert await ledger.claim(delivery("t1"), "me", "m1", LEASE_S, dead_owners=["she"]) == StillRunning()
    assert await task(pool, "t1") == before
    await let_heartbeat_lapse(pool, "t1")
    assert claimed(await ledger.claim(delivery("t1"), "me", "m1", LEASE_S)).crashes == 1


async def test_a_dead_owner_keeps_nothing(ledger: PostgresLedger, pool: Pool) -> None:
    """Its heartbeat is fresh, but it was seen to be dead: any entry takes the task at once, and a crash is counted."""
    for attempt, (dead, entry) in enumerate([("", "1-0"), ("o1", "1-0"), ("o2", "9-0")], 1):
        answer = claimed(await ledger.claim(delivery("t1", entry), f"o{attempt}", "m1", LEASE_S, dead_owners=[dead]))
        assert (answer.attempt, answer.crashes) == (attempt, attempt - 1)
    assert await outcomes(pool, "t1") == [(1, "lost", None), (2, "lost", None), (3, None, None)]


async def test_our_own_run_is_not_cut_by_another_entry(ledger: PostgresLedger, pool: Pool) -> None:
    """The same process reads a second entry of a task that it runs."""
    await ledger.claim(delivery("t1"), "me", "m1", LEASE_S)
    assert await ledger.claim(delivery("t1", "2-0"), "me", "m1", LEASE_S) == AlreadyRunning()
    assert (await task(pool, "t1"))["attempt"] == 1


async def test_a_lapsed_heartbeat_counts_a_crash(ledger: PostgresLedger, pool: Pool) -> None:
    """Any entry may take over then, and the abandoned attempt is closed as lost."""
    for attempt in (1, 2, 3):
        answer = claimed(await ledger.claim(delivery("t1", f"{attempt}-0"), f"o{attempt}", "m1", LEASE_S))
        assert (answer.attempt, answer.crashes, answer.failures) == (attempt, attempt - 1, 0)
        await let_heartbeat_lapse(pool, "t1")
    assert await outcomes(pool, "t1") == [(1, "lost", None), (2, "lost", None), (3, None, None)]
    assert (await task(pool, "t1"))["entry_id"] == "tasks/3-0"


async def test_another_entry_of_a_running_task_is_a_duplicate(ledger: PostgresLedger, pool: Pool) -> None:
    """Nothing about the running attempt changes."""
    await ledger.claim(delivery("t1"), "me", "m1", LEASE_S)
    before = await task(pool, "t1")
    assert await ledger.claim(delivery("t1", "2-0"), "you", "m1", LEASE_S) == AlreadyRunning()
    assert await ledger.claim(delivery("t1", "1-0", stream="ready"), "you", "m1", LEASE_S) == AlreadyRunning()
    assert await task(pool, "t1") == before


async def test_another_queue_or_body_is_foreign_in_every_state(ledger: PostgresLedger, pool: Pool) -> None:
    """The id belongs to somebody else: also when that task ended, or its owner died."""
    await ledger.claim(delivery("t1"), "me", "m1", LEASE_S)
    for _ in ("running", "lapsed", "done"):
        other_queue = await ledger.claim(delivery("t1", queue="q_free_batch"), "you", "m1", LEASE_S)
        other_body = await ledger.claim(delivery("t1", sha256="other"), "you", "m1", LEASE_S)
        assert isinstance(other_queue, TaskIdConflict) and "queue q_paid_stream" in other_queue.why
        assert isinstance(other_body, TaskIdConflict) and "body" in other_body.why
        state = (await task(pool, "t1"))["state"]
        if state == "running":
            await let_heartbeat_lapse(pool, "t1")
            if _ == "lapsed":
                await ledger.finish("t1", 1, "me", draft())
    assert (await task(pool, "t1"))["attempt"] == 1


async def test_a_done_task_gives_its_stored_result(ledger: PostgresLedger) -> None:
    """So that the tail can be repeated without a model call."""
    await ledger.claim(delivery("t1"), "me", "m1", LEASE_S)
    stored = await ledger.finish("t1", 1, "me", draft("säd 😀", {"score": [1, None, 2.5]}))
    answer = await ledger.claim(delivery("t1"), "you", "m1", LEASE_S)
    assert answer == AlreadyEnded(State.DONE, 1, None, stored)
    assert stored.content_sha256 == content_sha256("säd 😀")
    assert (stored.data, stored.usage.cost_usd) == ({"score": [1, None, 2.5]}, 0.0125)


@pytest.mark.parametrize("state", [State.FAILED, State.CANCELLED, State.EXPIRED])
async def test_an_ended_task_gives_its_code(ledger: PostgresLedger, state: State) -> None:
    """Terminal states never change, whichever entry asks."""
    await ledger.claim(delivery("t1"), "me", "m1", LEASE_S)
    assert await ledger.transition("t1", 1, "me", Transition(state, Code.CANCELLED, str(state)))
    for entry in ("1-0", "2-0"):
        assert await ledger.claim(delivery("t1", entry), "you", "m1", LEASE_S) == AlreadyEnded(
            state, 1, Code.CANCELLED, None
        )


@pytest.mark.parametrize("state", [State.QUEUED, State.RETRYING])
async def test_a_waiting_task_is_taken_by_any_entry(ledger: PostgresLedger, pool: Pool, state: State) -> None:
    """Retries and hand-backs travel under new entry ids; `started_at` stays that of the first start."""
    await ledger.claim(delivery("t1"), "me", "m1", LEASE_S)
    first = await task(pool, "t1")
    await ledger.transition("t1", 1, "me", Transition(state, Code.LLM_ERROR, "failed", count_failure=True))
    answer = claimed(await ledger.claim(delivery("t1", "9-0", stream="ready"), "you", "m2", LEASE_S))
    assert (answer.attempt, answer.failures, answer.crashes) == (2, 1, 0)
    row = await task(pool, "t1")
    assert (row["error_code"], row["entry_id"], row["started_at"]) == (None, "ready/9-0", first["started_at"])
    assert await outcomes(pool, "t1") == [(1, "failed", "LLM_ERROR"), (2, None, None)]


async def test_a_long_wait_is_no_crash(ledger: PostgresLedger, pool: Pool) -> None:
    """A parked task has no heartbeat for hours; only a running one can have crashed."""
    await ledger.claim(delivery("t1"), "me", "m1", LEASE_S)
    await ledger.transition("t1", 1, "me", Transition(State.RETRYING, Code.LLM_ERROR, "failed"))
    await let_heartbeat_lapse(pool, "t1")
    assert claimed(await ledger.claim(delivery("t1", "2-0"), "me", "m1", LEASE_S)).crashes == 0


async def test_many_claims_cost_one_statement(ledger: PostgresLedger, pool: Pool) -> None:
    """Answers come in the order of the requests, whatever they are."""
    await ledger.claim(delivery("ended"), "me", "m1", LEASE_S)
    await ledger.finish("ended", 1, "me", draft())
    await ledger.claim(delivery("busy", "7-0"), "me", "m1", LEASE_S)
    names = ["new1", "ended", "new2", "busy"]
    before = pool.statements
    answers = await ledger.claim_many([ClaimRequest(delivery(n), "m1") for n in names], "you", LEASE_S)
    assert pool.statements == before + 1
    assert [type(a) for a in answers] == [Claimed, AlreadyEnded, Claimed, AlreadyRunning]
    assert await ledger.claim_many([], "you", LEASE_S) == []


async def test_two_entries_of_one_task_in_one_batch(ledger: PostgresLedger) -> None:
    """The first one wins, the others are duplicates."""
    batch = [ClaimRequest(delivery("t1", f"{n}-0"), "m1") for n in range(8)]
    answers = await ledger.claim_many(batch, "me", LEASE_S)
    assert claimed(answers[0]).attempt == 1
    assert answers[1:] == [AlreadyRunning()] * 7


async def test_twenty_entries_at_once_make_one_attempt(ledger: PostgresLedger, pool: Pool) -> None:
    """The race for a row that nobody's snapshot shows yet has one winner, and each loser an answer."""
    for round_ in range(15):
        name = f"race{round_}"
        claims = [ledger.claim(delivery(name, f"{n}-0"), f"o{n}", "m1", LEASE_S) for n in range(20)]
        answers = await asyncio.gather(*claims)
        assert sum(isinstance(a, Claimed) for a in answers) == 1
        assert sum(a == AlreadyRunning() for a in answers) == 19
        assert await outcomes(pool, name) == [(1, None, None)]


async def test_one_entry_claimed_ten_times_at_once_gives_ten_fences(ledger: PostgresLedger, pool: Pool) -> None:
    """Each claim of its owner gets a number of its own, and only the highest attempt stays open."""
    answers = await asyncio.gather(*(ledger.claim(delivery("t1"), "me", "m1", LEASE_S) for _ in range(10)))
    assert sorted(claimed(a).attempt for a in answers) == list(range(1, 11))
    assert await outcomes(pool, "t1") == [(n, "lost", None) for n in range(1, 10)] + [(10, None, None)]


async def test_a_task_that_changes_hands_at_every_look_stays_pending(
    ledger: PostgresLedger, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The looks are bounded: StoreAway, and the entry is seen again later."""
    looks = []

    async def nothing_certain(sql: str, rows: list[dict[str, object]], *rest: object) -> list[dict[str, object]]:
        looks.append(rows)
        return [{"ord": 0, "attempt": None, "old_state": None}]

    monkeypatch.setattr(pool, "fetch", nothing_certain)
    with pytest.raises(StoreAway, match="stays pending"):
        await ledger.claim(delivery("t1"), "me", "m1", LEASE_S)
    assert 2 < len(looks) < 10


async def test_poison_can_not_be_claimed(ledger: PostgresLedger) -> None:
    """A programming error, said clearly."""
    sent = delivery("t1")
    poison = type(sent)(sent.queue, sent.stream, sent.id, None, "not JSON")
    with pytest.raises(ValueError, match="poison: not JSON"):
        await ledger.claim(poison, "me", "m1", LEASE_S)
