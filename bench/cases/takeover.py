"""SIGKILL with 200 tasks in flight; another process starts a second later. Defaults everywhere."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from functools import partial

import redis

from bench import backlog, peers
from bench.case import Case, Goal, Size, Values, side_by_side
from bench.recorder import Records
from bench.rig import QUEUE, Program, Rig, wait_for
from daemon.config import LeaseSettings
from daemon.redis_client.keys import PROCESSES

_SLEEP_S = 5.0
ELSEWHERE = "qstreamd, another host"
EQUAL = f"streaq, lease {LeaseSettings().lease_s:g} s"


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


def ours(count: int, *, elsewhere: bool) -> Values:
    """As shipped. `elsewhere`: the second process finds no facts of the first one's, as on another host."""
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
        if elsewhere:
            with redis.Redis.from_url(server.url) as client:
                client.delete(PROCESSES)
        time.sleep(1)
        return _again(records, count, killed_ns, 120, start())


def peer(name: str, count: int, **more: str) -> Values:
    """The same for another queue."""
    with Rig() as rig:
        server, records = rig.redis(), rig.records()
        peers.enqueue(name, server.url, records, count, _SLEEP_S)
        first = peers.worker(rig, name, server.url, records, 200, **more)
        wait_for(lambda: records.begun >= count, first, 30, "all in flight")
        killed_ns = time.monotonic_ns()
        first.kill()
        time.sleep(1)
        return _again(records, count, killed_ns, 240, peers.worker(rig, name, server.url, records, 200, **more))


def measure(size: Size) -> dict[str, Values]:
    """At once: they mostly wait."""
    count = 200
    arms = {"qstreamd": partial(ours, count, elsewhere=False), ELSEWHERE: partial(ours, count, elsewhere=True)}
    if size.peers and not size.quick:
        arms["streaq"] = partial(peer, "streaq", count)
        arms[EQUAL] = partial(peer, "streaq", count, LEASE_S=f"{LeaseSettings().lease_s:g}")
    return side_by_side(arms)


CASE = Case(
    name="takeover",
    title="Take-over after SIGKILL, 200 in flight, defaults",
    round=measure,
    columns={"n": "in flight", "first_s": "first again s", "last_s": "all again s", "thrice": "begun 3 times"},
    headline="last_s",
    goals=(
        Goal("same host ≤ 4 s, 1 s of it before the restart", "qstreamd", "last_s", at_most=4.0),
        Goal("another host ≤ 30 s", ELSEWHERE, "last_s", at_most=30.0),
        Goal("same host below a peer with our lease", "qstreamd", "last_s", at_most=1.0, references=(EQUAL,)),
    ),
    note="taskiq is left out: with its defaults half of the tasks came back only after 640 s and a nudge.",
    runs=3,
)
