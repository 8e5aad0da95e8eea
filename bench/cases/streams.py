"""Many token streams in one daemon process, from the model's socket to the events of each task."""

from __future__ import annotations

import asyncio
import json
import time
from functools import partial
from typing import Any

import redis

from bench import backlog, machine
from bench.case import Case, Goal, Size, Values, in_turn
from bench.rig import Program, Rig, daemon_env, wait_for
from daemon.dev.embedded import free_port
from daemon.redis_client import keys

_RATE = 20
_QUEUE = "q_paid_stream"
_WARM_S, _WINDOW_S = 6.0, 4.0
_TOKENS = int(_RATE * (_WARM_S + _WINDOW_S + 3))  #: of each stream
_SAMPLED = 200


def _model(rig: Rig) -> tuple[Program, int]:
    port = free_port()
    return rig.run("bench.programs.tokens", str(port), str(_RATE), str(_TOKENS), env={}), port


def _window(program: Program, model: Program, streams: int) -> Values:
    """CPU in the middle, when all streams flow. The model's own CPU says whether it was the limit."""
    time.sleep(_WARM_S)
    before, theirs, began = machine.cpu_s(program.family), machine.cpu_s([model.pid]), time.monotonic()
    time.sleep(_WINDOW_S)
    took = time.monotonic() - began
    used = machine.cpu_s(program.family) - before
    return {
        "n": float(streams), "cores": used / took,
        "model_cores": (machine.cpu_s([model.pid]) - theirs) / took,
    }  # fmt: skip


def raw(streams: int) -> Values:
    """The reference."""
    with Rig() as rig:
        model, port = _model(rig)
        time.sleep(0.5)
        program = rig.run("bench.programs.reader", f"http://127.0.0.1:{port}/v1/chat/completions", str(streams), env={})
        values = _window(program, model, streams)
        wait_for(lambda: "cpu_s" in program.words(), None, 60, "all streams")
        cpu_s = float(program.words().split()[-1])
        return values | {"cpu_us": cpu_s / (streams * _TOKENS) * 1e6}


def ours(streams: int) -> Values:
    """Claims, guards, clocks, deltas, events; a token is late when its event is."""
    with Rig() as rig:
        (model, port), server = _model(rig), rig.redis()
        ops = free_port()
        env = daemon_env(server.url, rig.database()) | {
            "OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1", "QUEUE_PARALLELISM_PAID_STREAM": str(streams),
            "OPS_PORT": str(ops),
        }  # fmt: skip
        program = rig.run("daemon", "--queues", _QUEUE, env=env)
        asyncio.run(backlog.accept(server.url, _QUEUE, 1, prefix="w"))  # imports the vendor's library
        with redis.Redis.from_url(server.url) as client:
            wait_for(lambda: client.xlen(keys.events("w0")) > 2, program, 20, "the first token")
            idle_mb = machine.rss_mb(program.family)
            before = machine.cpu_s(program.family)
            asyncio.run(backlog.accept(server.url, _QUEUE, streams))
            values = _window(program, model, streams)
            values["stream_kb"] = (machine.rss_mb(program.family) - idle_mb) * 1024 / streams
            wait_for(lambda: _ended(client), program, 90, "all streams")
            used = machine.cpu_s(program.family) - before
            values["cpu_us"] = used / (streams * _TOKENS) * 1e6
            late = sorted(ms for number in range(min(_SAMPLED, streams)) for ms in _lateness(client, f"t{number}"))
        at = {f"late_p{q}_ms": late[min(len(late) - 1, len(late) * q // 100)] for q in (50, 99)}
        return values | at | {"late_max_ms": late[-1]}


def _ended(client: redis.Redis) -> bool:
    time.sleep(0.2)
    return int(client.xlen(keys.queue_keys(_QUEUE).tasks)) == 0


def _lateness(client: redis.Redis, task_id: str) -> list[float]:
    """Of each batch: from when its first token was sent to when its event was in the stream."""
    found = []
    entries: Any = client.xrange(keys.events(task_id))
    for entry_id, fields in entries:
        if fields[b"type"] == b"token_batch":
            first = int(json.loads(fields[b"data"])["delta"].split()[0])
            found.append(float(int(entry_id.split(b"-")[0]) - first))
    return found


def measure(size: Size) -> dict[str, Values]:
    """Each arm once."""
    streams = size.of(1000, 100)
    return in_turn({"qstreamd": partial(ours, streams), "raw aiohttp": partial(raw, streams)})


CASE = Case(
    name="streams",
    title="1,000 token streams at 20 tokens a second in one daemon process",
    round=measure,
    columns={
        "n": "streams", "cpu_us": "CPU µs/token", "cores": "cores used", "model_cores": "cores of the model server",
        "stream_kb": "KB a stream",
        "late_p50_ms": "event late p50 ms", "late_p99_ms": "p99 ms", "late_max_ms": "max ms",
    },
    headline="cpu_us",
    goals=(
        Goal("CPU/token ≤ 1.5 x raw", "qstreamd", "cpu_us", at_most=1.5, references=("raw aiohttp",)),
        Goal("no event later than 150 ms", "qstreamd", "late_max_ms", at_most=150),
    ),
    note="Late: from the model writing the first token of a batch to its event in Redis; 50 ms of it are coalescing. "
    "CPU over whole streams, claims and results included: also what was read late is counted.",
    runs=3,
)  # fmt: skip
