"""The ledger in Postgres: hands out attempt numbers (the fence), holds results, never loses a paid answer.

Two statements: `claim` (with the input of ID-first tasks) and `finish` or `transition`. Each is a compare-and-set
that Postgres judges on the newest version of the row; when it matches nothing the row is read back, since a reply lost
after a commit looks just like being fenced out. The `…_many` need no more statements for a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from daemon.domain.errors import Code, LeaseLost, StoreAway, TaskError
from daemon.domain.queues import DEFAULT_QUEUES, QueueSpec
from daemon.domain.states import State
from daemon.ports import ClaimOutcome, Delivery, ResultDraft, StoredResult, Transition
from daemon.store.no_attempt import NoAttempt
from daemon.store.pool import Pool, Row, SchemaMismatch, StatementRefused, StatementTimeout
from daemon.store.task_rows import (
    ClaimRequest,
    claim_answer,
    storable_draft,
    stored_result,
    task_columns,
)

CLAIM_LOOKS_MAX: Final = 5  #: each further look means that another claim got through in between


class PostgresLedger(NoAttempt):
    """`daemon.ports.Ledger` on Postgres. `queues` as they are now: their tier is for messages that name none."""

    def __init__(self, pool: Pool, queues: Callable[[], Mapping[str, QueueSpec]] = lambda: DEFAULT_QUEUES) -> None:
        super().__init__(pool, queues)

    async def claim(
        self, delivery: Delivery, owner: str, model_id: str, lease_s: float, dead_owners: Sequence[str] = ()
    ) -> ClaimOutcome:
        """See `Ledger.claim`. A repeat after a lost reply raises `attempt` once more and counts no crash."""
        return (await self.claim_many([ClaimRequest(delivery, model_id)], owner, lease_s, dead_owners))[0]

    async def claim_many(
        self, requests: Sequence[ClaimRequest], owner: str, lease_s: float, dead_owners: Sequence[str] = ()
    ) -> list[ClaimOutcome]:
        """The answer of each request, in order; one statement unless two are of one task. Repeatable as `claim`."""
        answers: dict[int, ClaimOutcome] = {}
        for _ in range(CLAIM_LOOKS_MAX + len(requests)):
            batch: dict[str, tuple[int, ClaimRequest]] = {}
            for at, request in enumerate(requests):
                if at not in answers:  # a statement can touch a row once: the second entry of a task waits for the next
                    batch.setdefault(request.entry.message.task_id, (at, request))
            if not batch:
                break
            for row in await self._claim_rows(dict(batch.values()), owner, lease_s, list(dead_owners)):
                answer = claim_answer(requests[row["ord"]], row)
                if answer is not None:
                    answers[row["ord"]] = answer
        if len(answers) < len(requests):
            raise StoreAway("Postgres: a task changed hands at every look; its entry stays pending")
        return [answers[at] for at in range(len(requests))]

    async def _claim_rows(self, batch: Mapping[int, ClaimRequest], *asker: object) -> Sequence[Row]:
        rows = [
            {"ord": at, **task_columns(r.entry, r.delivery.queue, r.delivery.entry_id, r.model_id, self._queues())}
            for at, r in batch.items()
        ]
        if not any(row["wants_context"] for row in rows):
            return await self._pool.fetch(self._sql["claim"], rows, *asker)
        try:
            return await self._pool.fetch(self._sql["claim_with_context"], rows, *asker)
        except (StatementRefused, StatementTimeout, SchemaMismatch) as error:
            # The view is the deployment's: it may be broken, or slow. Nothing was claimed. Claim without it, one by one
            # if there were several, so that each ends (or retries) for its own reason.
            if len(batch) > 1:
                return [row for at, r in batch.items() for row in await self._claim_rows({at: r}, *asker)]
            failure = TaskError(
                code=Code.STORE_ERROR, detail=f"task_context: {getattr(error, 'detail', None) or error}"
            )
            claimed = await self._pool.fetch(self._sql["claim"], rows, *asker)
            return [{**row, "context_failure": failure} for row in claimed]

    async def finish(self, task_id: str, attempt: int, owner: str, result: ResultDraft) -> StoredResult:
        """See `Ledger.finish`."""
        answer = (await self.finish_many([(task_id, attempt, owner, result)]))[0]
        if isinstance(answer, LeaseLost):
            raise answer
        return answer

    async def finish_many(self, drafts: Sequence[tuple[str, int, str, ResultDraft]]) -> list[StoredResult | LeaseLost]:
        """The outcome of each, in order, in one statement (and one more for each that matched nothing). Repeatable."""
        clean = [(task_id, attempt, owner, storable_draft(draft)) for task_id, attempt, owner, draft in drafts]
        rows = {
            (task_id, attempt, owner): {
                "task_id": task_id, "attempt": attempt, "owner": owner, "content": d.content, "data": d.data,
                "model_id": d.model_id, "content_sha256": d.content_sha256, "usage": d.usage,
                "first_token_at": d.first_token_at, "finish_reason": d.finish_reason,
            }
            for task_id, attempt, owner, d in clean
        }  # fmt: skip
        won = await self._pool.fetch(self._sql["finish"], list(rows.values()))
        ids = {(row["task_id"], row["attempt"], row["owner"]): row["id"] for row in won}
        return [
            StoredResult(
                ids[task_id, attempt, owner], d.content_sha256, d.data, d.content, d.model_id, d.usage, d.finish_reason
            )
            if (task_id, attempt, owner) in ids
            else await self._read_back(task_id, attempt, owner)
            for task_id, attempt, owner, d in clean
        ]

    async def _read_back(self, task_id: str, attempt: int, owner: str) -> StoredResult | LeaseLost:
        row = await self._outcome(task_id, attempt)
        ours = (State.DONE, attempt, owner)
        if row is not None and (row["state"], row["result_attempt"], row["owner"]) == ours:
            return stored_result(row)
        seen = f"{row['state']}, attempt {row['attempt']} of {row['owner']}" if row else "no row"
        return LeaseLost(f"attempt {attempt} of {task_id} may not finish: the ledger says {seen}")

    async def raise_attempt(self, task_id: str, attempt: int, owner: str, to: int) -> bool:
        """See `Ledger.raise_attempt`."""
        return bool(await self._pool.fetch(self._sql["raise_attempt"], task_id, attempt, owner, to))

    async def transition(self, task_id: str, attempt: int, owner: str, change: Transition) -> bool:
        """See `Ledger.transition`. True as well when an earlier try of this same call committed."""
        rows = await self._pool.fetch(
            self._sql["leave"], task_id, attempt, change.state, change.code, change.outcome, int(change.count_failure),
            change.usage, change.model_id, change.first_token_at, owner,
        )  # fmt: skip
        if rows:
            return True
        row = await self._outcome(task_id, attempt)
        if row is None:
            return False
        found = (row["attempt"], row["owner"], row["state"], row["outcome"], row["code"])
        return found == (attempt, owner, change.state, change.outcome, change.code)

    async def heartbeat(self, attempts: Sequence[tuple[str, int]], owner: str) -> set[str]:
        """See `Ledger.heartbeat`."""
        if not attempts:
            return set()
        ordered = sorted(attempts)  # one lock order for all processes
        rows = await self._pool.fetch(self._sql["heartbeat"], [t for t, _ in ordered], [a for _, a in ordered], owner)
        alive = {(row["task_id"], row["attempt"]) for row in rows}
        return {task_id for task_id, attempt in attempts if (task_id, attempt) not in alive}

    async def _outcome(self, task_id: str, attempt: int) -> Row | None:
        rows = await self._pool.fetch(self._sql["outcome"], task_id, attempt)
        return rows[0] if rows else None
