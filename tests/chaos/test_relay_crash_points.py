"""kill -9, an unforeseen error, a lost reply and a standstill right before and after each effect of a relay.

QStash comes again, perhaps to another relay, and gets the answer that the first one owed it: one task, one run, one
`queued`. All cases run in `make test`, some at once; `--point accept-after` runs those whose name holds that.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final

import aiohttp
import pytest

from tests.chaos.side_by_side import Case, SideBySide
from tests.e2e.relay_process import Relay
from tests.e2e.world import Published, World, tag
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(300)

CASES: Final = [
    (effect, when, action)
    for effect in ("accept", "append")
    for when in ("before", "after")
    for action in ("kill", "raise", "lose", "stall")
    if not (action == "lose" and when == "before")  # what was not sent has no reply to lose
]
BODY: Final = {
    "taskId": "t1", "queueId": "q_paid_stream", "serviceId": "plain", "userId": "user-t1",
    "variables": {"id": "t1", "tokens": 20},
}  # fmt: skip


async def call(relay: Relay) -> tuple[int, dict[str, str]]:
    """Status and body; status 0 when the connection ended without an answer."""
    try:
        reply = await relay.call("/worker/execute", BODY)
    except (aiohttp.ClientError, TimeoutError):
        return 0, {}
    return reply.status, reply.body


async def test_a_relay_may_fail_there(side_by_side: SideBySide) -> None:
    """The second call is answered 200 with the entry that is in the stream, and the task runs once."""
    cases: dict[str, Case] = {"-".join(case): partial(fails_there, *case) for case in CASES}
    await side_by_side.run(cases)


async def fails_there(effect: str, when: str, action: str, world: World) -> None:
    """One case."""
    world.variables["NODE_ENV"] = "development"
    points = f"{effect}:{when}={action}"
    relay = await world.start_relay(NODE_ENV="development", QSTREAMD_FAILPOINTS=points)
    status, first = await call(relay)
    await wait_until(lambda relay=relay: relay.log("failpoint"), description="the relay was struck")
    # an accepted call is a 200 whatever becomes of `queued`; what is not known to be accepted never is
    assert status in ((200, 0) if effect == "append" else (0, 500, 503) if action != "stall" else (200, 503)), first
    if action == "kill":
        assert await asyncio.to_thread(relay.process.wait, 20) == -9
        relay = await world.start_relay(NODE_ENV="development")
    status, second = await call(relay)
    assert status == 200, second
    accepted = effect == "append" or when == "after" or first.get("entryId")
    assert second["status"] == ("duplicate" if accepted else "queued")
    assert first.get("entryId") in (None, second["entryId"])
    [(entry_id, _)] = await world.redis.xrange("{bp:queue:q_paid_stream}:tasks")
    assert entry_id == second["entryId"]

    world.published["t1"] = Published("t1", "q_paid_stream", tag("user-t1"), accepted=1)
    await world.start_daemon()
    await world.ended("t1", within_s=30)
    await world.check()
