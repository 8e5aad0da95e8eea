"""What the processes ask of Postgres: a connection, prepared statements, the schema, and rights on its tables."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncGenerator
from typing import Final

import asyncpg

from daemon.admin.checkup.finding import round_trips
from daemon.admin.trial.result import Result, fails, flawed, skipped, works
from daemon.config import PostgresSettings
from daemon.domain.errors import ConfigError, StoreAway
from daemon.ports import Clock
from daemon.store.migrate import check_schema
from daemon.store.pool import Pool

_CURE: Final = "is it running? Are address, port and firewall right? It is DATABASE_URL that names it"
#: what relay, daemon and gateway do with our tables; all of them need USAGE on the schema
_MISSING: Final = """
SELECT c.relname || ': ' || right_ AS missing
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS right_
WHERE n.nspname = 'qstreamd' AND c.relkind = 'r' AND c.relname NOT IN ('migrations', 'environment')
  AND NOT has_table_privilege(c.oid, right_)
ORDER BY 1
"""
_FACTS: Final = """
SELECT current_setting('server_version_num')::int / 10000 AS version, pg_is_in_recovery() AS standby,
       current_setting('transaction_read_only') AS read_only, current_user AS name
"""
_CONCURRENT: Final = 4


async def probe(settings: PostgresSettings, clock: Clock) -> AsyncGenerator[Result, None]:
    """Results as they come. If the server does not answer, that is the last one."""
    if settings.url is None:
        yield skipped(
            "postgres", "connection", "DATABASE_URL is not set", "daemon and gateway need it; a relay does not"
        )
        return
    pool = Pool(settings)
    try:
        try:
            await pool.start()
        except (StoreAway, ConfigError) as error:
            yield _unreached(error)
            return
        median_ms = await round_trips(clock, lambda: pool.fetch("SELECT 1"), 5)
        yield works("postgres", "connection", f"round trip {median_ms:.1f} ms")
        for question in (_role, _prepared, _schema, _rights):
            try:
                yield await question(pool)
            except StoreAway as error:
                yield fails("postgres", question.__name__.strip("_"), str(error), _CURE, "network")
    finally:
        await pool.close()


def _unreached(error: StoreAway | ConfigError) -> Result:
    """Why there is no connection: a network, a password, a name."""
    cause = error.__cause__
    if isinstance(cause, asyncpg.InvalidAuthorizationSpecificationError):  # InvalidPasswordError too
        cure = "put right user and password in DATABASE_URL; %-encode what is no letter or digit"
        return fails("postgres", "connection", "it refuses user or password", cure, "key")
    if isinstance(cause, asyncpg.InvalidCatalogNameError):
        return fails("postgres", "connection", "it has no database of this name", "create it, or correct the end of "
                     "DATABASE_URL", "database")  # fmt: skip
    if isinstance(cause, ssl.SSLError):
        return fails("postgres", "connection", "TLS failed: its certificate is not one that this host trusts",
                     "sslmode and sslrootcert in DATABASE_URL", "tls")  # fmt: skip
    if isinstance(error, ConfigError):
        return fails("postgres", "connection", "; ".join(error.mistakes), "correct DATABASE_URL", "request")
    why = "its name can't be resolved" if isinstance(cause, socket.gaierror) else str(error)
    return fails("postgres", "connection", f"it can't be reached: {why}", _CURE, "network")


async def _role(pool: Pool) -> Result:
    facts = (await pool.fetch(_FACTS))[0]
    text = f"Postgres {facts['version']}, as {facts['name']}"
    if facts["standby"] or facts["read_only"] == "on":
        return fails("postgres", "role", f"{text}: takes no writes", "name the primary in DATABASE_URL", "read_only")
    return works("postgres", "role", text)


async def _prepared(pool: Pool) -> Result:
    """The same statement on several connections at once, twice: poolers in transaction mode lose it in between."""
    try:
        for _ in range(2):
            await asyncio.gather(*(pool.fetch("SELECT $1::int + 1", n) for n in range(_CONCURRENT)))
    except StoreAway as error:
        cure = "behind a pooler in transaction mode: pgbouncer=true in DATABASE_URL"
        return fails("postgres", "prepared", f"prepared statements get lost: {error}", cure, "pooler")
    return works("postgres", "prepared", "statements outlive a transaction")


async def _schema(pool: Pool) -> Result:
    try:
        await check_schema(pool)
    except ConfigError as missing:
        return fails("postgres", "schema", "; ".join(missing.mistakes), "python -m daemon migrate", "schema")
    return works("postgres", "schema", "that of this release")


async def _rights(pool: Pool) -> Result:
    schemas = await pool.fetch("SELECT has_schema_privilege(oid, 'USAGE') AS usable FROM pg_namespace "
                               "WHERE nspname = 'qstreamd'")  # fmt: skip
    if not schemas:
        owns = (await pool.fetch("SELECT has_database_privilege(current_database(), 'CREATE') AS may"))[0]["may"]
        if owns:
            text = "no schema yet, and this user may create it"
            return flawed("postgres", "rights", text, "python -m daemon migrate", "schema")
        return fails("postgres", "rights", "no schema yet, and this user may not create it",
                     "GRANT CREATE ON DATABASE … TO …, then python -m daemon migrate", "rights")  # fmt: skip
    if not schemas[0]["usable"]:
        return fails("postgres", "rights", "this user may not use the schema qstreamd",
                     "GRANT USAGE ON SCHEMA qstreamd TO …", "rights")  # fmt: skip
    missing = [row["missing"] for row in await pool.fetch(_MISSING)]
    if missing:
        cure = "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA qstreamd TO …"
        return fails("postgres", "rights", f"this user lacks {', '.join(missing)[:300]}", cure, "rights")
    return works("postgres", "rights", "reads and writes all tables")
