"""A started pool and a ledger on a database of the test's own."""

from __future__ import annotations

import pytest

from daemon.store.batching import BatchingLedger
from daemon.store.pool import Pool
from daemon.store.tasks import PostgresLedger


@pytest.fixture
def ledger(pool: Pool) -> PostgresLedger:
    """The adapter under test."""
    return BatchingLedger(pool)
