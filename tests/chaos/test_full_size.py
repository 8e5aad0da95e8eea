"""What an outage leaves at full size: fifty thousand entries of ten thousand dead, a hundred thousand pauses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import pytest

from daemon.domain.messages import TaskMessage, WorkEntry
from daemon.redis_client import keys
from tests.integration.worker.conftest import NAMES, QUEUE, Crew, NewCrew
from tests.integration.worker.conftest import crew as crew
from tests.integration.worker.conftest import new_crew as new_crew
from tests.waiting import wait_until

pytestmark = [pytest.mark.timeout(600), pytest.mark.long]
SCRIPT_US_MAX = 5000  #: of the server's time, on average: nobody else waits longer


async def test_fifty_thousand_entries_of_ten_thousand_dead_are_taken_over(crew: Crew) -> None:
    """F44: each is run once, in small bites; then neither consumer nor record of the dead is left."""
    dead, each = 10_000, 5
    task_ids = [f"t{n}" for n in range(dead * each)]
    await in_pipes(crew, [("XADD", NAMES.tasks, "*", "task", entry(task_id)) for task_id in task_ids])
    names = [f"dead-{n}" for n in range(dead)]
    read = ("XREADGROUP", "GROUP", keys.GROUP)
    await in_pipes(crew, [(*read, name, "COUNT", each, "STREAMS", NAMES.tasks, ">") for name in names])
    await in_pipes(crew, [("ZADD", keys.CONSUMERS, 1, f"{QUEUE}/{name}") for name in names])
    assert await pending(crew) == len(task_ids)
    await crew.client.config_resetstat()
    crew.consumer.resize(100)
    async with crew.at_work("consumer", "leases", "reclaimer"):
        await wait_until(lambda: len(crew.ended) >= len(task_ids), description="all were run", within_s=120)
        await wait_until(lambda: only(crew), description="nothing is left of the dead", within_s=60)
    assert Counter(crew.began) == Counter(task_ids)
    assert await pending(crew) == 0
    assert await mean_us(crew, "xautoclaim") < SCRIPT_US_MAX
    assert await mean_us(crew, "evalsha") < SCRIPT_US_MAX


async def only(crew: Crew) -> bool:
    """Whether the crew is all that is registered."""
    rows: Any = await crew.client.xinfo_consumers(NAMES.tasks, keys.GROUP)
    records: Any = await crew.client.zrange(keys.CONSUMERS, 0, -1)
    return [row["name"].decode() for row in rows] == [crew.name] and records == [f"{QUEUE}/{crew.name}".encode()]


async def test_a_hundred_thousand_that_are_due_at_once_are_moved_in_batches(crew: Crew, new_crew: NewCrew) -> None:
    """F76: two movers, each task once, a hundred at a time, and no call in vain."""
    count = 100_000
    other = new_crew("b")
    await in_pipes(crew, [("HSET", NAMES.held, f"t{n}", entry(f"t{n}")) for n in range(count)])
    await in_pipes(crew, [("ZADD", NAMES.retry, 1, f"t{n}") for n in range(count)])
    await crew.client.config_resetstat()

    async def moved() -> bool:
        return not await crew.client.zcard(NAMES.retry)

    async with crew.at_work("mover"), other.at_work("mover"):
        await wait_until(moved, description="all are in :ready", within_s=120)
    assert await crew.client.xlen(NAMES.ready) == count
    found: Counter[str] = Counter()
    after = "-"
    while True:
        page: Any = await crew.client.xrange(NAMES.ready, min=after, count=10_000)
        if not page:
            break
        found.update(msgspec.json.decode(fields[b"task"], type=WorkEntry).message.task_id for _, fields in page)
        after = f"({page[-1][0].decode()}"
    assert found == Counter(f"t{n}" for n in range(count))
    assert await crew.client.hlen(NAMES.held) == 0
    stats: Any = await crew.client.info("commandstats")
    assert stats["cmdstat_evalsha"]["calls"] < 1.1 * count / 100
    assert await mean_us(crew, "evalsha") < SCRIPT_US_MAX


def entry(task_id: str) -> bytes:
    """An accepted task as it lies in a stream."""
    message = TaskMessage(task_id=task_id, queue_id=QUEUE, service_id="echo", user_id="u1", variables={})
    return msgspec.json.encode(WorkEntry(message=message, sha256="0" * 64, accepted_at=1_700_000_000_000))


def batches(commands: Sequence[tuple[Any, ...]]) -> Iterator[Sequence[tuple[Any, ...]]]:
    """A thousand at a time."""
    return (commands[at : at + 1000] for at in range(0, len(commands), 1000))


async def in_pipes(crew: Crew, commands: Sequence[tuple[Any, ...]]) -> None:
    """Many commands, a thousand in a flush."""
    for batch in batches(commands):
        pipe = crew.client.pipeline(transaction=False)
        for command in batch:
            pipe.execute_command(*command)
        await pipe.execute()


async def mean_us(crew: Crew, command: str) -> float:
    """Microseconds of the server a call, on average."""
    stats: Any = await crew.client.info("commandstats")
    return float(stats[f"cmdstat_{command}"]["usec_per_call"])


async def pending(crew: Crew) -> int:
    """Entries that somebody has."""
    found: Any = await crew.client.xpending(NAMES.tasks, keys.GROUP)
    return int(found["pending"])
