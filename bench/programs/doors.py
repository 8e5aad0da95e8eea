"""Two handlers to compare the relay with: `empty` answers, `naive` checks with PyJWT and appends with XADD."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import sys

import jwt
import uvloop
from aiohttp import web
from redis.asyncio import BlockingConnectionPool, Redis

_OK = b'{"taskId":"t","status":"queued","entryId":"0-0"}'


def naive(redis: Redis, key: str) -> web.Application:
    """What one writes first: signature, body hash, append, answer. No deduplication, no count, no limit."""

    async def accept(request: web.Request) -> web.Response:
        raw = await request.read()
        claims = jwt.decode(request.headers["Upstash-Signature"], key, algorithms=["HS256"], issuer="Upstash")
        digest = base64.urlsafe_b64encode(hashlib.sha256(raw).digest()).decode()
        if claims["body"].rstrip("=") != digest.rstrip("="):
            return web.Response(status=401)
        await redis.xadd("work", {"task": raw})
        return web.Response(body=_OK, content_type="application/json")

    app = web.Application()
    app.router.add_post("/{path:.*}", accept)
    return app


def empty() -> web.Application:
    """Nothing but aiohttp."""

    async def accept(_: web.Request) -> web.Response:
        return web.Response(body=_OK, content_type="application/json")

    app = web.Application()
    app.router.add_post("/{path:.*}", accept)
    return app


async def serve(kind: str, port: int) -> None:
    pool = BlockingConnectionPool.from_url(os.environ["REDIS_URL"], max_connections=64)
    app = empty() if kind == "empty" else naive(Redis.from_pool(pool), os.environ["KEY"])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], int(sys.argv[2])))
