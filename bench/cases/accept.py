"""Signed calls into one relay process, beside a handler that does nothing and one that does the least."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from functools import partial
from pathlib import Path

from bench import backlog, machine
from bench.case import Case, Goal, Size, Values, in_turn
from bench.rig import QUEUE, ROOT, SERVICES, Broken, Program, Rig, wait_for
from daemon.dev.embedded import free_port
from daemon.dev.fake_qstash.signing import sign

KEY = "sig_bench_bench_bench_bench_bench"
CONNECTIONS = 64
_PATH = "/api/worker/batch/bench"


def requests(count: int, port: int, prefix: str) -> list[str]:
    """Calls as QStash makes them, 1 KB each, every one of another task."""
    found = []
    for number in range(count):
        raw = json.dumps(backlog.body(number, QUEUE, 800, prefix)).encode()
        signature = sign(KEY, url=f"http://127.0.0.1:{port}{_PATH}", body=raw, issued_at=time.time())
        head = (
            f"POST {_PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Upstash-Signature: {signature}\r\nContent-Length: {len(raw)}\r\n\r\n"
        )
        found.append(base64.b64encode(head.encode() + raw).decode())
    return found


def relay(rig: Rig, redis_url: str, port: int) -> Program:
    """Our relay as shipped, but for a queue that is never full."""
    env = {
        "NODE_ENV": "development", "REDIS_URL": redis_url, "RELAY_PORT": str(port), "QUEUE_MAX_SIZE": "10000000",
        "WORKER_BASE_URL": f"http://127.0.0.1:{port}", "QSTASH_CURRENT_SIGNING_KEY": KEY,
        "SERVICES_FILE": str(SERVICES),
        "QSTASH_NEXT_SIGNING_KEY": KEY + "2", "QSTREAMD_LOG_LEVEL": "warning", "QSTREAMD_LOG_FORMAT": "json",
    }  # fmt: skip
    return rig.run("daemon", "relay", env=env)


def answers(port: int, path: str = "/healthz/ready") -> bool:
    """Whether it answers 200 there."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=1) as reply:
            return bool(reply.status == 200)
    except urllib.error.HTTPError as error:
        return error.code == 405
    except OSError:
        return False


def arm(kind: str, count: int, *, persist: bool = False) -> Values:
    """One server, called over 64 connections."""
    with Rig() as rig:
        server, port = rig.redis(persist=persist), free_port()
        if kind == "relay":
            program = relay(rig, server.url, port)
        else:
            program = rig.run("bench.programs.doors", kind, str(port), env={"REDIS_URL": server.url, "KEY": KEY})
        wait_for(partial(answers, port), program, 15, f"{kind} ready")
        call(rig.folder, requests(min(300, count), port, "w"), port)  # connections and caches
        prepared = requests(count, port, "t")
        before = machine.cpu_s([program.pid])
        seen = call(rig.folder, prepared, port)
        cpu_s = machine.cpu_s([program.pid]) - before
        program.check()
        return seen | {"cpu_ms": cpu_s / count * 1000}


def call(folder: Path, prepared: list[str], port: int) -> Values:
    """What the caller saw; every answer has to be 200."""
    file = folder / "requests.json"
    file.write_text(json.dumps(prepared), "utf-8")
    command = [sys.executable, "-m", "bench.programs.caller", str(file), str(port), str(CONNECTIONS)]
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False, env=env)
    if done.returncode:
        raise Broken(done.stderr[-800:])
    seen = json.loads(done.stdout)
    statuses = seen.pop("statuses")
    if set(statuses) != {"200"}:
        raise Broken(f"answers: {statuses}")
    return {name: float(value) for name, value in seen.items()}


def measure(size: Size) -> dict[str, Values]:
    """Each arm once."""
    count = size.of(20_000, 2500)
    return in_turn({
        "empty": partial(arm, "empty", count),
        "relay": partial(arm, "relay", count),
        "naive": partial(arm, "naive", count),
        "relay, every write on disk": partial(arm, "relay", count // 2, persist=True),
    })  # fmt: skip


CASE = Case(
    name="accept",
    title="Signed POST to deduplicated, counted, appended: one relay process, 64 connections, 1 KB bodies",
    round=measure,
    columns={"n": "calls", "per_s": "calls/s", "cpu_ms": "server CPU ms/call", "p50_ms": "p50 ms", "p99_ms": "p99 ms"},
    headline="per_s",
    goals=(
        Goal("≥ 2.5 x naive", "relay", "per_s", at_least=2.5, references=("naive",)),
        Goal("≥ 0.4 x empty", "relay", "per_s", at_least=0.4, references=("empty",)),
    ),
    note="empty: an aiohttp handler that does nothing. naive: PyJWT, one hash, one XADD; no deduplication, no count. "
    "The caller and Redis share the other core.",
)
