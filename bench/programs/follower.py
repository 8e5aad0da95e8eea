"""What one writes first: server-sent events where each viewer has a Redis connection of its own, blocked in XREAD.

python -m bench.programs.follower PORT
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import uvloop
from aiohttp import web
from redis.asyncio import Redis


async def follow(request: web.Request) -> web.StreamResponse:
    """As a route of Next.js does it: no token, no gap, no end in Postgres."""
    key, after = f"task:{request.match_info['taskId']}:events", "0-0"
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    await response.write(b": ok\n\n")
    redis = Redis.from_url(os.environ["REDIS_URL"], socket_timeout=40, protocol=3, legacy_responses=False)
    try:
        while True:
            reply: Any = await redis.xread({key: after}, count=200, block=15_000)
            for entry_id, fields in (reply or {}).get(key.encode(), []):
                after = entry_id.decode()
                frame = b"id: %s\nevent: %s\ndata: %s\n\n" % (entry_id, fields[b"type"], fields[b"data"])
                await response.write(frame)
                if fields[b"type"] == b"done":
                    return response
    finally:
        await redis.aclose()


async def serve(port: int) -> None:
    app = web.Application()
    app.router.add_get("/api/tasks/{taskId}/events", follow)
    app.router.add_get("/healthz/ready", _ready)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
    await asyncio.Event().wait()


async def _ready(_: web.Request) -> web.Response:
    return web.Response(text="ready")


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
