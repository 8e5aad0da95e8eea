"""Lua scripts called by their hash, many in one flush; each lies in `lua/` of the room whose code calls it.

Everything that changes more than one key is such a script, and each may be repeated.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from redis import exceptions as rx
from redis.asyncio import Redis

from daemon.redis_client.connection import translate, translated

Argument = str | bytes | int | float


@dataclass(frozen=True, slots=True)
class Script:
    """One Lua file, by its hash."""

    name: str
    source: str
    sha: str


def load_script(room: str, name: str, *before: str) -> Script:
    """The script `daemon/{room}/lua/{name}.lua`, with those `before` it, of the same room, that it builds on.

    Read once at start, never on the task path.
    """
    folder = files(f"daemon.{room}") / "lua"
    source = "".join((folder / f"{part}.lua").read_text("utf-8") for part in (*before, name))
    return Script(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


@dataclass(frozen=True, slots=True)
class Call:
    """One script call, to be sent alone or in a batch."""

    script: Script
    keys: Sequence[str]
    args: Sequence[Argument]


class Scripts:
    """Sends script calls; one `run` is one flush. Knows a server that lost its scripts and loads them again."""

    def __init__(self, client: Redis) -> None:
        self.client = client
        self.flushes = 0  #: round trips so far; a test holds a task to its budget

    async def one(self, script: Script, keys: Sequence[str], args: Sequence[Argument]) -> Any:
        """The reply of one script; may be repeated, as all of ours may."""
        return (await self.run([Call(script, keys, args)]))[0]

    async def run(self, calls: Sequence[Call]) -> list[Any]:
        """The replies in order, in one flush. The first error is raised translated; later calls have still run."""
        replies = await self.run_each(calls)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies

    async def run_each(self, calls: Sequence[Call]) -> list[Any]:
        """The same, with the translated error of a call in its place: one task's trouble is not its neighbours'."""
        return translated_each(await self._answered(self.client, calls))

    async def _answered(self, client: Redis, calls: Sequence[Call]) -> list[Any]:
        replies = await self._send(client, calls)
        missing = [i for i, reply in enumerate(replies) if isinstance(reply, rx.NoScriptError)]
        if missing:
            await self._load(client, {calls[i].script for i in missing})
            for i, reply in zip(missing, await self._send(client, [calls[i] for i in missing]), strict=True):
                replies[i] = reply
        return replies

    async def _send(self, client: Redis, calls: Sequence[Call]) -> list[Any]:
        self.flushes += 1
        with translated():
            pipe = client.pipeline(transaction=False)
            for call in calls:
                # stub says str only
                pipe.evalsha(call.script.sha, len(call.keys), *call.keys, *call.args)
            return await pipe.execute(raise_on_error=False)

    async def _load(self, client: Redis, scripts: set[Script]) -> None:
        self.flushes += 1
        with translated():
            for script in scripts:
                await client.script_load(script.source)


def translated_each(replies: Sequence[Any]) -> list[Any]:
    """Replies with our errors in place of redis-py's."""
    return [translate(reply) if isinstance(reply, rx.RedisError) else reply for reply in replies]
