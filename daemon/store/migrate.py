"""The schema: numbered SQL files, each applied once, in order, by whoever comes first.

A file runs in one transaction together with the note that it ran, so a crash leaves nothing half done; a file whose
first line is `-- no transaction` (for CREATE INDEX CONCURRENTLY) runs bare and must be safe to repeat. Applied files
are history: a changed one, or one that this release does not know, stops the run before anything is touched. A file
with the line `-- expand-only` suits the releases before it: they start on its schema, and it is applied beside them.
Called by `cli.migrate`, by tests, and (for schema and environment) by `processes` at start.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

import asyncpg

from daemon.domain.errors import ConfigError, StoreAway
from daemon.store.pool import FAILURES, Pool, SchemaMismatch, behind_pgbouncer, postgres_url, translate
from daemon.store.sql import load_queries

LOCK_KEY: Final = 0x7173_7472_6561_6D64  # "qstreamd": the advisory lock of whoever migrates this database
CONNECT_S: Final = 10.0  #: to a server that may be waking up
LOCK_WAIT_S: Final = 60.0  #: for another runner to finish
FILE_S: Final = 600.0  #: for one file
_FILE_NAME: Final = re.compile(r"^\d{4}_[a-z0-9_]+\.sql$")
_NO_TRANSACTION: Final = "-- no transaction"
_EXPAND_ONLY: Final = "-- expand-only"


class MigrationRefused(ConfigError):
    """The database's history does not fit the files of this release; nothing was applied."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file."""

    name: str  #: without `.sql`; names sort in the order of application
    sql: str

    @property
    def sha256(self) -> str:
        """Of the text with line ends made equal, so that a checkout on another system is no change."""
        return hashlib.sha256(self.sql.replace("\r\n", "\n").encode()).hexdigest()

    @property
    def transactional(self) -> bool:
        """False for a file that opted out on its first line."""
        return not self.sql.startswith(_NO_TRANSACTION)

    @property
    def expands(self) -> bool:
        """True for a file that says that it only adds: what the releases before it read and write stays as it was."""
        return _EXPAND_ONLY in self.sql.splitlines()


@dataclass(frozen=True, slots=True)
class Status:
    """Where a database stands: what was applied, and what is still to come."""

    applied: tuple[str, ...]
    pending: tuple[str, ...]


def load_migrations() -> list[Migration]:
    """The files shipped with this release, in order."""
    entries = (files("daemon.store") / "migrations").iterdir()
    named = sorted((e for e in entries if _FILE_NAME.match(e.name)), key=lambda e: e.name)
    return [Migration(e.name.removesuffix(".sql"), e.read_text("utf-8")) for e in named]


def plan(shipped: Sequence[Migration], applied: Sequence[tuple[str, str, bool]]) -> list[Migration]:
    """What is missing, given (name, sha256, expands) of what was applied. `MigrationRefused` has a line a mistake."""
    known = {m.name: m for m in shipped}
    mistakes = [
        f"migration {name} was applied to this database but is unknown to this release: use the newer release"
        if name not in known
        else f"migration {name} was changed after it had been applied: put the old text back and add a new file"
        for name, sha256, expands in applied
        if (not expands if name not in known else known[name].sha256 != sha256)
    ]
    done = {name for name, _, _ in applied}
    pending = [m for m in shipped if m.name not in done]
    last = max(done, default="")
    mistakes += [
        f"migration {m.name} sorts before {last}, which was applied already: rename it"
        for m in pending
        if m.name < last
    ]
    if mistakes:
        raise MigrationRefused(mistakes)
    return pending


async def migrate(url: str, shipped: Sequence[Migration] | None = None, *, force: bool = False) -> list[str]:
    """Apply what is missing; the names of what was applied now, in order (empty: all was there).

    Concurrent runs wait for each other, up to `LOCK_WAIT_S`. May be repeated after any failure. Raises `StoreAway`,
    `MigrationRefused` (without `force` also for processes that are connected and could not go on), or `ConfigError`
    behind pgbouncer and when a file itself fails.
    """
    migrations = load_migrations() if shipped is None else shipped
    async with _connected(url) as connection:
        await _lock(connection)  # ends with the connection
        await _lay_ground(connection)
        pending = plan(migrations, applied := await _applied(connection))
        breaking = [m.name for m in pending if applied and not m.expands]
        if breaking and not force and (count := await connection.fetchval(_IN_USE)):
            why = f"{', '.join(breaking)} can't be applied beside older releases, which have {count} connections open"
            raise MigrationRefused([f"{why}: stop daemons and gateways (systemctl stop qstreamd.target), then migrate"])
        for migration in pending:
            await _apply(connection, migration)
        return [m.name for m in pending]


async def status(url: str, shipped: Sequence[Migration] | None = None) -> Status:
    """What was applied and what is pending, without changing anything. Raises as `migrate` does."""
    migrations = load_migrations() if shipped is None else shipped
    async with _connected(url) as connection:
        applied = await _applied(connection)
        return Status(tuple(name for name, _, _ in applied), tuple(m.name for m in plan(migrations, applied)))


async def check_schema(pool: Pool) -> None:
    """Return when the database is as this release needs it. `ConfigError` names what is missing or does not fit."""
    rows = await pool.fetch("SELECT to_regclass('qstreamd.migrations') IS NOT NULL AS there")
    applied = await pool.fetch(_APPLIED) if rows[0]["there"] else []
    if pending := plan(load_migrations(), [(r["name"], r["sha256"], r["expands"]) for r in applied]):
        names = ", ".join(m.name for m in pending)
        raise ConfigError([f"Postgres: migrations are missing ({names}); run `python -m daemon migrate`"])


async def claim_environment(pool: Pool, environment: str) -> None:
    """Stamp the database with `NODE_ENV` if nobody did; raises as `check_environment`. Only after the start."""
    await pool.fetch(load_queries()["environment_claim"], environment)
    await check_environment(pool, environment)


async def check_environment(pool: Pool, environment: str) -> None:
    """`ConfigError` when the database belongs to another environment. Writes nothing."""
    stamps = await pool.fetch(load_queries()["environment"])
    if stamps and (owner := stamps[0]["name"]) != environment:
        why = f"NODE_ENV={environment}, but the database of DATABASE_URL belongs to {owner!r}"
        raise ConfigError(
            [f"{why}; one environment must not work on the data of another (stamp: qstreamd.environment)"]
        )


_ADDED_LATER: Final = "ADD COLUMN IF NOT EXISTS expands boolean NOT NULL DEFAULT false"
_APPLIED: Final = """SELECT name, sha256, coalesce(to_jsonb(m) ->> 'expands', 'false')::boolean AS expands
FROM qstreamd.migrations AS m ORDER BY name"""
_NOTE: Final = "INSERT INTO qstreamd.migrations (name, sha256, expands) VALUES ($1, $2, $3)"
_IN_USE: Final = """SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'qstreamd'"""


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    if behind_pgbouncer(url):  # the lock belongs to a session, and there is none
        raise ConfigError(["migrations need a direct connection: give DATABASE_URL without the pooler"])
    try:
        connection: asyncpg.Connection[Any] = await asyncpg.connect(
            postgres_url(url),
            timeout=CONNECT_S,
            command_timeout=FILE_S,
            statement_cache_size=0,
            server_settings={"application_name": "qstreamd migrate"},
        )
    except asyncpg.ClientConfigurationError as error:
        raise ConfigError([f"DATABASE_URL: {type(error).__name__}"]) from error
    except FAILURES as error:
        raise translate(error) from error
    try:
        yield connection
    except FAILURES as error:
        raise translate(error) from error
    finally:
        connection.terminate()  # nothing to say goodbye for; also gives the lock back at once


async def _lock(connection: asyncpg.Connection[Any]) -> None:
    # Tried again and again, not waited for: a waiting statement holds a snapshot, and the CREATE INDEX CONCURRENTLY of
    # the runner that has the lock would wait for it for ever.
    deadline = time.monotonic() + LOCK_WAIT_S
    while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", LOCK_KEY):
        if time.monotonic() > deadline:
            raise StoreAway(f"Postgres: another migration has held the lock for {LOCK_WAIT_S:g} s")
        await asyncio.sleep(0.1)


async def _lay_ground(connection: asyncpg.Connection[Any]) -> None:
    # Asked first, since IF NOT EXISTS wants the right to create even when the schema is there.
    if not await connection.fetchval("SELECT to_regnamespace('qstreamd') IS NOT NULL"):
        await connection.execute("CREATE SCHEMA qstreamd")
    if not await connection.fetchval("SELECT to_regclass('qstreamd.migrations') IS NOT NULL"):
        await connection.execute(
            "CREATE TABLE qstreamd.migrations (name text PRIMARY KEY, sha256 text NOT NULL,"
            " applied_at timestamptz NOT NULL DEFAULT now())"
        )
    await connection.execute(f"ALTER TABLE qstreamd.migrations {_ADDED_LATER}")


async def _applied(connection: asyncpg.Connection[Any]) -> list[tuple[str, str, bool]]:
    if not await connection.fetchval("SELECT to_regclass('qstreamd.migrations') IS NOT NULL"):
        return []
    return [(r["name"], r["sha256"], r["expands"]) for r in await connection.fetch(_APPLIED)]


async def _apply(connection: asyncpg.Connection[Any], migration: Migration) -> None:
    note = (_NOTE, migration.name, migration.sha256, migration.expands)
    try:
        if migration.transactional:
            async with connection.transaction():
                await connection.execute(migration.sql)
                await connection.execute(*note)
        else:
            for statement in migration.sql.split(";\n"):  # together they would be one transaction
                if statement.strip():
                    await connection.execute(statement)
            await connection.execute(*note)
    except asyncpg.PostgresError as error:
        ours = translate(error)
        if isinstance(ours, StoreAway) and not isinstance(ours, SchemaMismatch):
            raise
        raise ConfigError([f"migration {migration.name} failed: {type(error).__name__}: {error}"]) from error
