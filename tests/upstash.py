"""As much of Upstash's REST interface to Redis as its client needs for single commands: an array in, an answer out."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from redis.asyncio import Redis


@asynccontextmanager
async def upstash(client: Redis) -> AsyncIterator[str]:
    """Serves the Redis of `client`; its address."""

    def told(value: Any) -> Any:
        if isinstance(value, dict):  # as our client gives the fields of an entry
            return [told(item) for pair in value.items() for item in pair]
        if isinstance(value, list | tuple):
            return [told(item) for item in value]
        return base64.b64encode(value).decode() if isinstance(value, bytes) else value

    async def answer(command: list[Any]) -> dict[str, Any]:
        execute: Any = client.execute_command
        return {"result": told(await execute(*command))}

    async def command(request: web.Request) -> web.Response:
        return web.json_response(await answer(await request.json()))

    async def pipeline(request: web.Request) -> web.Response:
        return web.json_response([await answer(command) for command in await request.json()])

    app = web.Application()
    app.router.add_post("/", command)
    app.router.add_post("/pipeline", pipeline)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()
