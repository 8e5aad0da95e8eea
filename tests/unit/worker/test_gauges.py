"""Sizes become gauges when somebody asks, once for all who ask within a while, and vanish when they are not known."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

from daemon import services
from daemon.domain.errors import RedisAway
from daemon.domain.queues import Tier
from daemon.observability.metrics import Metrics
from daemon.queues.control import Control
from daemon.queues.depths import DepthReader, Depths, QueueDepth
from daemon.worker.gauges import DepthGauges, GaugeLimits, show_pool

BOOK = services.load(None, deep=False)
Q = "q_paid_stream"
MODEL = next(iter(BOOK.models))


class SetClock:
    """Goes when it is told to."""

    def __init__(self) -> None:
        self._now = 50.0

    def advance(self, seconds: float) -> None:
        """Let so many seconds pass."""
        self._now += seconds

    def time(self) -> float:
        return 1_700_000_000.0 + self._now

    def monotonic(self) -> float:
        return self._now


def depths(*, waiting: int = 3, closed: bool = False) -> Depths:
    """One look."""
    one = QueueDepth(Q, waiting, 2, 1, 0, 4, 1_700_000_000.5, 2, Control(paused=True, max_size=7))
    used = {(MODEL, Tier.PAID): 5, (MODEL, Tier.FREE): 0}
    return Depths(1_700_000_100.0, (one,), used, {MODEL: "QUOTA"} if closed else {}, 1000, 0)


@dataclass
class Scene:
    """Gauges over a reader that says what was laid out."""

    says: Depths | Exception | None = field(default_factory=depths)
    looks: int = 0

    def __post_init__(self) -> None:
        self.metrics, self.clock = Metrics(process=False), SetClock()
        limits = GaugeLimits(queue=lambda _, control: control.max_size or 200, permits=lambda _, __: 50)
        self.gauges = DepthGauges(cast(DepthReader, self), lambda: BOOK, limits, self.metrics, self.clock)

    async def read(self, queues: Sequence[str], models: Sequence[str]) -> Depths:
        """As `DepthReader.read`; None never answers."""
        self.looks += 1
        assert Q in queues and MODEL in models
        if self.says is None:
            await asyncio.Event().wait()
        if isinstance(self.says, Exception):
            raise self.says
        return cast(Depths, self.says)

    def shown(self, *words: str) -> float | None:
        """The value of the sample whose line has all these words."""
        lines = [line for line in self.metrics.render().decode().splitlines() if all(word in line for word in words)]
        found = [line for line in lines if not line.startswith("#")]
        return float(found[0].rpartition(" ")[2]) if found else None


async def test_a_look_is_shown_whole() -> None:
    """Sizes, limits in force, the oldest's time, guards, models, memory."""
    scene = Scene(depths(closed=True))
    await scene.gauges.look(15)
    assert scene.shown("queue_tasks{", Q, "waiting") == 3 and scene.shown("queue_tasks{", Q, "delayed") == 1
    assert (scene.shown("queue_occupancy{"), scene.shown("queue_capacity{")) == (4, 7)
    assert (scene.shown("queue_paused{"), scene.shown("queue_consumers{")) == (1, 2)
    assert scene.shown("queue_oldest_timestamp_seconds{") == 1_700_000_000.5
    assert scene.shown("permits_in_use{", MODEL, "paid") == 5 and scene.shown("permits_max{", MODEL, "free") == 50
    assert scene.shown("model_available{", MODEL) == 0
    assert scene.shown("redis_memory_bytes") == 1000


async def test_scrapes_within_a_while_share_one_look() -> None:
    """Also when two come at once."""
    scene = Scene()
    first, second = await asyncio.gather(scene.gauges.look(15), scene.gauges.look(15))
    assert first is second and scene.looks == 1
    scene.clock.advance(14)
    await scene.gauges.look(15)
    assert scene.looks == 1
    scene.clock.advance(1)
    await scene.gauges.look(15)
    assert scene.looks == 2


async def test_what_redis_does_not_tell_is_not_shown() -> None:
    """An old number would be believed; and an outage is not asked about with every scrape."""
    scene = Scene()
    await scene.gauges.look(15)
    scene.says = RedisAway("gone")
    scene.clock.advance(15)
    assert await scene.gauges.look(15) is None
    assert scene.shown("queue_tasks{") is None and scene.shown("model_available{") is None
    await scene.gauges.look(15)
    assert scene.looks == 2
    scene.says = depths(waiting=9)
    scene.clock.advance(15)
    await scene.gauges.look(15)
    assert scene.shown("queue_tasks{", "waiting") == 9


def test_a_scrape_shows_the_pool_as_it_is_then() -> None:
    """Used and idle apart, beside the most there may be."""
    metrics, sizes = Metrics(process=False), (1, 4)
    show_pool(metrics, "postgres", lambda: sizes, 10)
    sizes = (3, 2)
    text = metrics.render().decode()
    assert 'qstreamd_connections{server="postgres",state="used"} 3.0' in text
    assert 'qstreamd_connections{server="postgres",state="idle"} 2.0' in text
    assert 'qstreamd_connections_max{server="postgres"} 10.0' in text
