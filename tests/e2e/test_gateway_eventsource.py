"""A real EventSource follows a task through a line that breaks, and ends with exactly the text that `done` names."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.e2e.gateway_world import world
from tests.nodejs import installed, run

CLIENT = """
const { EventSource } = require('eventsource')
const { createHash } = require('node:crypto')
const source = new EventSource(process.argv[2])
let text = '', attempt = 0, opened = 0, broken = 0
const ids = []
source.onopen = () => { opened += 1 }
source.onerror = event => { broken += 1 }
for (const type of ['queued', 'started', 'progress', 'token_batch', 'gap', 'done']) {
  source.addEventListener(type, message => {
    const event = JSON.parse(message.data)
    ids.push(message.lastEventId)
    if (event.attempt > attempt) { attempt = event.attempt; text = '' }
    if (type === 'token_batch' && event.channel === 'text') text += event.delta
    if (type !== 'done') return
    source.close()
    const hash = createHash('sha256').update(text).digest('hex')
    console.log(JSON.stringify({ opened, broken, ids, equal: hash === event.contentSha256, length: text.length }))
  })
}
"""


@asynccontextmanager
async def breaking_line(url: str, *, cuts: int, after: int) -> AsyncIterator[str]:
    """A line to `url` that breaks `cuts` times, each time after so many bytes of an answer."""
    host, port = urlsplit(url).hostname, urlsplit(url).port
    left = cuts

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit: int | None) -> None:
        carried = 0
        with suppress(ConnectionError):
            while chunk := await reader.read(512):
                if limit is not None and carried + len(chunk) > limit:
                    writer.write(chunk[: limit - carried])  # in the middle of a frame
                    break
                carried += len(chunk)
                writer.write(chunk)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal left
        limit, left = (after, left - 1) if left else (None, 0)
        there, back = await asyncio.open_connection(host, port)
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(carry(reader, back, None))
            await carry(there, writer, limit)
            sending.cancel()
        back.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.fixture(scope="module")
def node() -> Path:
    return installed("eventsource", ["eventsource@4.1.0"])


async def test_a_line_that_breaks_twice_costs_no_character(node: Path, redis_url: str, postgres_url: str) -> None:
    """Resumed at the last whole event each time: every id once, in order, and the text has the hash of `done`."""
    models = {"tokens_per_s": 60.0, "words": 150}
    async with world(redis_url, postgres_url, models=models) as front:
        task = await front.submit(taskId="t1")
        async with breaking_line(front.url, cuts=2, after=5000) as url:
            address = f"{url}{task['sseUrl']}?token={task['token']}"
            found = await asyncio.to_thread(run, node, "-e", CLIENT, "client", address)
        assert found.returncode == 0, found.stderr[-1000:]
        told = json.loads(found.stdout)
        stored = [entry_id.decode() for entry_id, _ in await front.redis.xrange("task:t1:events")]
        assert told["ids"] == stored
        assert (told["equal"], told["length"] > 300) == (True, True)
        assert (told["opened"], told["broken"]) == (3, 2)
