"""Whether the cost of a task stays flat while everything around it grows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from bench import backlog, machine
from bench.case import Case, Goal, Size, Values, in_turn
from bench.cases.drain import ours
from bench.rig import QUEUE, SERVICES, Rig, wait_for
from daemon.domain.queues import DEFAULT_QUEUES

_COUNT = 4000
_SLOTS = 120  #: at once over all queues of a process


def _drained(
    count: int, names: Sequence[str] = (QUEUE,), waiting: int = 0, slots: int = 100, services: str = ""
) -> Values:
    """`count` tasks from the heads of these queues, which hold `waiting` tasks in all (0: `count`)."""
    with Rig() as rig:
        server, database, records = rig.redis(), rig.database(), rig.records()
        each = max(waiting, count) // len(names)
        for name in names:
            asyncio.run(backlog.accept(server.url, name, each, prefix=name))
        more = {f"QUEUE_PARALLELISM_{name.removeprefix('q_').upper()}": str(slots) for name in DEFAULT_QUEUES}
        if services:
            path = rig.folder / "services.toml"
            path.write_text(SERVICES.read_text("utf-8") + services, "utf-8")
            more["SERVICES_FILE"] = str(path)
        used = machine.cpu_s([server.pid])
        program = rig.daemon(server.url, database, records, *names, **more)
        wait_for(lambda: records.ended >= min(count, each * len(names)), program, 240, "drain")
        ended = records.ended
        return {
            "n": float(ended), "ms": records.span_s() / (ended - 1) * 1000,
            "cpu_ms": machine.cpu_s(program.family) / ended * 1000,
            "redis_cpu_ms": (machine.cpu_s([server.pid]) - used) / ended * 1000,
        }  # fmt: skip


def _queued(queues: int, count: int) -> Values:
    """The same tasks over so many queues of one process."""
    names = [f"q_bench_{number}" for number in range(queues)]
    slots = max(1, _SLOTS // queues)
    tables = (f'[queues.{name}]\ntier = "paid"\nmode = "batch"\nparallelism = {slots}\n' for name in names)
    return _drained(count, names, services="\n" + "\n".join(tables))


def _many(count: int, daemons: int) -> Values:
    return _of(ours(count, daemons=daemons))


def _heavy(count: int, payload: int) -> Values:
    return _of(ours(count, payload))


def _of(values: Values) -> Values:
    return {"ms": 1000 / values["per_s"], **{name: values[name] for name in ("n", "cpu_ms", "redis_cpu_ms")}}


def measure(size: Size) -> dict[str, Values]:
    """Each point once; the name of an arm is `curve=x`."""
    count = size.of(_COUNT, 800)
    arms: dict[str, Callable[[], Values]] = {}
    for waiting in (500, 5000) if size.quick else (1000, 10_000, 100_000, 1_000_000):
        arms[f"backlog={waiting}"] = partial(_drained, min(count, waiting), waiting=waiting)
    for slots in (10, 100, 1000) if size.quick else (10, 100, 1000, 10_000):
        arms[f"at once={slots}"] = partial(_drained, max(count, slots), slots=slots)
    for daemons in (1, 2) if size.quick else (1, 2, 4, 8):
        arms[f"daemons={daemons}"] = partial(_many, count * daemons, daemons)
    for queues in (6, 20) if size.quick else (6, 20, 60):
        arms[f"queues={queues}"] = partial(_queued, queues, count)
    for payload in (100, 10_000, 100_000) if size.quick else (100, 10_000, 100_000, 800_000):
        scaled = count if payload <= 10_000 else max(100, count * 10_000 // payload)
        arms[f"payload bytes={payload}"] = partial(_heavy, scaled, payload)
    return in_turn(arms)


CASE = Case(
    name="growth",
    title="Growth: cost of a task while backlog, pending, daemons, queues and payload grow",
    round=measure,
    columns={
        "n": "tasks", "ms": "ms/task", "cpu_ms": "daemons' CPU ms/task", "redis_cpu_ms": "Redis CPU ms/task",
    },
    headline="cpu_ms",
    goals=(
        Goal("CPU flat, 10⁴ to 10⁶ waiting", "backlog=1000000", "cpu_ms", at_most=1.3, references=("backlog=10000",)),
        Goal("CPU flat, 10² to 10⁴ at once", "at once=10000", "cpu_ms", at_most=1.3, references=("at once=100",)),
        Goal("CPU flat, 1 to 8 daemons", "daemons=8", "cpu_ms", at_most=1.5, references=("daemons=1",)),
        Goal("CPU flat, 6 to 60 queues", "queues=60", "cpu_ms", at_most=1.5, references=("queues=6",)),
    ),
    curve=True,
    note="Reference: the first point of each curve; each daemon starts within the measured time, so a point of fewer "
    "tasks shows more of it. Daemons share the two cores with Redis and Postgres.",
    runs=2,
)  # fmt: skip
