"""Many cases at once, each in a world of its own: the leases and stalls that they wait for pass together.

Nothing is shared but the two servers (a database of each is the case's own) and the process that all others are forked
from, so what a case leaves behind is its own as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

import pytest

from tests import last_words
from tests.conftest import url_of
from tests.e2e.forked import fork
from tests.e2e.world import World

Case = Callable[[World], Awaitable[None]]
NewDatabase = Callable[[], AbstractContextManager[str]]

#: two suites on two cores are kept busy by this, and no process waits long for its turn. A Redis has 16 databases
AT_ONCE: Final = 12


class SideBySide:
    """Runs cases; each one that fails is named (`SUBFAILED[name]`), with what its daemons said last."""

    def __init__(
        self, redis_url: str, new_database: NewDatabase, directory: Path, subtests: pytest.Subtests, only: str = ""
    ) -> None:
        self._redis_url, self._new_database = redis_url, new_database
        self._directory, self._subtests, self._only = directory, subtests, only

    async def run(self, cases: Mapping[str, Case]) -> None:
        """All of them, or those that `--point` asked for."""
        chosen = {name: case for name, case in cases.items() if self._only in name}
        free: asyncio.Queue[int] = asyncio.Queue()
        for database in range(AT_ONCE):
            free.put_nowait(database)

        async def one(name: str, case: Case) -> None:
            database = await free.get()
            try:
                await self._in_a_world(name, case, url_of(self._redis_url, str(database)))
            finally:
                free.put_nowait(database)

        found = await asyncio.gather(*(one(name, case) for name, case in chosen.items()), return_exceptions=True)
        last_words.forget()  # of all cases together: one that fails tells its own
        for name, error in zip(chosen, found, strict=True):
            with self._subtests.test(name):
                if error is not None:
                    raise error

    async def _in_a_world(self, name: str, case: Case, redis_url: str) -> None:
        directory = self._directory / name
        directory.mkdir()
        made = self._new_database()
        database_url = await asyncio.to_thread(made.__enter__)
        try:
            async with World(redis_url, database_url, directory, spawned_by=fork) as world:
                await world.redis.flushdb()
                try:
                    await case(world)
                except Exception as error:
                    for daemon in world.daemons:
                        error.add_note(
                            f"--- last words of {daemon.name} ({daemon.exit_code})\n{last_words.end(daemon.words)}"
                        )
                    if world.relay is not None:
                        error.add_note(f"--- last words of the relay\n{last_words.end(world.relay.words)}")
                    raise
        finally:
            await asyncio.to_thread(made.__exit__, None, None, None)
