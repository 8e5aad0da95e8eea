"""A Redis belongs to one NODE_ENV."""

from __future__ import annotations

import pytest

from daemon.domain.errors import ConfigError
from daemon.redis_client import keys
from daemon.redis_client.ownership import claim_environment
from tests.integration.redis_side import Side


async def test_the_first_environment_owns_the_server(side: Side) -> None:
    """Staging never eats production's tasks: another one refuses to start, and is told whose it is."""
    for _ in range(2):
        await claim_environment(side.client, "production")
    with pytest.raises(ConfigError, match=r"NODE_ENV: this is 'staging'.*production"):
        await claim_environment(side.client, "staging")
    assert await side.client.get(keys.ENVIRONMENT) == b"production"


async def test_a_full_server_does_not_keep_its_owner_out(side: Side) -> None:
    """A daemon restarts while Redis is out of memory."""
    await claim_environment(side.client, "production")
    await side.client.config_set("maxmemory", "1")
    try:
        await claim_environment(side.client, "production")
    finally:
        await side.client.config_set("maxmemory", "0")
