"""`python -m daemon doctor` against planted misconfigurations, one at a time: each is found and its cure is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import pytest
from click.testing import CliRunner
from redis import Redis

from daemon.cli import cli
from daemon.dev.embedded_redis import EmbeddedRedis
from daemon.redis_client import keys
from tests.conftest import in_thread
from tests.integration.admin.conftest import System
from tests.integration.admin.test_commands import do

QUEUE = "q_paid_stream"
SERVICES = """
[models.fast]
provider = "deepseek"
name = "deepseek-chat"
input = ["text"]

[services.one]
title = "One"
prompt = "{{ x }}"
models = { paid = ["fats"], free = ["fast"] }
"""


@dataclass(frozen=True)
class Planted:
    """What is wrong, and what must be said about it. `finding` is the check's name."""

    finding: str
    level: str
    says: str  #: in its text or its cure
    environment: dict[str, str] = field(default_factory=dict)
    redis: Callable[[Redis], object] = lambda _: None
    sql: str = ""
    accepted: bool = False  #: a task waits


PLANTED = {
    "Redis evicts": Planted(
        "redis.policy", "error", "noeviction", redis=lambda r: r.config_set("maxmemory-policy", "allkeys-lru")
    ),
    "Redis forgets": Planted(
        "redis.persistence", "warning", "appendonly yes", redis=lambda r: r.config_set("appendonly", "no")
    ),
    "Redis is another's": Planted(
        "redis.environment", "error", "REDIS_URL", redis=lambda r: r.set(keys.ENVIRONMENT, "staging")
    ),
    "nobody at REDIS_URL": Planted("redis.reach", "error", "REDIS_URL", {"REDIS_URL": "redis://127.0.0.1:1/0"}),
    "nobody at DATABASE_URL": Planted(
        "postgres.reach", "error", "DATABASE_URL", {"DATABASE_URL": "postgresql://x:y@127.0.0.1:1/z"}
    ),
    "never migrated": Planted(
        "postgres.schema", "error", "python -m daemon migrate", sql="DROP SCHEMA qstreamd CASCADE"
    ),
    "no daemon for a queue": Planted("queues.unread", "error", f"--queues {QUEUE}", accepted=True),
    "a queue left paused": Planted(
        "queues.paused", "warning", f"queues resume {QUEUE}",
        redis=lambda r: r.hset(keys.queue_keys(QUEUE).control, "paused", "1"),
    ),
    "one signing key twice": Planted(
        "config.keys", "warning", "copy both from the QStash console",
        {"QSTASH_CURRENT_SIGNING_KEY": "sig_a", "QSTASH_NEXT_SIGNING_KEY": "sig_a"},
    ),
    "a misspelt setting": Planted("config", "error", "did you mean QSTREAMD_LEASE_S?", {"QSTREAMD_LEASES_S": "30"}),
    "a lease shorter than a beat": Planted("config", "error", "QSTREAMD_BEAT_S", {"QSTREAMD_LEASE_S": "1"}),
    "a model that there is not": Planted("config", "error", 'did you mean "fast"?', {"SERVICES_FILE": "services.toml"}),
    "nobody at WORKER_BASE_URL": Planted(
        "relay.signed", "error", "relay",
        {"WORKER_BASE_URL": "http://127.0.0.1:1", "QSTASH_CURRENT_SIGNING_KEY": "sig_a",
         "QSTASH_NEXT_SIGNING_KEY": "sig_b"},
    ),
}  # fmt: skip


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url, timeout=5)
    try:
        await connection.execute(statement)
    finally:
        await connection.close(timeout=5)


@pytest.mark.parametrize("wrong", PLANTED)
def test_the_doctor_finds_what_is_wrong_and_names_the_cure(
    wrong: str, redis_server: EmbeddedRedis, postgres_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By the command as an operator calls it; an error ends it with 1."""
    planted = PLANTED[wrong]
    (tmp_path / "services.toml").write_text(SERVICES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REDIS_URL", redis_server.url)
    monkeypatch.setenv("DATABASE_URL", postgres_url)
    if planted.accepted:
        do(lambda system: System.accept(system, "t1"))
    with Redis.from_url(redis_server.url) as client:
        planted.redis(client)
    if planted.sql:
        in_thread(_execute(postgres_url, planted.sql))
    for name, value in planted.environment.items():
        monkeypatch.setenv(name, value)
    answer = CliRunner().invoke(cli, ["doctor", "--json"])
    report = json.loads(answer.stdout)
    found = [f for f in report["findings"] if f["check"] == planted.finding and f["level"] == planted.level]
    assert found, [f for f in report["findings"] if f["level"] in {"error", "warning"}]
    assert any(planted.says in f"{f['text']} -> {f['cure']}" and f["cure"] for f in found), found
    assert answer.exit_code == (0 if not report["levels"].get("error") else 1)
    assert planted.level != "error" or answer.exit_code == 1
