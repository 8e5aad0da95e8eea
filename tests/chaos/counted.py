"""The daemon, saying every second how many tasks its loop holds: `python -m tests.chaos.counted --queues …`."""

from __future__ import annotations

import asyncio
import importlib
import sys
from typing import Any

from daemon.cli import main
from daemon.observability.logging import logger


def count_tasks() -> None:
    """Let the loop that samples its lag count its tasks, too."""
    app: Any = importlib.import_module("daemon.processes.consumer")
    lag = app.sample_loop_lag

    async def both(*args: Any) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(lag(*args))
            while True:
                await asyncio.sleep(1)
                logger("counted").warning("loop.tasks", count=len(asyncio.all_tasks()))

    app.sample_loop_lag = both


if __name__ == "__main__":
    count_tasks()
    sys.argv[0] = "daemon"
    main()
