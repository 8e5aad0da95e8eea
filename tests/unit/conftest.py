"""What unit tests may use in place of a server."""

from __future__ import annotations

from typing import Any

import pytest
from fakeredis import FakeAsyncRedis


@pytest.fixture
def fake_redis() -> Any:
    """An empty Redis in this process that runs our Lua scripts; no socket, no server.

    Only for what does not block: its blocking reads are wrong. It has no `maxmemory` and no cluster either.
    """
    return FakeAsyncRedis(protocol=3, legacy_responses=False)
