"""A world for each test that asks for one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests import front_ends
from tests.e2e.world import World


@pytest.fixture
async def world(redis_url: str, postgres_url: str, tmp_path: Path) -> AsyncIterator[World]:
    """No process runs in it yet; its servers are shared with other tests, its databases are its own."""
    async with World(redis_url, postgres_url, tmp_path) as world:
        yield world


@pytest.fixture(scope="session")
def nextjs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of docs/nextjs.md as a project, checked by the compiler."""
    return front_ends.nextjs(tmp_path_factory.mktemp("nextjs"))
