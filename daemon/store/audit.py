"""Who did what: rows of `audit_log`, written in batches behind the back of the call that they are about.

A call never waits for its row. While Postgres is away rows are kept, up to a limit, and what is dropped is said aloud.
Never holds prompts or secrets: the caller hands in ids.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

from daemon.domain.errors import QstreamdError, StoreAway
from daemon.observability.logging import logger
from daemon.ports import Clock
from daemon.store.jsonb import storable
from daemon.store.pool import Pool
from daemon.store.sql import load_queries

_log = logger(__name__)

ROWS_MAX: Final = 10_000  #: kept while Postgres is away; about 0.5 KB each
BATCH: Final = 500
_GATHER_S: Final = 0.2  #: rows of so long go together
_RETRY_S: Final = 2.0


class AuditLog:
    """`note` from anywhere in the loop; `run` writes until cancelled, `flush` writes what is left at a stop."""

    def __init__(self, pool: Pool, clock: Clock) -> None:
        self._pool = pool
        self._clock = clock
        self._insert = load_queries()["audit"]
        self._rows: deque[dict[str, Any]] = deque()
        self._noted = asyncio.Event()

    def note(
        self,
        action: str,
        target: str,
        *,
        actor: str,
        role: str,
        ip: str = "",
        result: str = "",
        request_id: str | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> None:
        """One row, on its way. Never waits, never raises."""
        if len(self._rows) >= ROWS_MAX:
            self._rows.popleft()
            _log.error("audit.row_dropped", kept=ROWS_MAX)
        row = {
            "at": self._clock.time(), "actor": actor, "role": role, "ip": ip, "action": action, "target": target,
            "params": dict(params or {}), "result": result, "request_id": request_id,
        }  # fmt: skip
        self._rows.append(storable(row))
        self._noted.set()

    async def run(self) -> None:
        """Write rows until cancelled."""
        while True:
            await self._noted.wait()
            await asyncio.sleep(_GATHER_S)
            self._noted.clear()
            if not await self.flush():
                await asyncio.sleep(_RETRY_S)
                self._noted.set()

    async def flush(self) -> bool:
        """Write what there is; False when Postgres is away. A batch whose reply was lost may be there twice."""
        while self._rows:
            batch = [self._rows[at] for at in range(min(BATCH, len(self._rows)))]
            try:
                await self._pool.fetch(self._insert, batch)
            except StoreAway as error:
                _log.warning("audit.write_failed", error=type(error).__name__, rows=len(self._rows))
                return False
            except QstreamdError as error:  # refused: these rows will never be taken
                _log.error("audit.rows_refused", error=error, rows=len(batch))
            for row in batch:
                if self._rows and self._rows[0] is row:
                    self._rows.popleft()
        return True
