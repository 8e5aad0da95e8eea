"""What Postgres says of itself."""

from __future__ import annotations

from typing import Any

import pytest

from daemon.admin.checkup.postgres_server import findings_of

GOOD: dict[str, Any] = {
    "version_num": 170002, "standby": False, "read_only": "off", "fsync": "on", "synchronous_commit": "on",
    "max_connections": 100, "connections": 5,
}  # fmt: skip


def test_a_fit_server_needs_no_cure() -> None:
    assert {f.level for f in findings_of(GOOD, pool_max=10)} == {"ok", "info"}


@pytest.mark.parametrize(
    ("changed", "check", "level"),
    [
        ({"version_num": 140009}, "postgres.version", "error"),
        ({"standby": True}, "postgres.role", "error"),
        ({"read_only": "on"}, "postgres.role", "error"),
        ({"fsync": "off"}, "postgres.durability", "error"),
        ({"synchronous_commit": "off"}, "postgres.durability", "warning"),
        ({"connections": 95}, "postgres.connections", "warning"),
    ],
)
def test_each_trouble_has_a_cure(changed: dict[str, Any], check: str, level: str) -> None:
    found = next(f for f in findings_of(GOOD | changed, pool_max=10) if f.check == check)
    assert found.level == level
    assert found.cure
