# mypy: ignore-errors
"""taskiq on Redis streams with its result store, as its own command line would run it with one worker.

python -m bench.programs.peer_taskiq enqueue COUNT SLEEP_S; a worker: `taskiq worker bench.programs.peer_taskiq:broker`.
"""

from __future__ import annotations

import asyncio
import functools
import os
import sys

import uvloop
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

from bench.recorder import Recorder

URL = os.environ["REDIS_URL"]
broker = RedisStreamBroker(URL).with_result_backend(RedisAsyncResultBackend(URL, result_ex_time=3600))


@functools.cache
def recorder() -> Recorder:
    """Made in the worker, after it forked."""
    return Recorder()


@broker.task("noop")
async def noop() -> None:
    recorder().count()


@broker.task("sleeper")
async def sleeper(number: int, sleep_s: float) -> None:
    place = recorder().begin(number)
    await asyncio.sleep(sleep_s)
    recorder().end(place)


async def enqueue(count: int, sleep_s: float) -> None:
    await broker.startup()
    numbers = iter(range(count))

    async def some() -> None:
        for number in numbers:
            await (noop.kiq() if sleep_s < 0 else sleeper.kiq(number, sleep_s))

    await asyncio.gather(*(some() for _ in range(100)))
    await broker.shutdown()


if __name__ == "__main__":
    uvloop.run(enqueue(int(sys.argv[2]), float(sys.argv[3])))
