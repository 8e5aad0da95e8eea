"""Limits over all processes, seen from the provider's side; waiting, waking, pausing, closing, by real daemons."""

from __future__ import annotations

import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import time
from itertools import pairwise
from typing import Any

import pytest

from daemon.dev.fake_llm.calls import Call
from daemon.redis_client import keys
from tests.e2e.processes import KEPT, ROOT
from tests.e2e.world import LEASE_S, World, services_toml
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(300)
QUEUE = "q_paid_stream"
MORE = """
[models.five]
provider = "openai"
name = "five"
input = ["text"]
concurrency = { paid = 5 }

[models.one]
provider = "openai"
name = "one"
input = ["text"]
concurrency = { paid = 1 }

[services.five]
title = "five"
prompt = "{{ tokens }} tokens of {{ id }}"
models = { paid = ["five"] }
first_token_s = 20
idle_s = 20
attempts = 3

[services.one]
title = "one"
prompt = "{{ tokens }} tokens of {{ id }}"
models = { paid = ["one"] }

[services.either]
title = "either"
prompt = "{{ tokens }} tokens of {{ id }}"
models = { paid = ["one", "five"] }
"""


@pytest.fixture
def limited(world: World) -> World:
    """A world with models that take five and one at once, where nobody asks unasked."""
    (world.directory / "services.toml").write_text(services_toml() + MORE, "utf-8")
    world.variables["QSTREAMD_GUARD_RETRY_S"] = "60"
    world.variables["QSTREAMD_GUARD_SWEEP_S"] = "0.5"
    return world


def calls(world: World, model: str) -> list[Call]:
    return [call for call in world.llm.calls if call.model == model]


async def place_count(world: World, queue: str = QUEUE) -> int:
    return int(await world.redis.get(keys.queue_keys(queue).counter) or 0)


async def order(world: World, *arguments: str) -> dict[str, Any]:
    """One command of an operator, as a process of its own; its JSON."""
    env = {k: v for k, v in os.environ.items() if k.startswith(KEPT)}
    env |= {"NODE_ENV": "production", "REDIS_URL": world.redis_url, "DATABASE_URL": world.database_url,
            "SERVICES_FILE": str(world.directory / "services.toml")}  # fmt: skip
    command = [sys.executable, "-m", "daemon", "queues", *arguments, "--json"]
    done = await asyncio.to_thread(
        subprocess.run, command, cwd=ROOT, env=env, capture_output=True, check=False, timeout=30
    )
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


@pytest.mark.long
async def test_a_limit_holds_at_the_provider_whatever_dies(limited: World, *, whole: bool) -> None:
    """Five at once, several daemons, random SIGKILLs: never a sixth call, all finish, no place and no guard is left."""
    tasks, daemons, kills = (500, 4, 30) if whole else (60, 3, 5)
    for _ in range(daemons):
        await limited.start_daemon(QUEUE)
    publishing = asyncio.ensure_future(  # awaited below
        limited.publish_many([f"t{n}" for n in range(tasks)], "five", tokens=40)
    )
    rng = random.Random(4)
    for _ in range(kills):
        await asyncio.sleep(rng.uniform(0.2, 0.8))
        victim = rng.choice([d for d in limited.daemons if d.running])
        victim.kill()
        await limited.start_daemon(QUEUE)
    await publishing
    await limited.quiescent(within_s=240 if whole else 90)
    assert limited.llm.max_at_once("five") <= 5
    assert await place_count(limited) == 0 == await limited.redis.zcard(keys.queue_keys(QUEUE).waiting)
    states = await limited.sql("SELECT state, count(*) AS n FROM qstreamd.tasks GROUP BY state")
    assert sum(row["n"] for row in states) == tasks

    async def limiter() -> bool:
        kinds = ("model", "user", "probe", "wait")  # places and lines
        return not [key for kind in kinds async for key in limited.redis.scan_iter(f"{{guard}}:{kind}:*")]

    await wait_until(limiter, description="no guard to be left", within_s=2 * LEASE_S + 2)


@pytest.mark.long
async def test_waiters_are_woken_in_order_of_age_and_at_once(limited: World) -> None:
    """A model for one at a time: the gap between two calls is what waking costs. No attempt is used up."""
    await limited.start_daemon(QUEUE)
    names = [f"t{n}" for n in range(30)]
    await limited.publish("first", "one", tokens=200)
    await limited.seen("first", "token_batch")
    for name in names:
        await limited.publish(name, "one", tokens=4)

    async def parked() -> bool:
        return int(await limited.redis.zcard(keys.queue_keys(QUEUE).retry)) == len(names)

    await wait_until(parked, description="all others to wait", within_s=20)
    [waiting] = [e for e in await limited.events("t5") if e["type"] == "progress"]
    assert waiting["reason"] == "GUARD_MODEL"
    await limited.quiescent()
    users = [call.user for call in calls(limited, "one")]
    assert users == [limited.published[name].user_tag for name in ("first", *names)]
    gaps = [later.began - (sooner.ended or 0.0) for sooner, later in pairwise(calls(limited, "one"))]
    assert statistics.median(gaps) < 0.1, sorted(gaps)  # P95 too where nobody else uses the machine
    rows = await limited.sql("SELECT attempt, failures FROM qstreamd.tasks")
    assert {(row["attempt"], row["failures"]) for row in rows} == {(1, 0)}


@pytest.mark.long
async def test_short_work_goes_before_long_work_within_a_bound(limited: World) -> None:
    """Two queues share a model for one at a time; the long one gives way for 3 s and not longer."""
    long = "q_paid_long"
    table = f'[queues.{long}]\ntier = "paid"\nmode = "batch"\ngives_way_s = 3\n'
    (limited.directory / "services.toml").write_text(services_toml() + MORE + table, "utf-8")
    await limited.start_daemon(f"{QUEUE},{long}")
    await limited.publish("first", "one", tokens=1400)  # seven seconds
    await limited.seen("first", "token_batch")
    for name, queue in (("long1", long), ("short1", QUEUE), ("long2", long), ("short2", QUEUE)):
        await limited.publish(name, "one", tokens=4, queue=queue)
    await asyncio.sleep(4)  # the bound is a time
    await limited.publish("late", "one", tokens=4)
    await limited.quiescent()
    users = [call.user for call in calls(limited, "one")]
    order_of = ("first", "short1", "short2", "long1", "long2", "late")
    assert users == [limited.published[name].user_tag for name in order_of]


@pytest.mark.long
async def test_a_paused_queue_starts_nothing_and_loses_nothing(limited: World) -> None:
    """Two daemons stop within a second; what runs goes on; counts are exact; resuming runs all."""
    for _ in range(2):
        await limited.start_daemon(QUEUE, QUEUE_PARALLELISM_PAID_STREAM="3")
    for n in range(16):
        await limited.publish(f"t{n}", tokens=20 if n >= 6 else 2000)  # the first six: ten seconds
    await wait_until(lambda: len(calls(limited, "plain")) >= 6, description="six to run")
    told = await order(limited, "pause", QUEUE, "--reason", "provider incident")
    assert told["told"] == 10
    for n in range(6):
        await limited.ended(f"t{n}", within_s=30)
    await asyncio.sleep(1.0)
    begun = len(calls(limited, "plain"))
    assert begun == 6
    assert await place_count(limited) == 10 == await limited.redis.zcard(keys.queue_keys(QUEUE).waiting)
    reasons = [e.get("reason") for e in await limited.events("t15")]
    assert "QUEUE_PAUSED" in reasons
    await limited.publish("late", tokens=2)
    assert [e.get("reason") for e in await limited.events("late")] == [None, "QUEUE_PAUSED"]
    ordered = time.monotonic()
    await order(limited, "resume", QUEUE)
    await wait_until(lambda: len(calls(limited, "plain")) > begun, description="the next to run")
    assert time.monotonic() - ordered < 3  # the command itself is a process that starts
    await limited.check()
    assert await place_count(limited) == 0
    rows = await limited.sql("SELECT action, target, actor, params FROM qstreamd.audit_log ORDER BY id")
    assert [(row["action"], row["target"]) for row in rows] == [("queue.pause", QUEUE), ("queue.resume", QUEUE)]
    assert rows[0]["actor"].startswith("cli:") and "provider incident" in str(rows[0]["params"])


@pytest.mark.long
async def test_the_kill_switch_stops_every_queue_and_tells_viewers_why(limited: World) -> None:
    """`pause --all --reason`: nothing starts on any queue, whoever waits reads why, resuming runs all."""
    queues = (QUEUE, "q_paid_batch")
    await limited.start_daemon(",".join(queues), QUEUE_PARALLELISM_PAID_STREAM="1", QUEUE_PARALLELISM_PAID_BATCH="1")
    for queue in queues:
        for n in range(3):
            await limited.publish(f"{queue}-{n}", tokens=1 if n else 2000, queue=queue)  # the first: ten seconds
    await wait_until(lambda: len(calls(limited, "plain")) == 2, description="one of each queue to run")
    told = await order(limited, "pause", "--all", "--reason", "the provider is down")
    assert told["told"] >= 4
    for queue in queues:
        await limited.ended(f"{queue}-0", within_s=30)
        [waits] = [e for e in await limited.events(f"{queue}-2") if e["type"] == "progress"]
        assert waits["reason"] == "QUEUE_PAUSED" and "the provider is down" in waits["message"]
    paused = await limited.redis.hmget(keys.queue_keys("q_free_vision").control, "paused", "why")
    assert paused == ["1", "the provider is down"]
    await asyncio.sleep(1.5)
    assert len(calls(limited, "plain")) == 2
    await order(limited, "resume", "--all")
    await limited.check()
    assert len(calls(limited, "plain")) == 6


@pytest.mark.long
async def test_fewer_slots_take_effect_within_a_second(limited: World) -> None:
    """Six at once, then two: what runs goes on, and a second later nothing has begun above two."""
    await limited.start_daemon(QUEUE, QUEUE_PARALLELISM_PAID_STREAM="6")
    for n in range(60):
        await limited.publish(f"t{n}", tokens=60)
    await wait_until(lambda: limited.llm.max_at_once("plain") == 6, description="six at once")
    await order(limited, "set", QUEUE, "--parallelism", "2")
    ordered = time.time()
    await limited.check(within_s=60)
    late = [call.at_once for call in calls(limited, "plain") if call.began > ordered + 1.0]
    assert late and max(late) <= 2


async def test_parallelism_changes_under_load(limited: World) -> None:
    """More slots take effect at once; fewer let run what runs; a limit over all processes holds at the provider."""
    for _ in range(2):
        await limited.start_daemon(QUEUE, QUEUE_PARALLELISM_PAID_STREAM="1")
    for n in range(40):
        await limited.publish(f"t{n}", tokens=60)
    await wait_until(lambda: limited.llm.max_at_once("plain") == 2, description="two at once")
    await order(limited, "set", QUEUE, "--parallelism", "6", "--global-parallelism", "5")
    await wait_until(lambda: limited.llm.max_at_once("plain") == 5, description="five at once", within_s=5)
    await limited.check(within_s=60)
    assert limited.llm.max_at_once("plain") == 5


async def test_a_purged_queue_is_empty_and_everybody_was_told(limited: World) -> None:
    """Waiting and parked tasks end as CANCELLED with row, event and place; the running one goes on."""
    await limited.start_daemon(QUEUE)
    await limited.publish("runs", "one", tokens=1200)
    await limited.seen("runs", "token_batch")
    await limited.publish("parked", "one")
    await limited.seen("parked", "progress")
    await order(limited, "pause", QUEUE)
    await limited.daemons[0].logged("queue.paused")
    for n in range(5):
        await limited.publish(f"t{n}")
    assert (await order(limited, "purge", QUEUE, "--yes"))["ended"] == 6
    for name in ("parked", "t0", "t4"):
        assert (await limited.ended(name))["code"] == "CANCELLED"
        assert (await limited.row(name))["state"] == "cancelled"
    assert (await limited.ended("runs"))["type"] == "done"
    assert await place_count(limited) == 0
    assert await limited.redis.xlen(keys.queue_keys(QUEUE).tasks) == 0


@pytest.mark.long
async def test_a_refusal_with_a_time_stops_all_daemons_for_that_time(limited: World) -> None:
    """429 with Retry-After 7: no call of that model from anywhere, no attempt used; other models at full speed."""
    limited.variables["QSTREAMD_DEFER_S"] = "1"
    for _ in range(4):
        await limited.start_daemon(QUEUE)
    limited.llm.plan("429-after-7", model="five")
    await limited.publish("first", "five", tokens=2)
    await wait_until(lambda: calls(limited, "five"), description="the refusal")
    await limited.publish_many([f"t{n}" for n in range(8)], "five", tokens=2)
    await limited.publish_many([f"p{n}" for n in range(8)], "plain", tokens=2)
    for n in range(8):
        await limited.ended(f"p{n}", within_s=2)  # on a busy machine three times as long, and still before the seven
    await limited.check()
    refused, *others = calls(limited, "five")
    assert len(others) == 9
    assert min(call.began for call in others) - (refused.ended or 0.0) >= 7.0
    rows = await limited.sql("SELECT failures FROM qstreamd.tasks WHERE service_id = 'five'")
    assert {row["failures"] for row in rows} == {0}
    [waiting] = [e for e in await limited.events("first") if e["type"] == "progress"]
    assert waiting["reason"] == "RATE_LIMITED"


async def test_a_fallback_answers_while_the_first_model_is_closed(limited: World) -> None:
    """Before the first token only; the model that was really used is recorded."""
    await limited.start_daemon(QUEUE)
    limited.llm.plan("429-after-3", model="one")
    await limited.publish("t1", "either", tokens=3)
    done = await limited.ended("t1", within_s=2.5)
    assert (done["type"], done["modelId"], done["attempt"]) == ("done", "five", 1)
    await limited.publish("t2", "either", tokens=3)
    started = await limited.seen("t2", "started")
    assert started["modelId"] == "five"
    await limited.quiescent()
    rows = await limited.sql("SELECT model_id FROM qstreamd.results UNION SELECT model_id FROM qstreamd.attempts")
    assert {row["model_id"] for row in rows} == {"five"}
    assert len(calls(limited, "one")) == 1
