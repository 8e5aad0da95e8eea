"""ID-first input through the view that a deployment redefines: found, not found, somebody else's, broken, slow."""

from __future__ import annotations

from typing import Any

import pytest

from daemon.config import PostgresSettings
from daemon.domain.errors import Code, Rejected
from daemon.ports import Claimed, TaskContext
from daemon.store.pool import Pool
from daemon.store.task_rows import CONTEXT_BYTES_MAX, ClaimRequest
from daemon.store.tasks import PostgresLedger
from tests.integration.store.samples import LEASE_S, claimed, delivery, let_heartbeat_lapse, outcomes

pytestmark = pytest.mark.postgres_versions

SOURCE = """
CREATE TABLE public.inputs (task_id text, job_id text, refs jsonb, service_id text, user_id text, template_id text,
                            variables jsonb, images jsonb)
"""
VIEW = "CREATE OR REPLACE VIEW qstreamd.task_context AS SELECT * FROM public.inputs"


async def lay(pool: Pool, **row: Any) -> None:
    """A row of the deployment's own table."""
    row = {"user_id": "u1", "variables": {"n": row.get("task_id") or row.get("job_id") or "refs"}, **row}
    places = ", ".join(
        f"${n}::{'jsonb' if c in ('refs', 'variables', 'images') else 'text'}" for n, c in enumerate(row, 1)
    )
    await pool.fetch(f"INSERT INTO public.inputs ({', '.join(row)}) VALUES ({places})", *row.values())  # noqa: S608  # our own column names


@pytest.fixture
async def own_view(pool: Pool) -> None:
    """The view over a table of the deployment."""
    await pool.fetch(SOURCE)
    await pool.fetch(VIEW)


def id_first(task_id: str, **fields: Any) -> Any:
    """A delivery whose input lies elsewhere."""
    return delivery(task_id, fields.pop("entry", "1-0"), variables=None, **fields)


async def ask(ledger: PostgresLedger, task_id: str, **fields: Any) -> Claimed:
    """The claim of an ID-first task."""
    return claimed(await ledger.claim(id_first(task_id, **fields), "me", "m1", LEASE_S))


@pytest.mark.usefixtures("own_view")
async def test_the_input_comes_with_the_claim(ledger: PostgresLedger, pool: Pool) -> None:
    """One statement for both; no row of ours has to exist before."""
    await lay(pool, task_id="t1", template_id="cv@3", variables={"role": "x"}, images=[{"fileKey": "a.png"}])
    before = pool.statements
    answer = await ask(ledger, "t1")
    assert pool.statements == before + 1
    assert answer.context == TaskContext("cv@3", {"role": "x"}, [{"fileKey": "a.png"}])
    assert answer.context_error is None


@pytest.mark.usefixtures("own_view")
async def test_the_task_wins_over_its_job_and_that_over_refs(ledger: PostgresLedger, pool: Pool) -> None:
    """The most exact row is taken; refs of a row must all be in the message."""
    await lay(pool, refs={"cv": "c1"})
    await lay(pool, refs={"cv": "c1", "ad": "a1"}, variables={"n": "both"})
    await lay(pool, job_id="j1")
    await lay(pool, job_id="j2", refs={"cv": "other"})
    await lay(pool, task_id="t1", job_id="j1")

    async def found(name: str, **fields: Any) -> object:
        answer = await ask(ledger, name, **fields)
        return answer.context.variables["n"] if answer.context else answer.context_error

    assert await found("t1", job_id="j1", refs={"cv": "c1"}) == "t1"
    assert await found("t2", job_id="j1", refs={"cv": "c1"}) == "j1"
    assert await found("t3", job_id="j2", refs={"cv": "c1"}) == "refs"
    assert await found("t4", refs={"cv": "c1"}) == "refs"
    assert isinstance(await found("t5", refs={"cv": "c2"}), Rejected)
    assert isinstance(await found("t6", job_id="j2"), Rejected)
    assert isinstance(await found("t7"), Rejected)


@pytest.mark.usefixtures("own_view")
async def test_the_row_of_the_service_wins_over_one_for_all(ledger: PostgresLedger, pool: Pool) -> None:
    """And that of another service is none."""
    await lay(pool, task_id="t1", variables={"n": "all"})
    await lay(pool, task_id="t1", variables={"n": "echo"}, service_id="echo")
    await lay(pool, task_id="t2", service_id="other")
    first, second = await ask(ledger, "t1"), await ask(ledger, "t2")
    assert first.context is not None and first.context.variables == {"n": "echo"}
    assert second.context is None


@pytest.mark.usefixtures("own_view")
@pytest.mark.parametrize("owner", ["somebody else", None])
async def test_the_input_of_another_user_is_not_found(ledger: PostgresLedger, pool: Pool, owner: str | None) -> None:
    """A guessed task id opens nobody's data, nor does a row without an owner; the attempt exists and can be ended."""
    await lay(pool, task_id="t1", user_id=owner)
    answer = await ask(ledger, "t1")
    assert answer.attempt == 1 and answer.context is None
    assert isinstance(answer.context_error, Rejected) and answer.context_error.code is Code.CONTEXT_NOT_FOUND


async def test_without_a_view_of_ones_own_nothing_is_found(ledger: PostgresLedger) -> None:
    """The shipped view is empty."""
    answer = await ask(ledger, "t1", job_id="j1", refs={"cv": "c1"})
    assert answer.context_error is not None and answer.context_error.code is Code.CONTEXT_NOT_FOUND


@pytest.mark.usefixtures("own_view")
async def test_a_task_with_its_own_input_never_looks(ledger: PostgresLedger, pool: Pool) -> None:
    """Inline variables win: the view is not even asked."""
    await lay(pool, task_id="t1")
    answer = claimed(await ledger.claim(delivery("t1"), "me", "m1", LEASE_S))
    assert (answer.context, answer.context_error) == (None, None)


@pytest.mark.usefixtures("own_view")
@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"variables": [1]}, "Expected `object | null`, got `array`"),
        ({"images": {"fileKey": "a"}}, "Expected `array | null`, got `object`"),
        ({"variables": {"n": "x" * CONTEXT_BYTES_MAX}}, "at most"),
    ],
)
async def test_input_of_a_wrong_shape_is_refused(
    ledger: PostgresLedger, pool: Pool, row: dict[str, Any], why: str
) -> None:
    """The error says what was expected and repeats no content."""
    await lay(pool, task_id="t1", **row)
    answer = await ask(ledger, "t1")
    assert answer.context is None and answer.context_error is not None
    assert why in answer.context_error.detail and "xxx" not in answer.context_error.detail


@pytest.mark.usefixtures("own_view")
async def test_empty_input_is_empty_and_not_missing(ledger: PostgresLedger, pool: Pool) -> None:
    """NULL variables and images are what a template without variables needs."""
    await lay(pool, task_id="t1", variables=None)
    assert (await ask(ledger, "t1")).context == TaskContext(None, {}, [])


BROKEN = {
    "a column of another type": "CREATE VIEW qstreamd.task_context AS SELECT 7 AS task_id",
    "a value that does not cast": VIEW.replace("*", "task_id, job_id, refs, service_id, user_id, template_id, "
                                               "jsonb_build_object('n', (variables->>'n')::int) AS variables, images"),
    "no view at all": "SELECT 1",
}  # fmt: skip


@pytest.mark.usefixtures("own_view")
@pytest.mark.parametrize("broken", BROKEN)
async def test_a_broken_view_blocks_no_claim(ledger: PostgresLedger, pool: Pool, broken: str) -> None:
    """The attempt is ours with a retryable error that names the view and no content."""
    await lay(pool, task_id="t1", variables={"n": "secret text"})
    await pool.fetch("DROP VIEW qstreamd.task_context")
    await pool.fetch(BROKEN[broken])
    answer = await ask(ledger, "t1")
    assert answer.attempt == 1 and answer.context is None and answer.context_error is not None
    assert answer.context_error.code is Code.STORE_ERROR
    assert answer.context_error.detail.startswith("task_context: ") and "secret" not in str(answer.context_error)
    assert await outcomes(pool, "t1") == [(1, None, None)]


@pytest.mark.usefixtures("own_view")
async def test_one_bad_row_spoils_no_other_task_of_the_batch(ledger: PostgresLedger, pool: Pool) -> None:
    """After a failure of the whole, each is claimed for itself."""
    await lay(pool, task_id="good", variables={"n": "5"})
    await lay(pool, task_id="bad", variables={"n": "five"})
    await pool.fetch(BROKEN["a value that does not cast"])
    batch = [ClaimRequest(d, "m1") for d in (id_first("good"), id_first("bad"), delivery("inline"))]
    good, bad, inline = [claimed(a) for a in await ledger.claim_many(batch, "me", LEASE_S)]
    assert good.context is not None and good.context.variables == {"n": 5}
    assert bad.context_error is not None and bad.context_error.code is Code.STORE_ERROR
    assert inline.context_error is None
    assert {good.attempt, bad.attempt, inline.attempt} == {1}


async def test_a_slow_view_blocks_no_claim(postgres_settings: PostgresSettings) -> None:
    """The server cuts it at the statement limit; the claim itself is quick."""
    pool = await Pool(postgres_settings.model_copy(update={"command_timeout_s": 0.3})).start()
    await pool.fetch(
        """
        CREATE OR REPLACE VIEW qstreamd.task_context AS
        SELECT 't1'::text AS task_id, NULL::text AS job_id, NULL::jsonb AS refs, NULL::text AS service_id,
               'u1'::text AS user_id, pg_sleep(5)::text AS template_id, NULL::jsonb AS variables, NULL::jsonb AS images
        """
    )
    answer = await ask(PostgresLedger(pool), "t1")
    assert answer.attempt == 1
    assert answer.context_error is not None and answer.context_error.code is Code.STORE_ERROR
    await pool.close()


@pytest.mark.usefixtures("own_view")
async def test_who_does_not_get_the_claim_does_not_get_the_input(ledger: PostgresLedger, pool: Pool) -> None:
    """The view is asked only for what was claimed; a retry reads it anew."""
    await lay(pool, task_id="t1", variables={"n": "old"})
    await ask(ledger, "t1")
    await pool.fetch('UPDATE public.inputs SET variables = \'{"n": "new"}\'')
    await let_heartbeat_lapse(pool, "t1")
    again = await ask(ledger, "t1", entry="2-0")
    assert again.context is not None and again.context.variables == {"n": "new"}


@pytest.mark.usefixtures("own_view")
async def test_looking_up_by_task_or_job_uses_the_indexes_of_the_table(ledger: PostgresLedger, pool: Pool) -> None:
    """Through the view as the guide writes it, and refs are not searched when the job was found."""
    await pool.fetch(
        "INSERT INTO public.inputs"
        " SELECT NULL, 'j' || n, jsonb_build_object('n', 'r' || n), NULL, 'u1', NULL, '{}', '[]'"
        " FROM generate_series(1, 20000) n"
    )
    await pool.fetch("CREATE INDEX ON public.inputs (job_id)")
    await pool.fetch("CREATE INDEX ON public.inputs (task_id)")
    await pool.fetch("ANALYZE public.inputs")
    await ask(ledger, "t1", job_id="j777", refs={"n": "r777"})
    query = "SELECT seq_scan, idx_scan FROM pg_stat_user_tables WHERE relname = 'inputs'"
    await pool.fetch("SELECT pg_stat_force_next_flush()")
    before = (await pool.fetch(query))[0]
    for n in range(20):
        answer = await ask(ledger, f"more{n}", job_id=f"j{n + 1}", refs={"n": f"r{n + 1}"})
        assert answer.context == TaskContext(None, {}, [])
    await pool.fetch("SELECT pg_stat_force_next_flush()")
    after = (await pool.fetch(query))[0]
    assert after["idx_scan"] >= before["idx_scan"] + 20
    assert after["seq_scan"] == before["seq_scan"]
