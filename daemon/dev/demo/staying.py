"""`--keep`: where everything is and how to use it; `--follow`: one task's events as lines of JSON."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.text import Text

from daemon.config import EventSettings, RedisSettings
from daemon.dev.demo.world import World
from daemon.domain.clock import SystemClock
from daemon.events.log import EventLog
from daemon.redis_client.connection import connect
from daemon.redis_client.scripts import Scripts

FOLLOW_S: Final = 0.1
HINT: Final = """\
 make demo ARGS=--keep leaves all of it running, with addresses and a curl
 docs/how-it-works.md: one task through the files; docs/nextjs.md: the Next.js side"""
_MESSAGE: Final = (
    '{"taskId":"mine-1","queueId":"q_paid_stream","userId":"me",'
    '"variables":{"resume":"Ten years of Python, two of them on call."}}'
)


def show(console: Console, world: World) -> None:
    """The addresses and commands that work as long as the demo stays."""
    env = world.qstash.environment
    _print(console, f"\n  The page: {world.backend.url}", "bold green")
    told = {
        "REDIS_URL": world.redis_url,
        "DATABASE_URL": world.database_url,
        "relay": f"{world.relay_url}  (/healthz/ready, /metrics)",
        "daemon": f"{world.daemon_url}  (/healthz/ready, /metrics)",
        "gateway": f"{world.gateway_url}  key {world.backend.api_key}",
        "QStash": f"{env['QSTASH_URL']}  token {env['QSTASH_TOKEN']}",
        "models": world.models.url,
        **{f"log: {name}": path for name, path in world.logs().items()},
    }
    _print(console, "\nStays until you press Ctrl-C:", "bold")
    for name, value in told.items():
        _print(console, f"  {name:<13}{value}")
    python = _python()
    target = f"{env['QSTASH_URL']}/v2/publish/{world.relay_url}/api/worker/stream/resume-review"
    _print(console, "\nPublish a task as Next.js would, then follow it as a front end would:", "bold")
    head = f"-H 'Authorization: Bearer {env['QSTASH_TOKEN']}' -H 'Content-Type: application/json'"
    _print(console, f"  curl -sS {head} \\\n    -d '{_MESSAGE}' \\\n    {target}\n")
    _print(console, f"  REDIS_URL={shlex.quote(world.redis_url)} {python} -m daemon demo --follow mine-1")
    _print(console, "\nMake the next answer break off, or see which calls the models got:", "bold")
    _print(console, f"  curl -sS {world.models.url}/_fake/plan -d '{json.dumps({'faults': ['error-mid']})}'")
    _print(console, f"  curl -sS {world.models.url}/_fake/calls\n")


async def follow(settings: RedisSettings, task_id: str, write: Callable[[str], None]) -> None:
    """Write each event of a task as one line of JSON until the terminal one; waits for a task that is not there yet."""
    redis = connect(settings, size=1, name="qstreamd-follow")
    try:
        events, cursor = EventLog(Scripts(redis), EventSettings(), SystemClock()), "0-0"
        while True:
            for event in await events.read(task_id, cursor):
                write(json.dumps({"id": event.id, **event.data}, ensure_ascii=False))
                cursor = event.id
                if event.terminal:
                    return
            await asyncio.sleep(FOLLOW_S)
    finally:
        await redis.aclose()


def _print(console: Console, text: str, style: str = "") -> None:
    console.print(Text(text, style), soft_wrap=True)


def _python() -> str:
    """The interpreter as one would type it here."""
    path = Path(sys.executable)
    here = Path.cwd()
    return os.path.relpath(path, here) if path.is_relative_to(here) else str(path)
