"""Connections to Postgres with every limit set by us, and asyncpg's errors translated once.

A caller gets rows, never a connection: one statement, its own transaction, and the connection is back. So no model call
can hold one, and nothing a session could remember is ever set (which is why releasing one costs no reset round trip).
Every statement of ours may be repeated, so a lost connection, a deadlock or a stale plan is tried again in here.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, Self, cast
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import asyncpg
import msgspec
from asyncpg.connect_utils import SessionAttribute
from asyncpg.pool import PoolConnectionProxy

from daemon.config import PostgresSettings
from daemon.domain.errors import Code, ConfigError, StoreAway, TaskError
from daemon.store import jsonb

TRIES_MAX: Final = 5  #: sends of one statement: the first, one after a lost connection, the rest after conflicts
CLOSE_S: Final = 5.0  #: a close that takes longer is cut
RELEASE_S: Final = 2.0  #: waiting for a cancelled query to end; after that the connection is cut

#: Parameters of a Prisma (or libpq) URL that asyncpg would hand to the server as settings, which then refuses them.
FOREIGN_PARAMETERS: Final = frozenset({
    "schema", "connection_limit", "pool_timeout", "connect_timeout", "socket_timeout", "pgbouncer", "sslaccept",
    "statement_cache_size", "sslidentity", "max_idle_connection_lifetime", "single_use_connections", "channel_binding",
    "gssencmode", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout",
    "fallback_application_name",
})  # fmt: skip

Row = Mapping[str, Any]  #: what an asyncpg record can do of a mapping: `row[name]`, `row.get`, `{**row}`
Failure = asyncpg.PostgresError | asyncpg.InterfaceError | asyncpg.InternalClientError | OSError
FAILURES: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)

#: SQLSTATEs (or their classes) that mean "this server can't serve us now": connections, shutdown, resources, standby
_AWAY: Final = ("53", "57", "58", "55P03", "25006")
#: nothing was applied and another try may pass: serialization failure, deadlock
_CONFLICT: Final = ("40001", "40P01")
#: the session is gone, or hangs on a server that stopped being the primary: one try over a new connection
_LOST: Final = ("08000", "08003", "08006", "57P01", "57P02", "25006")
#: the schema is not the one that this release was written for
_SCHEMA: Final = ("42P01", "42703", "42883", "42704", "42501", "3F000", "42P10", "42804", "0A000")
_REFUSED: Final = ("28", "3D000")


class StatementTimeout(StoreAway):
    """Postgres was asked and took longer than the statement's limit; it may still have committed."""


class SchemaMismatch(StoreAway):
    """Tables, columns or rights are not those of this release: run `python -m daemon migrate`. Nothing was changed."""


class StatementRefused(TaskError):
    """Postgres refused this one statement (bad data, a constraint). `detail` names the SQLSTATE, never a value."""

    code = Code.STORE_ERROR


def translate(error: Failure) -> StoreAway | StatementRefused:
    """The error of ours for one of asyncpg's. The server's text is kept only where it can't hold a row's content."""
    name = type(error).__name__
    if isinstance(error, TimeoutError | asyncpg.QueryCanceledError):
        return StatementTimeout(f"Postgres took longer than the statement limit ({name})")
    if isinstance(error, asyncpg.DataError):
        return StatementRefused(detail=f"{name} {getattr(error, 'sqlstate', None) or 'before sending'}")
    if isinstance(error, asyncpg.TargetServerAttributeNotMatched):
        return StoreAway("Postgres: no server of DATABASE_URL takes writes")
    state = error.sqlstate or "" if isinstance(error, asyncpg.PostgresError) else "08"
    if state.startswith("08"):
        return StoreAway(f"Postgres can't be reached ({name})")
    if state.startswith(_SCHEMA):
        text = getattr(error, "message", "")
        return SchemaMismatch(f"Postgres: {text} ({name}); does the schema fit? Run `python -m daemon migrate`")
    if state.startswith(_REFUSED):
        return StoreAway(f"Postgres refuses the user, password or database of DATABASE_URL ({name})")
    if state.startswith((*_AWAY, *_CONFLICT)) or not state:
        return StoreAway(f"Postgres can't serve us now ({name})")
    return StatementRefused(detail=f"{name} {state}")


def _nothing_applied(error: Failure) -> bool:
    """Postgres undid the statement through no fault of its own: a deadlock, or a plan older than a migration."""
    stale = isinstance(error, asyncpg.InvalidCachedStatementError | asyncpg.OutdatedSchemaCacheError)
    return stale or (getattr(error, "sqlstate", None) in _CONFLICT)


def _lost(error: Failure) -> bool:
    """The statement's connection is gone (whether it was applied is unknown); a new one may work."""
    if isinstance(error, asyncpg.PostgresError):
        return (error.sqlstate or "").startswith(_LOST)
    return not isinstance(error, TimeoutError | asyncpg.DataError | asyncpg.TargetServerAttributeNotMatched)


def postgres_url(url: str) -> str:
    """`DATABASE_URL` as asyncpg reads it: one written for Prisma works unchanged. `ConfigError` for another scheme."""
    parts = urlsplit(url)
    if parts.scheme not in ("postgresql", "postgres"):
        raise ConfigError([f"DATABASE_URL: scheme {parts.scheme[:20]!r} is not allowed; allowed: postgresql, postgres"])
    kept = [(k, v) for k, v in parse_qsl(parts.query, keep_blank_values=True) if k not in FOREIGN_PARAMETERS]
    return urlunsplit(parts._replace(query=urlencode(kept)))


def behind_pgbouncer(url: str) -> bool:
    """Whether the URL says, as Prisma's do, that a pooler in transaction mode stands in between."""
    return dict(parse_qsl(urlsplit(url).query)).get("pgbouncer") == "true"


async def prepare_connection(connection: asyncpg.Connection[Any]) -> None:
    """Give a new connection our jsonb codec: bytes to Python values and back, without text in between."""
    await connection.set_type_codec(
        "jsonb", schema="pg_catalog", format="binary",
        encoder=lambda value: b"\x01" + jsonb.encode(value),
        decoder=lambda raw: msgspec.json.decode(raw[1:]),
    )  # fmt: skip


async def _keep_session(_connection: object) -> None:
    """Nothing to reset: no statement of ours leaves anything in its session."""


class Pool:
    """Bounded connections to one Postgres. `start` once, then `fetch` from any task, then `close`."""

    def __init__(self, settings: PostgresSettings) -> None:
        self._settings = settings
        self._pool: asyncpg.Pool[Any] | None = None
        self.statements = 0  #: sends so far; a test holds an attempt to its budget

    async def start(self) -> Self:
        """Connect; the first good connection proves address and password. Raises `StoreAway`, `ConfigError`."""
        s = self._settings
        if s.url is None:
            raise ConfigError(["DATABASE_URL is missing: postgresql://user:password@host:5432/database"])
        if self._pool is not None:
            return self
        pool = self._make(s.url.get_secret_value())
        try:
            async with asyncio.timeout(s.connect_timeout_s + s.command_timeout_s):
                await pool
                self._pool = pool
                await self._once("SELECT 1", ())
        except asyncpg.ClientConfigurationError as error:
            pool.terminate()
            raise ConfigError([f"DATABASE_URL: {type(error).__name__}"]) from error
        except BaseException as error:
            pool.terminate()
            self._pool = None
            if isinstance(error, FAILURES):
                raise translate(error) from error
            raise
        return self

    def _make(self, given: str) -> asyncpg.Pool[Any]:
        s = self._settings
        url = postgres_url(given)
        pooler = behind_pgbouncer(given) or s.statement_cache_size == 0  # then: no prepared statements, no session
        limit_ms = round(s.command_timeout_s * 1000)
        session = {
            "statement_timeout": str(limit_ms),
            "idle_in_transaction_session_timeout": str(2 * limit_ms),
            "tcp_keepalives_idle": "30",
        }
        return asyncpg.create_pool(
            url,
            min_size=min(s.pool_min, s.pool_max),
            max_size=s.pool_max,
            timeout=s.connect_timeout_s,
            command_timeout=s.command_timeout_s + 1,  # the server speaks first: its word is never ambiguous
            statement_cache_size=0 if pooler else s.statement_cache_size,
            max_inactive_connection_lifetime=300,
            server_settings={"application_name": "qstreamd", **({} if pooler else session)},
            target_session_attrs=None if pooler or "target_session_attrs" in url else SessionAttribute.read_write,
            init=prepare_connection,
            reset=_keep_session,
        )

    async def close(self) -> None:
        """Give all connections back; those still at work after `CLOSE_S` are cut. May be called twice, or early."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            async with asyncio.timeout(CLOSE_S):
                await pool.close()
        except TimeoutError:
            pool.terminate()

    def sizes(self) -> tuple[int, int]:
        """Connections that are at work, and that are open and idle."""
        if self._pool is None:
            return 0, 0
        idle = self._pool.get_idle_size()
        return self._pool.get_size() - idle, idle

    async def fetch(self, sql: str, *args: object) -> list[Row]:
        """The rows of one statement in its own transaction.

        Raises `StoreAway` (also as `StatementTimeout`, `SchemaMismatch`) or `StatementRefused`. Waits at most
        `acquire_timeout_s` for a connection and `command_timeout_s` for the answer, and as long again after a lost one.
        Cancelling it cancels the statement on the server; whether it committed is then unknown.
        """
        lost = False
        for tried in range(TRIES_MAX):
            try:
                return await self._once(sql, args)
            except FAILURES as error:
                if tried + 1 < TRIES_MAX and _nothing_applied(error):
                    await asyncio.sleep(random.uniform(0.002, 0.02) * 2**tried)
                elif not lost and self._pool is not None and _lost(error):
                    lost = True
                    await self._pool.expire_connections()  # a restart of the server cut all of them, not only this one
                else:
                    raise translate(error) from error
        raise AssertionError("the last try returns or raises")  # pragma: no cover

    async def _once(self, sql: str, args: tuple[object, ...]) -> list[Row]:
        pool = self._pool
        if pool is None:
            raise asyncpg.InterfaceError("the pool is closed")
        try:
            # On `acquire`, since the timeout of a pool's own `fetch` does not bound the wait for a connection.
            connection = await pool.acquire(timeout=self._settings.acquire_timeout_s)
        except TimeoutError as error:
            raise StoreAway(f"Postgres: no connection within {self._settings.acquire_timeout_s:g} s") from error
        try:
            self.statements += 1
            return cast("list[Row]", await connection.fetch(sql, *args))
        finally:
            await self._release(pool, connection)

    async def _release(self, pool: asyncpg.Pool[Any], connection: PoolConnectionProxy[Any]) -> None:
        # A connection that can't be given back in time has been cut by asyncpg: the pool makes a new one. The answer of
        # the statement counts, not how its connection ended.
        with suppress(*FAILURES):
            await pool.release(connection, timeout=RELEASE_S)
