"""The commands as processes: how fast a health check starts, a load test on parts of its own, a watch cut off."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Final

import pytest

from daemon.dev.loadtest_world import loadtest_world

ROOT: Final = Path(__file__).parents[2]
PROBE_S: Final = 0.15
EVERYWHERE: Final = "0.0.0.0"  # noqa: S104  # what a container listens on; nothing listens here

pytestmark = pytest.mark.timeout(120)


def command(*arguments: str) -> list[str]:
    """A command line of ours."""
    return [sys.executable, "-m", "daemon", *arguments]


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command, run to its end, its settings only from `variables`."""
    known = {k: v for k, v in os.environ.items() if k not in ("REDIS_URL", "DATABASE_URL")}
    return subprocess.run(
        command(*arguments), cwd=ROOT, env={**known, "COLUMNS": "100", **variables}, capture_output=True, text=True,
        check=False, timeout=100,
    )  # fmt: skip


class _Answers(BaseHTTPRequestHandler):
    """Live, but not ready; and a door that speaks no HTTP."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/healthz/live" else 503)
        self.end_headers()
        self.wfile.write(b'{"status":"x\x1b[2J"}')

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    """Somebody who answers."""
    server = HTTPServer(("127.0.0.1", 0), _Answers)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_probe_tells_live_from_ready(address: str) -> None:
    """0, 1, and 1 when nobody is there; nothing that a terminal obeys."""
    live, ready = run("healthcheck", "live", "--at", address), run("healthcheck", "ready", "--at", address)
    assert (live.returncode, ready.returncode) == (0, 1)
    assert "\x1b" not in live.stdout and live.stdout.strip().endswith('[2J"}')
    host, _, port = address.partition(":")
    assert run("healthcheck", "live", "--quiet", OPS_HOST=EVERYWHERE, OPS_PORT=port).stdout == ""
    assert run("healthcheck", "live", "--of", "relay", RELAY_HOST=host, RELAY_PORT=port).returncode == 0
    nobody = run("healthcheck", "live", "--at", "127.0.0.1:1")
    assert (nobody.returncode, "nobody answers at 127.0.0.1:1" in nobody.stderr) == (1, True)
    assert run("healthcheck", "live", "--at", "nonsense").returncode == 2
    assert run("healthcheck", "live", OPS_PORT="x").returncode == 78


def test_a_probe_of_something_else_is_no_success() -> None:
    """A server that speaks no HTTP, or never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"

        def greet() -> None:
            connection, _ = server.accept()
            connection.sendall(b"220 smtp.example.com ESMTP\r\n\r\n")
            connection.close()

        thread = threading.Thread(target=greet)
        thread.start()
        assert run("healthcheck", "live", "--at", address).returncode == 1
        thread.join()
        assert run("healthcheck", "live", "--at", address, "--timeout", "0.2").returncode == 1


def test_a_probe_starts_fast(address: str) -> None:
    """Promised: 150 ms, told by CPU time, since other tests share the machine; no client of a server is loaded."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("COVERAGE_", "COV_CORE_"))}
    taken = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            command("healthcheck", "live", "--quiet", "--at", address), cwd=ROOT, env=env, check=True, timeout=30
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(taken) < PROBE_S, taken
    loaded = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "daemon", "healthcheck", "live", "--at", address],
        cwd=ROOT, env=env, capture_output=True, text=True, check=True, timeout=30,
    ).stderr  # fmt: skip
    for module in ("redis", "asyncpg", "aiohttp", "asyncio", "msgspec", "rich"):
        assert f"| {module}\n" not in loaded.replace("  ", " "), module


@pytest.mark.long
def test_a_load_runs_on_parts_of_its_own() -> None:
    """Nothing of ours is named; wrong calls are refused, failing models are survived, and every task ends."""
    found = run(
        "loadtest", "--in-process", "--rate", "200", "--duration", "4", "--faults", "0.3", "--users", "6", "--json",
        REDIS_URL="redis://127.0.0.1:1/0",
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    report = json.loads(found.stdout)
    everything = report["queues"][-1]
    assert everything["queue"] == "all"
    assert everything["sent"] == everything["accepted"] == everything["done"] + everything["failed"] > 3
    assert everything["unended"] == 0
    assert report["wrong"] == report["held"]
    assert everything["total"]["p50"] > 0


@pytest.mark.long
def test_a_load_for_people_is_a_table() -> None:
    """With progress on stderr, one line in ten seconds where there is no terminal."""
    mix = "q_paid_stream:resume-review"
    found = run("loadtest", "--in-process", "--rate", "120", "--duration", "2", "--mix", mix)
    assert found.returncode == 0, found.stderr
    assert "✓ every accepted task ended" in found.stdout
    assert "relay answers   p50" in found.stdout


def test_real_models_are_paid_for_only_on_purpose() -> None:
    """Outside of development a load wants a yes; and it can't sign without a key."""
    refused = run("loadtest")
    assert refused.returncode == 2
    assert "--yes" in refused.stderr
    assert run("loadtest", "--yes").returncode == 78
    assert run("loadtest", "--mix", "q_nope:x", "--yes").returncode == 2


def test_a_watch_goes_on_until_it_is_interrupted(redis_url: str) -> None:
    """One JSON object a look; Ctrl-C ends it with 130 and no stack."""
    known = {k: v for k, v in os.environ.items() if k != "DATABASE_URL"}
    process = subprocess.Popen(
        command("status", "--watch", "--json", "--every", "0.2"),
        cwd=ROOT, env={**known, "REDIS_URL": redis_url}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    looks = [json.loads(process.stdout.readline()) for _ in range(3)]
    assert looks[0]["at"] < looks[2]["at"]
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (130, "")


async def test_a_load_is_sent_to_a_running_system() -> None:
    """With what the relay has, and no more; in development no yes is needed."""
    async with loadtest_world(0, 0.0) as world:
        keys = {name: value for name, value in world.qstash.environment.items() if name.endswith("_SIGNING_KEY")}
        found = await asyncio.to_thread(
            run, "loadtest", "--rate", "200", "--duration", "2", "--relay", world.relay_url, "--mix",
            "q_paid_stream:resume-review=2,q_paid_batch:resume-review", "--json", NODE_ENV="development",
            REDIS_URL=world.redis_url, WORKER_BASE_URL=world.relay_url, **keys,
        )  # fmt: skip
    assert found.returncode == 0, found.stderr
    report = json.loads(found.stdout)
    assert report["queues"][-1]["done"] == report["queues"][-1]["sent"] > 0
