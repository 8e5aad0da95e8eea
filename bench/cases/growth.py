"""Whether the cost of a task stays flat while everything around it grows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from bench import backlog
from bench.case import Case, Size, Values, in_turn
from bench.cases.drain import ours
from bench.rig import QUEUE, Rig, wait_for
from daemon.contracts import DEFAULT_QUEUES

_COUNT = 4000


def backlogged(backlog_of: int, count: int) -> Values:
    """`count` tasks drained from the head of a longer backlog."""
    with Rig() as rig:
        server, database, records = rig.redis(), rig.database(), rig.records()
        asyncio.run(backlog.accept(server.url, QUEUE, backlog_of))
        program = rig.daemon(server.url, database, records)
        wait_for(lambda: records.ended >= min(count, backlog_of), program, 240, "drain")
        ended = records.ended
        return {"n": float(ended), "ms": records.span_s() / (ended - 1) * 1000}


def queued(queues: int, count: int) -> Values:
    """The same tasks over so many of the six queues."""
    names = list(DEFAULT_QUEUES)[:queues]
    with Rig() as rig:
        server, database, records = rig.redis(), rig.database(), rig.records()
        for name in names:
            asyncio.run(backlog.accept(server.url, name, count // queues, prefix=name))
        wide = {f"QUEUE_PARALLELISM_{name.removeprefix('q_').upper()}": str(100 // queues) for name in names}
        program = rig.daemon(server.url, database, records, *names, **wide)
        done = count // queues * queues
        wait_for(lambda: records.ended >= done, program, 240, "drain")
        return {"n": float(done), "ms": records.span_s() / (done - 1) * 1000}


def measure(size: Size) -> dict[str, Values]:
    """Each point once; the name of an arm is `curve=x`."""
    count = size.of(_COUNT, 800)
    arms: dict[str, Callable[[], Values]] = {}
    for waiting in (500, 5000) if size.quick else (1000, 10_000, 100_000):
        arms[f"backlog={waiting}"] = partial(backlogged, waiting, count)
    for slots in (10, 100, 1000):
        arms[f"at once={slots}"] = partial(_abreast, slots, count)
    for daemons in (1, 2, 4):
        arms[f"daemons={daemons}"] = partial(_drained, count, daemons=daemons)
    for queues in (1, 3, 6):
        arms[f"queues={queues}"] = partial(queued, queues, count)
    for payload in (100, 10_000, 100_000) if size.quick else (100, 10_000, 100_000, 800_000):
        scaled = count if payload <= 10_000 else max(100, count * 10_000 // payload)
        arms[f"payload bytes={payload}"] = partial(_drained, scaled, payload=payload)
    return in_turn(arms)


def _drained(count: int, payload: int = 100, daemons: int = 1) -> Values:
    values = ours(count, payload, daemons)
    return {"n": values["n"], "ms": 1000 / values["per_s"], "cpu_ms": values["cpu_ms"]}


def _abreast(slots: int, count: int) -> Values:
    with Rig() as rig:
        server, database, records = rig.redis(), rig.database(), rig.records()
        asyncio.run(backlog.accept(server.url, QUEUE, count))
        program = rig.daemon(server.url, database, records, QUEUE_PARALLELISM_PAID_BATCH=str(slots))
        wait_for(lambda: records.ended >= count, program, 240, "drain")
        return {"n": float(count), "ms": records.span_s() / (count - 1) * 1000}


CASE = Case(
    name="growth",
    title="Growth: ms a task while backlog, pending, daemons, queues and payload grow",
    round=measure,
    columns={"n": "tasks", "ms": "ms/task", "cpu_ms": "daemon CPU ms/task"},
    headline="ms",
    curve=True,
    note="Reference: the first point of each curve. Daemons share the two cores with Redis and Postgres.",
    runs=2,
)
