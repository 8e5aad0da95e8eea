"""The guide's SQL, run as it stands over the tables that Prisma would make."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from daemon.domain.errors import Code
from daemon.ports import TaskContext
from daemon.store.pool import Pool
from daemon.store.tasks import PostgresLedger
from tests.integration.store.samples import LEASE_S, claimed, delivery

GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "task-context.md"
TABLES = (
    'CREATE TABLE public."Resume" ("id" uuid PRIMARY KEY, "text" text NOT NULL, "photo" text)',
    """CREATE TABLE public."Job" ("id" text PRIMARY KEY, "ownerId" text NOT NULL, "role" text NOT NULL,
                                 "resumeId" uuid NOT NULL REFERENCES public."Resume" ("id"))""",
)
RESUME = "5b1f0a4e-8f0e-4c55-9a3e-0d7f6f1f2a10"

pytestmark = pytest.mark.postgres_versions


@pytest.fixture
async def blocks(pool: Pool) -> list[str]:
    """The SQL of the guide, and the tables it is about."""
    for sql in (
        *TABLES,
        f"INSERT INTO public.\"Resume\" VALUES ('{RESUME}', 'ten years of it', 'cv.png')",  # noqa: S608
        f"INSERT INTO public.\"Job\" VALUES ('clx1', 'u1', 'engineer', '{RESUME}')",  # noqa: S608
    ):
        await pool.fetch(sql)
    found = re.findall(r"```sql\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)
    return [re.sub("^  ", "", block, flags=re.MULTILINE) for block in found]


async def test_the_view_of_the_guide_gives_the_input(blocks: list[str], pool: Pool, ledger: PostgresLedger) -> None:
    """By job and by résumé, only to its owner; and dropping it as the guide says stops ID-first tasks alone."""
    view, explain, index, drop = blocks
    await pool.fetch(view)
    await pool.fetch(index)
    assert await pool.fetch(explain)
    job = delivery("t1", variables=None, job_id="clx1", service_id="resume-review")
    answer = claimed(await ledger.claim(job, "me", "m1", LEASE_S))
    assert answer.context == TaskContext(
        None, {"role": "engineer", "resume": "ten years of it"}, [{"fileKey": "cv.png"}]
    )
    resume = delivery("t2", variables=None, job_id=RESUME, service_id="resume-summary")
    answer = claimed(await ledger.claim(resume, "me", "m1", LEASE_S))
    assert answer.context == TaskContext(None, {"resume": "ten years of it"}, [])
    stranger = delivery("t3", variables=None, job_id="clx1", service_id="resume-review", user_id="u2")
    answer = claimed(await ledger.claim(stranger, "me", "m1", LEASE_S))
    assert answer.context_error is not None and answer.context_error.code is Code.CONTEXT_NOT_FOUND
    await pool.fetch(drop)
    again = claimed(await ledger.claim(job, "me", "m1", LEASE_S))
    assert again.context_error is not None and again.context_error.code is Code.STORE_ERROR
