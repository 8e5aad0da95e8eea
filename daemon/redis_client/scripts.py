"""Lua scripts called by their hash, many in one flush; each lies in `lua/` of the room whose code calls it.

Everything that changes more than one key is such a script, and each may be repeated. A script begins with its contract;
`scripts.py` of its room has a function of its name that builds the `Call` (`tests/rules/test_lua.py` compares the two).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

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


def load_scripts(room: str) -> dict[str, Script]:
    """Every script in `daemon/{room}/lua/`, by its name, each behind what it uses of the preludes.

    There is one prelude for all rooms, in `daemon/redis_client/lua/`, and perhaps one of the room. Read once, at
    import, never on the task path.
    """
    folder = files(f"daemon.{room}") / "lua"
    sources = {
        path.name.removesuffix(".lua"): path.read_text("utf-8")
        for path in folder.iterdir()
        if path.name.endswith(".lua")
    }
    common = (files("daemon.redis_client") / "lua" / "prelude.lua").read_text("utf-8")
    blocks = [*_blocks(common), *_blocks(sources.pop("prelude", ""))]
    return {name: script_of(name, _used(blocks, source) + source) for name, source in sources.items()}


def script_of(name: str, source: str) -> Script:
    """A script with its hash."""
    return Script(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


_COMMENT: Final = re.compile(r"--.*")
_BLOCK: Final = re.compile(r"^local (?:function )?(\w+)", re.MULTILINE)


def _blocks(prelude: str) -> list[tuple[str, str]]:
    """Each block of a prelude, by the name it defines; the page's own comment defines none."""
    texts = (text + "\n\n" for text in prelude.strip().split("\n\n"))
    return [(defined[1], text) for text in texts if (defined := _BLOCK.search(text))]


def _used(blocks: Sequence[tuple[str, str]], source: str) -> str:
    """The blocks whose name stands in the script, or in a block that it uses."""
    used = ""
    for name, text in reversed(blocks):
        if re.search(rf"\b{name}\b", _COMMENT.sub("", used + source)):
            used = text + used
    return used


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

    async def one(self, call: Call) -> Any:
        """The reply of one script; may be repeated, as all of ours may."""
        return (await self.run([call]))[0]

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
