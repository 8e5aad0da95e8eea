"""The pool when things go wrong: lost replies, full pools, dead backends, hangs, standby, migrations under way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest

from daemon.config import PostgresSettings
from daemon.config.types import SecretStr
from daemon.dev.embedded_postgres import EmbeddedPostgres
from daemon.domain.errors import Code, ConfigError, StoreAway
from daemon.domain.states import State
from daemon.ports import Transition
from daemon.store.pool import Pool, SchemaMismatch, StatementRefused, StatementTimeout
from daemon.store.tasks import PostgresLedger
from tests.integration.store.proxy import CuttingProxy
from tests.integration.store.samples import LEASE_S, claimed, delivery, draft, outcomes, rows_of, task

RETRY = Transition(State.RETRYING, Code.LLM_ERROR, "failed", count_failure=True)


@pytest.fixture
async def proxy(postgres_url: str, tmp_path: Path) -> AsyncIterator[CuttingProxy]:
    """In front of the test's own database."""
    async with CuttingProxy(postgres_url, tmp_path) as proxy:
        yield proxy


@pytest.fixture
async def far(proxy: CuttingProxy) -> AsyncIterator[Pool]:
    """A pool of one connection through the proxy; its statements are prepared."""
    pool = await Pool(PostgresSettings(url=SecretStr(proxy.url), pool_max=1)).start()
    ledger = PostgresLedger(pool)
    for name in ("warm", "up"):
        await ledger.claim(delivery(name), "me", "m1", LEASE_S)
        await ledger.heartbeat([(name, 1)], "me")
    await ledger.finish("warm", 1, "me", draft())
    await ledger.transition("up", 1, "me", RETRY)
    yield pool
    await pool.close()


# --- the ambiguous commit ---------------------------------------------------------------------------------------------


async def test_a_finish_whose_reply_was_lost_is_a_success(proxy: CuttingProxy, far: Pool, pool: Pool) -> None:
    """The row says done; the repeat matches nothing and finds our own commit."""
    ledger = PostgresLedger(far)
    await ledger.claim(delivery("t1"), "me", "m1", LEASE_S)
    proxy.lose_replies(1)
    stored = await ledger.finish("t1", 1, "me", draft("paid for"))
    assert proxy.cuts == 1
    rows = await pool.fetch("SELECT id, content FROM qstreamd.results WHERE task_id = 't1'")
    assert [(r["id"], r["content"]) for r in rows] == [(stored.id, "paid for")]


async def test_a_leave_whose_reply_was_lost_counts_once(proxy: CuttingProxy, far: Pool, pool: Pool) -> None:
    """True, and one failure."""
    ledger = PostgresLedger(far)
    await ledger.claim(delivery("t1"), "me", "m1", LEASE_S)
    proxy.lose_replies(1)
    assert await ledger.transition("t1", 1, "me", RETRY)
    assert proxy.cuts == 1
    assert (await task(pool, "t1"))["failures"] == 1


async def test_a_claim_whose_reply_was_lost_is_taken_again(proxy: CuttingProxy, far: Pool, pool: Pool) -> None:
    """The fence rises once more, no crash is counted, the attempt nobody heard of is closed."""
    proxy.lose_replies(1)
    answer = claimed(await PostgresLedger(far).claim(delivery("t1"), "me", "m1", LEASE_S))
    assert (answer.attempt, answer.crashes) == (2, 0) and proxy.cuts == 1
    assert await outcomes(pool, "t1") == [(1, "lost", None), (2, None, None)]


async def test_a_beat_whose_reply_was_lost_is_no_lost_lease(proxy: CuttingProxy, far: Pool) -> None:
    """Beating again is harmless."""
    ledger = PostgresLedger(far)
    await ledger.claim(delivery("t1"), "me", "m1", LEASE_S)
    proxy.lose_replies(1)
    assert await ledger.heartbeat([("t1", 1)], "me") == set() and proxy.cuts == 1


async def test_replies_that_are_lost_again_and_again_are_store_away(proxy: CuttingProxy, far: Pool, pool: Pool) -> None:
    """One repeat, no more; asking again later still finds our commit."""
    ledger = PostgresLedger(far)
    await ledger.claim(delivery("t1"), "me", "m1", LEASE_S)
    proxy.lose_replies(100)
    with pytest.raises(StoreAway, match="can't be reached"):
        await ledger.finish("t1", 1, "me", draft())
    proxy.lose_replies(0)
    assert (await task(pool, "t1"))["state"] == "done"
    assert (await ledger.finish("t1", 1, "me", draft())).content == "the answer"


# --- limits -----------------------------------------------------------------------------------------------------------


async def test_a_full_pool_is_waited_for_no_longer_than_its_limit(postgres_settings: PostgresSettings) -> None:
    """Then StoreAway; and afterwards the pool is as good as before."""
    pool = await Pool(postgres_settings.model_copy(update={"pool_max": 2, "acquire_timeout_s": 0.2})).start()
    busy = [asyncio.get_running_loop().create_task(pool.fetch("SELECT pg_sleep(3)")) for _ in range(2)]
    await asyncio.sleep(0)
    began = time.monotonic()
    answers = await asyncio.gather(*(pool.fetch("SELECT 1 AS one") for _ in range(20)), return_exceptions=True)
    assert time.monotonic() - began < 2.5
    assert all(isinstance(a, StoreAway) and "no connection within 0.2 s" in str(a) for a in answers)
    await asyncio.gather(*busy)
    assert len(await asyncio.gather(*(pool.fetch("SELECT 1") for _ in range(20)))) == 20
    await pool.close()


async def test_a_slow_statement_is_cut_by_the_server(postgres_settings: PostgresSettings, pool: Pool) -> None:
    """StatementTimeout, nothing applied, nothing left running there."""
    quick = await Pool(postgres_settings.model_copy(update={"command_timeout_s": 0.2})).start()
    began = time.monotonic()
    with pytest.raises(StatementTimeout):
        await quick.fetch("SELECT pg_sleep(30)")
    assert time.monotonic() - began < 10
    assert not await pool.fetch(
        "SELECT 1 FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(30)' AND state = 'active'"
    )
    assert (await quick.fetch("SELECT 1 AS one"))[0]["one"] == 1
    await quick.close()


async def test_a_server_that_went_silent_is_store_away_in_bounded_time(proxy: CuttingProxy) -> None:
    """A black hole instead of an answer: command limit plus release limit, then new connections again."""
    pool = await Pool(PostgresSettings(url=SecretStr(proxy.url), command_timeout_s=0.1, acquire_timeout_s=0.5)).start()
    proxy.silent = True
    began = time.monotonic()
    with pytest.raises(StoreAway):
        await pool.fetch("SELECT 1")
    assert time.monotonic() - began < 15
    proxy.silent = False
    proxy.cut()
    assert (await pool.fetch("SELECT 1 AS one"))[0]["one"] == 1
    await pool.close()


async def test_a_cancelled_statement_leaves_the_pool_usable(pool: Pool) -> None:
    """CancelledError comes through, the query ends on the server, no connection is lost, a hundred times over."""
    running = asyncio.get_running_loop().create_task(pool.fetch("SELECT pg_sleep(60)"))
    active = "SELECT 1 FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)' AND state = 'active'"
    await rows_of(pool, active)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    gone = f"SELECT 1 WHERE NOT EXISTS ({active})"
    await rows_of(pool, gone)
    for n in range(100):
        running = asyncio.get_running_loop().create_task(pool.fetch("SELECT pg_sleep(0.001)"))
        for _ in range(n % 7):
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert len(await asyncio.gather(*(pool.fetch("SELECT pg_sleep(0.01)") for _ in range(50)))) == 50


async def test_a_cancelled_claim_can_be_made_again(ledger: PostgresLedger, pool: Pool) -> None:
    """Wherever it was cut, the repeat owns the task and at most one attempt is open."""
    for n in range(40):
        running = asyncio.get_running_loop().create_task(ledger.claim(delivery(f"t{n}"), "me", "m1", LEASE_S))
        for _ in range(n % 10):
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        answer = claimed(await ledger.claim(delivery(f"t{n}"), "me", "m1", LEASE_S))
        assert answer.crashes == 0
        assert [a for a, outcome, _ in await outcomes(pool, f"t{n}") if outcome is None] == [answer.attempt]


# --- dead backends and servers ----------------------------------------------------------------------------------------


async def test_killed_backends_are_replaced_behind_our_back(postgres_settings: PostgresSettings, pool: Pool) -> None:
    """All idle connections cut at once: the next statements just work."""
    other = await Pool(postgres_settings.model_copy(update={"pool_max": 3})).start()
    await asyncio.gather(*(other.fetch("SELECT pg_sleep(0.05)") for _ in range(3)))
    kill = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    await pool.fetch(kill)
    assert len(await asyncio.gather(*(other.fetch("SELECT 1") for _ in range(10)))) == 10
    await other.close()


async def test_a_backend_killed_during_a_statement_is_tried_once_more(pool: Pool) -> None:
    """The second kill is StoreAway."""
    running = asyncio.get_running_loop().create_task(pool.fetch("SELECT pg_sleep(3)"))
    active = "SELECT pid FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(3)' AND state = 'active' AND pid <> $1"
    killed = 0
    for _ in range(2):
        killed = (await rows_of(pool, active, killed))[0]["pid"]
        await pool.fetch("SELECT pg_terminate_backend($1)", killed)
    with pytest.raises(StoreAway):
        await running


async def test_a_restarted_server_is_found_again(postgres_server: EmbeddedPostgres) -> None:
    """StoreAway while it is away, at once; then the same pool goes on."""
    pool = await Pool(PostgresSettings(url=SecretStr(postgres_server.url), connect_timeout_s=1)).start()
    ledger = PostgresLedger(pool)
    await ledger.claim(delivery("t1"), "me", "m1", LEASE_S)
    postgres_server.stop()
    began = time.monotonic()
    with pytest.raises(StoreAway):
        await ledger.finish("t1", 1, "me", draft())
    assert time.monotonic() - began < 10
    postgres_server.start()
    assert (await ledger.finish("t1", 1, "me", draft())).content == "the answer"
    postgres_server.kill()
    postgres_server.start()
    assert await ledger.heartbeat([("t1", 1)], "me") == {"t1"}
    await pool.close()


async def test_no_server_at_start_is_store_away(tmp_path: Path) -> None:
    """Exit 75 is the caller's; no half-open pool stays behind."""
    pool = Pool(PostgresSettings(url=SecretStr(f"postgresql://u@/d?host={tmp_path}&port=5432")))
    with pytest.raises(StoreAway, match="can't be reached"):
        await pool.start()
    with pytest.raises(StoreAway):
        await pool.fetch("SELECT 1")
    await pool.close()


async def test_a_wrong_database_is_named_as_the_setting(postgres_url: str) -> None:
    """And the password is not."""
    wrong = urlunsplit(urlsplit(postgres_url)._replace(path="/nowhere"))
    with pytest.raises(StoreAway, match="refuses the user, password or database of DATABASE_URL"):
        await Pool(PostgresSettings(url=SecretStr(wrong))).start()


@pytest.mark.parametrize("url", [None, "mysql://u@h/d", "postgresql://u@h/d?sslmode=maybe"])
async def test_an_unusable_url_is_a_configuration_error(url: str | None) -> None:
    """Exit 78, before any connection."""
    with pytest.raises(ConfigError, match="DATABASE_URL"):
        await Pool(PostgresSettings(url=SecretStr(url) if url else None)).start()


async def test_a_url_written_for_prisma_works_unchanged(postgres_url: str) -> None:
    """Its own parameters are not sent to the server as settings; others still are."""
    url = f"{postgres_url}&schema=public&connection_limit=5&pool_timeout=10&sslaccept=strict&work_mem=5MB"
    pool = await Pool(PostgresSettings(url=SecretStr(url))).start()
    assert (await pool.fetch("SHOW work_mem"))[0]["work_mem"] == "5MB"
    assert (await pool.fetch("SHOW statement_timeout"))[0]["statement_timeout"] == "5s"
    await pool.close()


async def test_behind_pgbouncer_nothing_is_prepared_or_set(postgres_url: str) -> None:
    """Pgbouncer refuses unknown start-up parameters, and a prepared statement would meet another server."""
    pool = await Pool(PostgresSettings(url=SecretStr(f"{postgres_url}&pgbouncer=true"))).start()
    ledger = PostgresLedger(pool)
    await ledger.claim(delivery("t1"), "me", "m1", LEASE_S)
    assert (await ledger.finish("t1", 1, "me", draft())).content == "the answer"
    assert (await pool.fetch("SHOW statement_timeout"))[0]["statement_timeout"] == "0"
    assert not await pool.fetch("SELECT 1 FROM pg_prepared_statements WHERE name <> ''")
    await pool.close()


async def test_a_standby_is_store_away(postgres_settings: PostgresSettings, pool: Pool) -> None:
    """A server that takes no writes is not ours; a pool that was connected to it lets go of it."""
    name = (await pool.fetch("SELECT current_database() AS name"))[0]["name"]
    await pool.fetch(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    with pytest.raises(StoreAway, match="no server of DATABASE_URL takes writes"):
        await Pool(postgres_settings).start()
    pool_size = len(await pool.fetch("SELECT 1"))
    assert pool_size == 1  # the old connection still writes
    await pool.fetch(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')


# --- statements -------------------------------------------------------------------------------------------------------


async def test_a_migration_under_way_does_not_break_prepared_statements(pool: Pool, ledger: PostgresLedger) -> None:
    """A stale plan is made anew, a type that was changed is learned again."""
    await ledger.claim(delivery("t0"), "me", "m1", LEASE_S)
    select = "SELECT * FROM qstreamd.prompt_templates"
    for n in range(3):
        await pool.fetch(select)
        await pool.fetch(f"ALTER TABLE qstreamd.prompt_templates ADD COLUMN extra{n} text")
        assert await pool.fetch(select) == []
        await pool.fetch(f"ALTER TABLE qstreamd.tasks ADD COLUMN extra{n} text")
        answer = claimed(await ledger.claim(delivery(f"t{n + 1}"), "me", "m1", LEASE_S))
        assert answer.attempt == 1
    await pool.fetch("ALTER TABLE qstreamd.tasks ALTER COLUMN failures TYPE bigint")
    assert (await ledger.finish("t1", 1, "me", draft())).id > 0


async def test_a_schema_that_does_not_fit_says_what_to_do(pool: Pool, ledger: PostgresLedger) -> None:
    """And counts as away: entries stay pending until somebody migrates."""
    await pool.fetch("ALTER TABLE qstreamd.tasks RENAME COLUMN owner TO proprietor")
    with pytest.raises(SchemaMismatch, match=r"owner.*python -m daemon migrate"):
        await ledger.claim(delivery("t1"), "me", "m1", LEASE_S)


async def test_bad_data_names_no_value(pool: Pool) -> None:
    """Neither the server's nor asyncpg's own words reach a log."""
    for sql, args in (("SELECT $1::text::int", ("secret",)), ("SELECT $1::int", ("secret",))):
        with pytest.raises(StatementRefused) as caught:
            await pool.fetch(sql, *args)
        assert "secret" not in str(caught.value) and caught.value.code is Code.STORE_ERROR
    with pytest.raises(StatementRefused, match="UniqueViolationError 23505"):
        await pool.fetch(
            "INSERT INTO qstreamd.prompt_templates (name, version, prompt) VALUES ('a', 1, ''), ('a', 1, '')"
        )


async def test_deadlocks_are_tried_again(pool: Pool, ledger: PostgresLedger) -> None:
    """Two statements that lock two rows in opposite order both succeed in the end."""
    for name in ("a", "b"):
        await ledger.claim(delivery(name), "me", "m1", LEASE_S)
    cross = (
        "WITH one AS MATERIALIZED (SELECT task_id FROM qstreamd.tasks WHERE task_id = $1 FOR UPDATE),"
        " nap AS MATERIALIZED (SELECT pg_sleep(0.3)::text FROM one)"
        " SELECT t.task_id FROM nap, LATERAL (SELECT task_id FROM qstreamd.tasks WHERE task_id = $2 FOR UPDATE) t"
    )
    await pool.fetch("SELECT pg_stat_force_next_flush()")
    answers = await asyncio.gather(pool.fetch(cross, "a", "b"), pool.fetch(cross, "b", "a"))
    assert [a[0]["task_id"] for a in answers] == ["b", "a"]


async def test_start_and_close_may_be_repeated(postgres_settings: PostgresSettings) -> None:
    """Closed early, twice, and started again."""
    pool = Pool(postgres_settings)
    await pool.close()
    assert await pool.start() is await pool.start()
    await pool.close()
    await pool.close()
    with pytest.raises(StoreAway):
        await pool.fetch("SELECT 1")
    await pool.start()
    assert len(await pool.fetch("SELECT 1")) == 1
    await pool.close()


async def test_closing_does_not_wait_for_ever(
    postgres_settings: PostgresSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A statement still at work is cut."""
    monkeypatch.setattr("daemon.store.pool.CLOSE_S", 0.1)
    pool = await Pool(postgres_settings).start()
    running = asyncio.get_running_loop().create_task(pool.fetch("SELECT pg_sleep(4)"))
    await asyncio.sleep(0.05)
    began = time.monotonic()
    await pool.close()
    with pytest.raises(StoreAway):
        await running
    assert time.monotonic() - began < 3.5
