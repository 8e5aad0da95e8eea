"""Dead letters from the command line: seen, taken up again exactly once, dropped; audited, and without content."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import pytest

from tests.e2e.processes import ROOT
from tests.e2e.world import World

pytestmark = pytest.mark.timeout(120)


async def dlq(world: World, *arguments: str) -> tuple[int, Any]:
    """Exit code and parsed answer of one command."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "daemon", "dlq", *arguments, "--json", cwd=ROOT,
        env={
            "REDIS_URL": world.redis_url, "DATABASE_URL": world.database_url, "PATH": "/usr/bin:/bin",
            "SERVICES_FILE": str(world.directory / "services.toml"),
        },
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, complaint = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode is not None
    assert "Traceback" not in complaint.decode(), complaint.decode()
    return process.returncode, json.loads(out) if out.strip() else complaint.decode()


async def fail_two(world: World) -> None:
    """A task that is refused by the model and one that expired."""
    await world.start_daemon()
    await world.publish("refused", "f-blocked-once")
    await world.publish("expired", expiresAt=1)
    await world.publish("good")
    for task_id in ("refused", "expired", "good"):
        await world.ended(task_id)
    await world.quiescent()


async def test_letters_are_listed_and_shown_without_content(world: World) -> None:
    """By code and age; what the task said is not in it."""
    await fail_two(world)
    code, letters = await dlq(world, "list")
    assert code == 0
    assert {(x["task_id"], x["code"]) for x in letters} == {("refused", "LLM_REFUSED"), ("expired", "EXPIRED")}
    assert [x["task_id"] for x in (await dlq(world, "list", "--code", "EXPIRED"))[1]] == ["expired"]
    assert (await dlq(world, "list", "--older", "1h"))[1] == []
    assert len((await dlq(world, "list", "--newer", "1h"))[1]) == 2
    assert (await dlq(world, "list", "--queue", "q_paid_batch"))[1] == []
    code, shown = await dlq(world, "show", "refused")
    assert (code, shown["task"]["state"], len(shown["letters"])) == (0, "failed", 1)
    assert "tokens of" not in json.dumps([letters, shown])
    assert (await dlq(world, "show", "nobody"))[0] == 1


async def test_a_replay_runs_the_task_anew_exactly_once(world: World) -> None:
    """F77: two replays at the same moment start one attempt. The fence goes on, events begin again, it is audited."""
    await fail_two(world)
    code, fates = await dlq(world, "replay", "refused", "--dry-run")
    assert (code, [f["done"] for f in fates]) == (0, ["would replay"])
    assert (await world.row("refused"))["state"] == "failed"
    answers = await asyncio.gather(*(dlq(world, "replay", "refused", "--reason", "again") for _ in range(3)))
    done = [fate["done"] for _, fates in answers for fate in fates]
    assert done.count("replayed") == 1, answers
    assert (await world.ended("refused"))["type"] == "done"
    history = await world.check(replayed=["refused"])
    events = history.tasks["refused"].events
    assert [(e["type"], e["attempt"]) for e in events[:2]] == [("queued", 0), ("started", 2)]
    assert world.calls("refused") == 2
    audits = await world.sql("SELECT * FROM qstreamd.audit_log WHERE action = 'dlq.replay'")
    assert [(a["target"], a["reason"]) for a in audits] == [("refused", "again")]
    assert [x["task_id"] for x in (await dlq(world, "list"))[1]] == ["expired"]
    code, fates = await dlq(world, "replay", "refused")
    assert fates == []


async def test_what_ended_well_or_still_runs_is_not_replayed(world: World) -> None:
    """A letter can outlive the state it tells of; the row decides."""
    await fail_two(world)
    letter = {"taskId": "good", "code": "INTERNAL", "reason": "left over", "attempts": "1"}
    await world.redis.xadd("{bp:queue:q_paid_stream}:dead", letter)
    code, fates = await dlq(world, "replay", "good")
    assert (code, fates[0]["done"]) == (1, "refused")
    assert world.calls("good") == 1


async def test_letters_are_dropped_by_choice_only(world: World) -> None:
    """`--all` has to be said; the task itself stays."""
    await fail_two(world)
    code, complaint = await dlq(world, "drop")
    assert code == 2 and "--all" in complaint
    assert [f["done"] for f in (await dlq(world, "drop", "--all", "--dry-run"))[1]] == ["would drop"] * 2
    code, fates = await dlq(world, "drop", "--code", "EXPIRED")
    assert (code, [f["task_id"] for f in fates]) == (0, ["expired"])
    assert [x["task_id"] for x in (await dlq(world, "list"))[1]] == ["refused"]
    assert (await world.row("expired"))["state"] == "expired"
    audits = await world.sql("SELECT target FROM qstreamd.audit_log WHERE action = 'dlq.drop'")
    assert [a["target"] for a in audits] == ["expired"]
