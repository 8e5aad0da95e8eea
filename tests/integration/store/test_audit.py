"""The audit log: rows reach Postgres in batches, survive its absence, and stop nobody."""

from __future__ import annotations

import asyncio

import pytest

from daemon.config import PostgresSettings
from daemon.config.types import SecretStr
from daemon.dev.embedded_postgres import EmbeddedPostgres
from daemon.domain.clock import SystemClock
from daemon.store import audit
from daemon.store.audit import AuditLog
from daemon.store.pool import Pool, Row
from tests.waiting import WaitUntil

TARGETS = "SELECT target FROM qstreamd.audit_log ORDER BY id"


def note(log: AuditLog, target: str) -> None:
    log.note("task.submit", target, actor="bff", role="api_key", params={"a": "x\x00y"}, request_id=None)


async def test_rows_are_written_behind_the_back_of_the_call(
    postgres_settings: PostgresSettings, wait_until: WaitUntil
) -> None:
    """In order, together, with what Postgres can't hold left out."""
    pool = await Pool(postgres_settings).start()
    log = AuditLog(pool, SystemClock())
    before = pool.statements
    async with asyncio.TaskGroup() as group:
        writing = group.create_task(log.run())
        for n in range(50):
            note(log, f"t{n}")

        async def all_rows() -> list[Row]:
            found = await pool.fetch(TARGETS)
            return found if len(found) == 50 else []

        rows = await wait_until(all_rows, description="fifty rows")
        writing.cancel()
    assert [row["target"] for row in rows] == [f"t{n}" for n in range(50)]
    assert pool.statements - before < 40
    assert (await pool.fetch("SELECT params FROM qstreamd.audit_log LIMIT 1"))[0]["params"] == {"a": "xy"}
    await pool.close()


async def test_rows_wait_for_a_postgres_that_is_away(
    postgres_server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to a limit, the newest kept; written when it is back."""
    monkeypatch.setattr(audit, "ROWS_MAX", 3)
    pool = await Pool(PostgresSettings(url=SecretStr(postgres_server.url))).start()
    log = AuditLog(pool, SystemClock())
    await asyncio.to_thread(postgres_server.stop)
    for n in range(5):
        note(log, f"t{n}")
    assert await log.flush() is False
    await asyncio.to_thread(postgres_server.start)
    assert await log.flush() is True
    assert [row["target"] for row in await pool.fetch(TARGETS)] == ["t2", "t3", "t4"]
    await pool.close()


async def test_rows_that_are_refused_block_nobody(postgres_settings: PostgresSettings) -> None:
    pool = await Pool(postgres_settings).start()
    log = AuditLog(pool, SystemClock())
    await pool.fetch("ALTER TABLE qstreamd.audit_log ADD CONSTRAINT short CHECK (length(target) < 9)")
    note(log, "much too long for it")
    assert await log.flush() is True
    note(log, "t1")
    assert await log.flush() is True
    assert [row["target"] for row in await pool.fetch(TARGETS)] == ["t1"]
    await pool.close()
