"""A backlog of tasks that ask for nothing, through the whole path."""

from __future__ import annotations

import asyncio
from functools import partial

from bench import backlog, machine, peers
from bench.case import Case, Goal, Size, Values, in_turn
from bench.rig import QUEUE, Rig, wait_for

_LIMIT_S = 240.0


def ours(count: int, payload: int = 100, daemons: int = 1) -> Values:
    """Claim and result in Postgres, guards, events, fenced ack: an attempt has ended when its entry is gone."""
    with Rig() as rig:
        server, database, records = rig.redis(), rig.database(), rig.records()
        asyncio.run(backlog.accept(server.url, QUEUE, count, payload))
        before = {name: machine.cpu_s(pids) for name, pids in _servers(rig, server.pid).items()}
        programs = [rig.daemon(server.url, database, records) for _ in range(daemons)]
        wait_for(lambda: records.ended >= count, programs[0], _LIMIT_S, "drain")
        servers = {name: machine.cpu_s(pids) - before[name] for name, pids in _servers(rig, server.pid).items()}
        values = _values(count, records.span_s(), sum(machine.cpu_s(p.family) for p in programs), servers)
        return values | {"rss_mb": sum(machine.rss_mb(p.family) for p in programs)}


def peer(name: str, count: int) -> Values:
    """The same number for another queue; its tail after the task's body is not counted, ours is."""
    with Rig() as rig:
        server, records = rig.redis(), rig.records()
        peers.enqueue(name, server.url, records, count)
        before = machine.cpu_s([server.pid])
        program = peers.worker(rig, name, server.url, records)
        wait_for(lambda: records.ended >= count, program, _LIMIT_S, f"{name} drain")
        family = program.family
        values = _values(
            count, records.span_s(), machine.cpu_s(family), {"redis": machine.cpu_s([server.pid]) - before}
        )
        return values | {"rss_mb": machine.rss_mb(family)}


def _servers(rig: Rig, redis_pid: int) -> dict[str, list[int]]:
    return {"redis": [redis_pid], "postgres": machine.family(rig.postgres_pid)}


def _values(count: int, span_s: float, cpu_s: float, servers: dict[str, float]) -> Values:
    found = {"n": float(count), "per_s": (count - 1) / span_s, "cpu_ms": cpu_s / count * 1000}
    return found | {f"{name}_cpu_ms": used / count * 1000 for name, used in servers.items()}


def measure(size: Size) -> dict[str, Values]:
    """Each arm once."""
    arms = {"qstreamd": partial(ours, size.of(12_000, 1500))}
    if size.peers:
        arms["taskiq"] = partial(peer, "taskiq", size.of(8000, 1500))
        arms["streaq"] = partial(peer, "streaq", size.of(4000, 1000))
    arms["raw loop"] = partial(peer, "raw", size.of(40_000, 8000))
    return in_turn(arms)


CASE = Case(
    name="drain",
    title="Drain of no-op tasks through the whole path, one process, 100 at once",
    round=measure,
    columns={
        "n": "tasks", "per_s": "tasks/s", "cpu_ms": "CPU ms/task", "redis_cpu_ms": "Redis CPU ms/task",
        "postgres_cpu_ms": "Postgres CPU ms/task", "rss_mb": "RSS MB",
    },
    headline="per_s",
    goals=(Goal("≥ 1.5 x the faster peer", "qstreamd", "per_s", at_least=1.5, references=("taskiq", "streaq")),),
    note="CPU of a worker includes its start. taskiq with its result store. Peers keep results in Redis; we commit "
    "claim and result to Postgres.",
)  # fmt: skip
