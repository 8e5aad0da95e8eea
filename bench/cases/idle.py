"""What a process sends while nothing happens: on a bill by the command, this is the bill."""

from __future__ import annotations

import re
import threading
import time
from functools import partial
from typing import Any

import redis

from bench import machine, peers
from bench.case import Case, Goal, Size, Values, side_by_side
from bench.rig import Rig
from daemon.domain.queues import DEFAULT_QUEUES

_SETTLE_S = 6.0


class Watch:
    """Counts what clients send, and what scripts run inside, with MONITOR."""

    def __init__(self, url: str) -> None:
        self._client: Any = redis.Redis.from_url(url, socket_timeout=None)
        self.sent = self.inner = 0
        self._on = False
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        try:
            with self._client.monitor() as monitor:
                for command in monitor.listen():
                    if self._on and not re.match(r"(?i)monitor", str(command["command"])):
                        if command["client_type"] == "lua":
                            self.inner += 1
                        else:
                            self.sent += 1
        except (OSError, redis.RedisError):  # the server ends before us
            return

    def count(self, seconds: float) -> None:
        """Count for so long."""
        self._on = True
        time.sleep(seconds)
        self._on = False


def arm(name: str, seconds: float) -> Values:
    """One idle process on a Redis of its own."""
    with Rig() as rig:
        server, records = rig.redis(), rig.records()
        if name == "qstreamd":
            program = rig.daemon(server.url, rig.database(), records, *DEFAULT_QUEUES)
        else:
            program = peers.worker(rig, name, server.url, records)
        watch = Watch(server.url)
        time.sleep(_SETTLE_S)
        program.check()
        before = machine.cpu_s(program.family)
        watch.count(seconds)
        program.check()
        cpu_ms = (machine.cpu_s(program.family) - before) / seconds * 60_000
        minute = 60 / seconds
        return {
            "seconds": seconds, "sent": watch.sent * minute, "inner": watch.inner * minute, "cpu_ms": cpu_ms,
            "rss_mb": machine.rss_mb(program.family),
        }  # fmt: skip


def measure(size: Size) -> dict[str, Values]:
    """All at once: they only wait."""
    seconds = float(size.of(60, 12))
    names = ("qstreamd", "taskiq", "streaq", "docket", "raw") if size.peers else ("qstreamd", "raw")
    found = side_by_side({name: partial(arm, name, seconds) for name in names if name != "raw"})
    return {("qstreamd, six queues" if name == "qstreamd" else f"{name}, one queue"): v for name, v in found.items()}


CASE = Case(
    name="idle",
    title="Idle for 60 s: our six queues, their one",
    round=measure,
    columns={
        "seconds": "s", "sent": "commands sent/min", "inner": "run in scripts/min", "cpu_ms": "CPU ms/min",
        "rss_mb": "RSS MB",
    },
    headline="sent",
    goals=(
        Goal("≤ 30 commands a minute", "qstreamd, six queues", "sent", at_most=30),
        Goal("fewer than any", "qstreamd, six queues", "sent", at_most=1.0,
             references=("taskiq, one queue", "streaq, one queue", "docket, one queue")),
    ),
    note="MONITOR tells what is sent from what scripts run inside. All arms wait at the same time, each on its Redis.",
    runs=3,
)  # fmt: skip
