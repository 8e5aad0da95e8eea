"""What an idle process sends to Redis, as its loops are built: for the log at start, where commands are billed."""

from __future__ import annotations

from typing import Final

from daemon.config import Settings
from daemon.worker.consumer import POLL_S_MAX
from daemon.worker.reconcile import IDLE_ROUNDS

_MONTH_MINUTES: Final = 30 * 24 * 60
#: means of the jitters of the loops
_LIVENESS_JITTER, _JITTER = 0.925, 0.9


def commands_a_minute(settings: Settings, queues: int, *, blocks: bool = True) -> float:
    """Those inside scripts and those of scrapes not counted. `blocks`: whether the server's blocking reads do."""
    read_s = settings.redis.block_s if blocks else POLL_S_MAX
    reads = queues * 60 / read_s
    liveness = 60 / (settings.lease.liveness_s * _LIVENESS_JITTER)
    counters = 60 / (settings.queues.reconcile_s * _JITTER * IDLE_ROUNDS)
    sweeps_and_controls = 2 * queues * 60 / (settings.lease.sweep_s * _JITTER)
    return reads + liveness + counters + sweeps_and_controls


def commands_a_month(settings: Settings, queues: int, *, blocks: bool = True) -> int:
    """The same for 30 days, rounded to thousands."""
    return 1000 * round(commands_a_minute(settings, queues, blocks=blocks) * _MONTH_MINUTES / 1000)
