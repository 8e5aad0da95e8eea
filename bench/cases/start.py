"""From exec to ready, and what a process holds when it has nothing to do."""

from __future__ import annotations

import sys
import time
from functools import partial

from bench import machine
from bench.case import Case, Goal, Size, Values, in_turn
from bench.cases.accept import KEY, answers, relay
from bench.rig import Program, Rig, daemon_env, wait_for
from daemon.dev.embedded import free_port
from daemon.domain.queues import DEFAULT_QUEUES

_IDLE_S = 3.0


def ours(kind: str, idle_s: float) -> Values:
    """The process as users start it, with the shipped services and vendors' adapters."""
    with Rig() as rig:
        server, port = rig.redis(), free_port()
        database = "" if kind == "relay" else rig.database()
        began = time.perf_counter()
        if kind == "relay":
            program = relay(rig, server.url, port)
        elif kind == "daemon":
            env = {**daemon_env(server.url, database), "OPS_PORT": str(port)}
            program = rig.run("daemon", "--queues", ",".join(DEFAULT_QUEUES), env=env)
        else:
            env = {
                **daemon_env(server.url, database), "GATEWAY_PORT": str(port), "QSTASH_TOKEN": KEY,
                "TASK_TOKEN_SECRET": KEY, "API_KEYS": f"bench:{KEY}",
                "QSTREAMD_DIRECT_SUBMIT": "true",
            }  # fmt: skip
            program = rig.run("daemon", "gateway", env=env)
        wait_for(partial(answers, port), program, 20, f"{kind} ready")
        ready_s = time.perf_counter() - began
        time.sleep(idle_s)
        return {"ready_s": ready_s, "rss_mb": machine.rss_mb(program.family)}


def imports(idle_s: float) -> Values:
    """What a Python with an HTTP library takes before it does anything."""
    with Rig() as rig:
        began = time.perf_counter()
        code = "import aiohttp, sys, time; open('up', 'w').close(); time.sleep(60)"
        program = Program([sys.executable, "-c", code], {}, rig.folder)
        wait_for((rig.folder / "up").exists, program, 20, "import aiohttp")
        ready_s = time.perf_counter() - began
        time.sleep(idle_s / 3)
        rss_mb = machine.rss_mb([program.pid])
        program.kill()
        return {"ready_s": ready_s, "rss_mb": rss_mb}


def measure(size: Size) -> dict[str, Values]:
    """Each arm once."""
    idle_s = 1.0 if size.quick else _IDLE_S
    kinds = {kind: partial(ours, kind, idle_s) for kind in ("daemon", "relay", "gateway")}
    return in_turn({**kinds, "python -c 'import aiohttp'": partial(imports, idle_s)})


CASE = Case(
    name="start",
    title="Start to ready, and memory when idle",
    round=measure,
    columns={"ready_s": "ready s", "rss_mb": "RSS MB"},
    headline="rss_mb",
    goals=(
        Goal("daemon ready ≤ 1 s", "daemon", "ready_s", at_most=1.0),
        Goal("daemon ≤ 95 MB", "daemon", "rss_mb", at_most=95),
        Goal("relay ≤ 70 MB", "relay", "rss_mb", at_most=70),
    ),
)
