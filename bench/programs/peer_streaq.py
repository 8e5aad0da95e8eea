# mypy: ignore-errors
"""streaq with its defaults but for the concurrency, and the lease where a case makes them equal.

python -m bench.programs.peer_streaq work | enqueue COUNT SLEEP_S
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys

import uvloop
from streaq import Worker

from bench.recorder import Recorder

logging.basicConfig(level=logging.WARNING)
worker = Worker(
    redis_url=os.environ["REDIS_URL"],
    concurrency=int(os.environ.get("CONCURRENCY", "100")),
    idle_timeout=float(os.environ.get("LEASE_S", "60")),  # 60 is its default
)
recorder = Recorder()


@worker.task(silent=True, name="noop")
async def noop() -> None:
    recorder.count()


@worker.task(silent=True, name="sleeper")
async def sleeper(number: int, sleep_s: float) -> None:
    place = recorder.begin(number)
    await asyncio.sleep(sleep_s)
    recorder.end(place)


async def enqueue(count: int, sleep_s: float) -> None:
    async with worker:
        for first in range(0, count, 1000):
            numbers = range(first, min(count, first + 1000))
            await worker.enqueue_many([noop.enqueue() if sleep_s < 0 else sleeper.enqueue(n, sleep_s) for n in numbers])


if __name__ == "__main__":
    uvloop.run(worker.run_async() if sys.argv[1] == "work" else enqueue(int(sys.argv[2]), float(sys.argv[3])))
