"""A world for each test that asks for one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.e2e.world import World


@pytest.fixture
async def world(redis_url: str, postgres_url: str, tmp_path: Path) -> AsyncIterator[World]:
    """No process runs in it yet; its servers are shared with other tests, its databases are its own."""
    async with World(redis_url, postgres_url, tmp_path) as world:
        yield world
