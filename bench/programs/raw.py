"""The limit: a plain redis-py loop on one stream, with a task for each entry and acks in pipelines.

No claim, no result, no events, no retry, no lease: what is between this and us is what the guarantees cost.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import uvloop
from redis.asyncio import Redis

from bench.recorder import Recorder

STREAM, GROUP = "work", "workers"
_ABREAST = int(os.environ.get("CONCURRENCY", "100"))


def client() -> Redis:
    """One without the 5 s limit that would break a blocked read."""
    return Redis.from_url(os.environ["REDIS_URL"], socket_timeout=40, protocol=3, legacy_responses=False)


async def enqueue(count: int, sleep_s: float) -> None:
    redis = client()
    await redis.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
    for first in range(0, count, 1000):
        pipe = redis.pipeline(transaction=False)
        for number in range(first, min(count, first + 1000)):
            pipe.xadd(STREAM, {"n": str(number), "s": str(sleep_s)})
        await pipe.execute()
    await redis.aclose()


class Loop:
    """Reads, runs, acks."""

    def __init__(self, recorder: Recorder) -> None:
        self._redis = client()
        self._recorder = recorder
        self._acks: list[bytes] = []
        self._wake = asyncio.Event()
        self._slots = asyncio.Semaphore(_ABREAST)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._ack())
            while True:
                reply: Any = await self._redis.xreadgroup(GROUP, "one", {STREAM: ">"}, count=100, block=20_000)
                for entry_id, fields in (reply or {}).get(STREAM.encode(), []):
                    await self._slots.acquire()
                    tasks.create_task(self._one(entry_id, fields))

    async def _one(self, entry_id: bytes, fields: dict[bytes, bytes]) -> None:
        sleep_s = float(fields[b"s"])
        if sleep_s >= 0:
            place = self._recorder.begin(int(fields[b"n"]))
            await asyncio.sleep(sleep_s)
            self._recorder.end(place)
        else:
            self._recorder.count()
        self._slots.release()
        self._acks.append(entry_id)
        self._wake.set()

    async def _ack(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch, self._acks = self._acks, []
            pipe = self._redis.pipeline(transaction=False)
            pipe.xack(STREAM, GROUP, *batch)
            pipe.xdel(STREAM, *batch)
            await pipe.execute()


async def work() -> None:
    await Loop(Recorder()).run()


if __name__ == "__main__":
    uvloop.run(work() if sys.argv[1] == "work" else enqueue(int(sys.argv[2]), float(sys.argv[3])))
