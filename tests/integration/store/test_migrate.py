"""Migrations on a real server: applied once whoever runs, refused when history does not fit, nothing half done."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from click.testing import CliRunner

from daemon.cli.migrate import command
from daemon.config import PostgresSettings
from daemon.config.types import SecretStr
from daemon.domain.errors import ConfigError, StoreAway
from daemon.store import migrate as migrations
from daemon.store.migrate import (
    Migration,
    MigrationRefused,
    check_schema,
    claim_environment,
    load_migrations,
    migrate,
    status,
)
from daemon.store.pool import Pool

pytestmark = pytest.mark.postgres_versions


@pytest.fixture
async def empty_url(postgres_url: str) -> AsyncIterator[str]:
    """A database without our schema, owned by a role that may do nothing else."""
    name = f"qstreamd_test_{secrets.token_hex(4)}"
    root = await asyncpg.connect(postgres_url)
    await root.execute(f"CREATE ROLE {name} LOGIN")
    await root.execute(f"CREATE DATABASE {name} OWNER {name}")
    parts = urlsplit(postgres_url)
    yield urlunsplit(parts._replace(path=f"/{name}", netloc=f"{name}@"))
    await root.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await root.execute(f"DROP ROLE {name}")
    await root.close()


async def run(url: str, sql: str) -> list[asyncpg.Record]:
    """One look beside."""
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetch(sql)
    finally:
        await connection.close()


ONE = Migration("0001_one", "CREATE TABLE qstreamd.one (n int); INSERT INTO qstreamd.one VALUES (1);")
TWO = Migration("0002_two", "CREATE TABLE qstreamd.two (n int);")


async def test_a_plain_role_that_owns_the_database_can_migrate(empty_url: str) -> None:
    """No superuser, no extension; a second run finds all there."""
    names = [m.name for m in load_migrations()]
    assert await migrate(empty_url) == names
    assert await migrate(empty_url) == []
    stand = await status(empty_url)
    assert (stand.applied, stand.pending) == (tuple(names), ())


async def test_a_role_that_owns_only_the_schema_can_migrate(postgres_url: str) -> None:
    """Where a DBA made the schema, no right on the database is needed."""
    role = f"qstreamd_test_{secrets.token_hex(4)}"
    await run(postgres_url, "DROP SCHEMA qstreamd CASCADE")
    await run(postgres_url, f"CREATE ROLE {role} LOGIN")
    await run(postgres_url, f"CREATE SCHEMA qstreamd AUTHORIZATION {role}")
    theirs = urlunsplit(urlsplit(postgres_url)._replace(netloc=f"{role}@"))
    try:
        assert await migrate(theirs) == [m.name for m in load_migrations()]
    finally:
        await run(postgres_url, f"DROP OWNED BY {role}")
        await run(postgres_url, f"DROP ROLE {role}")


async def test_concurrent_runs_apply_each_file_once(empty_url: str) -> None:
    """One does it, the others wait and find it done."""
    answers = await asyncio.gather(*(migrate(empty_url, [ONE, TWO]) for _ in range(8)))
    assert sorted(answers, key=len) == [[]] * 7 + [["0001_one", "0002_two"]]
    assert len(await run(empty_url, "SELECT n FROM qstreamd.one")) == 1


async def test_concurrently_does_not_wait_for_those_who_wait(empty_url: str) -> None:
    """A file that opted out of its transaction may build indexes while other runners stand in line."""
    bare = Migration(
        "0002_index",
        "-- no transaction\nCREATE INDEX CONCURRENTLY IF NOT EXISTS one_n ON qstreamd.one (n);\n"
        "CREATE INDEX CONCURRENTLY IF NOT EXISTS one_m ON qstreamd.one ((n + 1));\n",
    )
    async with asyncio.timeout(20):
        await asyncio.gather(*(migrate(empty_url, [ONE, bare]) for _ in range(4)))
    rows = await run(empty_url, "SELECT indisvalid FROM pg_index WHERE indrelid = 'qstreamd.one'::regclass")
    assert [r["indisvalid"] for r in rows] == [True, True]


async def test_a_file_that_fails_leaves_nothing_behind(empty_url: str) -> None:
    """What came before it stays applied; the mistake names the file; mended, the run goes on."""
    bad = Migration("0002_two", "CREATE TABLE qstreamd.two (n int); SELECT 1 / 0;")
    with pytest.raises(ConfigError, match="migration 0002_two failed: DivisionByZeroError"):
        await migrate(empty_url, [ONE, bad])
    assert (
        await run(empty_url, "SELECT to_regclass('qstreamd.two') AS t WHERE to_regclass('qstreamd.two') IS NOT NULL")
        == []
    )
    assert (await status(empty_url, [ONE, TWO])).pending == ("0002_two",)
    assert await migrate(empty_url, [ONE, TWO]) == ["0002_two"]


async def test_a_changed_or_unknown_file_stops_the_run_before_anything(empty_url: str) -> None:
    """History is history."""
    await migrate(empty_url, [ONE])
    changed = Migration("0001_one", ONE.sql + " -- a later thought")
    with pytest.raises(MigrationRefused, match="0001_one was changed"):
        await migrate(empty_url, [changed, TWO])
    with pytest.raises(MigrationRefused, match=r"0001_one was applied .* unknown to this release"):
        await migrate(empty_url, [TWO])
    assert (await status(empty_url, [ONE, TWO])).applied == ("0001_one",)


THREE = Migration("0003_three", "-- expand-only\nALTER TABLE qstreamd.one ADD COLUMN m int;")


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Pool]:
    """As a daemon is."""
    pool = await Pool(PostgresSettings(url=SecretStr(url))).start()
    try:
        yield pool
    finally:
        await pool.close()


async def test_the_release_before_works_on_a_schema_that_only_grew(empty_url: str) -> None:
    """It starts there and its own migrate finds nothing to do, also where the table of migrations is an old one."""
    shipped = load_migrations()
    await migrate(empty_url, shipped)
    await run(empty_url, "ALTER TABLE qstreamd.migrations DROP COLUMN expands")
    assert (await status(empty_url, shipped)).pending == ()
    newer = Migration("9999_newer", "-- expand-only\nALTER TABLE qstreamd.tasks ADD COLUMN later int;")
    assert await migrate(empty_url, [*shipped, newer]) == ["9999_newer"]
    async with connected(empty_url) as older:
        await check_schema(older)
        assert await migrate(empty_url) == []
        assert (await status(empty_url)).applied == (*(m.name for m in shipped), "9999_newer")
        await run(empty_url, "UPDATE qstreamd.migrations SET expands = false WHERE name = '9999_newer'")
        with pytest.raises(ConfigError, match=r"9999_newer was applied .* unknown to this release"):
            await check_schema(older)


async def test_what_takes_away_is_not_applied_beside_processes_of_an_older_release(empty_url: str) -> None:
    """What only adds is. With nobody connected, or when told to, all is applied."""
    await migrate(empty_url, [ONE])
    async with connected(empty_url):
        with pytest.raises(
            MigrationRefused, match=r"0002_two can't be applied beside older releases.*stop daemons and gateways"
        ):
            await migrate(empty_url, [ONE, TWO])
        assert await migrate(empty_url, [ONE, TWO], force=True) == ["0002_two"]
        assert await migrate(empty_url, [ONE, TWO, THREE]) == ["0003_three"]
    four = Migration("0004_four", "ALTER TABLE qstreamd.one DROP COLUMN n;")
    assert await migrate(empty_url, [ONE, TWO, THREE, four]) == ["0004_four"]


async def test_a_lock_that_is_never_given_back_is_not_waited_for_for_ever(
    empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """StoreAway; the holder's end gives the lock back."""
    monkeypatch.setattr(migrations, "LOCK_WAIT_S", 0.3)
    holder = await asyncpg.connect(empty_url)
    await holder.execute("SELECT pg_advisory_lock($1)", migrations.LOCK_KEY)
    with pytest.raises(StoreAway, match="held the lock"):
        await migrate(empty_url)
    await holder.close()
    assert await migrate(empty_url)


async def test_status_changes_nothing(empty_url: str) -> None:
    """Not even the schema is made."""
    stand = await status(empty_url)
    assert stand.applied == () and stand.pending
    rows = await run(empty_url, "SELECT 1 WHERE to_regnamespace('qstreamd') IS NOT NULL")
    assert rows == []


async def test_a_process_refuses_a_database_that_lacks_migrations(empty_url: str, pool: Pool) -> None:
    """And names the command; a migrated one is fine."""
    bare = await Pool(PostgresSettings(url=SecretStr(empty_url))).start()
    with pytest.raises(ConfigError, match=r"0001_ledger.*python -m daemon migrate"):
        await check_schema(bare)
    await migrate(empty_url)
    await check_schema(bare)
    await bare.close()
    await check_schema(pool)


async def test_a_database_belongs_to_one_environment(pool: Pool) -> None:
    """The first process stamps it; one of another environment refuses to start."""
    await asyncio.gather(*(claim_environment(pool, "production") for _ in range(5)))
    with pytest.raises(ConfigError, match=r"NODE_ENV=development, but .* belongs to 'production'"):
        await claim_environment(pool, "development")
    await claim_environment(pool, "production")


async def test_behind_pgbouncer_migrations_are_refused(postgres_url: str) -> None:
    """The lock needs a session of its own."""
    with pytest.raises(ConfigError, match="direct connection"):
        await migrate(f"{postgres_url}&pgbouncer=true")


async def test_a_template_can_not_be_changed_even_by_hand(pool: Pool) -> None:
    """Every process caches a version for ever."""
    connection = "INSERT INTO qstreamd.prompt_templates (name, version, prompt) VALUES ('cv', 1, 'x')"
    await pool.fetch(connection)
    with pytest.raises(Exception, match="RestrictViolationError"):
        await pool.fetch("UPDATE qstreamd.prompt_templates SET prompt = 'y'")
    await pool.fetch("DELETE FROM qstreamd.prompt_templates")


async def test_a_server_that_is_away_is_store_away(empty_url: str) -> None:
    """Before the first file, and in the middle of one, which then was not applied."""
    with pytest.raises(StoreAway, match="can't be reached"):
        await migrate("postgresql://u@/d?host=/nowhere&port=5432")
    suicide = Migration("0002_two", "CREATE TABLE qstreamd.two (n int); SELECT pg_terminate_backend(pg_backend_pid());")
    with pytest.raises(StoreAway):
        await migrate(empty_url, [ONE, suicide])
    assert (await status(empty_url, [ONE, TWO])).pending == ("0002_two",)
    assert await migrate(empty_url, [ONE, TWO]) == ["0002_two"]


async def test_an_unusable_url_is_a_configuration_error() -> None:
    """Without a word of what is in it."""
    with pytest.raises(ConfigError, match="DATABASE_URL"):
        await migrate("postgresql://u:secret@h/d?sslmode=maybe")


async def test_a_role_without_rights_is_told_so(empty_url: str, postgres_url: str) -> None:
    """The schema of another role can't even be read."""
    await migrate(empty_url)
    role = urlsplit(empty_url).netloc
    with pytest.raises(StoreAway, match="permission denied"):
        await migrate(urlunsplit(urlsplit(postgres_url)._replace(netloc=role)))


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_applies_and_tells(empty_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """First what would be done, then what was, then that all is there; as text and as JSON."""
    monkeypatch.setenv("DATABASE_URL", empty_url)
    runner = CliRunner()
    before = runner.invoke(command, ["--status", "--json"])
    assert json.loads(before.output) == {
        "applied_now": [],
        "applied": [],
        "pending": [m.name for m in load_migrations()],
        "breaking": [],
    }
    monkeypatch.setattr(migrations, "load_migrations", lambda: [ONE])
    asyncio.run(migrate(empty_url))
    for files in ([ONE, TWO], [ONE, THREE]):
        monkeypatch.setattr(migrations, "load_migrations", lambda files=files: files)
        told = runner.invoke(command, ["--status"]).output
        assert ("no older release can work on its schema" in told) is (TWO in files)
    asyncio.run(run(empty_url, "DROP SCHEMA qstreamd CASCADE"))
    monkeypatch.undo()
    monkeypatch.setenv("DATABASE_URL", empty_url)
    done = runner.invoke(command, [])
    assert done.exit_code == 0 and "applied now  0001_ledger" in done.output and "up to date" not in done.output
    after = runner.invoke(command, ["--status"])
    assert after.exit_code == 0 and after.output.startswith("applied      0001_ledger")
    assert "up to date: nothing to do" in after.output
