"""Claims and finishes that travel together are judged apart."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import msgspec
import pytest

from daemon.domain.errors import LeaseLost, TaskError
from daemon.ports import Claimed, Delivery, StillRunning, StoredResult
from daemon.store.batching import BatchingLedger
from daemon.store.pool import Pool
from tests.integration.store.samples import LEASE_S, claimed, delivery, draft

MANY = 40


def _refused(task_id: str) -> Delivery:
    """Accepted at a time that no calendar of Postgres has."""
    d = delivery(task_id)
    assert d.entry is not None
    return replace(d, entry=msgspec.structs.replace(d.entry, accepted_at=10**20))


async def test_claims_of_one_read_share_a_statement(pool: Pool) -> None:
    """Each gets its own answer; the statements do not grow with their number."""
    ledger, before = BatchingLedger(pool), pool.statements
    answers = await asyncio.gather(*(ledger.claim(delivery(f"t{n}"), "me", "m1", LEASE_S) for n in range(MANY)))
    assert [type(answer) for answer in answers] == [Claimed] * MANY
    assert pool.statements - before <= 2


async def test_finishes_share_a_statement_and_keep_their_results_apart(pool: Pool) -> None:
    ledger = BatchingLedger(pool)
    attempts = await asyncio.gather(*(ledger.claim(delivery(f"t{n}"), "me", "m1", LEASE_S) for n in range(MANY)))
    before = pool.statements
    stored = await asyncio.gather(
        *(
            ledger.finish(f"t{n}", claimed(answer).attempt, "me", draft(f"text {n}"))
            for n, answer in enumerate(attempts)
        )
    )
    assert [result.content for result in stored] == [f"text {n}" for n in range(MANY)]
    assert len({result.id for result in stored}) == MANY
    assert pool.statements - before <= 2


async def test_a_zombie_among_finishes_is_refused_alone(pool: Pool) -> None:
    """The fence is a row's, not a batch's."""
    ledger = BatchingLedger(pool)
    await asyncio.gather(*(ledger.claim(delivery(f"t{n}"), "me", "m1", LEASE_S) for n in range(3)))
    found = await asyncio.gather(
        ledger.finish("t0", 1, "me", draft("a")),
        ledger.finish("t1", 7, "me", draft("b")),
        ledger.finish("t2", 1, "me", draft("c")),
        return_exceptions=True,
    )
    assert [type(one) for one in found] == [StoredResult, LeaseLost, StoredResult]


async def test_a_row_that_postgres_refuses_does_not_take_its_neighbours_along(pool: Pool) -> None:
    """The batch is asked again one by one: whoever is bad ends for its own reason."""
    ledger = BatchingLedger(pool)
    found = await asyncio.gather(
        ledger.claim(delivery("good1"), "me", "m1", LEASE_S),
        ledger.claim(_refused("bad"), "me", "m1", LEASE_S),
        ledger.claim(delivery("good2"), "me", "m1", LEASE_S),
        return_exceptions=True,
    )
    assert [isinstance(one, Claimed) for one in found] == [True, False, True]
    assert isinstance(found[1], TaskError)


async def test_a_refusal_of_one_alone_is_its_own(pool: Pool) -> None:
    with pytest.raises(TaskError):
        await BatchingLedger(pool).claim(_refused("bad"), "me", "m1", LEASE_S)


async def test_two_entries_of_one_task_in_one_batch_get_one_attempt(pool: Pool) -> None:
    """A duplicate delivery stays one although both claims left together."""
    ledger = BatchingLedger(pool)
    both = await asyncio.gather(
        ledger.claim(delivery("t1", "1-0"), "me", "m1", LEASE_S),
        ledger.claim(delivery("t1", "2-0"), "me", "m1", LEASE_S),
    )
    assert sorted(type(one).__name__ for one in both) == ["AlreadyRunning", "Claimed"]


async def test_the_dead_that_one_claim_names_are_dead_for_its_batch(pool: Pool) -> None:
    """Claims in one statement with different proofs; a task of somebody who lives stays his."""
    ledger = BatchingLedger(pool)
    owners = {"t1": "dead", "t2": "gone", "t3": "alive"}
    for name, owner in owners.items():
        await ledger.claim(delivery(name), owner, "m1", LEASE_S)
    before = pool.statements
    answers = await asyncio.gather(
        ledger.claim(delivery("t1"), "me", "m1", LEASE_S, ["dead"]),
        ledger.claim(delivery("t2"), "me", "m1", LEASE_S, ["gone"]),
        ledger.claim(delivery("t3"), "me", "m1", LEASE_S),
    )
    assert pool.statements - before <= 2
    assert [claimed(answer).crashes for answer in answers[:2]] == [1, 1]
    assert answers[2] == StillRunning()
