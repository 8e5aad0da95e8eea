"""The same world as in `tests/e2e`, and many of them side by side."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.dev.embedded_redis import EmbeddedRedis
from tests.chaos.side_by_side import NewDatabase, SideBySide
from tests.e2e.conftest import world as world


@pytest.fixture(scope="session")
def _redis_of_many() -> Iterator[str]:
    with EmbeddedRedis(persist=False) as server:
        yield server.url


@pytest.fixture
def side_by_side(
    _redis_of_many: str,
    new_database: NewDatabase,
    tmp_path: Path,
    subtests: pytest.Subtests,
    pytestconfig: pytest.Config,
) -> SideBySide:
    """Runs many cases at once, each in a world of its own."""
    return SideBySide(_redis_of_many, new_database, tmp_path, subtests, pytestconfig.getoption("--point"))
