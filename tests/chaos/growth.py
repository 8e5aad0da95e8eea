"""What processes and servers hold while a load goes on, and whether it grew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from daemon.redis_client import keys
from tests.e2e.processes import DaemonProcess
from tests.e2e.world import World

Sample = Mapping[str, float]

#: how much more the end may hold than the beginning, for each kind: a share, and so many on top
ALLOWED: Final = {
    "rss_kb": (0.05, 4096.0),
    "fds": (0.0, 8.0),
    "tasks": (0.0, 8.0),
    "threads": (0.0, 2.0),
    "redis_clients": (0.0, 8.0),
    "redis_kb": (0.1, 1024.0),
    "redis_keys": (0.1, 50.0),
    "consumers": (0.0, 2.0),
    "postgres_backends": (0.0, 5.0),
}


def grown(samples: Sequence[Sample]) -> list[str]:
    """One line for each value that is held at least in the last quarter, and was not in the second.

    The least counts, since what runs at a moment comes and goes and what leaks stays. The first quarter is left out:
    caches fill, pools open.
    """
    return [
        f"{name}: {before:.0f} in the second quarter, {after:.0f} in the last"
        for name, (before, after) in compared(samples).items()
        if after > before * (1 + ALLOWED[name.split(".")[-1]][0]) + ALLOWED[name.split(".")[-1]][1]
    ]


def compared(samples: Sequence[Sample]) -> dict[str, tuple[float, float]]:
    """The least of each value in the second and in the last quarter."""
    quarter = max(1, len(samples) // 4)
    second, last = samples[quarter : 2 * quarter], samples[-quarter:]
    return {name: (min(s[name] for s in second), min(s[name] for s in last)) for name in samples[0]}


async def sample(world: World, daemons: Sequence[DaemonProcess]) -> Sample:
    """What there is now, by name; those of a process begin with its name and a dot."""
    found: dict[str, float] = {}
    for daemon in daemons:
        found |= {f"{daemon.name}.{kind}": value for kind, value in _process(daemon.pid).items()}
        found[f"{daemon.name}.tasks"] = daemon.log("loop.tasks")[-1]["count"]
    assert world.relay is not None
    found |= {f"relay.{kind}": value for kind, value in _process(world.relay.process.pid).items()}
    clients, memory = await world.redis.info("clients"), await world.redis.info("memory")
    [backends] = await world.sql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'qstreamd'")
    return found | {
        "redis_clients": float(clients["connected_clients"]),
        "redis_kb": memory["used_memory"] / 1024,
        "redis_keys": float(await world.redis.dbsize()),
        "consumers": float(await _consumers(world.redis)),
        "postgres_backends": float(backends[0]),
    }


def _process(pid: int) -> dict[str, float]:
    of = Path(f"/proc/{pid}")
    rollup = (of / "smaps_rollup").read_text("ascii")
    return {
        "rss_kb": float(next(line.split()[1] for line in rollup.splitlines() if line.startswith("Rss:"))),
        "fds": float(len(list((of / "fd").iterdir()))),
        "threads": float(len(list((of / "task").iterdir()))),
    }


async def _consumers(redis: Any) -> int:
    count = 0
    for queue in ("q_paid_stream", "q_paid_batch"):
        names = keys.queue_keys(queue)
        for stream in (names.tasks, names.ready):
            count += len(await redis.xinfo_consumers(stream, keys.GROUP))
    return count
