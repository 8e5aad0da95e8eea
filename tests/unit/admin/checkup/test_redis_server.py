"""What INFO and CONFIG of Redis mean."""

from __future__ import annotations

from typing import Any

import pytest

from daemon.admin.checkup.redis_server import findings_of, together

GOOD: dict[str, Any] = {
    "redis_version": "7.4.1", "role": "master", "maxmemory_policy": "noeviction", "aof_enabled": 1,
    "appendfsync": "always", "used_memory": 1_000_000, "maxmemory": 100_000_000, "connected_clients": 5,
    "maxclients": "10000",
}  # fmt: skip


def levels(**changed: Any) -> dict[str, tuple[str, str]]:
    """check -> level and cure."""
    return {f.check: (f.level, f.cure) for f in findings_of(GOOD | changed)}


def test_a_fit_server_needs_no_cure() -> None:
    assert {level for level, _ in levels().values()} == {"ok"}


@pytest.mark.parametrize(
    ("changed", "check", "level", "cure"),
    [
        ({"redis_version": "6.2.7"}, "redis.version", "error", "7.0"),
        ({"valkey_version": "7.0.0"}, "redis.version", "error", "Valkey 7.2"),
        ({"role": "slave"}, "redis.role", "error", "primary"),
        ({"maxmemory_policy": "allkeys-lru"}, "redis.policy", "error", "CONFIG SET maxmemory-policy noeviction"),
        ({"aof_enabled": 0}, "redis.persistence", "warning", "CONFIG SET appendonly yes"),
        ({"appendfsync": "everysec"}, "redis.persistence", "info", "appendfsync always"),
        ({"aof_last_write_status": "err"}, "redis.disk", "error", "df -h"),
        ({"maxmemory": 0}, "redis.memory", "info", "maxmemory"),
        ({"used_memory": 90_000_000}, "redis.memory", "warning", "bigkeys"),
        ({"connected_clients": 9000}, "redis.connections", "warning", "maxclients"),
    ],
)
def test_each_trouble_has_its_cure(changed: dict[str, Any], check: str, level: str, cure: str) -> None:
    found = levels(**changed)[check]
    assert found[0] == level
    assert cure in found[1]


def test_a_managed_server_that_hides_config_is_taken_as_it_is() -> None:
    """No appendfsync, no maxclients: nothing is guessed."""
    hidden = {k: v for k, v in GOOD.items() if k not in {"appendfsync", "maxclients"}}
    assert {f.level for f in findings_of(hidden)} == {"ok"}


def test_a_cluster_says_once_what_is_well_everywhere_and_names_the_node_that_is_not() -> None:
    """Three nodes would otherwise fill the screen three times."""
    well, evicts = list(findings_of(GOOD)), list(findings_of(GOOD | {"maxmemory_policy": "allkeys-lru"}))
    told = {f.check: f for f in together([("a:1", well), ("b:2", evicts), ("c:3", well)])}
    assert len(told) == len(well)
    assert told["redis.version"].text.endswith("(3 nodes)")
    assert told["redis.policy"].level == "error" and told["redis.policy"].text.startswith("b:2: ")
