"""Prompt templates kept in Postgres: `daemon.ports.Templates`.

A version never changes, so it is read once; the newest version of a name is read again after `NEWEST_S`. What is not
there is remembered for as long, so that a wrong name in a busy queue asks Postgres twice a minute, not at every task.
"""

from __future__ import annotations

import re
from typing import Any, Final

from daemon.domain.errors import Rejected, StoreAway
from daemon.ports import Clock, Template
from daemon.store.pool import Pool, Row
from daemon.store.sql import load_queries

NEWEST_S: Final = 30.0
CACHED_MAX: Final = 1000  #: the oldest entry makes room
_REF: Final = re.compile(r"^([^@\s][^@\x00]{0,127})(?:@([1-9][0-9]{0,8}))?$")


class PostgresTemplates:
    """Templates by `name@version` or by `name` (its newest version)."""

    def __init__(self, pool: Pool, clock: Clock) -> None:
        self._pool = pool
        self._clock = clock
        self._sql = load_queries()
        self._cache: dict[str, tuple[Template | None, float]] = {}  #: ref -> what was found, and until when it stands

    async def get(self, ref: str) -> Template:
        """See `Templates.get`. While Postgres is away what was newest before still stands; else `StoreAway`."""
        known = self._cache.get(ref)
        if known is None or known[1] <= self._clock.monotonic():
            try:
                known = await self._read(ref)
            except StoreAway:
                if known is None or known[0] is None:
                    raise
            self._keep(ref, known)
        if known[0] is None:
            raise Rejected(
                f"templateId: {ref[:80]!r} does not exist; allowed: name or name@version of a stored template"
            )
        return known[0]

    async def publish(
        self,
        name: str,
        prompt: str,
        *,
        system: str | None = None,
        output: str | None = None,
        output_schema: dict[str, Any] | None = None,
        note: str = "",
    ) -> Template:
        """Store the next version of `name`; not repeatable (a repeat makes one more version, with the same text).

        Raises `StatementRefused` for a name or output that the table refuses, and when two publish at the same instant.
        """
        query = self._sql["template_publish"]
        rows = await self._pool.fetch(query, name, system, prompt, output, output_schema, note)
        self._cache.pop(name, None)
        return Template(f"{name}@{rows[0]['version']}", prompt, system)

    async def _read(self, ref: str) -> tuple[Template | None, float]:
        match = _REF.match(ref)
        until = self._clock.monotonic() + NEWEST_S
        if match is None:
            return None, until
        name, version = match[1], match[2]
        rows: list[Row]
        if version is None:
            rows = await self._pool.fetch(self._sql["template_newest"], name)
        else:
            rows = await self._pool.fetch(self._sql["template_version"], name, int(version))
        if not rows:
            return None, until
        row = rows[0]
        template = Template(f"{row['name']}@{row['version']}", row["prompt"], row["system"])
        return template, until if version is None else float("inf")

    def _keep(self, ref: str, known: tuple[Template | None, float]) -> None:
        self._cache.pop(ref, None)
        self._cache[ref] = known
        while len(self._cache) > CACHED_MAX:
            del self._cache[next(iter(self._cache))]
