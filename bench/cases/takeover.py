"""SIGKILL with 200 tasks in flight; another process starts a second later. Defaults everywhere."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from functools import partial

from bench import backlog, peers
from bench.case import Case, Goal, Size, Values, side_by_side
from bench.recorder import Records
from bench.rig import QUEUE, Program, Rig, wait_for

_SLEEP_S = 5.0


def _again(records: Records, count: int, killed_ns: int, within_s: float, program: Program) -> Values:
    """Seconds from the kill until every task that ran then has begun again."""

    def redone() -> dict[int, int]:
        later: dict[int, int] = {}
        for number, began, _ in records.marks():
            if began > killed_ns:
                later[number] = min(began, later.get(number, began))
        return later

    wait_for(lambda: len(redone()) >= count, program, within_s, "take-over")
    found = sorted((at - killed_ns) / 1e9 for at in redone().values())
    time.sleep(_SLEEP_S + 1)
    starts = Counter(number for number, began, _ in records.marks())
    return {
        "n": float(count), "first_s": found[0], "last_s": found[-1],
        "thrice": float(sum(times > 2 for times in starts.values())),
    }  # fmt: skip


def ours(count: int) -> Values:
    """Lease 20 s, as shipped."""
    with Rig() as rig:
        server, database, records = rig.redis(), rig.database(), rig.records()
        asyncio.run(backlog.accept(server.url, QUEUE, count))
        start = partial(
            rig.daemon, server.url, database, records, SLEEP_S=str(_SLEEP_S), QUEUE_PARALLELISM_PAID_BATCH="200"
        )
        first = start()
        wait_for(lambda: records.begun >= count, first, 30, "all in flight")
        killed_ns = time.monotonic_ns()
        first.kill()
        time.sleep(1)
        return _again(records, count, killed_ns, 120, start())


def peer(name: str, count: int) -> Values:
    """The same for another queue."""
    with Rig() as rig:
        server, records = rig.redis(), rig.records()
        peers.enqueue(name, server.url, records, count, _SLEEP_S)
        first = peers.worker(rig, name, server.url, records, 200)
        wait_for(lambda: records.begun >= count, first, 30, "all in flight")
        killed_ns = time.monotonic_ns()
        first.kill()
        time.sleep(1)
        return _again(records, count, killed_ns, 240, peers.worker(rig, name, server.url, records, 200))


def measure(size: Size) -> dict[str, Values]:
    """At once: they mostly wait."""
    count = 200
    arms = {"qstreamd": partial(ours, count)}
    if size.peers and not size.quick:
        arms["streaq"] = partial(peer, "streaq", count)
    return side_by_side(arms)


CASE = Case(
    name="takeover",
    title="Take-over after SIGKILL, 200 in flight, defaults",
    round=measure,
    columns={"n": "in flight", "first_s": "first again s", "last_s": "all again s", "thrice": "begun 3 times"},
    headline="last_s",
    goals=(Goal("≤ 30 s", "qstreamd", "last_s", at_most=30.0),),
    note="taskiq is left out: with its defaults half of the tasks came back only after 640 s and a nudge.",
    runs=3,
)
