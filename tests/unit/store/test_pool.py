"""URLs as asyncpg needs them, and asyncpg's errors as ours."""

from __future__ import annotations

import asyncpg
import pytest

from daemon.domain.errors import ConfigError, StoreAway
from daemon.store import pool
from daemon.store.pool import (
    SchemaMismatch,
    StatementRefused,
    StatementTimeout,
    behind_pgbouncer,
    postgres_url,
    translate,
)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("postgresql://u:p%40x@h:5432/d", "postgresql://u:p%40x@h:5432/d"),
        ("postgres://u@h1,h2:6000/d?sslmode=require", "postgres://u@h1,h2:6000/d?sslmode=require"),
        ("postgresql://h/d?schema=public&connection_limit=5&sslmode=require", "postgresql://h/d?sslmode=require"),
        ("postgresql://h/d?pgbouncer=true&application_name=x", "postgresql://h/d?application_name=x"),
        ("postgresql://h/d?schema=public", "postgresql://h/d"),
        ("postgresql://u@/d?host=%2Ftmp%2Fa+b&port=5433", "postgresql://u@/d?host=%2Ftmp%2Fa+b&port=5433"),
    ],
)
def test_a_url_keeps_what_the_server_knows(given: str, kept: str) -> None:
    """Prisma's own parameters go, everything else stays."""
    assert postgres_url(given) == kept


@pytest.mark.parametrize("url", ["prisma://accelerate.example/?api_key=secret", "mysql://h/d", ""])
def test_another_scheme_is_a_configuration_error(url: str) -> None:
    """Named without the rest of the URL."""
    with pytest.raises(ConfigError, match="allowed: postgresql, postgres") as caught:
        postgres_url(url)
    assert "secret" not in str(caught.value)


def test_a_pooler_is_known_by_its_parameter() -> None:
    """As Prisma's documentation asks for."""
    assert behind_pgbouncer("postgresql://h/d?schema=x&pgbouncer=true")
    assert not behind_pgbouncer("postgresql://h/d?pgbouncer=false")


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(),
        ConnectionResetError(),
        asyncpg.InterfaceError("connection is closed"),
        asyncpg.ConnectionDoesNotExistError("gone"),
        asyncpg.CannotConnectNowError("starting up"),
        asyncpg.AdminShutdownError("shutting down"),
        asyncpg.CrashShutdownError("crashed"),
        asyncpg.TooManyConnectionsError("full"),
        asyncpg.ReadOnlySQLTransactionError("standby"),
        asyncpg.DiskFullError("full"),
        asyncpg.OutOfMemoryError("full"),
        asyncpg.LockNotAvailableError("locked"),
        asyncpg.DeadlockDetectedError("deadlock"),
        asyncpg.SerializationError("serialization"),
        asyncpg.InvalidPasswordError("secret"),
        asyncpg.InvalidCatalogNameError("secret"),
        asyncpg.TargetServerAttributeNotMatched("standby"),
        asyncpg.OutdatedSchemaCacheError("stale"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_server_that_can_not_serve_is_away(error: pool.Failure) -> None:
    """Plainly so: the task stays where it is, no attempt is used up, and no secret is told."""
    ours = translate(error)
    assert type(ours) is StoreAway and "secret" not in str(ours)


@pytest.mark.parametrize("error", [TimeoutError(), asyncpg.QueryCanceledError("canceling")])
def test_a_slow_statement_is_a_timeout(error: pool.Failure) -> None:
    """A kind of away that the claim of ID-first tasks knows apart."""
    assert isinstance(translate(error), StatementTimeout)


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.UndefinedColumnError('column "x" does not exist'),
        asyncpg.UndefinedTableError("relation"),
        asyncpg.InvalidSchemaNameError("schema"),
        asyncpg.InsufficientPrivilegeError("permission denied"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_schema_of_another_release_says_what_to_do(error: asyncpg.PostgresError) -> None:
    """In words of the server, which name columns and never values."""
    ours = translate(error)
    assert isinstance(ours, SchemaMismatch) and "python -m daemon migrate" in str(ours)


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.InvalidTextRepresentationError('invalid input: "secret"'),
        asyncpg.UniqueViolationError("Key (name)=(secret)"),
        asyncpg.CheckViolationError("Failing row contains (secret)"),
        asyncpg.PostgresSyntaxError("at secret"),
        asyncpg.DataError("secret"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_refused_statement_tells_no_content(error: asyncpg.PostgresError) -> None:
    """Its class and SQLSTATE are enough for operators."""
    ours = translate(error)
    assert isinstance(ours, StatementRefused)
    assert "secret" not in str(ours) and type(error).__name__ in ours.detail


def test_every_error_that_means_a_new_connection_is_tried_over_one() -> None:
    """A standby that was the primary is left; a timeout, bad data or a refused user is not tried again."""
    lost: list[pool.Failure] = [
        asyncpg.AdminShutdownError(""),
        asyncpg.ReadOnlySQLTransactionError(""),
        asyncpg.ConnectionDoesNotExistError(""),
        asyncpg.InterfaceError(""),
        ConnectionResetError(),
    ]
    kept: list[pool.Failure] = [
        asyncpg.DataError(""),
        asyncpg.UniqueViolationError(""),
        asyncpg.CannotConnectNowError(""),
        asyncpg.TargetServerAttributeNotMatched(""),
        TimeoutError(),
    ]
    assert all(pool._lost(e) for e in lost) and not any(pool._lost(e) for e in kept)
