"""When a daemon is deaf: a read that hangs, or work that waits beside a free slot."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import pytest

from daemon.config import OpsSettings, RedisSettings
from daemon.queues.control import Control
from daemon.queues.depths import Depths, QueueDepth
from daemon.worker.consumer import QueueConsumer
from daemon.worker.slots import Slots
from daemon.worker.stall_detector import LOOK_S, StallDetector

Q = "q_paid_stream"
NOW = 1_000.0  #: of the consumers' clock
AT = 1_700_000_000.0  #: of the server's


@dataclass
class Reader:
    """What is judged of a consumer."""

    slots: Slots = field(default_factory=lambda: Slots(2))
    reading_since: float | None = None
    idle_since: float = NOW - 3600


@dataclass
class Scene:
    """One consumer, what Redis holds, and a clock."""

    reader: Reader = field(default_factory=Reader)
    depths: Depths | None = None
    now: float = NOW
    asked: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        consumers = {Q: cast(QueueConsumer, self.reader)}
        self.hearing = StallDetector(consumers, self.look, OpsSettings(), RedisSettings(), lambda: self.now)

    async def look(self, age_s: float) -> Depths | None:
        """The look that was laid out."""
        self.asked.append(age_s)
        return self.depths


def waiting(for_s: float | None, *, queue: str = Q, paused: bool = False) -> Depths:
    """A look at a queue whose oldest entry waits so long."""
    oldest = None if for_s is None else AT - for_s
    depth = QueueDepth(queue, 0 if for_s is None else 3, 0, 0, 0, 3, oldest, 1, Control(paused=paused))
    return Depths(AT, (depth,), {}, {}, None, None)


async def test_work_that_waits_beside_a_free_slot_was_not_heard() -> None:
    """Not ready at once; not live after as long again, since then only a restart helps."""
    scene = Scene(depths=waiting(61))
    assert await scene.hearing.ready() == f"{Q}: 3 wait for 61 s beside 2 free slots"
    assert await scene.hearing.alive() == ""
    scene.now += 61
    assert "3 wait" in await scene.hearing.alive()


async def test_deafness_that_passes_is_forgotten() -> None:
    """Liveness counts from the last time it began."""
    scene = Scene(depths=waiting(61))
    await scene.hearing.ready()
    scene.depths, scene.now = waiting(None), NOW + 50
    assert await scene.hearing.ready() == ""
    scene.depths, scene.now = waiting(70), NOW + 100
    assert await scene.hearing.alive() == ""


@pytest.mark.parametrize(
    "depths",
    [
        pytest.param(waiting(None), id="nothing waits"),
        pytest.param(waiting(59), id="it came a moment ago"),
        pytest.param(waiting(600, paused=True), id="an operator paused it"),
        pytest.param(waiting(600, queue="q_free_batch"), id="the queue of somebody else"),
        pytest.param(None, id="Redis can't tell"),
    ],
)
async def test_what_is_no_deafness(depths: Depths | None) -> None:
    """A probe must never end a process that does what it can."""
    assert await Scene(depths=depths).hearing.ready() == ""


async def test_who_is_busy_is_not_deaf() -> None:
    """All slots taken, or something came or ended just now."""
    full = Scene(depths=waiting(600))
    full.reader.slots.take(2)
    assert await full.hearing.ready() == ""
    fresh = Scene(Reader(idle_since=NOW - 5), waiting(600))
    assert await fresh.hearing.ready() == ""


async def test_probes_cost_one_look_a_minute() -> None:
    """Redis is not asked more often, however often a probe comes."""
    scene = Scene(depths=waiting(None))
    await scene.hearing.ready()
    assert scene.asked == [LOOK_S]


async def test_a_read_that_outlives_its_own_limits_hangs() -> None:
    """Seen without asking Redis, by the watchdog and by liveness; a blocked read of 30 s is none."""
    scene = Scene(Reader(reading_since=NOW - 55))
    assert scene.hearing.hung_reads() == []
    scene.reader.reading_since = NOW - 65
    assert scene.hearing.hung_reads() == [f"read:{Q}"]
    assert await scene.hearing.alive() == f"read:{Q} hangs"
    assert scene.asked == []
