"""Is this Postgres fit to be the ledger? Reads only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from daemon.admin.checkup.finding import ROUNDS, Finding, distance, error, info, ok, round_trips, skew, warning
from daemon.admin.connections import Connections
from daemon.domain.errors import ConfigError
from daemon.store.migrate import check_schema
from daemon.store.sql import load_queries

VERSION_LEAST: Final = 15
_RTT_ROUNDS: Final = ROUNDS


async def check(at: Connections) -> list[Finding]:
    """Everything about the database. Raises `StoreAway`, `ConfigError` when there is none."""
    pool, queries = at.pool, load_queries()
    before = at.clock.time()
    facts = (await pool.fetch(queries["server_facts"]))[0]
    after = at.clock.time()
    found = [*findings_of(facts, at.settings.postgres.pool_max)]
    found.append(skew("postgres.clock", facts["now"], before, after, "Postgres"))
    try:
        await check_schema(pool)
    except ConfigError as mistakes:
        found += [error("postgres.schema", line, "python -m daemon migrate") for line in mistakes.mistakes]
    else:
        found.append(ok("postgres.schema", "the schema is that of this release"))
        found += await _ledger(at, queries)
    median_ms = await round_trips(at.clock, lambda: pool.fetch("SELECT 1"), _RTT_ROUNDS)
    return [*found, distance("postgres.distance", median_ms, _RTT_ROUNDS, "Postgres")]


async def _ledger(at: Connections, queries: dict[str, str]) -> list[Finding]:
    """What is in our tables: whose they are, and the templates that services name."""
    found, ours = [], at.settings.runtime.environment
    rows = await at.pool.fetch(queries["environment"])
    owner = rows[0]["name"] if rows else None
    if owner not in {None, ours}:
        text = f"this database belongs to NODE_ENV={owner}, not to {ours}"
        found.append(error("postgres.environment", text, "name another database in DATABASE_URL, or set NODE_ENV"))
    if at.catalog.templates:
        names = {row["ref"] for row in await at.pool.fetch(queries["template_refs"])}
        cure = "publish the template, or correct its name in the services file"
        found += [error("postgres.templates", line, cure) for line in at.catalog.unknown_templates(names)]
    return found


def findings_of(facts: Any, pool_max: int) -> Iterator[Finding]:
    """What the server says of itself. Pure."""
    version = int(facts["version_num"]) // 10_000
    if version < VERSION_LEAST:
        yield error("postgres.version", f"Postgres {version} is too old", f"use Postgres {VERSION_LEAST} or later")
    else:
        yield ok("postgres.version", f"Postgres {version}")
    if facts["standby"] or facts["read_only"] == "on":
        yield error("postgres.role", "this server takes no writes", "name the primary in DATABASE_URL")
    if facts["fsync"] == "off":
        cure = "set fsync = on in postgresql.conf"
        yield error("postgres.durability", "fsync is off: a crash may lose or break results", cure)
    elif facts["synchronous_commit"] == "off":
        cure = "set synchronous_commit = on for this role or database"
        yield warning("postgres.durability", "synchronous_commit is off: a crash loses the last results", cure)
    left = int(facts["max_connections"]) - int(facts["connections"])
    text = f"{facts['connections']} of {facts['max_connections']} connections in use; each process may open {pool_max}"
    if left < pool_max:
        yield warning("postgres.connections", text, "raise max_connections, or lower QSTREAMD_POSTGRES_POOL_MAX")
    else:
        yield info("postgres.connections", text)
