"""A started pool and a ledger on a database of the test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from daemon.config import PostgresSettings
from daemon.store.batching import BatchingLedger
from daemon.store.pool import Pool
from daemon.store.tasks import PostgresLedger


@pytest.fixture
async def pool(postgres_settings: PostgresSettings) -> AsyncIterator[Pool]:
    """Connected with the settings as shipped."""
    pool = await Pool(postgres_settings).start()
    yield pool
    await pool.close()


@pytest.fixture
def ledger(pool: Pool) -> PostgresLedger:
    """The adapter under test."""
    return BatchingLedger(pool)
