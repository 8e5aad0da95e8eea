"""Many viewers of many running tasks on one gateway process, from the event in Redis to the viewer's socket."""

from __future__ import annotations

import json
import time
from functools import partial
from typing import Any

import redis

from bench import machine
from bench.case import Case, Goal, Size, Values, in_turn
from bench.cases.accept import answers
from bench.rig import Program, Rig, wait_for
from daemon.dev.embedded import free_port
from daemon.redis_client import keys

_SECRET = "thirty-two characters of a secret"  # noqa: S105
_EACH = 10  #: viewers of one task
_PACE_S = 0.5  #: between two events of a task; the tasks take turns within it
_ROUNDS = 20
_TICK_S = 0.01
_DATA = (
    '{"v":1,"type":"%s","taskId":"t%d","attempt":1,"seq":%d,"requestId":"r-0123456789abcdef","traceId":'
    '"4bf92f3577b34da6a3ce929d0e0e4736","timestamp":1700000000.123,"delta":"some words of an answer, about as long as '
    'fifty milliseconds of a model","channel":"text"}'
)


def _gateway(rig: Rig, redis_url: str, port: int) -> Program:
    env = {
        "NODE_ENV": "development", "REDIS_URL": redis_url, "DATABASE_URL": rig.database(), "GATEWAY_PORT": str(port),
        "TASK_TOKEN_SECRET": _SECRET, "API_KEYS": "bench:bench-key-of-sixteen", "QSTREAMD_LOG_LEVEL": "error",
        "QSTREAMD_LOG_FORMAT": "json", "QSTREAMD_VIEWERS_PER_ADDRESS": "100000", "BLOB_DIR": str(rig.folder / "blobs"),
    }  # fmt: skip
    return rig.run("daemon", "gateway", env=env)


def arm(kind: str, tasks: int) -> Values:
    """One server; everybody is connected before the first event is written."""
    with Rig() as rig:
        server, port = rig.redis(), free_port()
        if kind == "gateway":
            program = _gateway(rig, server.url, port)
        else:
            program = rig.run("bench.programs.follower", str(port), env={"REDIS_URL": server.url})
        wait_for(partial(answers, port), program, 20, f"{kind} ready")
        idle_mb = machine.rss_mb(program.family)
        words = (str(port), str(tasks), str(_EACH), _SECRET, str(_ROUNDS + 1))
        viewers = rig.run("bench.programs.viewers", *words, env={})
        wait_for(lambda: "connected" in viewers.words(), viewers, 120, "all viewers connected")
        time.sleep(2)
        with redis.Redis.from_url(server.url) as client:
            before, theirs, began = machine.cpu_s(program.family), machine.cpu_s([server.pid]), time.monotonic()
            _write(client, tasks, range(_ROUNDS))
            cores = (machine.cpu_s(program.family) - before) / (time.monotonic() - began)
            readers = sum(entry["cmd"].split("|")[0] == "xread" for entry in client.client_list())
            memory_mb = machine.rss_mb(program.family)
            _write(client, tasks, range(_ROUNDS, _ROUNDS + 1))
        wait_for(lambda: '"frames"' in viewers.words(), None, 120, "all events")
        seen: Values = json.loads(viewers.words().splitlines()[-1])
        used = machine.cpu_s(program.family) - before
        return seen | {
            "cpu_us": used / max(1, seen["frames"]) * 1e6, "cores": cores,
            "redis_cores": (machine.cpu_s([server.pid]) - theirs) / (time.monotonic() - began),
            "viewer_kb": (memory_mb - idle_mb) * 1024 / seen["n"], "readers": float(readers),
        }  # fmt: skip


def _write(client: redis.Redis, tasks: int, rounds: range) -> None:
    """One event of every task in each round, the tasks evenly over it; the last round ends them."""
    began, written, total = time.monotonic(), 0, tasks * len(rounds)
    while written < total:
        due = min(total, int((time.monotonic() - began) / _PACE_S * tasks) + 1)
        pipe = client.pipeline(transaction=False)
        for at in range(written, due):
            number, task = rounds[at // tasks], at % tasks
            kind = "done" if number == _ROUNDS else "token_batch"
            fields: dict[Any, Any] = {"type": kind, "data": _DATA % (kind, task, number)}
            pipe.xadd(keys.events(f"t{task}"), fields)
        pipe.execute()
        written = due
        time.sleep(_TICK_S)


def measure(size: Size) -> dict[str, Values]:
    """Each arm once."""
    tasks = size.of(500, 50)
    return in_turn({
        "gateway": partial(arm, "gateway", tasks),
        "one XREAD connection a viewer": partial(arm, "follower", tasks),
    })  # fmt: skip


CASE = Case(
    name="viewers",
    title="5,000 viewers of 500 running tasks on one process, two events a second and task",
    round=measure,
    columns={
        "n": "viewers", "frames": "frames", "missing": "missing", "disordered": "out of order",
        "late_p50_ms": "late p50 ms", "late_p99_ms": "p99 ms", "late_max_ms": "max ms", "cpu_us": "CPU µs/frame",
        "cores": "cores used", "redis_cores": "cores of Redis", "viewer_kb": "KB a viewer",
        "readers": "Redis connections that read",
    },
    headline="cpu_us",
    goals=(
        Goal("every event to every viewer", "gateway", "missing", at_most=0),
        Goal("p99 < 250 ms", "gateway", "late_p99_ms", at_most=250),
        Goal("one Redis connection for reading", "gateway", "readers", at_most=1),
        Goal("CPU a frame below one connection a viewer", "gateway", "cpu_us", at_most=1.0,
             references=("one XREAD connection a viewer",)),
    ),
    note="Late: from the event's stream id (Redis' clock, in ms) to the bytes in the viewers' process. Viewers, "
    "writer, Redis and gateway share the machine. Memory: while events flow, less what the process has alone.",
    runs=3,
)  # fmt: skip
