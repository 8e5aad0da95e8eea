"""The ledger with the claims, and the finishes, of a busy process in shared statements.

Which attempt owns a task is judged row by row as before; only the round trip and the commit are shared. A batch that
Postgres refuses or does not answer in time is asked again one by one, so that one task's trouble stays its own. A
cancelled claim is over before its caller goes on: a second try is never overtaken by the first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final, TypeVar

from daemon.domain.errors import TaskError
from daemon.ports import ClaimOutcome, Delivery, ResultDraft, StoredResult
from daemon.redis_client.batcher import Batcher
from daemon.store.pool import StatementTimeout
from daemon.store.task_rows import ClaimRequest
from daemon.store.tasks import PostgresLedger

A = TypeVar("A")
_Claim = tuple[Delivery, str, str, float, Sequence[str]]

#: statements of a kind at once; two keep Postgres busy while we read an answer
_LANES: Final = 2
#: rows of one statement: a few milliseconds
_ROWS_MAX: Final = 64


class BatchingLedger(PostgresLedger):
    """`PostgresLedger` whose `claim` and `finish` travel together."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._claims: Batcher[_Claim, ClaimOutcome] = Batcher(
            self._claim_all, lanes=_LANES, most=_ROWS_MAX, waits_when_cancelled=True
        )
        self._finishes: Batcher[tuple[str, int, str, ResultDraft], StoredResult] = Batcher(
            self._finish_all, lanes=_LANES, most=_ROWS_MAX, waits_when_cancelled=True
        )

    async def claim(
        self, delivery: Delivery, owner: str, model_id: str, lease_s: float, dead_owners: Sequence[str] = ()
    ) -> ClaimOutcome:
        """See `Ledger.claim`."""
        return await self._claims.ask((delivery, owner, model_id, lease_s, dead_owners))

    async def finish(self, task_id: str, attempt: int, owner: str, result: ResultDraft) -> StoredResult:
        """See `Ledger.finish`."""
        return await self._finishes.ask((task_id, attempt, owner, result))

    async def _claim_all(self, asked: list[_Claim]) -> Sequence[ClaimOutcome | Exception]:
        _, owner, _, lease_s, _ = asked[0]  # of this process, the same for all
        dead_owners = sorted({name for *_, dead in asked for name in dead})  # who is dead for one is dead for all
        requests = [ClaimRequest(d, model_id) for d, _, model_id, *_ in asked]
        try:
            return await self.claim_many(requests, owner, lease_s, dead_owners)
        except (TaskError, StatementTimeout):
            if len(asked) == 1:
                raise
            return await _each(super(BatchingLedger, self).claim(*one) for one in asked)

    async def _finish_all(self, asked: list[tuple[str, int, str, ResultDraft]]) -> Sequence[StoredResult | Exception]:
        try:
            return await self.finish_many(asked)
        except (TaskError, StatementTimeout):
            if len(asked) == 1:
                raise
            return await _each(super(BatchingLedger, self).finish(*one) for one in asked)


async def _each(calls: Any) -> list[Any]:
    return await asyncio.gather(*calls, return_exceptions=True)
