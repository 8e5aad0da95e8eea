"""Plain aiohttp and an untyped decode, reading so many streams: what no daemon can go below by much.

python -m bench.programs.reader URL STREAMS
"""

from __future__ import annotations

import asyncio
import sys
import time

import aiohttp
import msgspec
import uvloop


async def read(url: str, streams: int) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def one() -> None:
            async with session.post(url, json={"stream": True}) as response:
                async for line in response.content:
                    if line[6:7] == b"{":
                        msgspec.json.decode(line[6:])

        began = time.process_time()
        await asyncio.gather(*(one() for _ in range(streams)))
    print("cpu_s", time.process_time() - began, flush=True)


if __name__ == "__main__":
    uvloop.run(read(sys.argv[1], int(sys.argv[2])))
