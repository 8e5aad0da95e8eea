"""Postgres goes away, loses backends, becomes read-only: results are held, nothing committed is run again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from daemon.dev.embedded_postgres import EmbeddedPostgres
from tests.e2e.world import CALM, LEASE_S, World
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
async def own(redis_url: str, postgres_server: EmbeddedPostgres, tmp_path: Path) -> AsyncIterator[World]:
    """A world on a Postgres of its own."""
    async with World(redis_url, postgres_server.url, tmp_path) as world:
        yield world


@pytest.mark.parametrize(
    ("way", "away_s"),
    [
        ("stop", 3 * LEASE_S),
        *(pytest.param(way, 3 * LEASE_S, marks=pytest.mark.long) for way in ("kill", "pause")),
        pytest.param("stop", 60.0, marks=pytest.mark.long),
    ],
)
async def test_postgres_is_away_while_a_model_writes(
    own: World, postgres_server: EmbeddedPostgres, way: str, away_s: float
) -> None:
    """F47: the answer is held and written when Postgres returns; the model is called once."""
    own.variables |= CALM
    daemon = await own.start_daemon()
    await own.publish_many(["t0", "t1", "t2"], tokens=200)
    for n in range(3):
        await own.seen(f"t{n}", "token_batch")
    await asyncio.to_thread(getattr(postgres_server, way))
    await asyncio.sleep(away_s)  # all three answers are ready by now
    await asyncio.to_thread(postgres_server.resume if way == "pause" else postgres_server.start)
    history = await own.check(within_s=40)
    assert history.calls() == 3 and daemon.running


async def test_backends_are_terminated_at_random(own: World) -> None:
    """F50: each statement is sent again, and what had been committed is found to be."""
    own.variables |= CALM
    await own.start_daemon()
    await own.publish_many([f"t{n}" for n in range(20)], tokens=60)
    for _ in range(10):
        await own.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'qstreamd'")
        await asyncio.sleep(0.2)
    history = await own.check()
    assert history.states() == {"done": 20} and history.calls() == 20


@pytest.mark.long
async def test_postgres_becomes_read_only_for_a_while(own: World) -> None:
    """F48: a standby that was not promoted yet; nothing is lost and nothing is run twice."""
    daemon = await own.start_daemon()
    await own.publish_many(["t0", "t1"], tokens=200)
    await own.seen("t0", "token_batch")
    kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'qstreamd'"
    await own.sql("ALTER SYSTEM SET default_transaction_read_only = on")
    await own.sql("SELECT pg_reload_conf()")
    await own.sql(kill)
    await asyncio.sleep(2 * LEASE_S)
    connection_says = "SET default_transaction_read_only = off; ALTER SYSTEM RESET default_transaction_read_only"
    for statement in connection_says.split("; "):
        await own.sql(statement)
    await own.sql("SELECT pg_reload_conf()")
    await own.sql(kill)
    await own.publish("after")
    history = await own.check(within_s=40)
    assert history.calls() == 3 and daemon.running


@pytest.mark.long
async def test_the_disk_of_postgres_is_full(own: World, postgres_server: EmbeddedPostgres) -> None:
    """F52: results find no room (ENOSPC, SQLSTATE 53100). They are held, and written once there is some."""
    own.variables |= CALM
    [found] = await own.sql("SELECT pg_relation_filepath('qstreamd.results') AS path")
    table = postgres_server.directory / "data" / found["path"]
    assert table.stat().st_size == 0
    table.rename(table.with_suffix(".kept"))
    table.symlink_to("/dev/full")  # takes no byte, as a full disk does, and all else of the server lives on
    daemon = await own.start_daemon()
    await own.publish_many(["t0", "t1", "t2"], tokens=100)
    for n in range(3):
        await own.seen(f"t{n}", "token_batch")
    await wait_until(
        lambda: "No space left on device" in postgres_server.last_words(lines=100), description="no room for a result"
    )
    await asyncio.sleep(LEASE_S)
    assert daemon.running
    await asyncio.to_thread(postgres_server.stop)
    table.unlink()
    table.with_suffix(".kept").rename(table)
    await asyncio.to_thread(postgres_server.start)
    await own.publish("after")
    history = await own.check(within_s=40)
    assert history.calls() == 4 and daemon.running
