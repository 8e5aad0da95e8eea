"""Tasks that wait a second, a thousand at once: what concurrency costs."""

from __future__ import annotations

import asyncio
from functools import partial

from bench import backlog, machine, peers
from bench.case import Case, Goal, Size, Values, in_turn
from bench.recorder import Records
from bench.rig import QUEUE, Program, Rig, wait_for


def _values(records: Records, program: Program, count: int) -> Values:
    wait_for(lambda: records.ended >= count, program, 60, "sleepers")
    marks = [(began, ended) for _, began, ended in records.marks()]
    edges = sorted([(began, 1) for began, _ in marks] + [(ended, -1) for _, ended in marks])
    running = most = 0
    for _, step in edges:
        running += step
        most = max(most, running)
    wall = (max(ended for _, ended in marks) - min(began for began, _ in marks)) / 1e9
    return {
        "n": float(count), "wall_s": wall, "most": float(most), "rss_mb": machine.rss_mb(program.family, peak=True),
        "cpu_s": machine.cpu_s(program.family),
    }  # fmt: skip


def ours(count: int, abreast: int) -> Values:
    """From the first model call's beginning to the last one's end."""
    with Rig() as rig:
        server, database, records = rig.redis(), rig.database(), rig.records()
        asyncio.run(backlog.accept(server.url, QUEUE, count))
        program = rig.daemon(server.url, database, records, SLEEP_S="1", QUEUE_PARALLELISM_PAID_BATCH=str(abreast))
        return _values(records, program, count)


def peer(name: str, count: int, abreast: int) -> Values:
    """The same for another queue."""
    with Rig() as rig:
        server, records = rig.redis(), rig.records()
        peers.enqueue(name, server.url, records, count, 1.0)
        return _values(records, peers.worker(rig, name, server.url, records, abreast), count)


def measure(size: Size) -> dict[str, Values]:
    """Each arm once."""
    count, abreast = size.of(2000, 400), size.of(1000, 200)
    arms = {"qstreamd": partial(ours, count, abreast)}
    if size.peers:
        arms |= {name: partial(peer, name, count, abreast) for name in peers.QUEUES}
    return in_turn({**arms, "raw loop": partial(peer, "raw", count, abreast)})


CASE = Case(
    name="sleepers",
    title="2,000 tasks that wait 1 s, 1,000 at once",
    round=measure,
    columns={"n": "tasks", "wall_s": "wall s", "most": "most at once", "rss_mb": "peak RSS MB", "cpu_s": "CPU s"},
    headline="wall_s",
    goals=(
        Goal("≤ 2.3 s", "qstreamd", "wall_s", at_most=2.3),
        Goal("peak memory below both", "qstreamd", "rss_mb", at_most=1.0, references=("taskiq", "streaq")),
    ),
)
