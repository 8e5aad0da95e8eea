"""Prompt templates from a real table: by version, the newest one, cached, missing, while Postgres is away."""

from __future__ import annotations

import pytest

from daemon.domain.errors import Code, Rejected, StoreAway
from daemon.ports import Template
from daemon.store.pool import Pool, StatementRefused
from daemon.store.templates import CACHED_MAX, NEWEST_S, PostgresTemplates


class HandClock:
    """Time that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def time(self) -> float:
        """Unix seconds."""
        return self.now

    def monotonic(self) -> float:
        """The same."""
        return self.now


@pytest.fixture
def clock() -> HandClock:
    """The test's own."""
    return HandClock()


@pytest.fixture
def templates(pool: Pool, clock: HandClock) -> PostgresTemplates:
    """The adapter under test."""
    return PostgresTemplates(pool, clock)


async def test_a_name_gives_the_newest_version_and_name_at_version_that_one(templates: PostgresTemplates) -> None:
    """Versions are numbered from 1."""
    await templates.publish("cv", "one")
    await templates.publish("cv", "two", system="be kind", output="json", output_schema={"type": "object"}, note="why")
    assert await templates.get("cv@1") == Template("cv@1", "one", None)
    assert await templates.get("cv") == Template("cv@2", "two", "be kind")


async def test_a_version_is_read_once(templates: PostgresTemplates, pool: Pool, clock: HandClock) -> None:
    """For ever: it can't change."""
    await templates.publish("cv", "one")
    await templates.get("cv@1")
    before = pool.statements
    clock.now += 1e6
    await templates.get("cv@1")
    assert pool.statements == before


async def test_the_newest_is_read_again_after_a_while(
    templates: PostgresTemplates, pool: Pool, clock: HandClock
) -> None:
    """A version published by another process is seen within that time."""
    other = PostgresTemplates(pool, clock)
    await other.publish("cv", "one")
    assert (await templates.get("cv")).ref == "cv@1"
    await other.publish("cv", "two")
    assert (await other.get("cv")).ref == "cv@2"
    assert (await templates.get("cv")).ref == "cv@1"
    clock.now += NEWEST_S
    assert (await templates.get("cv")).ref == "cv@2"


@pytest.mark.parametrize("ref", ["nothing", "cv@7", "cv@x", "cv@0", "", "@1", "a" * 200, "cv\x00"])
async def test_what_is_not_there_is_rejected_and_asked_once(templates: PostgresTemplates, pool: Pool, ref: str) -> None:
    """A wrong name in a busy queue does not become a query a task."""
    await templates.publish("cv", "one")
    with pytest.raises(Rejected, match="does not exist") as caught:
        await templates.get(ref)
    assert caught.value.code is Code.INVALID_PAYLOAD
    before = pool.statements
    with pytest.raises(Rejected):
        await templates.get(ref)
    assert pool.statements == before


async def test_while_postgres_is_away_what_was_newest_stands(
    templates: PostgresTemplates, pool: Pool, clock: HandClock
) -> None:
    """What was never read can't be served."""
    await templates.publish("cv", "one")
    await templates.get("cv")
    with pytest.raises(Rejected):
        await templates.get("missing")
    await pool.close()
    clock.now += 10 * NEWEST_S
    assert (await templates.get("cv")).ref == "cv@1"
    for unknown in ("other", "missing"):
        with pytest.raises(StoreAway):
            await templates.get(unknown)


async def test_the_cache_is_bounded(templates: PostgresTemplates, pool: Pool) -> None:
    """Names come from outside; the oldest make room."""
    await templates.publish("cv", "one")
    await templates.get("cv@1")
    for n in range(CACHED_MAX):
        with pytest.raises(Rejected):
            await templates.get(f"@{n}")
    before = pool.statements
    assert (await templates.get("cv@1")).prompt == "one"
    assert pool.statements == before + 1


@pytest.mark.parametrize("name", ["", "a@b"])
async def test_a_name_that_could_not_be_asked_for_is_refused(templates: PostgresTemplates, name: str) -> None:
    """`@` belongs to the version."""
    with pytest.raises(StatementRefused):
        await templates.publish(name, "text")
