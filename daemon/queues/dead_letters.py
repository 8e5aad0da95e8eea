"""The dead letters of a queue: what ended badly and why, without a word of its content.

`queues.entry_moves` writes them, in the script that settles an entry. Here operators read them, drop them, and make
room in the event stream of a task that is to run again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio import Redis

from daemon.queues import scripts as lua
from daemon.redis_client import keys
from daemon.redis_client.connection import server_ms, translated
from daemon.redis_client.scripts import Scripts

_PAGE: Final = 500  #: letters of one read: a few hundred microseconds of the server's time


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One dead letter. `at` and `accepted_at` are unix seconds."""

    id: str
    queue: str
    task_id: str  #: empty for an entry that could not be read
    code: str
    reason: str
    attempts: int
    entry_id: str
    service_id: str
    at: float
    accepted_at: float | None


@dataclass(frozen=True, slots=True)
class DeadLetterFilter:
    """Which letters: all that fit every condition given. Ages are seconds; the server's clock counts."""

    task_ids: Collection[str] = ()
    codes: Collection[str] = ()
    older_s: float | None = None
    newer_s: float | None = None

    @property
    def everything(self) -> bool:
        """Whether no condition was given."""
        return not self.task_ids and not self.codes and self.older_s is None and self.newer_s is None


class DeadLetters:
    """Reads and drops letters; every call may be repeated."""

    def __init__(self, client: Redis, scripts: Scripts) -> None:
        self._client = client
        self._scripts = scripts

    async def read(self, queue: str, criteria: DeadLetterFilter, limit: int) -> list[DeadLetter]:
        """At most `limit` letters of `queue`, newest first."""
        now_ms = await server_ms(self._client, keys.queue_keys(queue).dead)
        with translated():
            newest = "+" if criteria.older_s is None else str(now_ms - int(criteria.older_s * 1000))
            oldest = "-" if criteria.newer_s is None else str(now_ms - int(criteria.newer_s * 1000))
            found: list[DeadLetter] = []
            while True:
                page: Any = await self._client.xrevrange(keys.queue_keys(queue).dead, newest, oldest, count=_PAGE)
                letters = [_letter(queue, entry_id, fields) for entry_id, fields in page]
                found += [letter for letter in letters if _fits(letter, criteria)]
                if len(page) < _PAGE or len(found) >= limit:
                    return found[:limit]
                newest = f"({letters[-1].id}"

    async def drop(self, letters: Sequence[DeadLetter]) -> int:
        """Delete these letters; how many were there."""
        by_queue: dict[str, list[str]] = {}
        for letter in letters:
            by_queue.setdefault(letter.queue, []).append(letter.id)
        with translated():
            return sum([
                int(await self._client.xdel(keys.queue_keys(queue).dead, *ids[at : at + _PAGE]))
                for queue, ids in by_queue.items()
                for at in range(0, len(ids), _PAGE)
            ])  # fmt: skip

    async def begin_again(self, task_id: str) -> bool:
        """Empty the task's events if they have ended; False when there is nothing to empty."""
        call = lua.begin_again(stream=keys.events(task_id), state=keys.events_state(task_id))
        return bool(await self._scripts.one(call))


def _letter(queue: str, entry_id: bytes, fields: Mapping[bytes, bytes]) -> DeadLetter:
    field_values = {name.decode(): value.decode("utf-8", "replace") for name, value in fields.items()}
    accepted = field_values.get("acceptedAt", "")
    return DeadLetter(
        id=entry_id.decode(),
        queue=queue,
        task_id=field_values.get("taskId", ""),
        code=field_values.get("code", ""),
        reason=field_values.get("reason", ""),
        attempts=int(field_values["attempts"]) if field_values.get("attempts", "").isdecimal() else 0,
        entry_id=field_values.get("entryId", ""),
        service_id=field_values.get("serviceId", ""),
        at=int(entry_id.split(b"-")[0]) / 1000,
        accepted_at=int(accepted) / 1000 if accepted.isdecimal() else None,
    )


def _fits(letter: DeadLetter, criteria: DeadLetterFilter) -> bool:
    return (not criteria.task_ids or letter.task_id in criteria.task_ids) and (
        not criteria.codes or letter.code in criteria.codes
    )
