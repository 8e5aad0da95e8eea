# mypy: ignore-errors
"""docket with its defaults, idle: python -m bench.programs.peer_docket work."""

from __future__ import annotations

import logging
import os

import uvloop
from docket import Docket, Worker

logging.basicConfig(level=logging.WARNING)


async def work() -> None:
    async with Docket(name="bench", url=os.environ["REDIS_URL"]) as docket, Worker(docket) as worker:
        await worker.run_forever()


if __name__ == "__main__":
    uvloop.run(work())
