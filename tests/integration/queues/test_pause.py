"""One truth about a paused queue: scripts and Python read the control hash in the same way, however it is spelled."""

from __future__ import annotations

import pytest

from daemon.config import QueueSettings
from daemon.domain.clock import SystemClock
from daemon.domain.messages import TaskMessage
from daemon.domain.queues import is_paused
from daemon.limiter.waiting import WaitReader
from daemon.queues.admission import Accepted, Admission
from daemon.queues.control import Controls
from daemon.queues.depths import DepthReader
from daemon.queues.streams import QueuePaused
from daemon.redis_client import keys
from tests.integration.redis_side import QUEUE, Side

NOT_PAUSED = ["", "0", "false", "False", "FALSE", "fAlSe", "no", "No", "NO", "nO"]
PAUSED = [
    "1", "true", "True", "yes", "YES", "on", "off", "2", "-1", "00", "0.0", "+0", "n", "f", "none", "null", "nope",
    "falsey", " ", " no", "no ", "0 ", "no\n", "\0", "ＮＯ", "ﬀalse", "falſe", "İ", "\N{KELVIN SIGN}", "暂停",
]  # fmt: skip
RAW = [b"\xff", b"no\xff", b"\xc3", b"\x00no"]
SPELLINGS = [(text.encode(), False) for text in NOT_PAUSED] + [(text.encode(), True) for text in PAUSED]
SPELLINGS += [(raw, True) for raw in RAW]


async def fetch_is_paused(side: Side) -> bool:
    """What the script of a daemon that reads says."""
    try:
        await side.work.fetch(QUEUE, 1)
    except QueuePaused:
        return True
    return False


async def accept_is_paused(side: Side, task_id: str) -> bool:
    """What the relay's script says."""
    admission = Admission(side.scripts, QueueSettings(), SystemClock())
    message = TaskMessage(task_id=task_id, queue_id=QUEUE, service_id="s", user_id="u", variables={})
    verdict = await admission.accept(message, "a" * 64, 1000, {})
    assert isinstance(verdict, Accepted)
    return verdict.paused


async def readers(side: Side, task_id: str) -> dict[str, bool]:
    """What everybody who asks is told."""
    waits, controls = WaitReader(side.client), Controls(side.scripts, SystemClock())
    depths = await DepthReader(side.scripts).read([QUEUE], [])
    return {
        "fetch": await fetch_is_paused(side),
        "accept": await accept_is_paused(side, task_id),
        "control": (await controls.read([QUEUE]))[QUEUE].paused,
        "depths": depths.queues[0].paused,
        "gateway, sizes": (await waits.queues([QUEUE]))[QUEUE].paused,
        "gateway, a task": (await waits.of(QUEUE, task_id, 0.0)).reason == "QUEUE_PAUSED",
    }


@pytest.mark.redis_forms("server")
async def test_lua_and_python_agree_on_every_spelling(side: Side) -> None:
    """An operator, a script of somebody's or an older release may have written it."""
    for at, (spelling, paused) in enumerate(SPELLINGS):
        await side.client.hset(keys.queue_keys(QUEUE).control, "paused", spelling)
        assert is_paused(spelling) == paused, spelling
        found = await readers(side, f"t{at}")
        assert found == dict.fromkeys(found, paused), spelling


@pytest.mark.redis_forms("server")
async def test_a_queue_of_which_nothing_was_said_is_not_paused(side: Side) -> None:
    """Neither with another field in its control hash."""
    assert not is_paused(None)
    assert not any((await readers(side, "t1")).values())
    await side.client.hset(keys.queue_keys(QUEUE).control, "maxSize", "100")
    assert not any((await readers(side, "t2")).values())
